"""A host that proved itself and means harm: what it can take is bounded, and others do not feel it."""

from __future__ import annotations

import re
from ipaddress import ip_address

from mobility_terminal import ANCHOR, NET0, NET1
from mobility_world import World, associated

from upmt_nf.mobility.anchor_commands import SendTunnelSignal
from upmt_nf.mobility.anchor_events import TunnelSignalReceived
from upmt_nf.mobility.events import StopAsked
from upmt_nf.mobility.source_limits import SourceRates
from upmt_nf.model.flow import UDP, Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import DEFAULT_APPLICATION, NetworkName
from upmt_nf.model.names import SIGNALLING_PORT
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    ANY,
    HandoverPair,
    HandoverRequest,
    HandoverResponse,
    TunnelSetupRequest,
    UpmtMessage,
)
from upmt_nf.signaling.sip.build import message
from upmt_nf.signaling.sip.message import Response
from upmt_nf.signaling.sip.parser import parse


class Hostile:
    """A host of the world that writes its own messages, all by its tunnel on net0."""

    def __init__(self, world: World) -> None:
        self.world = world
        tokens = [re.search(rb"UPMT-Association: (\w+)", packet.payload) for packet in world.packets]
        self.token = next(found[1].decode() for found in reversed(tokens) if found)
        address = world.host.virtual_address
        assert address is not None
        self.address: IPAddress = address
        self.remote = world.host.links[NET0].reflexive
        self._number = 0

    def ask(self, body: UpmtMessage, remote: Endpoint | None = None) -> list[Response]:
        """The anchor's answers: one, or none when it did not listen."""
        self._number += 1
        remote = remote or self.remote
        request = message(
            anchor=Endpoint(ANCHOR, SIGNALLING_PORT),
            local=Endpoint(self.address, SIGNALLING_PORT),
            identity="mh@upmt",
            call_id="hostile",
            cseq=1000 + self._number,
            tag="t",
            body=encode(body),
        )
        data = bytes(request).replace(b";rport", b";rport;branch=z9hG4bKhostile%d" % self._number, 1)
        tunnel = next((t for t in self.world.anchor_paft.tunnels.values() if t.remote == remote), None)
        inner = Endpoint(self.address, SIGNALLING_PORT)
        commands = self.world.take(TunnelSignalReceived(tunnel, remote, inner, SIGNALLING_PORT, data))
        answers = (parse(command.payload) for command in commands if isinstance(command, SendTunnelSignal))
        return [answer for answer in answers if isinstance(answer, Response)]


def two_hosts(**anchor: object) -> tuple[World, Hostile]:
    """A hostile host, and another that works."""
    world = associated(World(anchor=anchor))
    hostile = Hostile(world)
    second = world.add_host("second@upmt")
    second.appear(*second.links)
    world.settle(second)
    return world, hostile


def works(world: World) -> None:
    """The other host's handover is as quick as ever and its refresh is heard."""
    second = world.terminals[1]
    flow = second.open_flow()
    world.run(0.5)
    receipt = second.receipt(second.hand_over(DEFAULT_APPLICATION, NET1))
    assert receipt.signalling_ms < 100
    assert second.flow_network(flow) == NET1
    world.assert_agreement(second)


def test_an_association_has_so_many_tunnels_and_no_more() -> None:
    world, hostile = two_hosts(max_tunnels=4)
    for number in range(30):
        remote = Endpoint(ip_address("192.0.2.1"), 1000 + number)
        body = TunnelSetupRequest(hostile.token, hostile.address, NetworkName(f"n{number}"))
        answers = hostile.ask(body, remote)
        assert [answer.status for answer in answers] == [200 if number < 2 else 403]
    assert sum(tunnel.owner == hostile.address for tunnel in world.anchor_paft.tunnels.values()) == 4
    works(world)


def test_requests_of_one_host_are_heard_within_its_own_rate() -> None:
    world, hostile = two_hosts(rates=SourceRates(host=20))
    answered = sum(len(hostile.ask(HandoverRequest(hostile.token, ()))) for _ in range(5000))
    # Its own hundred at once, then sixty as a stranger.
    assert answered <= 100 + 60
    assert world.anchor.counters["source_over_limit"] >= 4800
    works(world)


def test_setups_of_one_host_are_requests_like_others() -> None:
    world, hostile = two_hosts(rates=SourceRates(host=20))
    body = TunnelSetupRequest(hostile.token, hostile.address, NET0)
    assert sum(len(hostile.ask(body)) for _ in range(5000)) <= 100 + 60
    works(world)


def test_pairs_that_look_at_many_flows_are_refused_beyond_the_hosts_budget() -> None:
    world, hostile = two_hosts(rates=SourceRates(flows=100))
    for number in range(1000):
        flow = FlowKey(UDP, hostile.address, 1 + number, ip_address("86.0.0.1"), 53)
        tunnel = world.anchor_paft.tunnel_from(
            hostile.remote.address.packed + hostile.remote.port.to_bytes(2, "big"), hostile.address.packed
        )
        assert tunnel is not None
        world.anchor_paft.learn(flow.packed(), tunnel, world.now)
    (answer,) = hostile.ask(HandoverRequest(hostile.token, (HandoverPair(ANY),) * 10))
    body = decode(answer.body)
    assert isinstance(body, HandoverResponse)
    # It may always move all that it has, once; the rest waits.
    assert [result.accepted for result in body.results] == [True] + [False] * 9
    assert "too many flows" in (body.results[1].reason or "")
    assert world.anchor.counters["too_many_flows_at_once"] == 9
    works(world)
    world.run(30)
    (answer,) = hostile.ask(HandoverRequest(hostile.token, (HandoverPair(ANY),)))
    body = decode(answer.body)
    assert isinstance(body, HandoverResponse)
    assert body.results[0].accepted


def test_flows_named_in_requests_push_only_the_hosts_own_out() -> None:
    world, hostile = two_hosts()
    world.anchor_paft.owned.most_each = 100
    flow = world.terminals[1].open_flow()
    world.run(0.5)
    for number in range(100):
        flows = tuple(
            FlowKey(UDP, hostile.address, 1 + number, ip_address("86.0.0.1"), 1 + port) for port in range(10)
        )
        hostile.ask(HandoverRequest(hostile.token, (HandoverPair(flows),)))
    assert world.anchor_paft.number_owned_by(hostile.address) == 100
    assert flow.packed() in world.anchor_paft.flows
    works(world)


def test_a_stopping_anchor_sends_each_host_one_notice_however_often_it_is_asked() -> None:
    world, hostile = two_hosts(max_tunnels=16)
    for number in range(10):
        remote = Endpoint(ip_address("192.0.2.1"), 1000 + number)
        hostile.ask(TunnelSetupRequest(hostile.token, hostile.address, NetworkName(f"n{number}")), remote)
    first = [command for command in world.take(StopAsked()) if isinstance(command, SendTunnelSignal)]
    assert len(first) == 2
    assert not [command for command in world.take(StopAsked()) if isinstance(command, SendTunnelSignal)]
