"""A thin typed binding of the distribution's libbpf: objects, maps, tc programs (libbpf 1.x, ctypes).

Knows nothing of what the programs do. Everything raises FacilityError or KernelError with what libbpf said.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from upmt_nf.model.errors import FacilityError, KernelError

log = logging.getLogger(__name__)

_BATCH = 2048
_PERCPU = frozenset((5, 6))
"""BPF_MAP_TYPE_PERCPU_HASH and _ARRAY."""
_LAST_LINES = 12
_REPLACE, _NOEXIST = 1, 1
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class Hook(IntEnum):
    """Where a tc program sits on an interface (enum bpf_tc_attach_point)."""

    INGRESS = 1
    EGRESS = 2


class _TcHook(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _TcOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


class _RunOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class _Library:
    """libbpf, loaded once. What it says is kept for the next error message."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("bpf")
        if name is None:
            raise FacilityError("there is no libbpf (apt-get install libbpf1)")
        try:
            self.calls = ctypes.CDLL(name, use_errno=True)
            self._declare()
        except (OSError, AttributeError) as reason:
            raise FacilityError(
                f"{name} is not the libbpf that is needed, 1.0 or newer: {reason}"
            ) from reason
        self._said: list[str] = []
        self._libc = ctypes.CDLL(None)
        self._listener = _PRINT(self._listen)
        self.calls.libbpf_set_print(self._listener)
        self.cpus = int(self.calls.libbpf_num_possible_cpus())

    def _declare(self) -> None:
        pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        for name, result, arguments in (
            ("libbpf_set_print", pointer, (_PRINT,)),
            ("libbpf_num_possible_cpus", number, ()),
            ("bpf_object__open_file", pointer, (text, pointer)),
            ("bpf_object__load", number, (pointer,)),
            ("bpf_object__close", None, (pointer,)),
            ("bpf_object__next_map", pointer, (pointer, pointer)),
            ("bpf_object__find_program_by_name", pointer, (pointer, text)),
            ("bpf_map__name", text, (pointer,)),
            ("bpf_map__type", number, (pointer,)),
            ("bpf_map__fd", number, (pointer,)),
            ("bpf_map__key_size", ctypes.c_uint32, (pointer,)),
            ("bpf_map__value_size", ctypes.c_uint32, (pointer,)),
            ("bpf_map__max_entries", ctypes.c_uint32, (pointer,)),
            ("bpf_map__set_max_entries", number, (pointer, ctypes.c_uint32)),
            ("bpf_map__set_pin_path", number, (pointer, text)),
            ("bpf_map__reuse_fd", number, (pointer, number)),
            ("bpf_program__fd", number, (pointer,)),
            ("bpf_map_update_elem", number, (number, text, text, ctypes.c_uint64)),
            ("bpf_map_lookup_elem", number, (number, text, pointer)),
            ("bpf_map_lookup_and_delete_elem", number, (number, text, pointer)),
            ("bpf_map_delete_elem", number, (number, text)),
            ("bpf_map_lookup_batch", number, (number, *(pointer,) * 5, pointer)),
            ("bpf_prog_test_run_opts", number, (number, pointer)),
            ("bpf_tc_hook_create", number, (pointer,)),
            ("bpf_tc_attach", number, (pointer, pointer)),
            ("bpf_tc_detach", number, (pointer, pointer)),
        ):
            call = getattr(self.calls, name)
            call.restype, call.argtypes = result, arguments

    def _listen(self, level: int, form: bytes, arguments: int) -> int:
        buffer = ctypes.create_string_buffer(1 << 16)
        self._libc.vsnprintf(buffer, ctypes.c_size_t(len(buffer)), form, ctypes.c_void_p(arguments))
        said = buffer.value.decode(errors="replace").rstrip()
        log.debug("%s", said)
        if level < 2:
            self._said += said.splitlines()
        return 0

    def said(self) -> str:
        """The last lines of what libbpf said since the last call: the verifier's reason stands there."""
        lines, self._said = self._said[-_LAST_LINES:], []
        return "; ".join(lines)


_library: _Library | None = None


def library() -> _Library:
    """libbpf. Raises FacilityError when there is none."""
    global _library
    if _library is None:
        _library = _Library()
    return _library


