"""What strangers say to the anchor or the host changes nothing."""

import re
from dataclasses import replace
from ipaddress import ip_address

from mobility_terminal import ANCHOR, NET0, NET1, Packet, Terminal
from mobility_world import World, associated

from upmt_nf.mobility.anchor_commands import SendSip, SendTunnelSignal
from upmt_nf.mobility.anchor_events import SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.events import StopAsked
from upmt_nf.model.flow import UDP, Endpoint, FlowKey, IPAddress
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


def test_a_stopping_anchor_takes_nobody_in() -> None:
    world = associated(World())
    world.host.links[NET0].is_black_hole = world.host.links[NET1].is_black_hole = True
    world.take(StopAsked())
    assert status_outside(world, register_of("other@upmt")) == 503


def test_an_identity_that_cannot_be_shown_is_refused() -> None:
    world = World()
    for identity in ("\udcff@upmt", "a\x1b[2J@upmt"):
        assert status_outside(world, register_of(identity)) == 400
    assert world.granted == []


def test_no_address_is_leased_twice_under_another_name() -> None:
    world = World(pool="fd00::1-fd00::9")
    assert status_outside(world, register_of("one@upmt", wanted="fd00::5")) == 200
    assert status_outside(world, register_of("two@upmt", wanted="fd00::5%eth0")) == 400
    assert [lease.address for lease in world.granted] == [ip_address("fd00::5")]
