"""Which ports programs of this host listen on (/proc/net): a forward would take them away from them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address

from upmt_nf.model.flow import TCP, IPAddress
from upmt_nf.model.forward import PortSpan

_WAITING = {"tcp": "0A", "udp": "07"}
"""States of sockets that take packets of anybody: listening, and not connected."""


def listener_on(protocol: int, external: IPAddress, ports: PortSpan) -> str | None:
    """Who would lose packets to `external`, as `0.0.0.0:22`; None when nobody would."""
    is_local = _is_local(external)
    name = "tcp" if protocol == TCP else "udp"
    for address, port in _listening(name):
        if ports.first <= port <= ports.last and (
            address == external or (address.is_unspecified and is_local)
        ):
            return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    return None


def _is_local(address: IPAddress) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _listening(name: str) -> Iterator[tuple[IPAddress, int]]:
    for suffix in ("", "6"):
        lines: list[str] = []
        with contextlib.suppress(OSError), open(f"/proc/net/{name}{suffix}", encoding="ascii") as file:
            lines = file.readlines()[1:]
        for line in lines:
            fields = line.split()
            if fields[3] == _WAITING[name] and fields[2].endswith(":0000"):
                digits, _, port = fields[1].rpartition(":")
                yield _address(digits), int(port, 16)


def _address(digits: str) -> IPAddress:
    """Four bytes a word, each word in the host's own order."""
    words = [bytes.fromhex(digits[place : place + 8])[::-1] for place in range(0, len(digits), 8)]
    return ip_address(b"".join(words))
