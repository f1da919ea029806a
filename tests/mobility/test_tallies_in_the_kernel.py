"""What a handover cost where a kernel forwards: counts that go on while they are read, and bounds round the truth."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mobility_terminal import NET0, NET1
from mobility_world import World, with_flows

from upmt_nf.datapath.arrivals import Seen
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.anchor_tunnels import AnchorTunnels
from upmt_nf.mobility.flow_counts import counts_of
from upmt_nf.mobility.flow_moves import FlowMoves
from upmt_nf.mobility.leases import Lease
from upmt_nf.mobility.tallies import SETTLE, Counted, Course, Tallies
from upmt_nf.model.flow import UDP, Endpoint, FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationId, TerminalId, TunnelId
from upmt_nf.signaling.messages import MOST_COUNTED, FlowCount, FlowCountsRequest, HandoverPair

OWNER = ip_address("10.9.0.1")
FLOW = FlowKey(UDP, OWNER, 5000, ip_address("198.51.100.1"), 53)


class Forwarder:
    """A mirror that forwards every flow; `seen` is what it tells of their arrivals."""

    def __init__(self, seen: Seen = Seen(0, 0.0)) -> None:  # noqa: B008 (immutable)
        self.seen = seen
        self.watched: list[tuple[bytes, Tunnel | None]] = []

    def watch(
        self, entries: Sequence[FlowEntry], target: Tunnel | None, old: Tunnel | None, now: float
    ) -> None:
        self.watched += [(entry.key, target) for entry in entries]

    def look_at(self, entry: FlowEntry) -> Seen | None:
        return self.seen

    def flow_changed(self, entry: FlowEntry) -> None:
        pass

    def flow_forgotten(self, key: bytes) -> None:
        pass

    def application_changed(self, application_id: int, tunnel: Tunnel | None) -> None:
        pass

    def application_withheld(self, application_id: int) -> None:
        pass

    def tunnel_changed(self, tunnel: Tunnel) -> None:
        pass

    def tunnel_forgotten(self, tunnel: Tunnel) -> None:
        pass


class Stretch:
    """What passes one way until a reading, in the order of sending: True came, False was lost.

    `first` is sent (and read by the sender) before the question or answer that the reading goes by, `beside` while both
    ends are read; `counted` of what came of those is in the receiver's reading.
    """

    def __init__(self, first: list[bool], beside: list[bool], counted: int) -> None:
        self.first, self.beside = first, beside
        self.counted = min(counted, sum(beside))


STRETCHES = st.builds(
    Stretch,
    st.lists(st.booleans(), max_size=12),
    st.lists(st.booleans(), max_size=6),
    st.integers(0, 6),
)


def account(rounds: list[tuple[Stretch, Stretch]], *, is_reading: bool) -> tuple[Course, Course]:
    """The receipt of a handover whose counts were asked before it and after: `rounds` of (up, down)."""
    paft = Paft()
    paft.mirror = Forwarder() if is_reading else None
    tunnels = [
        Tunnel(TunnelId(id), OWNER, Endpoint(ip_address("203.0.113.1"), 4000), 1400, network)
        for id, network in ((1, NET0), (2, NET1))
    ]
    entry = paft.insert(FLOW.packed(), ApplicationId(1), 0.0)
    tallies = Tallies(paft)
    tally = tallies.begin([entry], tunnels[0], NET1, tunnels[1], 1.0, by=NET0)
    received = sent = 0
    for number, (up, down) in enumerate(rounds):
        if number:
            tallies.finish(tally, 1.0)
            tallies.handle_timeout({NET1: True}, 1.0 + SETTLE)
        (request,), tallies.requests = tallies.requests, []
        # What the anchor sent before it read, of which some had come before the host asked.
        known = len(down.first) // 2
        entry.packets_out += len(up.first)
        entry.packets_in += sum(down.first[:known])
        request.leave(2.0 + number)
        received += sum(up.first)
        sent += len(down.first)
        count = FlowCount(received + up.counted, sent, is_reading=is_reading)
        entry.packets_in += sum(down.first[known:]) + down.counted
        entry.packets_out += len(up.beside)
        tallies.answer(request, (count,), 0.0, 2.01 + number)
        # All that was on its way comes before the next question.
        received += sum(up.beside)
        sent += len(down.beside)
        entry.packets_in += sum(down.beside) - down.counted
    (found,) = tallies.counted
    assert found.up is not None
    assert found.down is not None
    return found.up, found.down


@given(st.tuples(STRETCHES, STRETCHES), st.tuples(STRETCHES, STRETCHES))
def test_what_was_lost_is_between_the_bounds_however_the_packets_fall_beside_the_readings(
    before: tuple[Stretch, Stretch], after: tuple[Stretch, Stretch]
) -> None:
    for course, begun, done in zip(account([before, after], is_reading=True), before, after, strict=True):
        # From the one question (or answer) to the other.
        lost = (begun.beside + done.first).count(False)
        assert course.lost <= lost <= course.lost_at_most
        if course.lost != course.lost_at_most:
            assert course.duplicated is None


@given(st.lists(st.booleans(), max_size=12), st.lists(st.booleans(), max_size=12))
def test_a_flow_that_was_quiet_while_it_was_read_is_counted_exactly_up(
    one: list[bool], other: list[bool]
) -> None:
    rounds = [(Stretch(passed, [], 0), Stretch([], [], 0)) for passed in (one, other)]
    up, down = account(rounds, is_reading=True)
    assert (up.lost, up.lost_at_most, up.duplicated) == (other.count(False), other.count(False), 0)
    assert (down.lost, down.lost_at_most, down.duplicated) == (0, 0, 0)


@given(st.lists(st.booleans(), max_size=12), st.lists(st.booleans(), max_size=12))
def test_where_agents_forward_there_is_one_number(up_passed: list[bool], down_passed: list[bool]) -> None:
    nothing = Stretch([], [], 0)
    rounds = [(nothing, nothing), (Stretch(up_passed, [True] * 3, 0), Stretch(down_passed, [True] * 3, 0))]
    for course, passed in zip(account(rounds, is_reading=False), (up_passed, down_passed), strict=True):
        assert (course.lost, course.lost_at_most, course.duplicated) == (2 * (passed.count(False),)) + (0,)


def counted(world: World, handovers: int) -> Counted:
    world.until(lambda: len(world.host.counted) >= handovers, 60)
    return world.host.counted[-1]


@pytest.mark.parametrize("kernels", [("host", "anchor"), ("host",), ("anchor",)])
def test_a_cut_costs_what_the_bounds_say_whichever_end_has_the_kernel(kernels: tuple[str, ...]) -> None:
    world = World()
    (flow,) = with_flows(world, 1)
    host, anchor = Forwarder(Seen(3, 0.5)), Forwarder(Seen(2, 0.4))
    world.host.paft.mirror = host if "host" in kernels else None
    world.anchor_paft.mirror = anchor if "anchor" in kernels else None
    left = 2000

    def tick() -> None:
        nonlocal left
        left -= 1
        world.host.send(flow)
        world.send_down(flow)
        if left:
            world.after(0.02, tick)

    tick()
    world.run(3.0)
    world.host.links[NET0].is_black_hole = True
    world.until(lambda: world.host.network_of() == NET1, 30)
    found = counted(world, len(world.host.counted) + 1)
    assert found.reason is None
    up, down = found.up, found.down
    assert up is not None
    assert down is not None
    world.run(40.0)
    ours, theirs = world.host.paft.flows[flow.packed()], world.anchor_paft.flows[flow.packed()]
    assert up.lost <= ours.packets_out - theirs.packets_out <= up.lost_at_most
    assert down.lost <= theirs.packets_in - ours.packets_in <= down.lost_at_most
    assert up.lost > 10
    assert down.lost > 10
    # A round trip's packets are in doubt.
    assert up.lost_at_most - up.lost <= 6
    assert down.lost_at_most - down.lost <= 6
    if "host" in kernels:
        assert (down.late, down.gap_ms) == (3, 500)
        assert [target is None for _, target in host.watched] == [False, True]
    if "anchor" in kernels:
        assert (up.late, up.gap_ms) == (2, 400)
        assert [target is None for _, target in anchor.watched] == [False]


def test_a_host_that_does_not_know_readings_is_told_none() -> None:
    world = World()
    (flow,) = with_flows(world, 1)
    world.anchor_paft.mirror = Forwarder()
    tunnel = world.anchor_paft.tunnel_of(world.anchor_paft.flows[flow.packed()])
    assert tunnel is not None
    asked = FlowCountsRequest("", (flow,))
    assert counts_of(world.anchor_paft, flow.source, asked, tunnel, 8).counts == (None,)
    asked = FlowCountsRequest("", (flow,), takes_readings=True)
    (count,) = counts_of(world.anchor_paft, flow.source, asked, tunnel, 8).counts
    assert count is not None
    assert count.is_reading
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert counts_of(world.anchor_paft, flow.source, asked, tunnel, 8).counts == (None,)


def test_an_anchor_watches_no_more_flows_of_a_request_than_a_host_may_ask_about() -> None:
    world = World()
    flows = with_flows(world, 2 * MOST_COUNTED)
    paft = world.anchor_paft
    paft.mirror = mirror = Forwarder()
    moves = FlowMoves(paft, AnchorTunnels(paft, world.sites[0].settings, Random(0)), lambda *_: True)
    lease = Lease(TerminalId("mh@upmt"), flows[0].source, "token", "call", 1, 1e9)
    before = paft.tunnel_of(paft.flows[flows[0].packed()])
    (target,) = (tunnel for tunnel in paft.tunnels.values() if tunnel is not before)
    (result,) = moves.apply(lease, [HandoverPair(tuple(flows))], target, 1, world.now)
    assert result.flows == len(flows)
    assert [key for key, _ in mirror.watched] == [flow.packed() for flow in flows[:MOST_COUNTED]]
