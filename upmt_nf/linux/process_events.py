"""What processes do, as the kernel tells it: new ones, new programs, new names, ends (linux/cn_proc.h).

The kernel tells the first network namespace only, so the socket is made there. It tells of every process of the
host; an event is there before the first packet that its process sends afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from upmt_nf.linux.netlink import HEADER
from upmt_nf.model.errors import FacilityError

_NETLINK_CONNECTOR, _CN_IDX_PROC, _CN_VAL_PROC = 11, 1, 1
_LISTEN, _IGNORE = 1, 2
_NLMSG_DONE = 3
_CLONE_NEWNET = 0x40000000
_MESSAGE = struct.Struct("=IIIIHH")
_EVENT = struct.Struct("=IIQ")
_IDS = struct.Struct("=IIII")
_START = HEADER.size + _MESSAGE.size
_HERE = "/proc/thread-self/ns/net"
_FIRST_NAMESPACE = 0xEFFFFFF9
"""Its inode since kernel 6.17, which saves trying."""
_MOST_TRIED = 32
_SO_RCVBUFFORCE, _BUFFER = 33, 8 << 20


class Kind(Enum):
    """What happened; the values are the kernel's."""

    FORKED = 0x1
    EXECUTED = 0x2
    UID_CHANGED = 0x4
    GID_CHANGED = 0x40
    RENAMED = 0x200
    ENDED = 0x80000000


_KINDS = {kind.value: kind for kind in Kind}
LOST = -1
"""The pid of an event that stands for those which the kernel could not keep for us."""


class ProcessEvent(NamedTuple):
    """One thing that a process did. `parent` is that of a new process, else 0."""

    kind: Kind
    pid: int
    parent: int = 0


class ProcessEvents:
    """The kernel's events from now on. Raises FacilityError where they cannot be had."""

    def __init__(self) -> None:
        self.lost = 0
        self._socket = _listening_socket()

    def fileno(self) -> int:
        """Readable when something happened."""
        return self._socket.fileno()

    def read(self) -> Iterator[ProcessEvent]:
        """What happened since the last call, in its order; after a loss, an event with the pid `LOST` first."""
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as reason:
                if reason.errno != errno.ENOBUFS:
                    return
                self.lost += 1
                yield ProcessEvent(Kind.ENDED, LOST)
                continue
            if (event := parse_event(data)) is not None:
                yield event

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            _ask(self._socket, _IGNORE)
        self._socket.close()


def parse_event(data: bytes) -> ProcessEvent | None:
    """A message of the kernel; None for what is of no interest, such as new threads."""
    if len(data) < _START + _EVENT.size + _IDS.size:
        return None
    kind = _KINDS.get(_EVENT.unpack_from(data, _START)[0])
    ids = _IDS.unpack_from(data, _START + _EVENT.size)
    match kind:
        case None:
            return None
        case Kind.FORKED:
            _, parent, child, group = ids
            return ProcessEvent(kind, child, parent) if child == group else None
        case Kind.EXECUTED:
            return ProcessEvent(kind, ids[1])
        case _:
            # What a thread is called, or does, is not what its process is called.
            return ProcessEvent(kind, ids[0]) if ids[0] == ids[1] else None


def _ask(connector: socket.socket, what: int) -> None:
    body = _MESSAGE.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0) + struct.pack("=I", what)
    header = HEADER.pack(HEADER.size + len(body), _NLMSG_DONE, 0, 0, 0)
    connector.sendto(header + body, (0, 0))


def _listening_socket() -> socket.socket:
    """Try the namespaces that processes are in until one is the first: only there the kernel answers."""
    reason = "no process of the first network namespace can be seen"
    for path in _namespaces():
        try:
            connector = _socket_in(path)
        except OSError as refused:
            reason = refused.strerror or str(refused)
            continue
        try:
            # As many as a shell's loop starts while we look elsewhere for a moment.
            with contextlib.suppress(OSError):
                connector.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            connector.bind((0, _CN_IDX_PROC))
            connector.settimeout(1.0)
            _ask(connector, _LISTEN)
            # An event of kind 0 is the kernel's yes.
            connector.recv(1 << 16)
            connector.setblocking(False)
            return connector
        except OSError as refused:
            reason = refused.strerror or "no answer"
            connector.close()
    raise FacilityError(f"the kernel tells nothing of processes: {reason}")


def _namespaces() -> list[str]:
    """A path to each network namespace that can be entered, the likeliest first."""
    found: dict[int, str] = {}
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    for pid in pids:
        path = f"/proc/{pid}/ns/net"
        with contextlib.suppress(OSError):
            found.setdefault(os.stat(path).st_ino, path)
    first = found.pop(_FIRST_NAMESPACE, None)
    return ([first] if first is not None else []) + list(found.values())[:_MOST_TRIED]


def _socket_in(path: str) -> socket.socket:
    if os.stat(path).st_ino == os.stat(_HERE).st_ino:
        # No namespace is entered: that takes CAP_SYS_ADMIN, which a daemon of systemd's does not have.
        return _new_socket()
    home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(there, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            try:
                return _new_socket()
            finally:
                if libc.setns(home, _CLONE_NEWNET) != 0:
                    # To go on in the wrong namespace would change somebody else's rules.
                    os._exit(70)
        finally:
            os.close(there)
    finally:
        os.close(home)


def _new_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_CONNECTOR)
