"""Silent tunnels: found within their bound in every phase, and not where a path is merely slow, lossy or paused."""

from dataclasses import replace
from math import inf
from random import Random

import pytest
from mobility_terminal import NET0, NET1
from mobility_world import World, associated, network_at_anchor

from upmt_nf.mobility.host_events import ApplicationDefined
from upmt_nf.mobility.silence import HELD, LEAST_TIMEOUT, LONGEST, Quiet, SilenceWatch
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationId, ApplicationName
from upmt_nf.policy.policy import Policy
from upmt_nf.policy.profiles import PROFILES

SEEDS = range(6)
CALL = ApplicationName("call")
VOICE = replace(PROFILES["voice"], networks=(NET0, NET1))


def watched(world: World) -> World:
    """The world with a daemon that glances."""

    def glance() -> None:
        host = world.host
        for command in host.machine.glance(world.now):
            host._perform(command)
        world.after(max(0.0, host.machine.next_glance(world.now) - world.now), glance)

    world.after(0.0, glance)
    return world


def stream(
    world: World, pause: float, *, answered: bool, name: ApplicationName = DEFAULT_APPLICATION
) -> FlowKey:
    """An application that sends each `pause` seconds, and a correspondent that sends as much, or nothing."""
    flow = world.host.open_flow(name)

    def send() -> None:
        world.host.send(flow)
        if answered:
            world.send_down(flow)
        world.after(pause, send)

    send()
    return flow


def terminal_counts_packets(world: World) -> None:
    """What the forwarder would count: every packet that comes out of a tunnel."""
    hear = world.host.hear

    def counting(packet):  # type: ignore[no-untyped-def]
        for tunnel in world.host.paft.tunnels.values():
            if tunnel.network == packet.link.name and packet.kind != "sip":
                tunnel.packets_in += 1
        hear(packet)

    world.host.hear = counting  # type: ignore[method-assign]


def running(seed: int, pause: float = 0.002, *, answered: bool = True, delay: float = 0.001) -> World:
    world = World(seed)
    for link in world.host.links.values():
        link.delay = delay
    associated(world)
    terminal_counts_packets(world)
    watched(world)
    stream(world, pause, answered=answered)
    world.run(1 + world.random.random())
    assert world.host.network_of() == NET0
    return world


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("answered", "within"), [(True, 0.1), (False, 0.2)])
def test_a_black_hole_is_left_at_once_whenever_it_opens(seed: int, answered: bool, within: float) -> None:
    world = running(seed, answered=answered)
    world.host.links[NET0].is_black_hole = True
    assert world.until(lambda: world.host.network_of() == NET1, 20) <= within
    assert world.host.machine.counters["given_up_silent"] == 1
    assert world.host.machine.counters["given_up_wrongly"] == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("answered", "within"), [(True, 0.1), (False, 0.2)])
def test_twenty_applications_without_thresholds_are_out_of_a_black_hole_as_soon_as_one_both_ways(
    seed: int, answered: bool, within: float
) -> None:
    """At default settings, until the anchor sends by the other network, too."""
    world = running(seed, 0.02, answered=answered)
    flows = []
    for number in range(20):
        name = ApplicationName(f"app{number}")
        world.host.define(name, ApplicationId(number + 2))
        flows.append(stream(world, 0.02, answered=answered, name=name))
        world.run(0.001)
    world.run(1 + world.random.random())
    world.host.links[NET0].is_black_hole = True

    def is_over() -> bool:
        return all(world.host.flow_network(flow) == NET1 == network_at_anchor(world, flow) for flow in flows)

    assert world.until(is_over, 20) <= within
    assert world.host.machine.counters["given_up_silent"] == 1


@pytest.mark.parametrize("delay", [0.01, 0.04, 0.1])
def test_on_longer_paths_the_bound_grows_with_the_round_trip(delay: float) -> None:
    world = running(1, 0.05, delay=delay)
    world.run(60)
    world.host.links[NET0].is_black_hole = True
    took = world.until(lambda: world.host.network_of() == NET1, 20)
    # A packet that is under way when it opens, Q, 2.25 T with T a little over the round trip, and a look each.
    assert took <= delay + LONGEST + 0.05 + 2.25 * 1.3 * 2 * delay + 3 * 0.01 + 2 * delay


