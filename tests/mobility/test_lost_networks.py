"""Networks that are lost and return: flows flee at once, and go back when the network has proved itself."""

import pytest
from mobility_terminal import NET0, NET1, Packet
from mobility_world import World, flows_in, misbehave, networks_of, settle, with_flows

from upmt_nf.mobility.host_commands import Mode
from upmt_nf.model.identity import DEFAULT_APPLICATION

SEEDS = range(25)


def requests(world: World, kind: str = "HandoverRequest") -> list[Packet]:
    """Requests of one kind that were sent, retransmissions included."""
    return [packet for packet in world.packets if packet.is_up and f'"{kind}"'.encode() in packet.payload]


# --- broken ---


@pytest.mark.parametrize("seed", SEEDS)
def test_without_carrier_flows_break_and_are_made_on_the_other_network(seed: int) -> None:
    world = World(seed)
    flows = with_flows(world)
    if seed:
        misbehave(world, loss=0.25, duplication=0.2, jitter=0.3)
    world.host.vanish(NET0)
    assert networks_of(world.host, flows) == {NET1}, "uplink packets go there at once"
    if seed:
        world.run(30)
    else:
        world.run(0.05)
        (finished,) = [
            finished for finished in world.host.finished if finished.receipt and finished.receipt.flows
        ]
        assert finished.receipt is not None
        assert finished.receipt.mode is Mode.BREAK_BEFORE_MAKE
        assert (finished.receipt.source, finished.receipt.target) == (NET0, NET1)
        assert "cable" in finished.receipt.cause
    settle(world)


def test_setup_and_handover_share_one_message_when_the_target_has_no_tunnel_yet() -> None:
    world = World()
    flows = with_flows(world, 5)
    world.host.vanish(NET1)
    world.run(1)
    # net1 is there again, but its tunnel is not when net0 goes away.
    world.host.links[NET1].delay = 0.3
    world.host.appear(NET1)
    world.run(0.1)
    world.packets.clear()
    world.host.vanish(NET0)
    assert networks_of(world.host, flows) == {None}
    (setup,) = requests(world, "TunnelSetupRequest")
    assert set(flows) <= set(flows_in(setup))
    assert world.until(lambda: world.host.network_of() == NET1, 2) == pytest.approx(0.6)
    assert requests(world) == []
    assert world.host.finished[-1].receipt is not None
    assert world.host.finished[-1].receipt.flows == 5
    world.assert_agreement()


def test_more_flows_than_fit_in_the_setup_request_follow_in_requests_of_their_own() -> None:
    world = World(networks=1)
    flows = with_flows(world, 100)
    world.host.vanish(NET0)
    world.host.links[NET0].rebind()
    world.run(2)
    world.packets.clear()
    world.host.appear(NET0)
    world.settle()
    assert requests(world)
    assert networks_of(world.host, flows) == {NET0}
    world.assert_agreement()


@pytest.mark.parametrize("when", [0.0, 0.01, 0.03, 0.05, 0.07])
def test_when_the_old_network_goes_away_during_a_handover_it_is_finished_without_it(when: float) -> None:
    world = World()
    flows = with_flows(world)
    world.host.links[NET1].delay = 0.03
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(when)
    world.host.vanish(NET0)
    assert networks_of(world.host, flows) == {NET1}
    receipt = world.host.receipt(token)
    assert receipt.mode is (Mode.MAKE_BEFORE_BREAK if when > 0.06 else Mode.BREAK_BEFORE_MAKE)
    world.settle()
    world.assert_agreement()


@pytest.mark.parametrize("when", [0.0, 0.01, 0.03, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_when_the_new_network_goes_away_during_a_handover_flows_stay(when: float, seed: int) -> None:
    world = World(seed)
    flows = with_flows(world)
    world.host.links[NET1].delay = 0.03
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(when)
    world.host.vanish(NET1)
    answer = world.host.outcome(token)
    assert answer is not None
    assert "net1 became down" in (answer.failure or "")
    world.settle()
    assert networks_of(world.host, flows) == {NET0}
    world.assert_agreement()


# --- return ---


@pytest.mark.parametrize("return_after", [0.0, 30.0, 300.0])
def test_applications_return_to_the_preferred_network_only_when_it_has_proved_itself(
    return_after: float,
) -> None:
    world = World(return_after=return_after)
    flows = with_flows(world)
    world.host.vanish(NET0)
    world.run(10)
    assert networks_of(world.host, flows) == {NET1}
    world.host.appear(NET0)
    world.until(lambda: world.host.network_state(NET0) == "up", 2)
    took = world.until(lambda: world.host.network_of() == NET0, return_after + 1)
    assert took == pytest.approx(return_after + 0.04, abs=0.05)
    receipt = world.host.finished[-1].receipt
    assert receipt is not None
    assert receipt.mode is Mode.MAKE_BEFORE_BREAK
    world.assert_agreement()


def test_a_network_that_comes_and_goes_is_not_returned_to() -> None:
    world = World(return_after=30.0)
    flows = with_flows(world)
    world.host.vanish(NET0)
    for _ in range(5):
        world.host.appear(NET0)
        world.run(25)
        assert networks_of(world.host, flows) == {NET1}
        world.host.vanish(NET0)
        world.run(2)


def test_what_an_administrator_moved_does_not_return_by_itself() -> None:
    world = World(return_after=5.0)
    flows = with_flows(world)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    world.run(60)
    assert networks_of(world.host, flows) == {NET1}
    world.host.vanish(NET1)
    world.run(1)
    assert networks_of(world.host, flows) == {NET0}
    world.host.appear(NET1)
    world.run(10)
    assert networks_of(world.host, flows) == {NET1}, "the administrator's wish is the first of the policy"
