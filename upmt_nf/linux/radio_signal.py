"""How strong a Wi-Fi interface hears its access point: nl80211 (linux/nl80211.h), else /proc/net/wireless.

An interface that is no radio, or a kernel without any, has no signal: None, never an error.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from upmt_nf.linux import netlink

_NETLINK_GENERIC, _GENL_ID_CTRL = 16, 0x10
_GETFAMILY, _ATTR_FAMILY_ID, _ATTR_FAMILY_NAME = 3, 1, 2
_GET_STATION, _NEW_STATION = 17, 19
_ATTR_IFINDEX, _ATTR_STA_INFO = 3, 21
_INFO_SIGNAL, _INFO_TX_BITRATE = 7, 8
_RATE_BITRATE, _RATE_BITRATE32 = 1, 5
"""In steps of 100 kbit/s; the second has room for more."""
_GENERIC = struct.Struct("=BBH")
"""struct genlmsghdr: command, version, reserved."""
_PATIENCE = 0.2
_TYPE_MASK = 0x3FFF
"""Of an attribute, without the flags for nested ones and byte order."""
_NUMBER = struct.Struct("=I")
Answer = Iterable[tuple[int, bytes]]
"""Type and body of each message."""
WIRELESS = Path("/proc/net/wireless")


@dataclass(frozen=True, slots=True)
class RadioSignal:
    """`dbm`: strength of what is heard; `bitrate`: that of the radio for what is sent, bit/s, if it tells."""

    dbm: int
    bitrate: int | None = None


def radio_signal(interface: str) -> RadioSignal | None:
    """Of the access point that an interface is associated with. Takes well under a millisecond."""
    with contextlib.suppress(OSError):
        index = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as kernel:
            kernel.settimeout(_PATIENCE)
            kernel.bind((0, 0))
            name = netlink.attribute(_ATTR_FAMILY_NAME, b"nl80211\0")
            question = _GENERIC.pack(_GETFAMILY, 1, 0) + name
            if (family := family_in(netlink.asked(kernel, _GENL_ID_CTRL, question))) is not None:
                question = _GENERIC.pack(_GET_STATION, 0, 0) + netlink.attribute(
                    _ATTR_IFINDEX, _NUMBER.pack(index)
                )
                return signal_in(netlink.asked(kernel, family, question, is_dump=True), family)
    with contextlib.suppress(OSError):
        return signal_in_table(WIRELESS.read_text(encoding="ascii", errors="replace"), interface)
    return None


def family_in(answer: Answer) -> int | None:
    """The number of nl80211 in an answer of the generic netlink controller; None when it has none."""
    for kind, body in answer:
        if kind == _GENL_ID_CTRL:
            for name, value in netlink.attributes(body[_GENERIC.size :]):
                if name & _TYPE_MASK == _ATTR_FAMILY_ID and len(value) >= 2:
                    return int.from_bytes(value[:2], sys.byteorder)
    return None


def signal_in(answer: Answer, family: int) -> RadioSignal | None:
    """The signal in the stations that nl80211 lists: at a client there is one, its access point. Never raises."""
    for kind, body in answer:
        if kind != family or len(body) < _GENERIC.size or body[0] != _NEW_STATION:
            continue
        for name, value in netlink.attributes(body[_GENERIC.size :]):
            if name & _TYPE_MASK == _ATTR_STA_INFO:
                info = {key & _TYPE_MASK: inner for key, inner in netlink.attributes(value)}
                if len(strength := info.get(_INFO_SIGNAL, b"")) >= 1:
                    dbm = int.from_bytes(strength[:1], "big", signed=True)
                    return RadioSignal(dbm, _bitrate(info.get(_INFO_TX_BITRATE, b"")))
    return None


def signal_in_table(text: str, interface: str) -> RadioSignal | None:
    """The signal in /proc/net/wireless (wireless extensions); `level` is in dBm there, or in dBm plus 256."""
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if name.strip() != interface or not colon:
            continue
        words = rest.split()
        with contextlib.suppress(ValueError, IndexError):
            level = int(float(words[2].rstrip(".")))
            level -= 256 if level > 63 else 0
            return RadioSignal(level) if -120 <= level < 0 else None
    return None


def _bitrate(value: bytes) -> int | None:
    rates = {key & _TYPE_MASK: inner for key, inner in netlink.attributes(value)}
    for key, size in ((_RATE_BITRATE32, 4), (_RATE_BITRATE, 2)):
        if len(found := rates.get(key, b"")) >= size:
            return 100_000 * int.from_bytes(found[:size], sys.byteorder)
    return None
