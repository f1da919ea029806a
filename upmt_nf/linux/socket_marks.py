"""Sockets that carry a mark from their creation: a cgroup eBPF program of five instructions, without a compiler.

The mark of a socket takes part when its source address is chosen, which is before netfilter sees a packet. The program
goes with its cgroup; a later one takes its place.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

from upmt_nf.model.errors import FacilityError

_SYSCALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "i686": 357, "armv7l": 386, "s390x": 351}
"""Number of bpf(2) by machine."""
_PROG_LOAD, _PROG_ATTACH = 5, 8
_CGROUP_SOCK, _SOCK_CREATE = 9, 2
"""BPF_PROG_TYPE_CGROUP_SOCK and BPF_CGROUP_INET_SOCK_CREATE (linux/bpf.h)."""
_MARK_IN_BPF_SOCK = 16
"""Offset of `mark` in struct bpf_sock."""
_ATTRIBUTES = 128


def mark_sockets(cgroup: Path, mark: int) -> None:
    """Let every socket that members of `cgroup` create from now on have `mark`. Raises FacilityError naming it."""
    try:
        program = _load(mark)
        try:
            directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _bpf(_PROG_ATTACH, struct.pack("=IIII", directory, program, _SOCK_CREATE, 0))
            finally:
                os.close(directory)
        finally:
            os.close(program)
    except OSError as reason:
        raise FacilityError(f"sockets of cgroup {cgroup} cannot be marked: {reason.strerror}") from reason


def _load(mark: int) -> int:
    """The program `sk->mark = mark; return 1` (allow the socket)."""
    program = b"".join(
        (
            _instruction(0xB7, to=2, value=mark),  # r2 = mark
            _instruction(0x63, to=1, source=2, offset=_MARK_IN_BPF_SOCK),  # *(u32 *)(r1 + 16) = r2
            _instruction(0xB7, to=0, value=1),  # r0 = 1
            _instruction(0x95),  # exit
        )
    )
    text, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        _CGROUP_SOCK,
        len(program) // 8,
        ctypes.addressof(text),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"upmt_mark",
        0,
        _SOCK_CREATE,
    )
    return _bpf(_PROG_LOAD, attributes)


def _instruction(code: int, *, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | to, offset, value)


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(0, f"the number of bpf(2) on {platform.machine()} is not known")
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, command, buffer, _ATTRIBUTES)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
