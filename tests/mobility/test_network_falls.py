"""A whole network falls: all its applications move in one signalling exchange, and each has its own receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from mobility_terminal import NET0, NET1, NET2, Packet
from mobility_world import World, associated, flows_in, misbehave, settle

from upmt_nf.datapath.membership import Told
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.flow_moves import FlowMoves
from upmt_nf.mobility.host_commands import HandoverFinished, Mode
from upmt_nf.mobility.leases import Lease
from upmt_nf.mobility.naming import LIVED
from upmt_nf.model.flow import FlowKey, application_meant, newcomers_of
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationId, ApplicationName
from upmt_nf.signaling.messages import HandoverPair, HandoverResult, TunnelSetupResponse

NAMES = [ApplicationName(f"app{number}") for number in range(20)]
Flows = dict[ApplicationName, list[FlowKey]]


def with_applications(
    seed: int = 0, *, flows: int = 1, networks: int = 3, is_named: bool = True, **options: Any
) -> tuple[World, Flows]:
    """Twenty applications on net0, which may go to all networks in their order, with some flows each."""
    world = associated(World(seed, networks=networks, **options))
    found = {}
    for number, name in enumerate(NAMES):
        world.host.define(name, ApplicationId(number + 2))
        world.run(0.01)
        found[name] = [world.host.open_flow(name) for _ in range(flows)]
    world.run(LIVED + 0.1 if is_named else 0.1)
    if is_named:
        for each in found.values():
            for flow in each:
                world.host.send(flow)
        world.until(lambda: all(is_told(world, each) for each in found.values()), 60)
    world.run(0.5)
    world.assert_agreement()
    world.packets.clear()
    world.host.finished.clear()
    return world, found


def is_told(world: World, flows: list[FlowKey]) -> bool:
    return all(world.host.paft.flows[flow.packed()].told is Told.YES for flow in flows)


def asked(world: World) -> list[Packet]:
    """Handover requests that the host sent, resent ones included."""
    return [
        packet
        for packet in world.packets
        if packet.is_up and packet.kind == "signal" and b'"HandoverRequest"' in packet.payload
    ]


def receipts(world: World) -> dict[ApplicationName, HandoverFinished]:
    """One an application."""
    found: dict[ApplicationName, HandoverFinished] = {}
    for finished in world.host.finished:
        if finished.receipt is not None:
            assert finished.receipt.application not in found
            found[finished.receipt.application] = finished
    return found


def assert_all_on(world: World, network: Any, flows: Flows) -> None:
    assert {world.host.network_of(name) for name in NAMES} == {network}
    assert {world.host.flow_network(flow) for each in flows.values() for flow in each} == {network}
    world.assert_agreement()


@pytest.mark.parametrize("is_guarded", [False, True])
@pytest.mark.parametrize("is_named", [False, True])
def test_twenty_applications_leave_a_network_that_falls_in_one_exchange(
    is_guarded: bool, is_named: bool
) -> None:
    world, flows = with_applications(is_guarded=is_guarded, is_named=is_named)
    world.host.vanish(NET0)
    world.run(0.9)
    (request,) = asked(world)
    assert request.link.name == NET1
    done = receipts(world)
    assert set(done) == {DEFAULT_APPLICATION, *NAMES}
    for name in NAMES:
        receipt = done[name].receipt
        assert receipt is not None
        assert (receipt.source, receipt.target, receipt.flows) == (NET0, NET1, 1)
        assert receipt.mode is Mode.BREAK_BEFORE_MAKE
        assert "cable" in receipt.cause
    assert_all_on(world, NET1, flows)


def test_named_applications_are_told_by_their_numbers_and_their_flows_keep_their_names() -> None:
    world, flows = with_applications(flows=5)
    world.host.vanish(NET0)
    world.run(0.5)
    (request,) = asked(world)
    named = {application_meant(flow.packed()) for flow in flows_in(request)}
    assert named == {0, *range(2, 22)}
    assert all(is_told(world, each) for each in flows.values())
    assert_all_on(world, NET1, flows)


def test_they_return_in_one_exchange_too_and_nothing_is_steered_before_the_anchor_has_answered() -> None:
    world, flows = with_applications()
    world.host.vanish(NET0)
    world.run(5)
    world.host.links[NET0].delay = 0.2
    world.host.appear(NET0)
    world.packets.clear()
    world.host.finished.clear()
    world.until(lambda: bool(asked(world)), 60)
    world.run(0.3)
    assert {world.host.network_of(name) for name in NAMES} == {NET1}
    world.run(0.2)
    (request,) = asked(world)
    assert request.link.name == NET0
    done = receipts(world)
    assert set(done) == {DEFAULT_APPLICATION, *NAMES}
    modes = {finished.receipt.mode for finished in done.values() if finished.receipt is not None}
    assert modes == {Mode.MAKE_BEFORE_BREAK}
    assert_all_on(world, NET0, flows)


@pytest.mark.parametrize("seed", range(12))
def test_bad_weather_loses_doubles_and_reorders_the_exchange_and_none_of_them(seed: int) -> None:
    world, flows = with_applications(
        seed, flows=1 + seed % 3, is_named=seed % 2 == 0, is_guarded=seed % 4 < 2
    )
    misbehave(world, loss=0.3, duplication=0.3, jitter=0.2)
    world.host.vanish(NET0)
    settle(world)
    assert set(receipts(world)) == {DEFAULT_APPLICATION, *NAMES}
    assert_all_on(world, world.host.network_of(), flows)


def test_what_is_too_long_for_one_message_is_sent_in_several_at_once_and_none_is_lost() -> None:
    world, flows = with_applications(flows=6, is_named=False, is_guarded=True)
    world.host.vanish(NET0)
    requests = asked(world)
    assert 2 <= len(requests) <= 6
    told = [flow for request in requests for flow in flows_in(request)]
    assert sorted(map(str, told)) == sorted(
        map(str, [*(flow for each in flows.values() for flow in each), newcomers_of(told[0].source)])
    )
    world.run(0.9)
    assert set(receipts(world)) == {DEFAULT_APPLICATION, *NAMES}
    assert_all_on(world, NET1, flows)
    assert world.oversized == []


@pytest.mark.parametrize("mtu", [890, 1000, 1280])
def test_a_narrow_path_gets_as_many_in_one_message_as_it_takes(mtu: int) -> None:
    world, flows = with_applications(flows=3, is_named=False, is_guarded=True)
    world.host.narrow(NET1, mtu)
    world.host.vanish(NET0)
    world.settle()
    assert set(receipts(world)) == {DEFAULT_APPLICATION, *NAMES}
    assert world.oversized == []
    assert_all_on(world, NET1, flows)


def refusing(number: int, real: Any) -> Callable[..., HandoverResult]:
    """An anchor that will not move one application."""

    def apply(
        self: FlowMoves, lease: Lease, pair: HandoverPair, by: Tunnel, cseq: int, now: float
    ) -> HandoverResult:
        meant = (
            {application_meant(flow.packed()) for flow in pair.match}
            if isinstance(pair.match, tuple)
            else set()
        )
        if number in meant:
            return HandoverResult(False, reason="not this one")
        return real(self, lease, pair, by, cseq, now)  # type: ignore[no-any-return]

    return apply


def test_an_anchor_that_refuses_one_application_moves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world, flows = with_applications()
    monkeypatch.setattr(FlowMoves, "_apply", refusing(5, FlowMoves._apply))
    world.host.vanish(NET0)
    world.run(0.9)
    refused = NAMES[3]
    assert set(receipts(world)) == {DEFAULT_APPLICATION, *NAMES} - {refused}
    (failed,) = (finished for finished in world.host.finished if finished.failure is not None)
    assert failed.application == refused
    assert "not this one" in str(failed.failure)
    # Its packets leave by net1 all the same, and the anchor learns from them.
    world.host.send(flows[refused][0])
    world.run(0.1)
    assert_all_on(world, NET1, flows)


def test_the_new_network_falls_before_it_has_answered() -> None:
    world, flows = with_applications()
    world.host.links[NET1].delay = 0.3
    world.host.vanish(NET0)
    world.run(0.1)
    world.packets.clear()
    world.host.vanish(NET1)
    (request,) = asked(world)
    assert request.link.name == NET2
    world.run(0.9)
    done = receipts(world)
    assert {finished.receipt.target for finished in done.values() if finished.receipt is not None} == {NET2}
    assert set(done) == {DEFAULT_APPLICATION, *NAMES}
    assert_all_on(world, NET2, flows)


def test_one_that_a_person_moves_meanwhile_leaves_the_exchange_and_the_others_go_on() -> None:
    world, flows = with_applications()
    world.host.links[NET1].delay = 0.3
    world.host.vanish(NET0)
    world.run(0.1)
    world.packets.clear()
    token = world.host.hand_over(NAMES[7], NET2)
    assert world.host.receipt(token).target == NET2
    again = [request for request in asked(world) if request.link.name == NET1]
    meant = {application_meant(flow.packed()) for request in again for flow in flows_in(request)}
    assert meant == {0, *range(2, 22)} - {9}
    settle(world)
    assert {world.host.network_of(name) for name in NAMES} == {NET1, NET2}
    assert [name for name in NAMES if world.host.network_of(name) == NET2] == [NAMES[7]]
    assert {world.host.flow_network(flow) for flow in flows[NAMES[7]]} == {NET2}


def test_applications_that_go_to_different_networks_take_an_exchange_a_network() -> None:
    world, _ = with_applications()
    for number, name in enumerate(NAMES):
        world.host.define(name, ApplicationId(number + 2), NET0, NET1 if number % 2 else NET2)
    world.run(1)
    world.packets.clear()
    world.host.vanish(NET0)
    assert sorted(request.link.name for request in asked(world)) == [NET1, NET2]
    world.run(0.9)
    assert {world.host.network_of(name) for name in NAMES[1::2]} == {NET1}
    assert {world.host.network_of(name) for name in NAMES[::2]} == {NET2}
    world.assert_agreement()


def test_an_anchor_that_knows_no_packed_lists_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(*values: Any, **names: Any) -> TunnelSetupResponse:
        return replace(TunnelSetupResponse(*values, **names), reads_packed=False)

    monkeypatch.setattr("upmt_nf.mobility.anchor.TunnelSetupResponse", older)
    world, flows = with_applications(is_guarded=True)
    world.host.vanish(NET0)
    requests = asked(world)
    assert 1 < len(requests) < 8
    assert not any(b'"packed"' in packet.payload for packet in world.packets)
    world.run(0.9)
    assert set(receipts(world)) == {DEFAULT_APPLICATION, *NAMES}
    assert_all_on(world, NET1, flows)


def test_an_anchor_that_has_forgotten_names_is_told_of_each_flow() -> None:
    world, flows = with_applications(flows=3)
    for each in flows.values():
        world.anchor_paft.forget(each[0].packed())
    world.host.vanish(NET0)
    settle(world)
    assert set(receipts(world)) == {DEFAULT_APPLICATION, *NAMES}
    assert_all_on(world, NET1, flows)


def test_both_ends_keep_an_eye_on_the_flows_of_an_application_that_moves_by_its_name() -> None:
    world, flows = with_applications(flows=2)
    world.host.vanish(NET0)
    world.run(0.05)
    for each in flows.values():
        for flow in each:
            entry = world.anchor_paft.flows[flow.packed()]
            assert entry.arrivals is not None
            world.host.send(flow)
    world.run(5)
    assert len(world.host.counted) >= len(NAMES)
    for counted in world.host.counted:
        if counted.flows:
            assert counted.up is not None
            assert counted.up.gap_ms > 0