def test_nothing_is_given_up_while_no_other_network_answers() -> None:
    world = running(3)
    for name in (NET0, NET1):
        world.host.links[name].is_black_hole = True
    world.run(0.5)
    for name in (NET0, NET1):
        world.host.links[name].is_black_hole = False
    world.run(5)
    assert world.host.machine.counters["given_up_silent"] == 0
    assert world.host.network_of() == NET0


@pytest.mark.parametrize("seed", SEEDS)
def test_pauses_of_talk_are_no_death_and_cost_few_questions(seed: int) -> None:
    world = running(seed, 1000.0)
    flow, random = world.host.open_flow(), Random(seed)

    def talk(left: int) -> None:
        if left:
            world.host.send(flow)
            world.send_down(flow)
            world.after(0.02, lambda: talk(left - 1))
        else:
            world.after(random.uniform(0.3, 3.0), lambda: talk(random.randrange(5, 100)))

    talk(10)
    world.run(20)
    assert world.host.machine.counters["given_up_silent"] == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("jitter", "loss"), [(0.03, 0.01), (0.1, 0.0), (0.2, 0.05)])
def test_a_jittery_path_is_given_up_wrongly_a_few_times_at_most(
    seed: int, jitter: float, loss: float
) -> None:
    world = running(seed, 0.02, delay=0.03)
    for link in world.host.links.values():
        link.jitter, link.loss = jitter, loss
    world.run(20)
    assert world.host.machine.counters["given_up_silent"] <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_path_that_stalls_again_and_again_is_given_up_five_times_at_most(seed: int) -> None:
    world = running(seed, 0.01)
    random = Random(seed)

    def stall() -> None:
        link = world.host.links[NET0]
        link.is_black_hole = True
        world.after(random.uniform(0.06, 0.9), resume)

    def resume() -> None:
        world.host.links[NET0].is_black_hole = False
        world.after(random.uniform(0.5, 4.0), stall)

    stall()
    world.run(60)
    assert world.host.machine.counters["given_up_silent"] <= 5


def test_an_idle_host_asks_nothing_more() -> None:
    def packets(is_watched: bool) -> int:
        world = associated(World(5))
        if is_watched:
            watched(world)
        world.run(120)
        world.packets.clear()
        world.run(600)
        return len(world.packets)

    assert packets(True) <= packets(False) + 2


def test_a_flow_of_one_packet_now_and_then_costs_few_questions() -> None:
    world = running(2, 1000.0, answered=False)
    world.run(10)
    world.packets.clear()
    flow = world.host.open_flow()
    for _ in range(10):
        world.host.send(flow)
        world.run(5)
    assert len([packet for packet in world.packets if packet.is_up and packet.kind == "signal"]) <= 10 * 6


# --- the machine alone ---


@pytest.mark.parametrize("seed", range(300))
def test_the_verdict_comes_within_its_bound_and_never_without_witness(seed: int) -> None:
    random = Random(seed)
    watch, now, heard, heard_at = SilenceWatch(), 100.0, 0, 100.0
    timeout = random.uniform(LEAST_TIMEOUT, 0.3)
    watch.start_over(0, now)
    ends_at = now + random.uniform(0.3, 2)
    is_witnessed = random.random() < 0.7
    rate = random.uniform(5, 1000)
    asked = 0
    verdict_at = inf
    while now < ends_at + 3:
        if now < ends_at and random.random() < 0.9:
            came = 1 + int(rate * 0.005 * random.random())
            heard, heard_at = heard + came, now
        quiet = watch.look(heard, heard_at, now, timeout, now, is_witnessed=is_witnessed)
        asked += quiet in (Quiet.ASK, Quiet.ASK_ALL)
        if quiet is Quiet.GIVE_UP:
            verdict_at = now
            break
        due = watch.next_look(timeout, now)
        now = max(now + 0.002, min(now + 0.01, due if due is not None else inf))
    if is_witnessed:
        assert ends_at - 0.05 <= verdict_at <= ends_at + LONGEST + 2.25 * timeout + 4 * 0.01
        assert asked >= 3
    else:
        assert verdict_at == inf


