"""Sockets that carry a mark from their creation: a cgroup eBPF program of four instructions, without a compiler.

The mark of a socket takes part when its source address is chosen, which is before netfilter sees a packet. The program
goes with its cgroup; a later one takes its place.
"""

from __future__ import annotations

import os
from pathlib import Path

from upmt_nf.linux.bpf import (
    CGROUP_INET_SOCK_CREATE,
    LEAVE,
    R0,
    R1,
    R2,
    Instruction,
    give_to_cgroup,
    load_for_sockets,
    set_to,
)
from upmt_nf.model.errors import FacilityError

_MARK_IN_BPF_SOCK = 16
"""Offset of `mark` in struct bpf_sock."""


def mark_sockets(cgroup: Path, mark: int) -> None:
    """Let every socket that members of `cgroup` create from now on have `mark`. Raises FacilityError naming it."""
    instructions = [
        set_to(R2, mark),
        Instruction(0x63, R1, R2, _MARK_IN_BPF_SOCK),  # sk->mark = r2
        set_to(R0, 1),  # the socket may be made
        LEAVE,
    ]
    try:
        program = load_for_sockets(instructions, CGROUP_INET_SOCK_CREATE)
        try:
            give_to_cgroup(program, str(cgroup), CGROUP_INET_SOCK_CREATE)
        finally:
            os.close(program)
    except (FacilityError, OSError) as reason:
        said = reason.strerror if isinstance(reason, OSError) else reason
        raise FacilityError(f"sockets of cgroup {cgroup} cannot be marked: {said}") from reason
