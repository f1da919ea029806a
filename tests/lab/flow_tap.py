"""Counts a UDP flow's packets inside plain tunnels, as they pass interfaces: `flow_tap.py PORT INTERFACE...`.

PORT is the correspondent's. Ends with its standard input and then prints as JSON how many went to that port and came
from it: `{"to": {"in": 0, "out": 1000}, "from": {"in": 990, "out": 0}}`.
"""

from __future__ import annotations

import json
import select
import socket
import sys

OUTGOING = 4
TUNNEL_PORT = 1800


def look(tap: socket.socket, port: int, counts: dict[str, dict[str, int]]) -> None:
    """Take all that is there."""
    while True:
        try:
            packet, (_, _, kind, *_) = tap.recvfrom(1 << 16)
        except BlockingIOError:
            return
        if len(packet) < 28 or packet[9] != 17:
            continue
        udp = packet[(packet[0] & 15) * 4 :]
        if TUNNEL_PORT not in (int.from_bytes(udp[:2], "big"), int.from_bytes(udp[2:4], "big")):
            continue
        inner = udp[8:]
        # Before it is cut for the wire, an outer packet may have several inner ones.
        while len(inner) >= 28 and inner[0] >> 4 == 4:
            head = (inner[0] & 15) * 4
            if inner[9] == 17:
                source, destination = (
                    int.from_bytes(inner[head + at : head + at + 2], "big") for at in (0, 2)
                )
                where = "out" if kind == OUTGOING else "in"
                counts["to"][where] += destination == port
                counts["from"][where] += source == port
            inner = inner[int.from_bytes(inner[2:4], "big") :]


def main() -> None:
    port, *interfaces = sys.argv[1:]
    taps = []
    for name in interfaces:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        tap.bind((name, 3))
        tap.setblocking(False)
        taps.append(tap)
    counts = {way: {"in": 0, "out": 0} for way in ("to", "from")}
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([*taps, sys.stdin], [], [])
        for tap in taps:
            look(tap, int(port), counts)
        if sys.stdin in readable:
            print(json.dumps(counts), flush=True)
            return


main()
