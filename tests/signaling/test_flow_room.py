"""Flows in requests: nothing is left out, nothing is too long, and packed ones come out as they went in."""

import json

from hypothesis import given
from hypothesis import strategies as st
from message_strategies import flows, packed_flows

from upmt_nf.model.flow import FlowKey
from upmt_nf.signaling.flow_room import FlowRoom
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import HandoverRequest

BARE = len(encode(HandoverRequest("token", ())))


@given(st.lists(flows(), max_size=40), packed_flows(40), st.integers(60, 700), st.booleans())
def test_groups_leave_nothing_out_and_each_fits_or_is_one_flow(
    mixed: list[FlowKey], same: tuple[FlowKey, ...], octets: int, is_packed: bool
) -> None:
    room, all_of_them = FlowRoom(octets, is_packed), (*mixed, *same)
    groups = room.groups(all_of_them)
    assert tuple(flow for group in groups for flow in group) == all_of_them
    for group in groups:
        body = encode(HandoverRequest("token", (room.pair(group),)))
        assert len(body) <= BARE + octets or len(group) == 1
        assert room.holds(group) or len(group) == 1
        request = decode(body)
        assert isinstance(request, HandoverRequest)
        (pair,) = request.pairs
        assert isinstance(pair.match, tuple)
        assert sorted(map(str, pair.match)) == sorted(map(str, group))


@given(packed_flows(30))
def test_packed_flows_take_a_fraction_of_those_in_words(same: tuple[FlowKey, ...]) -> None:
    packed, words = FlowRoom(10**6, is_packed=True), FlowRoom(10**6)
    sizes = [
        len(json.dumps(json.loads(encode(HandoverRequest("", (room.pair(same),))))))
        for room in (packed, words)
    ]
    assert sizes[0] < sizes[1] + 60
    assert len(same) < 5 or sizes[0] < sizes[1]


def test_flows_of_two_sources_do_not_go_into_one_packed_list() -> None:
    first, second = (FlowKey.parse(f"udp:10.0.0.{number}:1>86.0.0.1:3000") for number in (1, 2))
    room = FlowRoom(700, is_packed=True)
    assert room.groups((first, second)) == [(first,), (second,)]
    assert not room.pair((first, second)).is_packed
    assert room.pair((first,), 5).is_packed
