"""The few calls of bpf(2) that a program of a dozen instructions needs: a map, a program, a link (linux/bpf.h).

Own small binding, so that no compiler and no library is needed. What is made here lives as long as its file
descriptor, so that a killed daemon leaves nothing behind, but for what is given to a cgroup.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from upmt_nf.model.errors import FacilityError

_SYSCALL: Final = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "i686": 357,
    "ppc64le": 361,
    "s390x": 351,
    "armv7l": 386,
}
_MAP_CREATE, _MAP_LOOKUP, _PROG_LOAD, _PROG_ATTACH, _LINK_CREATE = 0, 1, 5, 8, 28
_LRU_HASH, _CGROUP_SOCK, _CGROUP_SOCK_ADDR = 9, 9, 18
CGROUP_INET_SOCK_CREATE: Final = 2
CGROUP_CONNECT: Final = (10, 11)
CGROUP_SENDMSG: Final = (14, 15)
"""connect(), and a datagram that is sent to an address: with IPv4, with IPv6."""
_LOG_BYTES = 1 << 14

R0, R1, R2, R3, R4, R6, FRAME = 0, 1, 2, 3, 4, 6, 10


class Instruction(NamedTuple):
    """One instruction of eBPF (RFC 9669 section 3): opcode, registers, offset, immediate."""

    opcode: int
    to: int = 0
    source: int = 0
    offset: int = 0
    immediate: int = 0

    def packed(self) -> bytes:
        """Its eight bytes, on a machine of either byte order."""
        registers = self.source << 4 | self.to if _IS_LITTLE else self.to << 4 | self.source
        return struct.pack("=BBhi", self.opcode, registers, self.offset, self.immediate)


_IS_LITTLE = struct.pack("=H", 1) == b"\1\0"


def move(to: int, source: int) -> Instruction:
    """`to = source`."""
    return Instruction(0xBF, to, source)


def set_to(to: int, value: int) -> Instruction:
    """`to = value`, 32 bits."""
    return Instruction(0xB7, to, immediate=value)


def add(to: int, value: int) -> Instruction:
    """`to += value`."""
    return Instruction(0x07, to, immediate=value)


def shift_right(to: int, bits: int) -> Instruction:
    """`to >>= bits`."""
    return Instruction(0x77, to, immediate=bits)


def set_to_wide(to: int, value: int, *, is_map: bool = False) -> list[Instruction]:
    """`to = value`, 64 bits, or the map with that file descriptor."""
    low, high = struct.unpack("=ii", struct.pack("=II", value & 0xFFFFFFFF, value >> 32))
    return [Instruction(0x18, to, 1 if is_map else 0, 0, low), Instruction(0, immediate=high)]


def store32(offset: int, source: int) -> Instruction:
    """Write the low half of a register to the stack at `offset` (negative)."""
    return Instruction(0x63, FRAME, source, offset)


def store64(offset: int, source: int) -> Instruction:
    """Write a register to the stack at `offset` (negative)."""
    return Instruction(0x7B, FRAME, source, offset)


def skip_unless_equal(one: int, other: int, count: int) -> Instruction:
    """Skip `count` instructions if two registers differ."""
    return Instruction(0x5D, one, other, count)


def call(helper: int) -> Instruction:
    """Call one of the kernel's helpers."""
    return Instruction(0x85, immediate=helper)


LEAVE: Final = Instruction(0x95)


def make_map(key: int, value: int, entries: int) -> int:
    """A hash that forgets the longest unused of its entries; gives its file descriptor. Raises FacilityError."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", _LRU_HASH, key, value, entries, 0), "make a map")


def look_up(map_fd: int, key: bytes, size: int) -> bytes | None:
    """The value of `size` bytes under a key, or None."""
    key_buffer, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    attributes = struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value), 0)
    return value.raw if _try(_MAP_LOOKUP, attributes) >= 0 else None


def load_for_sockets(instructions: list[Instruction], attach: int) -> int:
    """Load a program of type `cgroup/sock`, or `cgroup/sock_addr` for the others; gives its file descriptor.

    Raises FacilityError with the kernel's words.
    """
    code = b"".join(each.packed() for each in instructions)
    words, license_text = (
        ctypes.create_string_buffer(code, len(code)),
        ctypes.create_string_buffer(b"Apache-2.0"),
    )
    log = ctypes.create_string_buffer(_LOG_BYTES)
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        _CGROUP_SOCK_ADDR if attach in (*CGROUP_CONNECT, *CGROUP_SENDMSG) else _CGROUP_SOCK,
        len(instructions),
        ctypes.addressof(words),
        ctypes.addressof(license_text),
        1,
        _LOG_BYTES,
        ctypes.addressof(log),
        0,
        0,
        b"upmt_sockets",
        0,
        attach,
    )
    try:
        return _bpf(_PROG_LOAD, attributes, "load a program")
    except FacilityError as reason:
        said = log.value.decode(errors="replace").strip().splitlines()
        raise FacilityError(f"{reason}{': ' + said[-2] if len(said) > 1 else ''}") from reason


def attach_to_cgroup(program: int, directory: str, attach: int) -> int:
    """Run a program for a cgroup and all below it, beside those of others, as long as the descriptor is open.

    Raises FacilityError.
    """
    with _opened(directory) as target:
        return _bpf(_LINK_CREATE, struct.pack("=IIII", program, target, attach, 0), f"attach to {directory}")


def give_to_cgroup(program: int, directory: str, attach: int) -> None:
    """Run a program for a cgroup as long as that lives; a later one takes its place. Raises FacilityError."""
    with _opened(directory) as target:
        _bpf(_PROG_ATTACH, struct.pack("=IIII", target, program, attach, 0), f"attach to {directory}")


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield target
    finally:
        os.close(target)


_libc = ctypes.CDLL(None, use_errno=True)


def _try(command: int, attributes: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        ctypes.set_errno(38)
        return -1
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(number, command, buffer, len(attributes))
    return result


def _bpf(command: int, attributes: bytes, what: str) -> int:
    result = _try(command, attributes)
    if result < 0:
        raise FacilityError(f"bpf cannot {what}: {os.strerror(ctypes.get_errno())}")
    if command != _PROG_ATTACH:  # whose result is no descriptor
        os.set_inheritable(result, False)
    return result
