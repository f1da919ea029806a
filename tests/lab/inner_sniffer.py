"""Which flow's packets leave by which access interface: looks into the plain tunnels of a mobile host.

`inner_sniffer.py PORT INTERFACE...`; with each line on standard input it says as JSON how many packets of each
`protocol:source-port` were sent by each interface until then. UDP that begins with `@` counts under its first two
letters instead.
"""

import json
import select
import socket
import sys

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}
OUTGOING = 4


def main() -> None:
    port, *interfaces = sys.argv[1:]
    taps = []
    for name in interfaces:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        tap.bind((name, 3))
        tap.setblocking(False)
        taps.append(tap)
    counts: dict[str, dict[str, int]] = {}
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([*taps, sys.stdin], [], [])
        for tap in taps:
            take_all(tap, int(port), counts)
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            print(json.dumps(counts), flush=True)


def take_all(tap: socket.socket, port: int, counts: dict[str, dict[str, int]]) -> None:
    while True:
        try:
            packet, (interface, _, kind, *_) = tap.recvfrom(1 << 16)
        except BlockingIOError:
            return
        if kind != OUTGOING or len(packet) < 28 or packet[9] != 17:
            continue
        udp = packet[(packet[0] & 15) * 4 :]
        if int.from_bytes(udp[2:4], "big") != port:
            continue
        inner = udp[8:]
        # Before it is cut for the wire, an outer packet may have several inner ones.
        while len(inner) >= 28 and inner[0] >> 4 == 4:
            by = counts.setdefault(name_of(inner), {})
            by[interface] = by.get(interface, 0) + 1
            inner = inner[int.from_bytes(inner[2:4], "big") :]


def name_of(inner: bytes) -> str:
    body = inner[(inner[0] & 15) * 4 :]
    if inner[9] == 17 and body[8:9] == b"@":
        return body[8:10].decode("ascii", "replace")
    place = 4 if inner[9] == 1 else 0
    return f"{PROTOCOLS.get(inner[9], inner[9])}:{int.from_bytes(body[place : place + 2], 'big')}"


main()
