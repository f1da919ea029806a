"""A host with several anchors in its file: the next is tried when one does not answer, one is used at a time."""

from ipaddress import ip_address
from random import Random

import pytest
from mobility_anchor_site import AnchorSite
from mobility_terminal import NET0, NET1
from mobility_world import World, associated, misbehave

from upmt_nf.mobility.anchor_choice import GRACE, PATIENCE
from upmt_nf.mobility.events import StopAsked
from upmt_nf.model.identity import TerminalId

SEEDS = range(12)
KEEPALIVE = 1.0
MOVED_WITHIN = 3 * KEEPALIVE + PATIENCE + GRACE + 0.5
"""Seconds: the last tunnel found dead, the next anchor asked, the grace of the old one, a few round trips."""
IDLE = 130.0
"""Seconds between two probes of a tunnel that has been idle for long, at most."""
MH = TerminalId("mh@upmt")


def world_of(anchors: int = 2, seed: int = 0, **host: object) -> World:
    return World(seed, anchors=anchors, keepalive_interval=KEEPALIVE, **host)  # type: ignore[arg-type]


def holders(world: World) -> list[AnchorSite]:
    """The anchors that lease something to the first host now."""
    return [
        site
        for site in world.sites
        if not site.has_stopped and any(each.identity == MH for each in site.machine.associations)
    ]


def warnings(world: World, *words: str) -> list[str]:
    return [text for _, text in world.host.said if all(word in text for word in words)]


def packets_to(world: World, number: int) -> int:
    return sum(packet.is_up and packet.anchor == world.sites[number].address for packet in world.packets)


# --- at the start ---


def test_an_anchor_that_answers_is_the_only_one_that_hears_of_us() -> None:
    world = associated(world_of(3))
    world.run(60)
    assert packets_to(world, 1) == packets_to(world, 2) == 0
    assert world.host.machine.association.anchor == world.sites[0].address
    assert [status.state for status in world.host.machine.association.anchors] == [
        "associated",
        "idle",
        "idle",
    ]


def test_the_second_is_asked_by_all_networks_when_the_first_is_silent() -> None:
    world = world_of(networks=2)
    world.sites[0].has_stopped = True
    world.host.links[NET0].drops = lambda packet: packet.anchor == world.sites[1].address
    world.host.appear(NET0, NET1)
    took = world.until(lambda: world.host.network_of() == NET1, 5.0)
    assert PATIENCE <= took <= PATIENCE + 0.2
    association = world.host.machine.association
    assert association.anchor == world.sites[1].address
    assert world.host.virtual_address == ip_address("10.100.0.1")
    assert [status.is_used for status in association.anchors] == [False, True]


def test_the_third_is_asked_in_its_turn() -> None:
    world = world_of(3)
    world.sites[0].has_stopped = world.sites[1].has_stopped = True
    world.host.appear(NET0, NET1)
    assert world.until(world.host.is_settled, 10.0) == pytest.approx(2 * PATIENCE, abs=0.3)
    assert world.host.anchor == world.sites[2].address


@pytest.mark.parametrize("number", range(3))
def test_whichever_comes_back_first_is_found(number: int) -> None:
    world = world_of(3)
    for site in world.sites:
        site.has_stopped = True
    world.host.appear(NET0, NET1)
    world.run(300)
    states = {status.state for status in world.host.machine.association.anchors}
    assert states <= {"lost", "registering"}
    world.sites[number].start()
    world.until(world.host.is_settled, 45)
    assert world.host.anchor == world.sites[number].address


@pytest.mark.parametrize("delay", [0.2, 0.4, 0.7, 1.0, 2.0])
def test_a_slow_path_may_wake_several_and_all_but_one_have_their_leases_back(delay: float) -> None:
    world = World(anchors=3)
    for link in world.host.links.values():
        link.delay = delay
    world.host.appear(NET0, NET1)
    world.until(world.host.is_settled, 30)
    world.run(10)
    assert [site.address for site in holders(world)] == [world.host.anchor]
    assert len(world.host.configured) == 1


def test_a_full_anchor_sends_us_on_at_once() -> None:
    world = World(anchors=2, pool="10.99.0.1-10.99.0.1")
    world.sites[1].has_stopped = True
    other = world.add_host("other@upmt")
    other.appear(NET0)
    world.until(other.is_settled, 2)
    world.sites[1].start()
    world.host.appear(NET0, NET1)
    assert world.until(world.host.is_settled, 2) < 0.3
    assert world.host.anchor == world.sites[1].address
    first = world.host.machine.association.anchors[0]
    assert "503 no virtual address is free" in (first.reason or "")


def guarded(world: World, *secrets: str | None) -> World:
    for site, secret in zip(world.sites, secrets, strict=True):
        site.users = {MH: secret} if secret is not None else None
        site.start()
    return world


def test_with_proofs_on_both_sides_the_second_takes_over() -> None:
    world = guarded(world_of(secret="ours", protection={NET0: "sealed"}), "ours", "ours")
    associated(world)
    world.sites[0].has_stopped = True
    world.until(lambda: world.host.anchor == world.sites[1].address, MOVED_WITHIN)
    world.settle()
    world.host.open_flow()
    world.run(1)
    world.assert_agreement()


