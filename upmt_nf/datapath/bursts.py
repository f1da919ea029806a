"""Payloads of a tunnel that arrived together, joined: taken apart again, alike at both ends. What came whole from a far
end's kernel, by links that are all virtual, is made fit to go on."""

from __future__ import annotations

from collections.abc import Iterator

from upmt_nf.datapath.coalescing import Run, merge, runs
from upmt_nf.datapath.copies import holds_numbered
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.offload import TCP_FIELD, finished, left_undone
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.segmentation import header_size
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


def let_in(inner: bytes, longest: int) -> Inbound:
    """A packet that has left its tunnel goes on. Its checksum may have been left to a network card that it never
    passed, and it may stand for many TCP packets; `longest` is how large those may be.
    """
    undone = left_undone(inner)
    if undone is None:
        return Inbound(deliver=inner)
    if undone.field == TCP_FIELD and len(inner) > longest:
        each = longest - header_size(inner, undone)
        return Inbound(deliver=inner, offload=undone._replace(segment=each))
    return Inbound(deliver=finished(inner, undone))


def finished_by_us(verdict: Inbound) -> Inbound:
    """The same for netfilter's queue, which takes no packet with something left to do."""
    if verdict.deliver is None or verdict.offload is None:
        return verdict
    return Inbound(deliver=finished(verdict.deliver, verdict.offload))


def merged(verdict: Inbound, run: Run) -> Inbound:
    """What was decided for the first of a run, for all of it."""
    if run.packets == 1 or verdict.deliver is None:
        return verdict
    whole, offload = merge(run, verdict.deliver)
    return Inbound(deliver=whole, offload=offload)
