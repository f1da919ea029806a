"""What a handover cost, as both ends count it, against what the world knows to have been lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mobility_terminal import NET0, NET1
from mobility_world import World, associated, misbehave, with_flows

from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.flow_counts import counts_of
from upmt_nf.mobility.tallies import Counted, Course
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationId
from upmt_nf.signaling.messages import FlowCountsRequest

EVERY = 0.02
"""Seconds between two packets of the stream, each way."""


class Stream:
    """Packets of one flow both ways, and what became of them."""

    def __init__(self, world: World, flow: FlowKey, packets: int) -> None:
        self.world, self.flow, self.left = world, flow, packets
        self.sent = 0
        self._tick()

    def _tick(self) -> None:
        if self.left:
            self.left -= 1
            self.sent += 1
            self.world.host.send(self.flow)
            self.world.send_down(self.flow)
            self.world.after(EVERY, self._tick)

    @property
    def lost(self) -> tuple[int, int]:
        """Up and down, when the stream is over: what each end has is what the other sent."""
        key = self.flow.packed()
        host, anchor = self.world.host.paft.flows[key], self.world.anchor_paft.flows[key]
        return host.packets_out - anchor.packets_out, anchor.packets_in - host.packets_in


def counted(world: World, handovers: int = 1) -> Counted:
    world.until(lambda: len(world.host.counted) >= handovers, 60)
    return world.host.counted[-1]


def both(found: Counted) -> tuple[Course, Course]:
    assert found.reason is None
    assert found.up is not None
    assert found.down is not None
    return found.up, found.down


@pytest.mark.parametrize("delays", [(0.02, 0.02), (0.2, 0.01), (0.01, 0.2)])
def test_a_planned_move_is_told_to_have_lost_nothing(delays: tuple[float, float]) -> None:
    world = World()
    (flow,) = with_flows(world, 1)
    for link, delay in zip(world.host.links.values(), delays, strict=True):
        link.delay = delay
    world.run(120.0)  # until the round trips are known: what may have been resent is not counted
    stream = Stream(world, flow, 1000)
    world.run(3.0)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    up, down = both(counted(world))
    world.run(20.0)
    assert stream.lost == (0, 0)
    assert (up.lost, up.duplicated, down.lost, down.duplicated) == (0, 0, 0, 0)
    # A slower old path is overtaken, a slower new one leaves a gap as long as the difference.
    slower, faster = delays[0] > delays[1], delays[0] < delays[1]
    assert (up.late > 0, down.late > 0) == (slower, slower)
    assert (up.gap_ms > 100, down.gap_ms > 100) == (faster, faster)


def test_a_cut_is_told_with_just_what_it_cost_each_way() -> None:
    world = World()
    (flow,) = with_flows(world, 1)
    stream = Stream(world, flow, 2000)
    world.run(3.0)
    world.host.links[NET0].is_black_hole = True
    world.until(lambda: world.host.network_of() == NET1, 30)
    up, down = both(counted(world, len(world.host.counted) + 1))
    world.run(40.0)
    assert stream.lost == (up.lost, down.lost)
    assert up.lost > 10
    assert down.lost > 10
    assert up.gap_ms == pytest.approx(1000 * EVERY * up.lost, rel=0.2)


def test_what_an_ordinary_lossy_path_lost_before_is_not_the_handovers() -> None:
    world = World()
    (flow,) = with_flows(world, 1)
    misbehave(world, loss=0.3)
    Stream(world, flow, 3000)
    world.run(5.0)
    misbehave(world)
    world.run(1.0)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    up, down = both(counted(world))
    assert (up.lost, down.lost) == (0, 0)


def test_nobody_counts_when_there_are_no_flows() -> None:
    world = associated(World())
    world.run(3.0)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    world.run(15.0)
    assert world.host.counted == []
    assert world.host.machine.next_timeout() is not None


def test_an_anchor_that_goes_leaves_the_count_unknown_with_a_reason() -> None:
    world = World()
    (flow,) = with_flows(world, 1)
    Stream(world, flow, 200)
    world.run(2.0)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    for link in world.host.links.values():
        link.is_black_hole = True
    found = counted(world)
    assert found.reason is not None
    assert found.up is None


def test_an_anchor_tells_counts_of_the_askers_own_flows_only_and_by_their_own_tunnel() -> None:
    world = World()
    own, _ = with_flows(world, 2)
    foreign = replace(own, source=own.source + 1)
    paft = world.anchor_paft
    first, second = sorted(paft.tunnels.values(), key=lambda tunnel: tunnel.network)
    paft.insert(foreign.packed(), ApplicationId(0), world.now).pinned = first
    own_count, foreign_count = counts_of(
        paft, own.source, FlowCountsRequest("", (own, foreign)), first, 8
    ).counts
    assert own_count is not None
    assert foreign_count is None
    assert counts_of(paft, own.source, FlowCountsRequest("", (own,)), second, 8).counts == (None,)
    assert counts_of(paft, own.source, FlowCountsRequest("", (own, own)), first, 1).counts == (own_count,)


def test_an_anchor_that_does_not_know_the_question_leaves_the_count_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Anchor, "_count", lambda self, request, *_: self._no(request, 400, "what?"))
    world = World()
    (flow,) = with_flows(world, 1)
    Stream(world, flow, 200)
    world.run(2.0)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert counted(world).reason == "the anchor told no counts"
    assert world.host.network_of() == NET1


def test_flows_older_than_the_association_are_not_counted_from_a_beginning_that_the_anchor_does_not_know() -> (
    None
):
    world = World()
    (flow,) = with_flows(world, 1)
    Stream(world, flow, 3000)
    world.run(5.0)
    world.start_anchor()
    world.settle()
    # What brought it back is not counted, but its count is a moment to begin from.
    assert {found.up for found in (counted(world),)} == {None}
    world.run(2.0)
    before = len(world.host.counted)
    target = NET1 if world.host.network_of() == NET0 else NET0
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, target))
    up, down = both(counted(world, before + 1))
    assert (up.lost, down.lost) == (0, 0)
    assert up.sent < 200