def test_an_anchor_that_does_not_take_our_secret_is_passed_by_with_a_warning() -> None:
    world = guarded(world_of(secret="ours"), "another", "ours")
    world.host.appear(NET0, NET1)
    assert world.until(world.host.is_settled, 2) < 0.5
    assert world.host.anchor == world.sites[1].address
    assert len(warnings(world, str(world.sites[0].address), "does not accept who we are")) == 1
    assert "403" in (world.host.machine.association.anchors[0].reason or "")


def test_somebody_who_does_not_know_our_secret_is_passed_by_with_a_warning() -> None:
    world = guarded(world_of(secret="ours"), None, "ours")
    world.host.appear(NET0, NET1)
    assert world.until(world.host.is_settled, 2) < 0.5
    assert world.host.anchor == world.sites[1].address
    assert len(warnings(world, str(world.sites[0].address), "does not prove")) == 1


def test_a_lifetime_that_is_too_short_is_raised_at_the_same_anchor() -> None:
    world = World(anchors=2, lifetime=5, anchor={"minimum_lifetime": 20})
    world.host.appear(NET0)
    world.until(world.host.is_settled, 1.0)
    assert world.host.anchor == world.sites[0].address
    assert packets_to(world, 1) == 0


# --- lost while in use ---


@pytest.mark.parametrize("seed", SEEDS)
def test_the_death_of_the_anchor_in_use_is_survived(seed: int) -> None:
    world = associated(world_of(seed=seed))
    old = world.host.open_flow()
    world.run(5)
    if seed:
        misbehave(world, loss=0.1, duplication=0.2, jitter=0.05)
    world.sites[0].has_stopped = True
    took = world.until(
        lambda: world.host.anchor == world.sites[1].address and world.host.network_of() is not None, 30
    )
    assert took <= MOVED_WITHIN + (10 if seed else 0)
    misbehave(world)
    world.settle()
    assert world.host.virtual_address == ip_address("10.100.0.1")
    assert world.host.configured == [
        (world.sites[0].address, ip_address("10.99.0.1")),
        (world.sites[1].address, ip_address("10.100.0.1")),
    ]
    assert old.packed() not in world.host.paft.flows, "a flow of the other virtual address"
    flows = [world.host.open_flow() for _ in range(5)]
    world.run(1)
    assert all(flow.packed() in world.sites[1].paft.flows for flow in flows)
    world.assert_agreement()
    assert warnings(world, "10.100.0.1", "its flows break")


def test_it_does_not_go_back_as_long_as_the_second_lives_and_then_has_the_old_address_again() -> None:
    world = associated(world_of())
    address = world.host.virtual_address
    world.sites[0].has_stopped = True
    world.until(lambda: world.host.anchor == world.sites[1].address, MOVED_WITHIN)
    world.sites[0].restart()
    world.settle()
    world.run(2000)
    assert world.host.anchor == world.sites[1].address
    assert holders(world) == [world.sites[1]]
    world.sites[1].has_stopped = True
    # It has been idle for long: its probes are rare.
    world.until(lambda: world.host.anchor == world.sites[0].address, MOVED_WITHIN + IDLE)
    world.settle()
    assert world.host.virtual_address == address


def test_both_down_and_back_keeps_the_one_that_it_had() -> None:
    world = associated(world_of())
    flow = world.host.open_flow()
    world.run(1)
    for site in world.sites:
        site.has_stopped = True
    world.run(100)
    assert world.host.network_of() is None
    for site in world.sites:
        site.restart()
    world.settle()
    world.run(60)
    assert world.host.anchor == world.sites[0].address
    world.host.send(flow)
    world.run(1)
    assert holders(world) == [world.sites[0]]
    world.assert_agreement()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dark", [4.0, 60.0, 600.0])
def test_networks_that_carry_nothing_for_a_while_are_no_reason_to_move(seed: int, dark: float) -> None:
    world = associated(world_of(seed=seed))
    flow = world.host.open_flow()
    world.run(1)
    for link in world.host.links.values():
        link.is_black_hole = True
    world.run(dark + seed / 10)
    for link in world.host.links.values():
        link.is_black_hole = False
    world.settle()
    world.run(120)
    assert world.host.anchor == world.sites[0].address
    assert world.host.releases == 0
    assert holders(world) == [world.sites[0]]
    world.host.send(flow)
    world.run(1)
    world.assert_agreement()


def test_networks_that_are_gone_for_a_while_are_no_reason_to_ask_anybody_else() -> None:
    world = associated(world_of())
    world.host.vanish(NET0)
    world.host.vanish(NET1)
    world.run(300)
    world.host.appear(NET1)
    world.settle()
    assert packets_to(world, 1) == 0


def test_an_anchor_that_goes_down_in_order_is_left_at_once() -> None:
    world = associated(world_of())
    world.sites[0].take(StopAsked())
    took = world.until(lambda: world.host.anchor == world.sites[1].address, 2.0)
    assert took < 0.2
    world.settle()
    assert holders(world) == [world.sites[1]]


