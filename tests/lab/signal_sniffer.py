"""Which requests a mobile host sends inside its plain tunnels: `signal_sniffer.py INTERFACE...`.

With each line on standard input it says as JSON what has left since the line before: `[[interface, CSeq, mType], ...]`,
one for each request and not for those that are sent again; a challenge makes another request of one.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys

OUTGOING = 4
TUNNEL_PORT, SIGNALLING_PORT = 1800, 5060
CSEQ, KIND = re.compile(rb"\r\nCSeq: *(\d+)"), re.compile(rb'"mType":"(\w+)"')


def main() -> None:
    taps = []
    for name in sys.argv[1:]:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        tap.bind((name, 3))
        tap.setblocking(False)
        taps.append(tap)
    found: dict[tuple[str, int, str], None] = {}
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([*taps, sys.stdin], [], [])
        for tap in taps:
            take_all(tap, found)
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            print(json.dumps(list(found)), flush=True)
            found.clear()


def take_all(tap: socket.socket, found: dict[tuple[str, int, str], None]) -> None:
    while True:
        try:
            packet, (interface, _, kind, *_) = tap.recvfrom(1 << 16)
        except BlockingIOError:
            return
        if kind != OUTGOING or len(packet) < 56 or packet[9] != 17:
            continue
        udp = packet[(packet[0] & 15) * 4 :]
        inner = udp[8:]
        if int.from_bytes(udp[2:4], "big") != TUNNEL_PORT or inner[0] >> 4 != 4 or inner[9] != 17:
            continue
        datagram = inner[(inner[0] & 15) * 4 :]
        if int.from_bytes(datagram[2:4], "big") != SIGNALLING_PORT or not datagram[8:].startswith(
            b"MESSAGE "
        ):
            continue
        number, said = CSEQ.search(datagram), KIND.search(datagram)
        if number and said:
            found[interface, int(number[1]), said[1].decode()] = None


main()
