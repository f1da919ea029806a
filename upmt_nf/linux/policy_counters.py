"""What the policies of built-in chains have counted, given back after a commit.

libiptc keeps the counters of rules at each commit, but begins those of policies anew (COUNTER_MAP_ZEROED in
libiptc.c): it leaves what they counted since it read the table. Adding what it had read makes them whole; no packet
that passed meanwhile is lost. The layouts are those of linux/netfilter/x_tables.h and ip_tables.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Mapping

from upmt_nf.model.errors import KernelError

CHAINS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""In the order of the kernel's hooks (NF_INET_PRE_ROUTING ...)."""
Count = tuple[int, int]
"""Packets, bytes."""

_GET_INFO, _GET_ENTRIES, _ADD_COUNTERS = 64, 65, 65
_NAME = struct.Struct("=32s")
_INFO = struct.Struct("=32sI5I5III")
"""struct ipt_getinfo: name, valid hooks, their first entries, their policies' entries, number of entries, size."""
_HEADER = struct.Struct("=32sI4x")
"""struct ipt_get_entries and struct xt_counters_info: name, size or number; what follows begins at a multiple of 8."""
_COUNT = struct.Struct("=QQ")
_NEXT_OFFSET = {4: 90, 6: 142}
"""Of `next_offset` in struct ipt_entry and ip6t_entry, after an address part of 84 or 136 bytes."""
_ATTEMPTS = 20


def add(table: str, version: int, counts: Mapping[str, Count]) -> None:
    """Add to what the policies of a table have counted: built-in chain -> packets and bytes. Raises KernelError."""
    wanted = {chain: count for chain, count in counts.items() if any(count)}
    if not wanted:
        return
    family, level = (
        (socket.AF_INET, socket.SOL_IP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_IPV6)
    )
    try:
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as opened:
            for attempt in range(_ATTEMPTS):
                try:
                    _add(opened, level, table, version, wanted)
                except OSError as reason:
                    # Somebody changed the table between our look and our word.
                    if reason.errno not in (errno.EAGAIN, errno.EINVAL) or attempt == _ATTEMPTS - 1:
                        raise
                else:
                    return
    except OSError as reason:
        raise KernelError(f"counters of the policies of table {table}: {reason.strerror}") from reason


def _add(opened: socket.socket, level: int, table: str, version: int, counts: Mapping[str, Count]) -> None:
    name = table.encode()
    info = _INFO.unpack(_asked(opened, level, _GET_INFO, _NAME.pack(name).ljust(_INFO.size, b"\0")))
    hooks, policies, number, size = info[1], info[7:12], info[12], info[13]
    entries = _asked(opened, level, _GET_ENTRIES, _HEADER.pack(name, size) + bytes(size))[_HEADER.size :]
    added = bytearray(number * _COUNT.size)
    place = 0
    for index in range(number):
        for hook, chain in enumerate(CHAINS):
            if hooks >> hook & 1 and policies[hook] == place and chain in counts:
                _COUNT.pack_into(added, index * _COUNT.size, *counts[chain])
        place += int(struct.unpack_from("=H", entries, place + _NEXT_OFFSET[version])[0])
    opened.setsockopt(level, _ADD_COUNTERS, _HEADER.pack(name, number) + added)


def _asked(opened: socket.socket, level: int, option: int, question: bytes) -> bytes:
    """getsockopt with a question in its buffer, which Python's own has no way for. Raises OSError."""
    buffer = ctypes.create_string_buffer(question, len(question))
    length = ctypes.c_uint32(len(question))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(opened.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw
