"""The association between a mobile host and its anchor: made, refreshed, lost, made again, ended."""

import re
from ipaddress import ip_address

import pytest
from mobility_terminal import NET0, NET1
from mobility_world import World, associated, misbehave

from upmt_nf.mobility.events import StopAsked
from upmt_nf.model.identity import DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, TerminalId

SEEDS = range(25)


def token_of(world: World) -> str:
    """The association's secret, from the wire."""
    found = [re.search(rb"UPMT-Association: (\w+)", packet.payload) for packet in world.packets]
    return next(match[1].decode() for match in reversed(found) if match)


# --- made ---


def test_the_association_and_all_tunnels_are_up_after_two_round_trips() -> None:
    world = World(networks=3)
    world.host.appear(*world.host.links)
    assert world.until(world.host.is_settled, 1.0) == pytest.approx(2 * 0.04)
    (association,) = world.anchor.associations
    assert association.virtual_address == world.host.virtual_address == ip_address("10.99.0.1")
    assert {tunnel.id for tunnel in association.tunnels} == set(world.host.open_tunnels.values())
    assert [tunnel.network for tunnel in association.tunnels] == list(world.host.links)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_comes_up_whatever_the_networks_do_to_the_messages(seed: int) -> None:
    world = World(seed)
    misbehave(world, loss=0.3, duplication=0.3, jitter=0.4)
    world.host.appear(NET0, NET1)
    world.until(world.host.is_settled, 90)
    flows = [world.host.open_flow() for _ in range(3)]
    misbehave(world)
    world.run(1)
    world.settle()
    for flow in flows:
        world.host.send(flow)
    world.run(1)
    world.assert_agreement()
    assert len(world.granted) == 1
    assert world.host.releases == 0


def test_a_first_network_that_leads_nowhere_costs_nothing() -> None:
    world = World()
    world.host.links[NET0].is_black_hole = True
    world.host.appear(NET0, NET1)
    assert world.until(lambda: world.host.network_of() == NET1, 1.0) < 0.2


def test_a_network_that_goes_away_during_the_registration_is_not_waited_for() -> None:
    world = World()
    world.host.links[NET0].delay = 1.0
    world.host.appear(NET0)
    world.run(0.5)
    world.host.vanish(NET0)
    assert world.host.state == "idle"
    world.run(1)
    world.host.appear(NET1)
    assert world.until(lambda: world.host.network_of() == NET1, 2.0) < 0.2


def test_no_anchor_is_tried_again_and_again_and_found_when_it_comes() -> None:
    world = World()
    world.anchor_has_stopped = True
    world.host.appear(NET0, NET1)
    world.until(lambda: world.host.state == "lost", 40)
    assert "does not answer" in (world.host.machine.association.failure or "")
    world.run(200)
    world.start_anchor()
    world.until(world.host.is_settled, 45)


def test_a_lifetime_that_is_too_short_for_the_anchor_is_raised_at_once() -> None:
    world = World(lifetime=5, anchor={"minimum_lifetime": 20})
    world.host.appear(NET0)
    assert world.until(world.host.is_settled, 1.0) < 0.2
    assert (world.host.machine.association.expires_at or 0) - world.now == pytest.approx(20, abs=0.3)


def test_an_exhausted_pool_is_told_and_the_host_tries_again() -> None:
    world = World(pool="10.99.0.1-10.99.0.1")
    associated(world)
    second = world.add_host("second@upmt")
    second.appear(*second.links)
    world.until(lambda: second.state == "lost", 1.0)
    assert "503" in (second.machine.association.failure or "")
    assert second.virtual_address is None
    start = world.now
    world.run(20)
    assert not [
        packet for packet in world.packets if packet.link.terminal is second and packet.sent_at > start
    ]
    world.host.stop()
    world.until(lambda: world.host.has_stopped, 3)
    assert second.state == "lost", "it was told to wait for 30 s"
    world.until(second.is_settled, 32)
    assert second.virtual_address == ip_address("10.99.0.1")


# --- refreshed ---


@pytest.mark.parametrize(("seed", "loss"), [(0, 0.0), *((seed, 0.3) for seed in range(8))])
def test_the_association_is_refreshed_before_it_expires(seed: int, loss: float) -> None:
    world = associated(World(seed, lifetime=60))
    misbehave(world, loss=loss, duplication=loss, jitter=loss)
    states = set()
    world.watchers.append(lambda: states.add(world.host.state))
    world.run(900)
    assert states == {"associated", "refreshing"}
    assert world.ended == []
    registers = [packet for packet in world.packets if packet.payload.startswith(b"REGISTER")]
    assert 900 / 60 <= len(registers) <= 900 / 60 * (1.5 if not loss else 12)


def test_a_refresh_goes_by_another_network_when_the_first_is_silent() -> None:
    world = associated(World(lifetime=30))
    world.host.links[NET0].drops = lambda packet: packet.kind == "sip"
    world.run(300)
    assert world.ended == []
    assert world.host.state in ("associated", "refreshing")


# --- lost and made again ---


@pytest.mark.parametrize("seed", range(10))
def test_an_anchor_that_forgot_everything_gets_the_same_host_address_tunnels_and_flows(seed: int) -> None:
    world = associated(World(seed))
    address = world.host.virtual_address
    for _ in range(20):
        world.host.open_flow()
    misbehave(world, loss=0.1 if seed else 0.0, jitter=0.1)
    world.run(3)
    world.start_anchor()
    # The networks die first, within three keepalive intervals; the setup request is refused, and all begins anew.
    world.until(lambda: len(world.granted) == 2, 25)
    misbehave(world)
    world.settle()
    world.assert_agreement()
    assert world.granted[0] == world.granted[1]
    assert world.host.virtual_address == address
    assert world.host.releases == 0


