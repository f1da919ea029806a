"""The association between a mobile host and its anchor: made, refreshed, lost, made again, ended."""

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest
from mobility_world import ANCHOR, NET0, NET1, Packet, Terminal, World, associated, misbehave

from upmt_nf.mobility.anchor_commands import SendSip, SendTunnelSignal
from upmt_nf.mobility.anchor_events import SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.events import StopAsked
from upmt_nf.model.flow import UDP, Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import TerminalId
from upmt_nf.model.names import SIGNALLING_PORT
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    AnchorNotice,
    HandoverPair,
    HandoverRequest,
    TunnelSetupRequest,
    UpmtMessage,
)
from upmt_nf.signaling.sip.build import message, register
from upmt_nf.signaling.sip.message import Request

SEEDS = range(25)
STRANGER = Endpoint(ip_address("198.51.100.9"), 5060)


def raw(request: Request, branch: str = "z9hG4bKtest") -> bytes:
    (name, via), *rest = request.headers
    return bytes(replace(request, headers=((name, f"{via};branch={branch}"), *rest)))


def register_of(identity: str, expires: int = 100, wanted: str | None = None) -> bytes:
    request = register(
        anchor=Endpoint(ANCHOR, SIGNALLING_PORT),
        local=STRANGER,
        identity=identity,
        call_id=f"call-{identity}",
        cseq=1,
        tag="t",
        expires=expires,
        virtual_address=wanted,
    )
    return raw(request, f"z9hG4bK{identity}{expires}{wanted}")


def message_of(body: UpmtMessage, source: IPAddress, branch: str = "z9hG4bKm") -> bytes:
    request = message(
        anchor=Endpoint(ANCHOR, SIGNALLING_PORT),
        local=Endpoint(source, SIGNALLING_PORT),
        identity="mh@upmt",
        call_id="a stranger's",
        cseq=99999,
        tag="t",
        body=encode(body),
    )
    return raw(request, branch)


def status_outside(world: World, data: bytes) -> int:
    """The anchor's answer to SIP from a stranger, outside the tunnels."""
    (answer,) = (
        command for command in world.take(SipDatagramReceived(STRANGER, data)) if isinstance(command, SendSip)
    )
    assert answer.destination == STRANGER
    return int(answer.data.split()[1])


def status_inside(world: World, data: bytes, remote: Endpoint, inner: IPAddress) -> int:
    """The anchor's answer to SIP inside the tunnel of `remote`, if there is one."""
    event = TunnelSignalReceived(None, remote, Endpoint(inner, SIGNALLING_PORT), SIGNALLING_PORT, data)
    (answer,) = (command for command in world.take(event) if isinstance(command, SendTunnelSignal))
    assert answer.remote == remote
    return int(answer.payload.split()[1])


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
    world.run(10)
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
    world.host.receipt(world.host.hand_over(next(iter(world.host.machine.applications)), NET1))
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


def test_a_stopping_anchor_takes_nobody_in() -> None:
    world = associated(World())
    world.host.links[NET0].is_black_hole = world.host.links[NET1].is_black_hole = True
    world.take(StopAsked())
    assert status_outside(world, register_of("other@upmt")) == 503


# --- strangers ---


def test_a_register_inside_and_a_message_outside_are_refused() -> None:
    world = associated(World())
    address = world.host.virtual_address
    assert address is not None
    own = world.host.links[NET0].reflexive
    assert status_inside(world, register_of("mh@upmt", 0), own, address) == 403
    assert status_outside(world, message_of(HandoverRequest("", ()), address)) == 403
    assert world.ended == []
    assert status_outside(world, register_of("other@upmt", 9)) == 423
    assert status_outside(world, register_of("other@upmt", 100, "nonsense")) == 400
    assert status_outside(world, register_of("other@upmt", 100)) == 200


def test_nobody_sets_up_a_tunnel_without_the_secret_or_for_another_address() -> None:
    world = associated(World())
    address = world.host.virtual_address
    assert address is not None
    before = {tunnel.id: tunnel.remote for tunnel in world.anchor_paft.tunnels.values()}
    other = address + 1

    def set_up(token: str, claimed: IPAddress, inner: IPAddress) -> int:
        body = TunnelSetupRequest(token, claimed, NET0)
        return status_inside(
            world, message_of(body, inner, f"z9hG4bK{token}{claimed}{inner}"), STRANGER, inner
        )

    assert set_up("0" * 32, address, address) == 481
    assert set_up(token_of(world), other, other) == 403
    assert set_up(token_of(world), address, other) == 403
    assert {tunnel.id: tunnel.remote for tunnel in world.anchor_paft.tunnels.values()} == before


def test_flows_are_not_moved_by_who_has_no_tunnel_or_the_wrong_secret() -> None:
    world = associated(World())
    flow = world.host.open_flow()
    world.run(1)
    body = HandoverRequest("f" * 32, (HandoverPair((flow,)),))
    by_other_way = world.host.links[NET1].reflexive
    assert status_inside(world, message_of(body, flow.source, "z9hG4bK1"), by_other_way, flow.source) == 481
    assert status_inside(world, message_of(body, flow.source, "z9hG4bK2"), STRANGER, flow.source) == 481
    world.assert_agreement()


def test_a_host_cannot_move_the_flows_of_another() -> None:
    world = associated(World())
    second = world.add_host("second@upmt")
    second.appear(*second.links)
    world.settle(second)
    flow = world.host.open_flow()
    world.run(1)
    assert second.virtual_address is not None
    stolen = HandoverRequest("", (HandoverPair((flow,)),))
    data = message_of(stolen, second.virtual_address)
    assert status_inside(world, data, second.links[NET1].reflexive, second.virtual_address) == 200
    world.assert_agreement()
    unheard_of = FlowKey(UDP, flow.source, 9, ANCHOR, 9)
    data = message_of(HandoverRequest("", (HandoverPair((unheard_of,)),)), second.virtual_address, "z9hG4bK3")
    assert status_inside(world, data, second.links[NET1].reflexive, second.virtual_address) == 200
    assert unheard_of.packed() not in world.anchor_paft.flows


def test_a_notice_outside_the_tunnels_is_not_believed() -> None:
    world = associated(World())
    host: Terminal = world.host
    address = host.virtual_address
    assert address is not None
    end = Endpoint(host.links[NET0].public, SIGNALLING_PORT)
    data = message_of(AnchorNotice("going-down", "says who?"), ANCHOR)
    world.carry(Packet("sip", False, host.links[NET0], end, end, 0, data, world.now))
    world.run(1)
    assert host.state == "associated"
    answers = [packet.payload for packet in world.packets if packet.payload.startswith(b"SIP/2.0 403")]
    assert len(answers) == 1
