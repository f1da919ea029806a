"""How strong a Wi-Fi interface hears its access point: nl80211 (linux/nl80211.h), else /proc/net/wireless.

An interface that is no radio, or a kernel without any, has no signal: None, never an error.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
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
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_GENERIC = struct.Struct("=BBH")
"""struct genlmsghdr: command, version, reserved."""
_PATIENCE = 0.2
_TYPE_MASK = 0x3FFF
"""Of an attribute, without the flags for nested ones and byte order."""
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
            answer = _asked(kernel, _family_question(), is_dump=False)
            if (family := family_in(answer)) is not None:
                return signal_in(_asked(kernel, _station_question(family, index), is_dump=True), family)
    with contextlib.suppress(OSError):
        return signal_in_table(WIRELESS.read_text(encoding="ascii", errors="replace"), interface)
    return None


def family_in(answer: bytes) -> int | None:
    """The number of nl80211 in an answer of the generic netlink controller; None when it has none."""
    for kind, body in netlink.messages(answer):
        if kind == _GENL_ID_CTRL:
            for name, value in netlink.attributes(body[_GENERIC.size :]):
                if name & _TYPE_MASK == _ATTR_FAMILY_ID and len(value) >= 2:
                    return int.from_bytes(value[:2], sys.byteorder)
    return None


def signal_in(answer: bytes, family: int) -> RadioSignal | None:
    """The signal in the stations that nl80211 lists: at a client there is one, its access point. Never raises."""
    for kind, body in netlink.messages(answer):
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


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return netlink.HEADER.pack(netlink.HEADER.size + len(body), kind, flags, os.getpid(), 0) + body


def _family_question() -> bytes:
    name = b"nl80211\0"
    attribute = struct.pack("=HH", 4 + len(name), _ATTR_FAMILY_NAME) + name
    return _message(_GENL_ID_CTRL, _REQUEST, _GENERIC.pack(_GETFAMILY, 1, 0) + attribute)


def _station_question(family: int, index: int) -> bytes:
    attribute = struct.pack("=HHI", 8, _ATTR_IFINDEX, index)
    return _message(family, _REQUEST | _DUMP, _GENERIC.pack(_GET_STATION, 0, 0) + attribute)


def _asked(kernel: socket.socket, question: bytes, *, is_dump: bool) -> bytes:
    """All that the kernel answers. Raises OSError, also for a time that is over."""
    kernel.send(question)
    answer = b""
    while True:
        part = kernel.recv(65536)
        answer += part
        kinds = {kind for kind, _ in netlink.messages(part)}
        if not is_dump or kinds & {_ERROR, _DONE} or len(answer) > 1 << 20:
            return answer
