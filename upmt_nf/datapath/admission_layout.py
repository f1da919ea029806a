"""What the maps of `bpf/admission.bpf.c` hold: Python twins, byte for byte (a test compares the offsets)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from upmt_nf.datapath.fast_layout import FLOW_KEY, flow_bytes
from upmt_nf.model.flow import FlowBytes
from upmt_nf.model.identity import ApplicationId

GATE: Final = struct.Struct("=IIII")
MAKER: Final = struct.Struct("=IIQ16sQ")
IDENTITY: Final = struct.Struct("=QQQIIII16s")
VERDICT: Final = struct.Struct("=II")
ASKED: Final = struct.Struct(f"={IDENTITY.size}sQ")
BEGUN: Final = struct.Struct(f"={FLOW_KEY.size}sQIIIIII16s")
_TICK = 10_000_000
"""Nanoseconds of what /proc counts in (USER_HZ is 100 on every architecture that has eBPF)."""


class Identity(NamedTuple):
    """A process as the kernel sees it when it sends. Times in nanoseconds since boot, ids effective."""

    started: int
    programs: int
    """How many it has executed: another one is another process for a rule."""
    cgroups: int
    """A digest of those that it is in; 0 where no rule asks for any."""
    generation: int
    pid: int
    uid: int
    gid: int
    command: str

    @property
    def ticks(self) -> int:
        """`started` as /proc tells it."""
        return self.started // _TICK

    @classmethod
    def unpacked(cls, row: bytes) -> Identity:
        """From the key of the map `verdicts`."""
        started, programs, cgroups, generation, pid, uid, gid, command = IDENTITY.unpack(row)
        return cls(started, programs, cgroups, generation, pid, uid, gid, _text(command))


class Begun(NamedTuple):
    """A flow that the kernel let in by itself. `rule`: its place among the rules, from 1; 0: none of them."""

    key: FlowBytes
    socket: int
    generation: int
    application: ApplicationId
    rule: int
    mark: int
    pid: int
    dscp: int
    command: str

    @classmethod
    def unpacked(cls, row: bytes) -> Begun:
        """From the queue `begun`."""
        key, socket, generation, application, rule, mark, pid, tos, command = BEGUN.unpack(row)
        return cls(
            flow_bytes(key), socket, generation, ApplicationId(application), rule, mark, pid, tos >> 2,
            _text(command) if pid else "",
        )  # fmt: skip


def _text(command: bytes) -> str:
    return command.partition(b"\0")[0].decode("utf-8", "surrogateescape")
