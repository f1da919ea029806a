"""Long handovers in groups that fit into a datagram: nothing is left out, nothing is too large."""

import time

from hypothesis import example, given
from hypothesis import strategies as st
from message_strategies import FLOW, pairs_with

from upmt_nf.model.flow import FlowKey
from upmt_nf.signaling.message_writing import encode, split_pairs
from upmt_nf.signaling.messages import (
    ANY,
    HandoverPair,
    HandoverRequest,
)


def pieces(pairs: tuple[HandoverPair, ...]) -> list[object]:
    """Every flow or other match with its tunnels, in order."""
    found: list[object] = []
    for pair in pairs:
        if isinstance(pair.match, tuple) and pair.match:
            found += [(flow, pair.tunnels) for flow in pair.match]
        else:
            found.append((pair.match, pair.tunnels))
    return found


def size(group: tuple[HandoverPair, ...]) -> int:
    """Bytes that the pairs add to a body."""
    return len(encode(HandoverRequest("", group))) - len(encode(HandoverRequest("", ())))


ASCII = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(st.lists(pairs_with(ASCII, 30), max_size=6), st.integers(450, 2000))
@example([HandoverPair(()), HandoverPair(ANY)], 450)
def test_splitting_leaves_nothing_out_and_respects_the_limit(pairs: list[HandoverPair], limit: int) -> None:
    groups = list(split_pairs(pairs, limit))
    assert pieces(tuple(pair for group in groups for pair in group)) == pieces(tuple(pairs))
    assert all(groups)
    assert max(map(size, groups), default=0) <= limit


@given(st.lists(pairs_with(ASCII, 5), max_size=4))
def test_what_is_larger_than_the_limit_goes_alone(pairs: list[HandoverPair]) -> None:
    groups = list(split_pairs(pairs, 10))
    assert [pieces(group) for group in groups] == [[piece] for piece in pieces(tuple(pairs))]


def test_groups_are_well_filled() -> None:
    many = tuple(FlowKey(17, FLOW.source, port, FLOW.destination, 3000) for port in range(1000, 1100))
    groups = list(split_pairs([HandoverPair(many)], 740))
    assert len(groups) <= 9
    assert [len(group) for group in groups] == [1] * len(groups)
    whole = list(split_pairs([HandoverPair(many[:2]), HandoverPair(ANY), HandoverPair(many[2:4])], 740))
    assert len(whole) == 1


def test_splitting_many_flows_takes_little_time() -> None:
    many = tuple(FlowKey(17, FLOW.source, port, FLOW.destination, 3000) for port in range(20000))
    started = time.perf_counter()
    groups = list(split_pairs([HandoverPair(many)], 740))
    assert time.perf_counter() - started < 3
    assert sum(len(pieces(group)) for group in groups) == 20000
