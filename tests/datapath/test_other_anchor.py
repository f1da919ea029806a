"""Applications by another anchor: the leased address outside, the visible one inside, and no other way."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from large_packets import tcp

from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.icmp import NETWORK_UNREACHABLE, refusal
from upmt_nf.datapath.offload import left_undone, pseudo_sum
from upmt_nf.datapath.other_anchor import OtherAnchor
from upmt_nf.datapath.packet import build_udp, is_whole, parse_udp, source_of
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.verdict import Inbound, Outbound
from upmt_nf.model.flow import UDP, Endpoint, FlowBytes, FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationId, NetworkName, TunnelId

VISIBLE, LEASED, PEER = ip_address("1.2.3.4"), ip_address("1.2.4.9"), ip_address("86.0.0.1")
USUAL, OTHER = Endpoint(ip_address("45.0.0.1"), 1800), Endpoint(ip_address("46.0.0.1"), 1800)
LOCAL = Endpoint(ip_address("192.168.1.2"), 1500)
NET = NetworkName("net0")
REST, HOME = ApplicationId(1), ApplicationId(2)
HOME_PORT = 4000
"""What has this port at either end is of the application `HOME`."""


class Host:
    """Both forwarders, with a tunnel each that carries packets as they are."""

    def __init__(self) -> None:
        self.paft, self.other_paft = Paft(), Paft()
        self.usual = HostForwarder(self.paft, VISIBLE, USUAL.address, self.classify)
        self.other = OtherAnchor(self.other_paft, LEASED, OTHER.address, self.paft, self.classify)
        self.other.visible, self.other.applications = VISIBLE.packed, {HOME}
        self.usual.elsewhere = {HOME: self.other}
        for paft, owner, remote, id in (
            (self.paft, VISIBLE, USUAL, REST),
            (self.other_paft, LEASED, OTHER, HOME),
        ):
            tunnel = Tunnel(TunnelId(7), owner, remote, 1400, NET, 0.0)
            paft.add_tunnel(tunnel)
            paft.steer(id, tunnel.id)
        self.usual.open_path(NET, LOCAL, USUAL)
        self.other.open_path(NET, LOCAL, OTHER)

    def classify(self, key: FlowBytes, mark: int = 0, dscp: int = 0) -> Classified:
        flow = FlowKey.unpacked(key)
        return Classified(HOME if HOME_PORT in (flow.source_port, flow.destination_port) else REST, 9, "it")

    def send(self, port: int, payload: bytes = b"hello") -> Outbound:
        return self.usual.outbound(build_udp(VISIBLE, port, PEER, 53, payload), 0, 1.0)

    def hear(self, packet: bytes, forwarder: HostForwarder | OtherAnchor | None = None) -> list[Inbound]:
        return list((forwarder or self.other).arrived(NET, 0, packet, len(packet), 2.0))


def delivered(verdicts: list[Inbound]) -> list[bytes | None]:
    return [verdict.deliver for verdict in verdicts]


def test_what_leaves_has_the_leased_address_and_the_anchors_tunnel() -> None:
    host = Host()
    home, rest = host.send(HOME_PORT), host.send(5000)
    assert home.tunnel is not None
    assert rest.tunnel is not None
    assert (home.tunnel.remote, rest.tunnel.remote) == (OTHER, USUAL)
    assert parse_udp(home.payloads[0]) == (Endpoint(LEASED, HOME_PORT), Endpoint(PEER, 53), b"hello")
    assert source_of(rest.payloads[0]) == VISIBLE.packed


def test_the_answer_comes_to_the_visible_address_and_is_counted_at_both() -> None:
    host = Host()
    host.send(HOME_PORT)
    [packet] = delivered(host.hear(build_udp(PEER, 53, LEASED, HOME_PORT, b"answer")))
    assert packet == build_udp(PEER, 53, VISIBLE, HOME_PORT, b"answer")
    entries = [next(iter(paft.flows.values())) for paft in (host.paft, host.other_paft)]
    assert [(entry.packets_out, entry.packets_in) for entry in entries] == [(1, 1), (1, 1)]
    assert [entry.last_seen for entry in entries] == [2.0, 2.0]
    assert [entry.application_id for entry in entries] == [HOME, HOME]


def test_no_anchor_gets_into_flows_of_another_one() -> None:
    host = Host()
    host.send(HOME_PORT), host.send(5000)
    assert delivered(host.hear(build_udp(PEER, 53, LEASED, 5000, b"forged"))) == [None]
    assert delivered(host.hear(build_udp(PEER, 53, VISIBLE, HOME_PORT, b"forged"), host.usual)) == [None]
    for forwarder in (host.usual, host.other):
        assert forwarder.counters.as_dict()["for_another_anchors_application"] == 1
    assert delivered(host.hear(build_udp(PEER, 53, VISIBLE, 5000, b"right"), host.usual)) != [None]


def test_a_flow_that_a_correspondent_begins_comes_by_the_anchor_of_its_application_only() -> None:
    host = Host()
    [packet] = delivered(host.hear(build_udp(PEER, 777, LEASED, HOME_PORT, b"begun")))
    assert packet == build_udp(PEER, 777, VISIBLE, HOME_PORT, b"begun")
    assert host.paft.flows[FlowKey(UDP, VISIBLE, HOME_PORT, PEER, 777).packed()].application_id == HOME
    assert delivered(host.hear(build_udp(PEER, 777, LEASED, 5001, b"begun"))) == [None]


def test_without_a_tunnel_or_a_way_nothing_leaves_by_anything() -> None:
    host = Host()
    host.other_paft.steer(HOME, None)
    assert host.send(HOME_PORT).tunnel is None
    host.usual.elsewhere = {HOME: None}
    assert host.send(HOME_PORT).tunnel is None
    assert host.paft.applications.get(HOME) is None


def test_who_sends_too_large_a_packet_is_told_so_about_its_own_packet() -> None:
    host = Host()
    verdict = host.send(HOME_PORT, bytes(1500))
    assert verdict.tunnel is None
    assert verdict.error is not None
    assert is_whole(verdict.error)
    sent = build_udp(VISIBLE, HOME_PORT, PEER, 53, bytes(1500))
    assert verdict.error[28:56] == sent[:28]


def test_an_error_about_a_packet_finds_its_sender() -> None:
    host = Host()
    sent = host.send(HOME_PORT).payloads[0]
    error = refusal(sent, NETWORK_UNREACHABLE, PEER)
    assert error is not None
    [packet] = delivered(host.hear(error))
    assert packet is not None
    assert is_whole(packet)
    assert packet[28:48] == build_udp(VISIBLE, HOME_PORT, PEER, 53, b"hello")[:20]


def test_a_flow_that_becomes_another_applications_is_that_ones_at_the_anchor_too() -> None:
    host, more = Host(), ApplicationId(3)
    host.other.applications = {HOME, more}
    host.usual.elsewhere = {HOME: host.other, more: host.other}
    host.send(HOME_PORT)
    entry = next(iter(host.paft.flows.values()))
    host.paft.assign(entry, more)
    host.send(HOME_PORT)
    assert next(iter(host.other_paft.flows.values())).application_id == more


@pytest.mark.parametrize("visible", [ip_address("1.2.3.5"), ip_address("9.9.9.9")])
def test_another_visible_address_is_heeded_at_once(visible: IPAddress) -> None:
    host = Host()
    host.other.visible = visible.packed
    host.usual = HostForwarder(host.paft, visible, USUAL.address, host.classify)
    host.usual.elsewhere = {HOME: host.other}
    verdict = host.usual.outbound(build_udp(visible, HOME_PORT, PEER, 53, b"hello"), 0, 1.0)
    assert verdict.payloads[0] == build_udp(LEASED, HOME_PORT, PEER, 53, b"hello")


def test_a_sum_that_nobody_has_finished_on_the_way_is_finished_here() -> None:
    """As a far end's kernel sends it where all links between are virtual."""
    host = Host()
    host.usual.outbound(tcp(b"", ends=(VISIBLE, PEER), ports=(HOME_PORT, 53)), 0, 1.0)
    right = tcp(b"data", ends=(PEER, LEASED), ports=(53, HOME_PORT))
    pseudo = pseudo_sum(right, len(right) - 20)
    [verdict] = host.hear(right[:36] + pseudo.to_bytes(2, "big") + right[38:])
    assert verdict.offload is None
    assert verdict.deliver == tcp(b"data", ends=(PEER, VISIBLE), ports=(53, HOME_PORT))
    assert left_undone(right) is None
    assert left_undone(right[:-1] + b"!") is None