def test_an_anchor_that_forgot_us_is_asked_before_any_other() -> None:
    world = associated(world_of())
    address = world.host.virtual_address
    world.sites[0].restart()
    world.settle()
    world.run(30)
    assert world.host.anchor == world.sites[0].address
    assert world.host.virtual_address == address
    assert world.host.releases == 0
    assert holders(world) == [world.sites[0]]


def test_an_anchor_that_comes_within_reach_again_is_told_that_we_left() -> None:
    world = associated(world_of())
    world.sites[0].is_cut_off = True
    world.until(lambda: world.host.anchor == world.sites[1].address, MOVED_WITHIN)
    world.run(500)
    assert len(holders(world)) == 2, "nobody could tell it"
    assert world.host.machine.association.anchors[0].state == "leaving"
    world.sites[0].is_cut_off = False
    world.until(lambda: holders(world) == [world.sites[1]], 45)
    world.run(1)
    assert world.host.machine.association.anchors[0].state == "idle"


def test_an_anchor_that_registers_but_sets_no_tunnel_up_is_left_in_the_end() -> None:
    world = world_of()
    for link in world.host.links.values():
        link.drops = lambda packet: packet.anchor == world.sites[0].address and packet.kind == "signal"
    world.host.appear(NET0, NET1)
    took = world.until(world.host.is_settled, 60)
    assert 25 < took < 35
    assert world.host.anchor == world.sites[1].address


# --- left ---


@pytest.mark.parametrize("seconds", [0.05, 1.55, 1.6, 2.0, 3.2])
def test_a_host_that_stops_while_it_asks_leaves_nothing_behind(seconds: float) -> None:
    world = world_of(3)
    for link in world.host.links.values():
        link.delay = 0.8
    world.host.appear(NET0, NET1)
    world.run(seconds)
    world.host.stop()
    world.until(lambda: world.host.has_stopped, 2.1)
    world.run(5)
    assert holders(world) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_host_that_stops_after_it_moved_says_goodbye_to_both(seed: int) -> None:
    world = associated(world_of(seed=seed))
    world.sites[0].is_cut_off = True
    world.until(lambda: world.host.anchor == world.sites[1].address, MOVED_WITHIN)
    world.run(seed)
    world.sites[0].is_cut_off = False
    misbehave(world, loss=0.1, jitter=0.1)
    world.host.stop()
    world.until(lambda: world.host.has_stopped, 2.1)
    world.run(5)
    assert holders(world) == []


# --- any weather ---


def mishap(world: World, chance: Random) -> None:
    site, link = chance.choice(world.sites), chance.choice(list(world.host.links.values()))
    match chance.randrange(10):
        case 0:
            site.has_stopped = True
        case 1 | 2 if site.has_stopped:
            site.restart()
        case 3:
            site.is_cut_off = not site.is_cut_off
        case 4:
            site.take(StopAsked())
        case 5 | 6:
            if link.is_up:
                world.host.vanish(link.name)
            else:
                world.host.appear(link.name)
        case 7:
            link.is_black_hole = not link.is_black_hole
        case 8:
            misbehave(
                world,
                loss=chance.choice([0.0, 0.1, 0.3]),
                duplication=chance.choice([0.0, 0.3]),
                jitter=chance.choice([0.0, 0.3, 1.0]),
            )
        case _ if world.host.virtual_address is not None:
            world.host.open_flow()


@pytest.mark.parametrize("with_proof", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_any_sequence_of_mishaps_ends_with_one_anchor_and_one_lease(seed: int, with_proof: bool) -> None:
    world = world_of(3, seed, lifetime=120, secret="ours" if with_proof else None)
    guarded(world, *["ours" if with_proof else None] * 3)
    host, chance = world.host, Random(seed)

    def one_at_a_time() -> None:
        """Tunnels are of one anchor only, the one in use, and end at its virtual address."""
        for tunnel in host.paft.tunnels.values():
            assert tunnel.remote.address == host.anchor
            assert tunnel.owner == host.virtual_address
        assert sum(status.is_used for status in host.machine.association.anchors) == 1

    world.watchers.append(one_at_a_time)
    host.appear(NET0, NET1)
    for _ in range(20):
        mishap(world, chance)
        world.run(chance.choice([0.0, 0.05, 0.5, 2.0, 4.0, 20.0]))
    misbehave(world)
    for link in host.links.values():
        link.is_black_hole = False
        if not link.is_up:
            host.appear(link.name)
    for site in world.sites:
        site.is_cut_off = False
        if site.has_stopped:
            site.restart()
    world.run(20)
    world.settle()
    world.run(45)
    assert [site.address for site in holders(world)] == [host.anchor]
    for site in world.sites:
        addresses = {granted.address for granted in site.granted}
        assert len(addresses) <= 1, "an anchor gives the same address again"
    for entry in host.paft.flows.values():
        assert entry.owner == host.virtual_address.packed if host.virtual_address else False
        host.send(entry.flow)
    world.run(1)
    world.assert_agreement()
    moves = len(host.configured)
    world.run(300)
    assert len(host.configured) == moves, "nothing moves in good weather"
