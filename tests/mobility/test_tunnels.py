"""Tunnels: black holes are found in time, networks return, NATs forget, answers come late."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobility_terminal import NET0, NET1, Packet
from mobility_world import World, associated, misbehave

from upmt_nf.mobility.host_events import PathFailed, PathNarrowed
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.silence import LEAST_TIMEOUT
from upmt_nf.mobility.tunnel_keys import LEAST_MTU
from upmt_nf.mobility.tunnel_states import AskSetup, SendProbe, TunnelState
from upmt_nf.model.identity import DEFAULT_APPLICATION, NetworkName

INTERVAL = 5.0
LIMIT = 3 * INTERVAL


def time_to_notice(world: World, name: NetworkName, within: float = 40.0) -> float:
    """From now on the network is a black hole; when does the host know?"""
    world.host.links[name].is_black_hole = True
    return world.until(lambda: world.host.network_state(name) == "dead", within)


# --- black holes ---


@pytest.mark.parametrize("phase", [step * INTERVAL / 16 for step in range(17)])
@pytest.mark.parametrize("delay", [0.001, 0.3])
def test_a_black_hole_is_found_within_three_keepalive_intervals_in_every_phase(
    phase: float, delay: float
) -> None:
    world = World()
    world.host.links[NET0].delay = delay
    associated(world)
    world.run(7 + phase)
    assert time_to_notice(world, NET0) <= 1.55 * INTERVAL + 2 * max(0.2, 8 * delay)
    assert world.host.network_of() == NET1


@pytest.mark.parametrize("seed", range(25))
def test_a_black_hole_is_found_in_time_on_a_network_that_lost_much_before(seed: int) -> None:
    world = associated(World(seed))
    world.host.links[NET0].loss = 0.3
    world.run(Random(seed).uniform(20, 40))
    world.until(lambda: world.host.network_state(NET0) == "up", 60)
    assert time_to_notice(world, NET0) <= LIMIT


@pytest.mark.parametrize("interval", [0.5, 2.0, 30.0])
@pytest.mark.parametrize("delay", [0.01, 0.8])
def test_the_limit_follows_the_configured_interval_but_never_less_than_two_round_trips(
    interval: float, delay: float
) -> None:
    world = World(keepalive_interval=interval)
    for link in world.host.links.values():
        link.delay = delay
    associated(world)
    world.run(3 * interval)
    assert time_to_notice(world, NET0, 3 * interval + 60) <= 3 * max(interval, 1.05 * 4 * delay)


@pytest.mark.parametrize("is_up", [True, False])
def test_a_path_that_is_dead_in_one_direction_only_is_dead(is_up: bool) -> None:
    world = associated(World())
    world.host.links[NET0].drops = lambda packet: packet.is_up is is_up
    assert world.until(lambda: world.host.network_state(NET0) == "dead", 40) <= LIMIT


def test_what_merely_arrives_only_forbids_the_early_verdict() -> None:
    def time_to_verdict(pause: float) -> float:
        world = associated(World())
        flow = world.host.open_flow()
        world.run(0.1)

        def chatter() -> None:
            world.send_down(flow)
            world.after(pause, chatter)

        chatter()
        world.host.links[NET0].drops = lambda packet: packet.is_up
        return world.until(lambda: world.host.network_state(NET0) == "dead", 40)

    in_silence, with_arrivals = time_to_verdict(1000.0), time_to_verdict(0.1)
    assert in_silence + 1.0 < with_arrivals <= LIMIT


@pytest.mark.parametrize("seed", range(6))
def test_ordinary_loss_and_jitter_kill_no_tunnel(seed: int) -> None:
    world = associated(World(seed))
    misbehave(world, loss=0.03, duplication=0.05, jitter=0.05)
    world.run(1800)
    assert not [text for _, text in world.host.said if "dead" in text]


def test_a_machine_that_slept_does_not_blame_its_networks() -> None:
    world = associated(World())
    # Nothing is looked at for a minute; the answers of before come afterwards.
    world.now += 60.0
    world.run(0.5)
    assert {world.host.network_state(name) for name in (NET0, NET1)} <= {"up", "suspect"}
    world.run(30)
    assert not [text for _, text in world.host.said if "is dead" in text]


def test_the_kernels_refusal_is_believed_at_once() -> None:
    world = associated(World())
    flow = world.host.open_flow()
    world.run(1)
    world.host.links[NET0].is_black_hole = True
    world.host.take(PathFailed(NET0, "network is unreachable"))
    assert world.host.network_state(NET0) == "dead"
    assert world.host.flow_network(flow) == NET1


# --- return ---


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pause", [1.0, 20.0, 200.0])
def test_a_network_that_comes_back_is_used_again_soon(seed: int, pause: float) -> None:
    world = associated(World(seed))
    time_to_notice(world, NET0)
    world.run(pause)
    world.host.links[NET0].is_black_hole = False
    # A request every 1 s at the latest while one is under way, or a pause of at most 10 s with a fifth of jitter.
    assert world.until(lambda: world.host.network_state(NET0) == "up", 30) <= 12.1
    assert len(world.anchor_paft.tunnels) == 2


def test_pauses_between_attempts_grow_and_are_bounded() -> None:
    world = associated(World())
    time_to_notice(world, NET0)
    world.packets.clear()
    start = world.now
    world.run(600)
    setups = [packet for packet in world.packets if b"TunnelSetupRequest" in packet.payload]
    assert 600 / 25 * 5 <= len(setups) <= 600, "retransmissions of some 36 requests"
    assert max(packet.sent_at for packet in setups) > start + 575


def test_flows_without_any_network_wait_and_go_with_the_first_that_returns() -> None:
    world = associated(World(networks=1))
    flow = world.host.open_flow()
    world.run(1)
    time_to_notice(world, NET0)
    assert world.host.flow_network(flow) is None
    assert world.host.network_of() is None
    world.host.links[NET0].is_black_hole = False
    world.settle()
    assert world.host.flow_network(flow) == NET0
    world.assert_agreement()


# --- NAT ---


def test_after_failures_the_tunnel_gets_another_port_and_passes_a_nat_with_a_dead_mapping() -> None:
    world = associated(World())
    flow = world.host.open_flow()
    world.run(1)
    link = world.host.links[NET0]
    tunnel = world.host.open_tunnels[NET0]
    old = link.reflexive
    link.dead_ports.add(link.port)
    world.until(lambda: world.host.network_state(NET0) == "dead", LIMIT)
    assert world.host.rebinds == []
    assert world.until(lambda: world.host.network_state(NET0) == "up", 60) > 2 * 6.4
    assert world.host.rebinds == [NET0]
    assert world.host.machine.networks[NET0].reflexive == link.reflexive != old
    assert world.anchor_paft.tunnels[next(t.id for t in world.host.paft.tunnels.values() if t.id == tunnel)]
    world.settle()
    world.run(60)
    world.assert_agreement()
    assert world.host.flow_network(flow) == NET0


@pytest.mark.parametrize("networks", [1, 2])
def test_a_nat_that_changes_its_mapping_is_followed(networks: int) -> None:
    world = associated(World(networks=networks))
    flow = world.host.open_flow()
    world.run(1)
    id = world.host.open_tunnels[NET0]
    world.host.links[NET0].rebind()
    world.until(lambda: world.host.network_state(NET0) == "dead", LIMIT)
    world.settle()
    reflexive = world.host.links[NET0].reflexive
    assert world.host.machine.networks[NET0].reflexive == reflexive
    assert world.host.open_tunnels[NET0] == id, "the same tunnel with another end"
    world.run(60)
    world.assert_agreement()
    world.send_down(flow)
    world.run(1)
    assert world.host.arrived == [flow.packed()]


def test_a_nat_that_gives_an_endpoint_to_another_host_confuses_nobody() -> None:
    world = associated(World())
    second = world.add_host("second@upmt")
    for name, link in second.links.items():
        link.public = world.host.links[name].public
        link.port = world.host.links[name].port
        world.host.links[name].is_black_hole = True
    second.appear(*second.links)
    world.settle(second)
    flow = second.open_flow()
    second.receipt(second.hand_over(DEFAULT_APPLICATION, NET1))
    world.assert_agreement(second)
    assert len(world.anchor_paft.tunnels) == 4
    world.send_down(flow)
    world.run(1)
    assert second.arrived == [flow.packed()]


def test_a_new_care_of_address_makes_a_new_tunnel_end() -> None:
    world = associated(World())
    flow = world.host.open_flow()
    world.run(1)
    link = world.host.links[NET0]
    link.care_of += 1
    link.rebind()
    world.host.appear(NET0)
    assert world.host.flow_network(flow) == NET1
    world.settle()
    world.run(60)
    assert world.host.flow_network(flow) == NET0
    world.assert_agreement()


def test_a_late_setup_request_from_an_old_address_does_not_move_the_tunnel_back() -> None:
    world = associated(World())
    link = world.host.links[NET1]
    link.delay = 2.0
    world.host.vanish(NET1)
    world.host.appear(NET1)
    world.run(0.05)
    old, link.delay = link.reflexive, 0.02
    link.care_of += 1
    link.rebind()
    world.host.appear(NET1)
    world.until(lambda: world.host.network_state(NET1) == "up", 1)
    world.run(2.1)
    late = [packet for packet in world.packets if packet.host == old and b"SetupRequest" in packet.payload]
    assert late
    world.assert_agreement()
    assert {tunnel.remote for tunnel in world.anchor_paft.tunnels.values()} == {
        each.reflexive for each in world.host.links.values()
    }


# --- late answers ---


@pytest.mark.parametrize("seed", range(10))
def test_late_answers_are_harmless(seed: int) -> None:
    world = associated(World(seed))
    flows = [world.host.open_flow() for _ in range(5)]
    world.run(1)
    for link in world.host.links.values():
        link.delay, link.jitter = 0.5, 20.0
    world.run(30)
    world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(60)
    for link in world.host.links.values():
        link.delay, link.jitter = 0.02, 0.0
    world.run(30)
    world.settle()
    world.run(60)
    world.assert_agreement()
    assert {world.host.flow_network(flow) for flow in flows} == {world.host.network_of()}


def test_an_answer_to_a_setup_request_of_before_the_network_went_away_opens_nothing() -> None:
    world = associated(World())
    held: list[Packet] = []
    link = world.host.links[NET1]
    world.host.vanish(NET1)
    world.run(1)

    def hold(packet: Packet) -> bool:
        if not packet.is_up and b"TunnelSetupResponse" in packet.payload:
            held.append(packet)
            return True
        return False

    link.drops = hold
    world.host.appear(NET1)
    world.until(lambda: bool(held), 2)
    world.host.vanish(NET1)
    link.is_up = True
    world.host.hear(held[0])
    assert world.host.network_state(NET1) == "down"
    assert NET1 not in world.host.open_tunnels


# --- what is narrow ---


def test_a_narrow_path_narrows_its_tunnel_but_not_below_reason() -> None:
    world = associated(World())
    world.host.take(PathNarrowed(NET0, 1400))
    assert world.host.machine.networks[NET0].mtu == 1372
    assert world.host.machine.networks[NET1].mtu == 1472
    world.host.take(PathNarrowed(NET0, 68))
    assert world.host.machine.networks[NET0].mtu == LEAST_MTU == 492


# --- the machine alone ---


@pytest.mark.parametrize("setup", [0.001, 0.05, 0.5])
def test_the_work_of_a_setup_is_no_part_of_the_round_trip_once_a_probe_was_answered(setup: float) -> None:
    """Keys are agreed in it: who waits for such an answer on a silent path would wait several times too long."""
    tunnel = HostTunnel(NET0, 1, INTERVAL, 10.0, Random(0))
    tunnel.appear(0.0)
    tunnel.handle_timeout(0.0)
    tunnel.accept(setup, setup)
    assert tunnel.rtt == setup
    (probe,) = tunnel.handle_timeout(setup)
    assert isinstance(probe, SendProbe)
    tunnel.answer(probe.sequence, setup + 0.002)
    assert tunnel.rtt == pytest.approx(0.002)
    assert tunnel.quick_timeout == LEAST_TIMEOUT


@given(
    phase=st.floats(0, 6),
    rtt=st.floats(0.0005, 4.0),
    losses=st.lists(st.booleans(), max_size=12),
    interval=st.sampled_from([0.5, 5.0, 20.0]),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=200)
def test_whatever_was_lost_before_the_verdict_comes_within_three_intervals(
    phase: float, rtt: float, losses: list[bool], interval: float, seed: int
) -> None:
    """Probes are answered after `rtt` or lost as `losses` says, until the black hole at some time in between."""
    tunnel = HostTunnel(NET0, 1, interval, 10.0, Random(seed))
    now, pattern = 0.0, iter(losses)
    tunnel.appear(now)
    assert any(isinstance(action, AskSetup) for action in tunnel.handle_timeout(now))
    tunnel.accept(now, rtt)
    answers: list[tuple[float, int]] = []
    ending: float | None = None
    for _ in range(2000):
        if tunnel.state is TunnelState.DEAD:
            break
        due = tunnel.next_timeout()
        assert due is not None
        if answers and answers[0][0] <= due:
            now, sequence = answers.pop(0)
            tunnel.answer(sequence, now)
            continue
        now = max(now, due)
        for action in tunnel.handle_timeout(now):
            if isinstance(action, SendProbe):
                is_lost = next(pattern, None)
                if is_lost is None and ending is None:
                    # One more is answered, and the path ends `phase` tenths of an interval later.
                    ending = now + rtt + phase / 6 * interval
                    is_lost = False
                if is_lost is False and now + rtt <= (ending or now + rtt):
                    answers.append((now + rtt, action.sequence))
    assert tunnel.state is TunnelState.DEAD
    assert ending is None or now - ending <= 3 * max(interval, 2 * rtt) + 1e-6
