"""A network namespace for one test, the tools to work in it, and what to skip when the kernel lacks something.

The namespace has no name, only this thread in it: whatever happens to the test, the kernel takes it away.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shlex
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

_CLONE_NEWNET = 0x40000000

GROUP_ADDRESSES, GROUP_ROUTES, GROUP_RULES = 0x10, 0x40, 0x80
"""RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE."""
_KINDS = {
    20: "new address",
    21: "del address",
    24: "new route",
    25: "del route",
    32: "new rule",
    33: "del rule",
}


class Namespace:
    """The network namespace that this test is in."""

    def run(self, command: str, *, check: bool = True) -> str:
        """Run a command line and give its output; the test fails when it fails."""
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30, check=False)
        if check and done.returncode != 0:
            pytest.fail(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def succeeds(self, command: str) -> bool:
        """Whether a command line succeeds."""
        return subprocess.run(shlex.split(command), capture_output=True, check=False).returncode == 0

    def link(self, name: str, address: str = "", peer: str = "") -> None:
        """A veth pair that is up; skipped when the kernel has none."""
        peer = peer or f"{name}p"
        if not self.succeeds(f"ip link add {name} type veth peer name {peer}"):
            pytest.skip("the kernel has no veth")
        self.run(f"ip link set {peer} up")
        self.run(f"ip link set {name} up")
        if address:
            self.run(f"ip address add {address} dev {name}{' nodad' if ':' in address else ''}")

    def iptables(self, rule: str) -> None:
        """`iptables-legacy RULE`; skipped when there is no such tool or the kernel cannot take the rule."""
        try:
            done = subprocess.run(
                ["iptables-legacy", "-w", *shlex.split(rule)], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            pytest.skip("there is no iptables-legacy")
        if done.returncode != 0:
            pytest.skip(f"the kernel cannot take iptables-legacy {rule}: {done.stderr.strip()}")

    def rules(self, *, with_counters: bool = False) -> str:
        """All of iptables-legacy-save, tables in a fixed order, but its dates."""
        counters = "-c" if with_counters else ""
        return "".join(
            (line.partition(" [")[0] if line.startswith(":") and not with_counters else line) + "\n"
            for table in ("raw", "mangle", "nat", "filter")
            for line in self.run(f"iptables-legacy-save -t {table} {counters}").splitlines()
            if not line.startswith("#")
        )

    def packets_counted(self, table: str, chain: str, place: int = 1) -> int:
        """How many packets a rule has seen."""
        said = self.run(f"iptables-legacy -w -t {table} -vxnL {chain} {place}")
        return int(said.split()[0])


@contextlib.contextmanager
def own_namespace() -> Iterator[Namespace]:
    """Be in a new network namespace, loopback up."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
        try:
            namespace = Namespace()
            namespace.run("ip link set lo up")
            yield namespace
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                pytest.exit("cannot go back to the first network namespace", returncode=3)
    finally:
        os.close(home)


class KernelEvents:
    """What the kernel says about addresses, routes and rules, in its order."""

    def __init__(self, groups: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, groups))
        self._socket.setblocking(False)

    def __enter__(self) -> KernelEvents:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def kinds(self) -> list[str]:
        """The kinds of the messages since the last call, such as `new route`."""
        found: list[str] = []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return found
            place = 0
            while place < len(data):
                length, kind = struct.unpack_from("=IH", data, place)
                found.append(_KINDS.get(kind, str(kind)))
                place += length + 3 & ~3


class _Readable(Protocol):
    def fileno(self) -> int: ...


def is_readable(source: _Readable, seconds: float = 2.0) -> bool:
    """Whether there is something to read within `seconds`."""
    return bool(select.select([source], [], [], seconds)[0])


def eventually(condition: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    """Wait until `condition`; fail naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain until {what}")
        time.sleep(0.01)


@contextlib.contextmanager
def program(text: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program that says a line when it is ready, and is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
