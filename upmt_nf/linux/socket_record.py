"""Who made which socket and who told it last where to send, written down by the kernel at that moment (cgroup eBPF).

A look-up then is one question instead of a search through /proc, and it is answered for processes that have ended.
The program marks nothing: a mark would stay with a socket when rules change, the record does not mind.

    per socket cookie (u64):  | pid u32 | uid u32 | when, ns since boot u64 | command 16 | Deed u64 |
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from upmt_nf.linux import bpf
from upmt_nf.linux.bpf import FRAME, LEAVE, R0, R1, R2, R3, R4, R6, Instruction
from upmt_nf.model.errors import FacilityError

log = logging.getLogger(__name__)

_SO_COOKIE, _SO_NETNS_COOKIE = 57, 71
_KEY, _VALUE = struct.Struct("=Q"), struct.Struct("=IIQ16sQ")
_ENTRIES = 65536
_MAP_UPDATE, _PID, _UID, _COMMAND, _SOCKET_COOKIE, _NETNS_COOKIE, _BOOT_TIME = 2, 14, 15, 16, 46, 122, 125
"""Numbers of the helpers (linux/bpf.h)."""


class Deed(IntEnum):
    """What the one who stands in the record did last."""

    MADE = 0
    CONNECTED = 1
    SENT = 2
    """A datagram to an address."""


class Maker(NamedTuple):
    """Who made a socket or told it later where to send, the last counts. `made`: when, in seconds since boot."""

    pid: int
    uid: int
    made: float
    command: str
    deed: Deed = Deed.MADE


class SocketRecord:
    """The record of this network namespace's sockets, from now on.

    `hierarchy` is where cgroup v2 is mounted, `table` a map of the record's layout, if others read it, too.
    Raises FacilityError when the kernel cannot do it, or when it counts processes differently than we do (another pid
    namespace).
    """

    def __init__(self, hierarchy: Path, entries: int = _ENTRIES, table: int | None = None) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                (here,) = _KEY.unpack(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))
            except OSError as reason:
                raise FacilityError("the kernel gives network namespaces no cookies") from reason
        with contextlib.ExitStack() as made:
            self._map = os.dup(table) if table is not None else bpf.make_map(_KEY.size, _VALUE.size, entries)
            made.callback(os.close, self._map)
            self._attach(made, hierarchy, here, Deed.MADE, bpf.CGROUP_INET_SOCK_CREATE)
            self._check()
            try:
                for hook in bpf.CGROUP_CONNECT:
                    self._attach(made, hierarchy, here, Deed.CONNECTED, hook)
                for hook in bpf.CGROUP_SENDMSG:
                    self._attach(made, hierarchy, here, Deed.SENT, hook)
            except FacilityError as reason:
                # Who made a socket is known all the same; whether it still has it is looked up then.
                log.info("who connects is not told, only who makes sockets: %s", reason)
            self._open = made.pop_all()

    def _attach(self, made: contextlib.ExitStack, hierarchy: Path, here: int, deed: Deed, hook: int) -> None:
        program = bpf.load_for_sockets(_program(self._map, here, deed), hook)
        made.callback(os.close, program)
        made.callback(os.close, bpf.attach_to_cgroup(program, str(hierarchy), hook))

    def maker_of(self, cookie: int) -> Maker | None:
        """Who made the socket with this cookie; None when it is older than the record, or was accepted."""
        value = bpf.look_up(self._map, _KEY.pack(cookie), _VALUE.size)
        if value is None:
            return None
        pid, uid, made, name, deed = _VALUE.unpack(value)
        command = name.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return Maker(pid, uid, made / 1e9, command, Deed(deed))

    def close(self) -> None:
        """Take the program out of the kernel."""
        self._open.close()

    def _check(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            (cookie,) = _KEY.unpack(probe.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))
        maker = self.maker_of(cookie)
        if maker is None:
            raise FacilityError("the kernel runs no eBPF program when this process makes a socket")
        if maker.pid != os.getpid():
            raise FacilityError("this process has another number in the kernel: it is in a pid namespace")


def _program(map_fd: int, here: int, deed: Deed) -> list[Instruction]:
    """Eight bytes of key and 40 of value on the stack, one update of the map. It never refuses a socket."""
    key, value = -8, -48
    work = [
        bpf.move(R1, R6),
        bpf.call(_SOCKET_COOKIE),
        bpf.store64(key, R0),
        bpf.call(_PID),
        bpf.shift_right(R0, 32),
        bpf.store32(value, R0),
        bpf.call(_UID),
        bpf.store32(value + 4, R0),
        bpf.call(_BOOT_TIME),
        bpf.store64(value + 8, R0),
        bpf.move(R1, FRAME),
        bpf.add(R1, value + 16),
        bpf.set_to(R2, 16),
        bpf.call(_COMMAND),
        bpf.set_to(R0, deed),
        bpf.store64(value + 32, R0),
        *bpf.set_to_wide(R1, map_fd, is_map=True),
        bpf.move(R2, FRAME),
        bpf.add(R2, key),
        bpf.move(R3, FRAME),
        bpf.add(R3, value),
        bpf.set_to(R4, 0),
        bpf.call(_MAP_UPDATE),
    ]
    return [
        bpf.move(R6, R1),
        bpf.call(_NETNS_COOKIE),
        *bpf.set_to_wide(R1, here),
        bpf.skip_unless_equal(R0, R1, len(work)),
        *work,
        bpf.set_to(R0, 1),
        LEAVE,
    ]
