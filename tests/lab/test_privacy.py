"""The correspondent never learns where a host is: no care-of address in anything that it receives, ICMP included."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT, ANCHOR = "86.0.0.1", "45.0.0.1"
PLACES = ("192.168.100.25", "10.10.10.25", "160.80.100.1", "65.0.0.1")
"""The care-of addresses, and what the gateways' NAT makes of them."""

TALKER = """
import socket, sys, time
IP_MTU_DISCOVER, DO = 10, 2
while True:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("86.0.0.1", 7001))
    data, sender = server.recvfrom(2000)
    server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, DO)
    server.sendto(b"small", sender)
    for size, ttl in ((1472, 64), (10, 1), (10, 2), (10, 3), (10, 64)):
        server.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        for _ in range(2):
            try:
                server.sendto(bytes(size), sender)
            except OSError:
                pass  # the errors that the earlier ones brought
            time.sleep(0.1)
    server.close()
"""

ASKER = """
import socket, time
for ttl in (64, 1, 2, 3, 4):
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    asker.settimeout(0.5)
    asker.sendto(b"hello", ("86.0.0.1", 7001))
    try:
        print(asker.recv(100))
    except TimeoutError:
        pass
    asker.close()  # what still comes is answered with "port unreachable"
"""


def packets_of(capture: Path) -> list[bytes]:
    """The packets of a capture, link headers included."""
    data, place, found = capture.read_bytes(), 24, []
    while place + 16 <= len(data):
        size = struct.unpack_from("<4I", data, place)[2]
        found.append(data[place + 16 : place + 16 + size])
        place += 16 + size
    return found


def said(packet: bytes) -> bytes:
    """A packet without what is the sender's arithmetic only: sums beside zeros can look like 65.0.0.1."""
    if packet[12:15] == b"\x08\0\x45" and packet[23] == 6:
        return packet[:50] + b"\xff" * 4 + packet[54:]
    return packet


def capture(lab: Lab, host: str, interface: str, file: Path, *words: str) -> subprocess.Popen[str]:
    command = ("tcpdump", "--immediate-mode", "-U", "-n", "-s", "0", "-i", interface, "-w", str(file), *words)
    dump = lab.start(host, *command)
    wait_until(lambda: file.exists() and file.stat().st_size >= 24, f"tcpdump listens on {host}")
    return dump


def icmp_kinds(packets: list[bytes]) -> set[tuple[str, int, int]]:
    """Source, type and code of the ICMP messages among IPv4 packets behind Ethernet headers."""
    return {
        (str(ip_address(packet[26:30])), packet[34], packet[35])
        for packet in packets
        if packet[12:14] == b"\x08\0" and packet[14] == 0x45 and packet[23] == 1
    }


def test_no_care_of_address_reaches_the_correspondent(lab: Lab, tmp_path: Path) -> None:
    received, left = tmp_path / "received.pcap", tmp_path / "left.pcap"
    dumps = (
        capture(lab, "ch", "eth0", received, "-Q", "in"),
        capture(lab, "an", "wan", left, "-Q", "out", "host", CORRESPONDENT),
    )
    served, fetched = tmp_path / "served", tmp_path / "fetched"
    served.mkdir()
    (served / "data").write_bytes(os.urandom(6_000_000))
    lab.start("ch", sys.executable, "-m", "http.server", "8091", "--directory", str(served))
    lab.start("ch", sys.executable, "-c", TALKER)
    lab.await_listener("ch", 8091)
    lab.await_listener("ch", 7001)
    download = lab.start(
        "mh", *UPMT, "run", "--app", "private", "--",
        "curl", "-sSf", "--limit-rate", "600k", "-o", str(fetched), f"http://{CORRESPONDENT}:8091/data",
    )  # fmt: skip
    for network in ("net1", "net0", "net1"):
        lab.on("mh", *UPMT, "run", "--app", "private", "--", sys.executable, "-c", ASKER)
        lab.on("mh", "ping", "-c", "2", "-i", "0.2", CORRESPONDENT)
        lab.ask("handover", "private", "--to", network)
    assert download.wait(timeout=60) == 0
    for dump in dumps:
        dump.send_signal(signal.SIGINT)
        dump.wait(timeout=5)
    arrived, sent = packets_of(received), packets_of(left)
    assert len(arrived) > 50
    # All the kinds of errors were there: from the anchor (too big, time exceeded) and from the host (unreachable).
    kinds = icmp_kinds(arrived)
    assert {(ANCHOR, 3, 4), (ANCHOR, 11, 0), (ANCHOR, 3, 3), (ANCHOR, 8, 0)} <= kinds, kinds
    for where, packets in (("received", arrived), ("sent by the anchor", sent)):
        for packet in packets:
            for place in PLACES:
                assert ip_address(place).packed not in said(packet), (where, place, packet.hex())
                assert place.encode() not in packet, (where, place, packet)
