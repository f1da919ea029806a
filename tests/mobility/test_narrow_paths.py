"""Signalling fits into one packet of its path, however many flows, however long the names, proof included."""

from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobility_terminal import NET0, NET1
from mobility_world import World, associated, misbehave, networks_of, with_flows

from upmt_nf.mobility.handover import FlowRequest, Handover, Order
from upmt_nf.mobility.host_commands import Mode, SendTunnelSignal
from upmt_nf.mobility.host_events import NetworkTestAsked
from upmt_nf.mobility.host_signalling import LONGEST, HostSignalling
from upmt_nf.mobility.joint_requests import JointRequest
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationName, NetworkName, TerminalId
from upmt_nf.signaling.digest import REALM, DigestServer, secret_hash
from upmt_nf.signaling.flow_room import FlowRoom
from upmt_nf.signaling.sip.message import Response

SECRET = "known to both ends"
NARROWEST = 890
"""Outer bytes: what one flow, the proofs and the names of these tests need."""


def sent_by(world: World, kind: bytes) -> list[bytes]:
    return [packet.payload for packet in world.packets if packet.is_up and kind in packet.payload]


@pytest.mark.parametrize("mtu", [NARROWEST, 1000, 1280, 1500])
@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_handover_is_split_for_the_path_that_it_takes(mtu: int, is_guarded: bool) -> None:
    world = World(is_guarded=is_guarded)
    flows = with_flows(world, 100)
    world.host.narrow(NET1, mtu)
    receipt = world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert receipt.flows == 100
    assert receipt.mode is Mode.MAKE_BEFORE_BREAK
    assert networks_of(world.host, flows) == {NET1}
    assert world.oversized == []
    world.assert_agreement()


def test_the_widest_paths_carry_no_more_than_the_usual_paths_do() -> None:
    world = World(is_guarded=True)
    with_flows(world, 100)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    longest = max(map(len, sent_by(world, b"HandoverRequest")))
    assert LONGEST - 60 < longest <= LONGEST


@pytest.mark.parametrize("mtu", [NARROWEST, 1100])
def test_claims_in_a_setup_request_are_as_many_as_fit(mtu: int) -> None:
    world = World(networks=1, is_guarded=True)
    flows = with_flows(world, 50)
    world.host.vanish(NET0)
    world.host.links[NET0].rebind()
    world.run(2)
    world.packets.clear()
    world.host.links[NET0].mtu = mtu
    world.host.appear(NET0)
    world.host.narrow(NET0, mtu)
    world.oversized.clear()
    world.settle()
    assert len([data for data in sent_by(world, b"TunnelSetupRequest") if b'"packed"' in data]) >= 1
    assert networks_of(world.host, flows) == {NET0}
    world.assert_agreement()


def test_a_path_that_narrows_under_way_is_followed_by_what_is_still_to_be_sent() -> None:
    world = World(is_guarded=True)
    flows = with_flows(world, 1000)
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(0.05)
    world.host.narrow(NET1, NARROWEST)
    world.until(lambda: world.host.outcome(token) is not None, 60)
    world.settle()
    world.oversized.clear()
    assert world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1)).flows in (0, 1000)
    assert networks_of(world.host, flows) == {NET1}
    assert world.oversized == []
    world.assert_agreement()


def test_ten_thousand_flows_move_in_one_handover() -> None:
    world = World(is_guarded=True)
    flows = with_flows(world, 10_000)
    world.host.narrow(NET1, 1280)
    world.packets.clear()
    receipt = world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert receipt.flows == 10_000
    assert networks_of(world.host, flows) == {NET1}
    assert world.oversized == []
    assert len(sent_by(world, b"HandoverRequest")) < 2000
    world.assert_agreement()


def test_narrow_paths_that_lose_and_double_end_in_agreement() -> None:
    world = World(3, is_guarded=True)
    with_flows(world, 200)
    world.host.narrow(NET1, 900)
    misbehave(world, loss=0.2, duplication=0.1, jitter=0.05)
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.until(lambda: world.host.outcome(token) is not None, 120)
    misbehave(world)
    world.run(1)
    world.settle()
    assert world.oversized == []
    world.assert_agreement()


def told_to_anchor(world: World, network: NetworkName) -> int:
    return next(tunnel.mtu for tunnel in world.anchor_paft.tunnels.values() if tunnel.network == network)


