"""When each step of a handover came, as its receipt says, against what the pretend world knows."""

from __future__ import annotations

import pytest
from mobility_terminal import NET0, NET1
from mobility_world import World, with_flows

from upmt_nf.mobility.handover_steps import Step, StepKind
from upmt_nf.mobility.tallies import SETTLE, Counted
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION

EVERY = 0.02


def stream(world: World, flow: FlowKey, packets: int) -> None:
    """Packets both ways."""
    if packets:
        world.host.send(flow)
        world.send_down(flow)
        world.after(EVERY, lambda: stream(world, flow, packets - 1))


def steps_of(world: World) -> tuple[dict[StepKind, Step], Counted]:
    """Those of the last handover, once it is counted; relative to when it was decided."""
    world.until(lambda: bool(world.host.counted), 60)
    receipt, counted = world.host.finished[-1].receipt, world.host.counted[-1]
    assert receipt is not None
    found = [*receipt.steps, *counted.steps]
    assert len({step.kind for step in found}) == len(found)
    return {step.kind: Step(step.kind, step.at - receipt.started, step.within) for step in found}, counted


def with_stream(**delays: float) -> World:
    world = World()
    (flow,) = with_flows(world, 1)
    for name, delay in zip((NET0, NET1), delays.values(), strict=True):
        world.host.links[name].delay = delay
    world.run(120.0)
    stream(world, flow, 1000)
    world.run(3.0)
    return world


def test_a_planned_move_asks_and_is_answered_before_it_is_steered() -> None:
    world = with_stream(net0=0.03, net1=0.05)
    world.host.hand_over(DEFAULT_APPLICATION, NET1)
    steps, _ = steps_of(world)
    assert -2 * EVERY <= steps[StepKind.HEARD].at <= 0
    assert steps[StepKind.ASKED].at == 0
    # The anchor's table was written when the request was there, half a round trip later: within what the receipt says.
    assert steps[StepKind.ANCHOR_STEERED].at == pytest.approx(0.05)
    assert steps[StepKind.ANCHOR_STEERED].within == pytest.approx(0.05)
    assert steps[StepKind.ANSWERED].at == steps[StepKind.STEERED].at == pytest.approx(0.1)
    # The anchor sends by net1 from 50 ms on, which takes 50 ms; what it sent by net0 before takes 30.
    assert 0.1 <= steps[StepKind.FIRST_PACKET].at <= 0.1 + EVERY
    assert 0.08 - EVERY <= steps[StepKind.OLD_DRAINED].at <= 0.08
    assert steps[StepKind.COUNTED].at >= 0.1 + SETTLE


def test_a_cut_is_steered_at_once_and_its_silence_is_told() -> None:
    world = with_stream(net0=0.03, net1=0.05)
    world.host.links[NET0].is_black_hole = True
    world.run(0.5)
    world.host.vanish(NET0)
    steps, counted = steps_of(world)
    assert -0.5 - EVERY <= steps[StepKind.HEARD].at <= -0.4
    assert steps[StepKind.DECIDED].at == steps[StepKind.ASKED].at == steps[StepKind.STEERED].at == 0
    assert steps[StepKind.ANSWERED].at == pytest.approx(0.1)
    assert 0.1 <= steps[StepKind.FIRST_PACKET].at <= 0.1 + 2 * EVERY
    assert StepKind.OLD_DRAINED not in steps
    assert counted.down is not None
    assert counted.down.lost > 0


def test_a_request_that_is_lost_makes_the_anchors_step_less_certain() -> None:
    world = with_stream(net0=0.03, net1=0.05)
    dropped: list[bytes] = []

    def drops(packet: object) -> bool:
        payload: bytes = packet.payload  # type: ignore[attr-defined]
        if b'"HandoverRequest"' in payload and not dropped:
            dropped.append(payload)
            return True
        return False

    world.host.links[NET1].drops = drops
    world.host.hand_over(DEFAULT_APPLICATION, NET1)
    steps, _ = steps_of(world)
    answered, steered = steps[StepKind.ANSWERED].at, steps[StepKind.ANCHOR_STEERED]
    assert answered > 0.2
    assert steered.within == pytest.approx(answered / 2)
    assert steered.at - steered.within <= answered - 0.05 <= steered.at + steered.within
