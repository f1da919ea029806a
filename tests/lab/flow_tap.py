"""Counts a numbered UDP flow's packets inside plain tunnels, as they pass interfaces: `flow_tap.py PORT INTERFACE...`.

PORT is the correspondent's. With each line on standard input it prints as JSON how many went to that port and came from
it until then, and of those that came in since the line before how many were doubled, how many were overtaken, and the
longest time between two (ms). Overtaken, where there are several interfaces: by the first one after the first packet by
the second (an echo has lost the order of the numbers); else, after a later number.

    {"to": {"in": 0, "out": 1000, "doubled": 0, "late": 0, "gap_ms": 20}, "from": ...}
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

OUTGOING = 4
TUNNEL_PORT = 1800


class Way:
    """One direction."""

    def __init__(self, interfaces: int) -> None:
        self.come = self.out = 0
        self._interfaces = interfaces
        self._seen: set[int] = set()
        self._highest, self._last = -1, time.monotonic()
        self._start_over()

    def _start_over(self) -> None:
        self._doubled = self._late = 0
        self._gap = 0.0
        self._order: list[str] = []

    def take(self, number: int, interface: str, *, is_out: bool) -> None:
        if is_out:
            self.out += 1
            return
        self.come += 1
        now = time.monotonic()
        if self.come > 1:
            self._gap = max(self._gap, now - self._last)
        self._last = now
        self._doubled += number in self._seen
        if interface not in self._order:
            self._order.append(interface)
        has_order = self._interfaces == 1
        self._late += number < self._highest if has_order else interface != self._order[-1]
        self._seen.add(number)
        self._highest = max(self._highest, number)

    def tell(self) -> dict[str, Any]:
        found = {"in": self.come, "out": self.out, "doubled": self._doubled, "late": self._late}
        found["gap_ms"] = round(1000 * self._gap)
        self._start_over()
        return found


def look(tap: socket.socket, port: int, ways: dict[str, Way]) -> None:
    """Take all that is there."""
    while True:
        try:
            packet, (interface, _, kind, *_) = tap.recvfrom(1 << 16)
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
                number = int.from_bytes(inner[head + 8 : head + 16], "big")
                for name, end in (("to", destination), ("from", source)):
                    if end == port:
                        ways[name].take(number, interface, is_out=kind == OUTGOING)
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
    ways = {"to": Way(len(interfaces)), "from": Way(len(interfaces))}
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([*taps, sys.stdin], [], [])
        for tap in taps:
            look(tap, int(port), ways)
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            print(json.dumps({name: way.tell() for name, way in ways.items()}), flush=True)


main()