@pytest.mark.parametrize("format", ["plain", "sealed"])
def test_the_anchor_is_told_of_a_path_that_narrows_and_of_one_that_widens(format: str) -> None:
    world = World(is_guarded=True, protection={NET1: format}, search_path_mtu=True)
    with_flows(world, 1)
    extra = 0 if format == "plain" else 32
    assert told_to_anchor(world, NET1) == 1472 - extra
    world.host.narrow(NET1, 1400)
    world.run(2)
    assert told_to_anchor(world, NET1) == 1372 - extra == world.host.machine.networks[NET1].mtu
    assert told_to_anchor(world, NET0) == 1472
    world.packets.clear()
    world.run(60)
    assert sent_by(world, b"TunnelSetupRequest") == [], "once is enough"
    world.host.links[NET1].mtu = 1500
    world.host.take(NetworkTestAsked(NET1))
    world.run(20)
    assert told_to_anchor(world, NET1) == 1472 - extra
    world.assert_agreement()


def test_a_path_that_a_search_found_narrow_is_told_although_requests_get_lost() -> None:
    world = World(5, search_path_mtu=True)
    world.host.links[NET0].mtu = 1400
    misbehave(world, loss=0.2)
    associated(world)
    world.run(30)
    assert 1364 <= told_to_anchor(world, NET0) <= 1372


def test_an_anchor_believes_no_host_that_its_own_interface_takes_more() -> None:
    world = World(anchor={"outer_mtu": 1300})
    associated(world)
    assert told_to_anchor(world, NET0) == 1272


# --- the sizes alone ---


@given(
    name=st.text("abcdefgh.@", min_size=1, max_size=60),
    is_ipv6=st.booleans(),
    mtu=st.integers(600, 1500),
    has_secret=st.booleans(),
    count=st.integers(1, 60),
)
@settings(deadline=None, max_examples=60)
def test_no_message_with_more_than_one_flow_is_larger_than_its_path(
    name: str, is_ipv6: bool, mtu: int, has_secret: bool, count: int
) -> None:
    own = ip_address("fd00:1234:5678:9abc::99" if is_ipv6 else "10.199.200.210")
    other = ip_address("2001:db8:1111:2222:3333:4444:5555:6666" if is_ipv6 else "203.113.100.200")
    secret = SECRET if has_secret else None
    chosen = HostSettings(TerminalId(name), other, (NET0,), secret=secret, protection={NET0: "sealed"})
    signalling = HostSignalling(chosen, Random(1), lambda _: None)
    flows = tuple(FlowKey(6, own, 40000 + number, other, 44300) for number in range(count))
    handover = Handover(Order(ApplicationName("x"), None, NET0, "test"), Mode.BREAK_BEFORE_MAKE, 0.0)
    token = "f" * 32
    headers = 48 if is_ipv6 else 28

    def sizes() -> list[int]:
        return [
            len(command.payload) for command in signalling.commands() if isinstance(command, SendTunnelSignal)
        ]

    if has_secret:
        teach(signalling, name)
    signalling.set_up(NetworkName("net0"), token, own, [], mtu, 0.0)
    (bare,) = sizes()
    signalling.set_up(NetworkName("net0"), token, own, list(flows), mtu, 0.0)
    (with_claims,) = sizes()
    assert with_claims + headers <= max(mtu, bare + headers)
    for is_packed in (False, True):
        room = FlowRoom(signalling.room_for_flows(token, own, mtu), is_packed)
        for group in room.groups(flows):
            request = JointRequest(NET0, (FlowRequest(handover, group),), group)
            signalling.move(token, own, request, room, 0.0)
            (size,) = sizes()
            assert size + headers <= mtu or len(group) == 1
            assert size <= LONGEST or len(group) == 1


def teach(signalling: HostSignalling, name: str) -> None:
    """A challenge of a real anchor: requests carry proofs from now on."""
    guard = DigestServer(REALM, bytes(32), lambda _: secret_hash(name, REALM, SECRET), lambda: bytes(8))
    credentials = signalling._credentials
    assert credentials is not None
    (header,) = guard.challenge(1000.0).headers
    assert credentials.take_challenge(Response((header,), status=401, reason="Unauthorized"), None) is None


def test_the_room_is_the_same_before_and_after_the_first_challenge() -> None:
    chosen = HostSettings(TerminalId("mh@upmt"), ip_address("45.0.0.1"), (NET0,), secret=SECRET)
    signalling = HostSignalling(chosen, Random(1), lambda _: None)
    own = ip_address("1.2.3.4")
    before = signalling.room_for_flows("f" * 32, own, 1472)
    teach(signalling, "mh@upmt")
    assert signalling.room_for_flows("f" * 32, own, 1472) == before


def test_associated_hosts_with_a_secret_work_like_others() -> None:
    world = associated(World(is_guarded=True))
    assert world.host.network_state(NET0) == world.host.network_state(NET1) == "up"
