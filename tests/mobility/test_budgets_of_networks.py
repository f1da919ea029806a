"""Budgets of networks hold for everything: applications with a policy or a list, and the host's own signalling."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from mobility_terminal import NET0, NET1
from mobility_world import World, associated

from upmt_nf.mobility.advisor import SIGNALLING
from upmt_nf.mobility.host_events import ApplicationDefined, ClockRead, NetworksRedescribed
from upmt_nf.model.flow import UDP, FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, ApplicationId, ApplicationName
from upmt_nf.policy.budget import Budget, Period
from upmt_nf.policy.civil_time import CivilClock
from upmt_nf.policy.network import NetworkFacts

DAY = 86400.0
BUDGET = Budget(200e6, Period.DAY, NET0)
FREE = (NetworkFacts(NET0, throughput=20e6), NetworkFacts(NET1, throughput=20e6))
BUDGETED = (replace(FREE[0], budgets=(BUDGET,)), FREE[1])


def world_with(facts: tuple[NetworkFacts, ...], until_midnight: float = 600.0, **host: Any) -> World:
    world = World(facts=facts, **host)
    world.host.take(ClockRead(DAY * 100 - world.now - until_midnight))
    return world


def spend(world: World, millions: int, application: ApplicationName = DEFAULT_APPLICATION) -> None:
    """A megabyte a second, at most the budget's guard."""
    flow = world.host.open_flow(application)
    for _ in range(millions):
        world.host.paft.flows[flow.packed()].bytes_out += 1_000_000
        world.run(1)


def registered_by(world: World) -> list[str]:
    return [packet.link.name for packet in world.packets if packet.kind == "sip" and packet.is_up]


def test_an_application_with_a_list_keeps_them_and_comes_back_when_there_is_another_day() -> None:
    world = associated(world_with(BUDGETED))
    spend(world, 100)
    assert world.host.network_of() == NET0
    spend(world, 100)
    assert world.host.network_of() == NET1
    assert world.host.machine.applications[DEFAULT_APPLICATION].policy_name is None
    world.run(500)
    assert world.host.network_of() == NET0


def test_two_applications_with_lists_share_one_budget() -> None:
    world, mail = world_with(BUDGETED), ApplicationName("mail")
    world.host.take(ApplicationDefined(mail, ApplicationId(2), (NET0, NET1)))
    associated(world)
    spend(world, 100)
    spend(world, 100, mail)
    assert (world.host.network_of(), world.host.network_of(mail)) == (NET1, NET1)


def test_who_moved_a_list_by_hand_has_its_order_changed_as_ever() -> None:
    world = associated(world_with(BUDGETED))
    world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(120)
    assert world.host.network_of() == NET1


def test_a_budget_may_come_and_go_while_the_host_runs() -> None:
    world = associated(world_with(FREE, until_midnight=5000.0))
    spend(world, 250)
    assert world.host.network_of() == NET0
    world.host.take(NetworksRedescribed(BUDGETED))
    spend(world, 200)
    assert world.host.network_of() == NET1, "what passed before there was a budget was not counted"
    world.host.take(NetworksRedescribed(FREE))
    world.run(60)
    assert world.host.network_of() == NET0


def test_what_the_kernel_sent_while_no_daemon_lived_counts_though_the_tunnels_come_later() -> None:
    world = world_with(BUDGETED)
    flow = FlowKey(UDP, ip_address("1.2.3.4"), 4000, ip_address("86.0.0.1"), 5000)
    world.host.paft.insert(flow.packed(), DEFAULT_APPLICATION_ID, world.now).bytes_out = 190_000_000
    world.run(5)
    associated(world)
    world.run(5)
    spent = world.host.machine.ledger.spent(
        BUDGET, DEFAULT_APPLICATION, CivilClock(DAY * 100 - 600).at(10), {}
    )
    assert spent == 190_000_000
    assert world.host.network_of() == NET1


def test_words_of_the_host_are_spent_as_well() -> None:
    world = associated(world_with(BUDGETED))
    world.run(100)
    ledger, time = world.host.machine.ledger, CivilClock(DAY * 100 - 600).at(100)
    said = ledger.spent(BUDGET, SIGNALLING, time, {})
    up = sum(packet.size for packet in world.packets if packet.link.name == NET0 and packet.is_up)
    assert 0.8 * up < said < 3 * up


def test_an_association_is_refreshed_by_the_networks_that_signalling_may_use() -> None:
    world = associated(world_with(FREE, signalling=(NET1,), lifetime=60))
    world.run(300)
    assert set(registered_by(world)) == {NET1}
    assert len(registered_by(world)) >= 4
    assert world.host.network_of() == NET0, "applications go their own ways"


def test_no_association_is_refreshed_by_a_network_whose_budget_is_spent() -> None:
    world = associated(world_with(BUDGETED, lifetime=20))
    spend(world, 200)
    assert registered_by(world)[-1] == NET0, "the last of a budget is kept for this"
    world.host.machine.ledger.add(SIGNALLING, NET0, 10e6, CivilClock(DAY * 100 - 600).at(200))
    world.run(10)
    before = len(world.packets)
    world.run(200)
    assert set(registered_by(world)[-5:]) == {NET1}
    late = [packet for packet in world.packets[before:] if packet.kind == "sip" and packet.link.name == NET0]
    assert late == []
    assert world.host.machine.association.state == "associated"
    world.run(400)
    assert registered_by(world)[-1] == NET0, "it is another day"


def test_a_host_whose_only_network_for_signalling_is_spent_associates_when_it_may() -> None:
    world = world_with(BUDGETED, until_midnight=100.0, signalling=(NET0,))
    world.host.machine.ledger.add(SIGNALLING, NET0, 200e6, CivilClock(DAY * 100 - 100).at(0))
    world.run(1)
    world.host.appear(NET0)
    world.host.appear(NET1)
    world.run(50)
    assert registered_by(world) == []
    world.run(100)
    assert world.host.machine.association.state == "associated"
