"""Payloads of a tunnel that arrived together, joined: taken apart again, alike at both ends."""

from __future__ import annotations

from collections.abc import Iterator

from upmt_nf.datapath.coalescing import Run, merge, runs
from upmt_nf.datapath.copies import holds_numbered
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.verdict import Inbound


def parted(joined: bytes, size: int) -> Iterator[bytes]:
    """Each of what was joined: of `size` bytes, the last maybe shorter."""
    for at in range(0, len(joined), size or 1):
        yield joined[at : at + size]


def opened(tunnel: Tunnel, data: bytes, size: int, counters: Counters) -> Iterator[Run]:
    """What joined payloads carry, in the tunnel's format: runs of one flow, numbered packets each by itself.

    What is no payload of this tunnel is counted.
    """
    packets, inner_size = tunnel.format.decode_all(tunnel, data, size)
    lost = -(-len(data) // size) - -(-len(packets) // inner_size)
    if lost:
        counters.add("malformed_inner", lost)
    if holds_numbered(packets, inner_size):
        return (Run(piece, 1, len(piece), piece) for piece in parted(packets, inner_size))
    return runs(packets, inner_size)


def merged(verdict: Inbound, run: Run) -> Inbound:
    """What was decided for the first of a run, for all of it."""
    if run.packets == 1 or verdict.deliver is None:
        return verdict
    whole, offload = merge(run, verdict.deliver)
    return Inbound(deliver=whole, offload=offload)
