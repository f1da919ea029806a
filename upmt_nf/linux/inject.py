"""Sending a ready-made IP packet, such as an ICMP error, to a local or a remote sender."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address

from upmt_nf.model.names import MARK_NATIVE

_IPPROTO_RAW = 255


def inject(packet: bytes) -> bool:
    """Send `packet` as it is, marked so that it is never tunnelled; False when the kernel would not.

    Best effort, like every ICMP error.
    """
    family = socket.AF_INET if packet[0] >> 4 == 4 else socket.AF_INET6
    destination = packet[16:20] if family == socket.AF_INET else packet[24:40]
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_RAW, _IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_NATIVE)
        raw.setblocking(False)
        raw.sendto(packet, (str(ip_address(destination)), 0))
        return True
    return False