class BpfMap:
    """A map. Keys and values are bytes of exactly its sizes; values of a per-CPU map are those of all CPUs, joined."""

    def __init__(self, pointer: int) -> None:
        calls = library().calls
        self.name = str(calls.bpf_map__name(pointer).decode())
        self._fd: int = calls.bpf_map__fd(pointer)
        self.key_size: int = calls.bpf_map__key_size(pointer)
        self.value_size: int = calls.bpf_map__value_size(pointer)
        self.max_entries: int = calls.bpf_map__max_entries(pointer)
        if calls.bpf_map__type(pointer) in _PERCPU:
            self.value_size = (self.value_size + 7 & ~7) * library().cpus
        self._update = calls.bpf_map_update_elem
        self._lookup = calls.bpf_map_lookup_elem
        self._delete = calls.bpf_map_delete_elem
        self._take = calls.bpf_map_lookup_and_delete_elem
        self._value = ctypes.create_string_buffer(self.value_size)

    def update(self, key: bytes, value: bytes) -> bool:
        """Write an entry; False when the map is full. Raises KernelError."""
        self._check(key, value)
        result = self._update(self._fd, key, value, 0)
        if result == -errno.E2BIG:
            return False
        if result < 0:
            raise KernelError(f"map {self.name}: {os.strerror(-result)}")
        return True

    def insert(self, key: bytes, value: bytes) -> bool:
        """Write an entry that is new; False when it is there already, or the map is full. Raises KernelError.

        There is no call for many: in a batch of writes the kernel takes no BPF_NOEXIST (kernel/bpf/syscall.c).
        """
        self._check(key, value)
        result = self._update(self._fd, key, value, _NOEXIST)
        if result in (-errno.EEXIST, -errno.E2BIG):
            return False
        if result < 0:
            raise KernelError(f"map {self.name}: {os.strerror(-result)}")
        return True

    def lookup(self, key: bytes) -> bytes | None:
        """An entry's value."""
        self._check(key)
        if self._lookup(self._fd, key, self._value) < 0:
            return None
        return self._value.raw

    def pop(self) -> bytes | None:
        """The oldest entry of a queue, which it takes out; None when there is none."""
        return self._value.raw if self._take(self._fd, None, self._value) == 0 else None

    def fileno(self) -> int:
        """The map's descriptor, as long as its object is not closed."""
        return self._fd

    def delete(self, key: bytes) -> bool:
        """Remove an entry; False when it was not there."""
        self._check(key)
        return bool(self._delete(self._fd, key) == 0)

    def items(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """All entries, some thousand at a time. Entries that change meanwhile may be missed or come twice."""
        key_size, value_size = self.key_size, self.value_size
        for keys, values in self.parts(_BATCH):
            yield [
                (keys[at * key_size : (at + 1) * key_size], values[at * value_size : (at + 1) * value_size])
                for at in range(len(keys) // key_size)
            ]

    def parts(self, most: int) -> Iterator[tuple[bytes, bytes]]:
        """The same, about `most` at a time: the keys joined, and the values. Raises KernelError."""
        calls = library().calls
        keys = ctypes.create_string_buffer(most * self.key_size)
        values = ctypes.create_string_buffer(most * self.value_size)
        # For a hash the kernel keeps its place in four bytes, whatever the size of the key.
        place = ctypes.create_string_buffer(max(4, self.key_size))
        count = ctypes.c_uint32()
        before = None
        while True:
            count.value = most
            result = calls.bpf_map_lookup_batch(
                self._fd, before, place, keys, values, ctypes.byref(count), None
            )
            if result < 0 and result != -errno.ENOENT:
                raise KernelError(f"map {self.name} cannot be read: {os.strerror(-result)}")
            yield (
                ctypes.string_at(keys, count.value * self.key_size),
                ctypes.string_at(values, count.value * self.value_size),
            )
            if result < 0:
                return
            before = place

    def values(self, first: int, count: int) -> memoryview:
        """The values of an array at these places, joined, read by one call; fewer at its end. Raises KernelError."""
        keys = ctypes.create_string_buffer(count * self.key_size)
        values = ctypes.create_string_buffer(count * self.value_size)
        before = (first - 1).to_bytes(4, sys.byteorder) if first else None
        found = ctypes.c_uint32(count)
        place = ctypes.create_string_buffer(self.key_size)
        result = library().calls.bpf_map_lookup_batch(
            self._fd, before, place, keys, values, ctypes.byref(found), None
        )
        if result < 0 and result != -errno.ENOENT:
            raise KernelError(f"map {self.name} cannot be read: {os.strerror(-result)}")
        return memoryview(values).cast("B")[: found.value * self.value_size]

    def _check(self, key: bytes, value: bytes | None = None) -> None:
        # libbpf reads as many bytes as the map has, whatever it is given.
        if len(key) != self.key_size or (value is not None and len(value) != self.value_size):
            raise ValueError(
                f"map {self.name} has keys of {self.key_size} and values of {self.value_size} bytes"
            )


class BpfObject:
    """A compiled object, loaded: its maps by name, its programs by name.

    `sizes` sets how many entries maps have. With `pins`, maps are kept in that directory of a bpffs, and those that
    are there already are taken over with what they hold. `shared`: maps of another object in place of its own.
    Raises FacilityError with libbpf's last words when the kernel cannot take it, or a map that is there is of another
    layout.
    """

    def __init__(
        self,
        file: Path,
        *,
        sizes: dict[str, int] | None = None,
        pins: Path | None = None,
        shared: Mapping[str, BpfMap] | None = None,
    ) -> None:
        self._library = library()
        calls = self._library.calls
        self._library.said()
        self._object = calls.bpf_object__open_file(str(file).encode(), None)
        if not self._object:
            raise FacilityError(
                f"{file} cannot be read: {self._library.said() or os.strerror(ctypes.get_errno())}"
            )
        try:
            pointers = dict(self._pointers())
            for name, entries in (sizes or {}).items():
                calls.bpf_map__set_max_entries(pointers[name], entries)
            for name, table in (shared or {}).items():
                if name in pointers and (result := calls.bpf_map__reuse_fd(pointers[name], table.fileno())):
                    raise FacilityError(f"{file.name} cannot share map {name}: {os.strerror(-result)}")
            if pins is not None:
                for name, pointer in pointers.items():
                    calls.bpf_map__set_pin_path(pointer, str(pins / name).encode())
            result = calls.bpf_object__load(self._object)
            if result < 0:
                said = self._library.said()
                raise FacilityError(f"the kernel does not take {file.name}: {os.strerror(-result)}: {said}")
            self.maps = {name: BpfMap(pointer) for name, pointer in pointers.items()}
        except BaseException:
            self.close()
            raise

    def program(self, name: str) -> int:
        """The file descriptor of a program. Raises KeyError."""
        pointer = self._library.calls.bpf_object__find_program_by_name(self._object, name.encode())
        if not pointer:
            raise KeyError(name)
        return int(self._library.calls.bpf_program__fd(pointer))

    def close(self) -> None:
        """Let go of it. Pinned maps and attached programs stay."""
        if self._object:
            self._library.calls.bpf_object__close(self._object)
            self._object = None

    def _pointers(self) -> Iterator[tuple[str, int]]:
        calls, pointer = self._library.calls, None
        while pointer := calls.bpf_object__next_map(self._object, pointer):
            name = calls.bpf_map__name(pointer).decode()
            if not name.startswith("."):
                yield name, pointer


def run(program: int, packet: bytes) -> int:
    """Run a tc program (its file descriptor) on a packet that nobody sent; gives what it returns.

    Raises KernelError.
    """
    options = _RunOptions(sz=ctypes.sizeof(_RunOptions), data_in=packet, data_size_in=len(packet))
    result = library().calls.bpf_prog_test_run_opts(program, ctypes.byref(options))
    if result < 0:
        raise KernelError(f"a program cannot be run: {os.strerror(-result)}")
    return int(options.retval)


def attach(interface: int, hook: Hook, program: int, *, handle: int, priority: int) -> None:
    """Put a program on an interface (its index), in place of one that has the same handle and priority, at once."""
    calls = library().calls
    library().said()
    place = _place(interface, hook)
    result = calls.bpf_tc_hook_create(ctypes.byref(place))
    if result < 0 and result != -errno.EEXIST:
        raise FacilityError(
            f"interface {interface} takes no clsact: {os.strerror(-result)}: {library().said()}"
        )
    options = _options(handle, priority)
    options.prog_fd, options.flags = program, _REPLACE
    result = calls.bpf_tc_attach(ctypes.byref(place), ctypes.byref(options))
    if result < 0:
        raise FacilityError(
            f"interface {interface} takes no program: {os.strerror(-result)}: {library().said()}"
        )


def detach(interface: int, hook: Hook, *, handle: int, priority: int) -> bool:
    """Take a program away; False when there was none."""
    place, options = _place(interface, hook), _options(handle, priority)
    done = bool(library().calls.bpf_tc_detach(ctypes.byref(place), ctypes.byref(options)) == 0)
    library().said()
    return done


def _place(interface: int, hook: Hook) -> Any:
    return _TcHook(sz=ctypes.sizeof(_TcHook), ifindex=interface, attach_point=int(hook))


def _options(handle: int, priority: int) -> Any:
    return _TcOptions(sz=ctypes.sizeof(_TcOptions), handle=handle, priority=priority)