def test_an_anchor_that_forgot_gives_a_taken_address_to_nobody_else_when_it_remembers() -> None:
    world = associated(World())
    address = world.host.virtual_address
    assert address is not None
    world.start_anchor({TerminalId("mh@upmt"): address})
    other = world.add_host("other@upmt")
    other.appear(NET0)
    world.until(other.is_settled, 2)
    world.settle()
    assert other.virtual_address != address
    assert world.host.virtual_address == address


def test_a_host_whose_address_was_given_away_gets_another() -> None:
    world = associated(World())
    address = world.host.virtual_address
    world.start_anchor()
    other = world.add_host("other@upmt")
    other.appear(NET0)
    world.until(lambda: other.virtual_address == address, 2)
    world.settle()
    assert world.host.virtual_address not in (address, None)
    assert world.host.releases == 1
    flow = world.host.open_flow()
    world.run(1)
    assert flow.packed() in world.anchor_paft.flows


def test_a_restarted_host_has_its_address_again_and_new_tunnels() -> None:
    world = associated(World())
    address, token, tunnels = world.host.virtual_address, token_of(world), set(world.anchor_paft.tunnels)
    world.host.open_flow()
    world.host.restart()
    world.settle()
    assert world.host.virtual_address == address
    assert token_of(world) != token
    assert len(world.anchor_paft.tunnels) == 2
    assert tunnels.isdisjoint(world.anchor_paft.tunnels)
    assert len(world.granted) == 1
    for _ in range(3):
        world.host.open_flow()
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    world.assert_agreement()


def test_requests_of_a_restarted_host_count_anew() -> None:
    world = associated(World())
    flow = world.host.open_flow()
    for target in (NET1, NET0) * 5:
        world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, target))
    world.host.restart()
    world.settle()
    world.host.paft.insert(flow.packed(), DEFAULT_APPLICATION_ID, world.now)
    world.host.send(flow)
    world.run(1)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert world.host.flow_network(flow) == NET1
    world.assert_agreement()


# --- ended ---


@pytest.mark.parametrize("seed", range(10))
def test_a_host_that_stops_says_goodbye(seed: int) -> None:
    world = associated(World(seed))
    world.host.open_flow()
    world.run(1)
    misbehave(world, loss=0.3 if seed else 0.0, jitter=0.1 if seed else 0.0)
    world.host.stop()
    took = world.until(lambda: world.host.has_stopped, 2.1)
    assert world.host.virtual_address is None
    assert world.host.open_tunnels == {}
    assert world.host.paft.tunnels == {}
    assert seed or took == pytest.approx(0.04)
    assert [ended.reason for ended in world.ended] == ["the host left"]
    assert world.anchor.associations == []
    assert world.anchor_paft.tunnels == {}
    assert world.anchor_paft.flows == {}
    world.run(10)
    assert world.anchor.associations == [], "a late refresh brought it back"


def test_a_host_that_cannot_reach_its_anchor_stops_nevertheless() -> None:
    world = associated(World())
    for link in world.host.links.values():
        link.is_black_hole = True
    world.host.stop()
    assert world.until(lambda: world.host.has_stopped, 5.0) == pytest.approx(2.0)


@pytest.mark.parametrize("with_network", [True, False])
def test_a_host_without_an_association_stops_too(with_network: bool) -> None:
    world = World()
    world.anchor_has_stopped = True
    if with_network:
        world.host.appear(NET0)
        world.run(1)
    world.host.stop()
    world.until(lambda: world.host.has_stopped, 2.1)


def test_a_silent_host_expires_at_the_anchor() -> None:
    world = associated(World(lifetime=120))
    world.host.open_flow()
    world.run(1)
    for link in world.host.links.values():
        link.is_black_hole = True
    took = world.until(lambda: bool(world.ended), 121)
    assert took > 100
    assert "refreshed" in world.ended[0].reason
    assert world.anchor_paft.tunnels == {}
    assert world.anchor_paft.flows == {}
    world.run(200)
    assert world.host.state == "lost"
    for link in world.host.links.values():
        link.is_black_hole = False
    world.settle()
    world.assert_agreement()
    assert world.host.releases == 0


def test_an_anchor_that_stops_tells_its_hosts_and_does_not_wait_long() -> None:
    world = associated(World())
    second = world.add_host("second@upmt")
    second.appear(*second.links)
    world.settle(second)
    world.take(StopAsked())
    assert world.until(lambda: world.anchor_has_stopped, 2.0) == pytest.approx(0.04)
    assert (world.host.state, second.state) == ("lost", "lost")
    assert any("going-down" in text for _, text in world.host.said)
    world.run(5)
    world.start_anchor()
    world.settle(within=45)
    assert world.host.virtual_address == ip_address("10.99.0.1")


def test_a_stopping_anchor_gives_up_on_hosts_that_do_not_answer() -> None:
    world = associated(World())
    for link in world.host.links.values():
        link.is_black_hole = True
    world.take(StopAsked())
    assert world.until(lambda: world.anchor_has_stopped, 5.0) == pytest.approx(1.0)
