"""Looks at every IPv4 packet on an interface and judges its checksums: `checksum_sniffer.py INTERFACE`.

Ends with its standard input and then prints as JSON how many were right, wrong, or left for the device to finish.
Tunnel packets (UDP from or to port 1800) are looked into: a large one may hold many.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
from collections import Counter

SOL_PACKET, PACKET_AUXDATA, NOT_READY = 263, 8, 1 << 3


def total(data: bytes) -> int:
    data += b"\0" * (len(data) & 1)
    number: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while number > 0xFFFF:
        number = (number & 0xFFFF) + (number >> 16)
    return number


def judge(packet: bytes, counts: Counter[str], where: str, ready: bool) -> None:
    """Count one IPv4 packet; `ready`: its transport checksum should be finished."""
    head = (packet[0] & 15) * 4
    if total(packet[:head]) != 0xFFFF:
        counts[f"{where} header wrong"] += 1
    protocol, segment = packet[9], packet[head:]
    if packet[6] & 0x3F or packet[7] or protocol not in (6, 17):
        return
    if ready:
        pseudo = packet[12:20] + struct.pack("!HH", protocol, len(segment))
        has_none = protocol == 17 and segment[6:8] == b"\0\0"
        counts[f"{where} {'right' if has_none or total(pseudo + segment) == 0xFFFF else 'wrong'}"] += 1
    else:
        counts[f"{where} unfinished"] += 1
    ports = struct.unpack_from("!HH", segment)
    if where == "outer" and protocol == 17 and 1800 in ports:
        payload = segment[8:]
        while len(payload) >= 20 and payload[0] == 0x45:
            size = int.from_bytes(payload[2:4], "big")
            judge(payload[:size], counts, "inner", True)
            payload = payload[size:]


def main() -> None:
    counts: Counter[str] = Counter()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)
        wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        wire.bind((sys.argv[1], 0x0800))
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([wire, sys.stdin], [], [])
            if wire in readable:
                frame, ancillary, _, _ = wire.recvmsg(1 << 17, 256)
                status = next(
                    (
                        struct.unpack_from("=I", data)[0]
                        for level, kind, data in ancillary
                        if level == SOL_PACKET
                    ),
                    0,
                )
                judge(frame[14:], counts, "outer", not status & NOT_READY)
            elif sys.stdin in readable:
                break
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
