"""Every checksum on the wire is right, inner and outer, with and without the help of the devices."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import BOTH_PLANES, Lab, wait_until

from upmt_nf.lab import namespaces

pytestmark = [pytest.mark.lab, BOTH_PLANES]

SNIFFER = Path(__file__).with_name("checksum_sniffer.py")
CORRESPONDENT = "86.0.0.1"
DATAGRAMS = """
import os, socket, sys
for has_none in (0, 1):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(10)
    made.setsockopt(socket.SOL_SOCKET, 11, has_none)
    for size in range(1, 1400, 13):
        data = os.urandom(size)
        made.sendto(data, (sys.argv[1], int(sys.argv[2])))
        assert made.recv(2000) == data
"""
"""Of many sizes, there and back, with a checksum and without one (SO_NO_CHECK)."""
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
SENDERS = (
    ("mh", "if0"),
    ("gw0", "lan"),
    ("gw0", "wan"),
    ("inet", "gw0"),
    ("inet", "an"),
    ("inet", "ch"),
    ("an", "wan"),
    ("ch", "eth0"),
)
"""Whoever sends on the way between the mobile host and its correspondent by net0."""


def finish_checksums(lab: Lab, by_device: bool) -> None:
    """Let devices finish checksums, and so split large packets, or let the kernel do it before."""
    for host, interface in SENDERS:
        with (
            namespaces.entered(lab.name, host),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket,
        ):
            value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, by_device))
            request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)


@pytest.fixture(params=[True, False], ids=["by the devices", "by the kernel"])
def by_device(request: pytest.FixtureRequest, lab: Lab) -> Iterator[bool]:
    """Whether the lab's devices finish checksums."""
    try:
        finish_checksums(lab, request.param)
    except OSError as reason:
        pytest.skip(f"the devices cannot be told who finishes checksums: {reason}")
    yield request.param
    finish_checksums(lab, True)


def sniff(lab: Lab, host: str, interface: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        (*lab.words(host), sys.executable, str(SNIFFER), interface),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_every_checksum_is_right_in_both_directions(lab: Lab, by_device: bool, tmp_path: Path) -> None:
    data = os.urandom(6_000_000)
    (tmp_path / "data").write_bytes(data)
    lab.start("ch", sys.executable, "-m", "http.server", "8095", "--directory", str(tmp_path))
    lab.await_listener("ch", 8095)
    received = tmp_path / "received"
    lab.start("ch", "socat", "-u", "TCP-LISTEN:8096,reuseaddr", f"CREATE:{received}")
    lab.await_listener("ch", 8096)
    lab.start("ch", sys.executable, str(SNIFFER.with_name("echo.py")), "0.0.0.0:8097")
    lab.await_listener("ch", 8097)
    sniffers = {where: sniff(lab, *where) for where in (("gw0", "lan"), ("an", "wan"), ("ch", "eth0"))}
    lab.on("mh", "curl", "-sSf", "-o", str(tmp_path / "down"), f"http://{CORRESPONDENT}:8095/data")
    lab.on("mh", "socat", "-u", f"OPEN:{tmp_path}/data", f"TCP:{CORRESPONDENT}:8096")
    lab.on("mh", "ping", "-c", "3", "-i", "0.2", "-s", "3000", CORRESPONDENT)
    lab.on("mh", sys.executable, "-c", DATAGRAMS, CORRESPONDENT, "8097")
    wait_until(lambda: received.exists() and received.stat().st_size == len(data), "all has arrived")
    for file in (tmp_path / "down", received):
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(data).digest()
    for where, process in sniffers.items():
        output, _ = process.communicate("", timeout=60)
        counts = json.loads(output)
        assert not [kind for kind in counts if "wrong" in kind], (where, counts)
        if where != ("ch", "eth0"):
            # The sniffer may be too slow for all of them, and the fast plane leaves large packets whole to the devices.
            seen = counts["inner right"] + counts.get("inner unfinished", 0)
            assert seen > (300 if by_device else 1000), (where, counts)
        if not by_device:
            assert counts["outer right"] > 1000, (where, counts)
            assert "outer unfinished" not in counts, (where, counts)
