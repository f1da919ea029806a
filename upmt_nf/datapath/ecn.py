"""DSCP and ECN across a tunnel (RFC 6040): copied out on the way in, congestion carried in on the way out."""

from __future__ import annotations

from upmt_nf.datapath.packet import tos_of, with_tos

_CE = 3


def outer_tos(inner_tos: int) -> int:
    """The outer type-of-service byte of an inner one: DSCP copied, ECN in normal mode (RFC 6040 section 4.1)."""
    return inner_tos


def decapsulated(inner: bytes, outer: int) -> bytes | None:
    """The inner packet with the outer header's congestion mark (RFC 6040 section 4.2, figure 4).

    None when it must be dropped: congestion was marked on a packet whose ends do not understand ECN. The inner
    DSCP stays.
    """
    outer_ecn = outer & 3
    if outer_ecn < 1 or outer_ecn == 2:
        # Not-ECT and ECT(0) outside never change what is inside.
        return inner
    tos = tos_of(inner)
    inner_ecn = tos & 3
    if outer_ecn == _CE:
        if inner_ecn == 0:
            return None
        return inner if inner_ecn == _CE else with_tos(inner, tos | _CE)
    # ECT(1) outside: only ECT(0) inside changes, to ECT(1).
    return with_tos(inner, tos & ~3 | 1) if inner_ecn == 2 else inner