def test_looking_late_blames_nobody() -> None:
    watch = SilenceWatch()
    watch.start_over(0, 100.0)
    assert watch.look(50, 100.05, 100.05, 0.02, 100.05) is Quiet.NOTHING
    watch.forgive(3.0)
    assert watch.look(50, 100.05, 103.05, 0.02, 103.05) is Quiet.NOTHING


def test_a_stall_doubles_the_patience_and_fades() -> None:
    watch = SilenceWatch()
    watch.start_over(0, 100.0)
    assert watch.note_stall(100.3)
    assert watch.patience(100.3) == pytest.approx(0.6)
    assert watch.patience(700.3) == pytest.approx(0.3)
    assert not watch.note_stall(110.0), "that was no stall"


def calling(policy: Policy, seed: int = 0, late: float = 0.0) -> World:
    """A call at 50 packets a second both ways, by a policy with thresholds; nobody else sends.

    `late`: seconds until PAFT hears of what the kernel has forwarded.
    """
    world = World(seed)
    for link in world.host.links.values():
        link.delay = 0.001
    world.host.take(ApplicationDefined(CALL, ApplicationId(2), policy))
    associated(world)
    terminal_counts_packets(world)
    watched(world)
    flow = world.host.open_flow(CALL)

    def send() -> None:
        world.host.send(flow)
        world.host.paft.flows[flow.packed()].last_seen = world.now - late
        world.send_down(flow)
        world.after(0.02, send)

    send()
    world.run(60)
    assert world.host.network_of(CALL) == NET0
    return world


def copies_on(world: World) -> str | None:
    return world.host.machine.applications[CALL].copies_on


def moves(world: World) -> list[str]:
    receipts = [finished.receipt for finished in world.host.finished]
    return [receipt.cause for receipt in receipts if receipt is not None and receipt.source is not None]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_jump_of_the_round_trip_moves_no_call_and_its_packets_go_by_two_networks_meanwhile(
    seed: int,
) -> None:
    """The authors' step: 0 -> 200 -> 100 ms."""
    world = calling(VOICE, seed)
    before = len(moves(world))
    world.run(world.random.random())
    world.host.links[NET0].delay = 0.2
    # Q, 2.25 T and a look each, for a path that spoke within two milliseconds.
    assert world.until(lambda: copies_on(world) == NET1, 1) <= 0.26
    assert world.until(lambda: copies_on(world) is None, 1) <= 0.4, "it speaks again"
    world.run(5)
    world.host.links[NET0].delay = 0.1
    world.run(60)
    assert (world.host.network_of(CALL), copies_on(world)) == (NET0, None)
    assert moves(world)[before:] == []
    assert world.host.machine.counters["given_up_silent"] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_call_in_a_black_hole_goes_by_another_network_as_soon_as_ever_and_moves_when_that_is_certain(
    seed: int,
) -> None:
    world = calling(VOICE, seed)
    world.host.links[NET0].is_black_hole = True
    covered = world.until(lambda: copies_on(world) == NET1, 1)
    assert covered <= 0.26
    assert covered + world.until(lambda: world.host.network_of(CALL) == NET1, 1) <= HELD + 0.03
    assert copies_on(world) is None
    assert world.host.machine.counters["given_up_silent"] == 1


@pytest.mark.parametrize(
    "policy", [replace(VOICE, networks=(NET0,)), Policy("list", networks=(NET0, NET1))], ids=["alone", "list"]
)
def test_who_has_no_second_network_or_no_thresholds_is_not_kept_waiting(policy: Policy) -> None:
    world = calling(policy)
    world.host.links[NET0].is_black_hole = True
    assert world.until(lambda: world.host.network_of(CALL) != NET0, 1) <= 0.26


def test_who_speaks_again_after_long_is_not_kept_waiting_for_the_counts_of_the_kernel() -> None:
    world = calling(Policy("list", networks=(NET0, NET1)), late=15.0)
    world.host.links[NET0].is_black_hole = True
    assert world.until(lambda: world.host.network_of(CALL) != NET0, 1) <= 0.26


def test_bulk_is_in_no_hurry() -> None:
    world = calling(replace(PROFILES["bulk"], networks=(NET0, NET1)))
    world.host.links[NET0].is_black_hole = True
    took = world.until(lambda: world.host.network_of(CALL) == NET1, 1)
    assert HELD - 0.02 <= took <= HELD + 0.03
