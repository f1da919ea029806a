"""The anchor's decision on each packet: strangers, forgers and hosts that want more than they may."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

import pytest

from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.fragment import split
from upmt_nf.datapath.icmp import packet_too_big
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.packet import build_udp, flow_of, ip_packet
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.protected import Cookie
from upmt_nf.datapath.reach import PeerRule, Reach
from upmt_nf.datapath.verdict import Inbound
from upmt_nf.model.flow import ICMP, TCP, Endpoint, IPAddress
from upmt_nf.model.identity import TunnelId

ANCHOR, CORRESPONDENT = ip_address("45.0.0.1"), ip_address("86.0.0.1")
BOAT, CAR = ip_address("10.99.0.1"), ip_address("10.99.0.2")
BOAT_AT, CAR_AT = Endpoint(ip_address("160.80.100.1"), 33000), Endpoint(ip_address("65.0.0.1"), 34000)
STRANGER = Endpoint(ip_address("198.51.100.9"), 1234)
POOL = (ip_network("10.99.0.0/24"),)


class Node:
    """An anchor with two hosts, each with one tunnel."""

    def __init__(
        self, hears: Callable[[bytes, bytes, float], bool] = lambda _, __, ___: True, **reach: Any
    ) -> None:
        self.paft = Paft()
        self.boat = Tunnel(TunnelId(1), BOAT, BOAT_AT, 1472)
        self.car = Tunnel(TunnelId(2), CAR, CAR_AT, 1472)
        for tunnel in (self.boat, self.car):
            self.paft.add_tunnel(tunnel)
        self.forwarder = AnchorForwarder(self.paft, ANCHOR, Reach(POOL, own=(ANCHOR,), **reach), hears=hears)

    def up(self, inner: bytes, remote: Endpoint = BOAT_AT, now: float = 1.0) -> Inbound:
        return self.forwarder.uplink(build_udp(remote.address, remote.port, ANCHOR, 1800, inner), now)

    def counted(self, reason: str) -> int:
        return self.forwarder.counters[reason]


def udp(source: IPAddress, destination: IPAddress = CORRESPONDENT, port: int = 53, size: int = 10) -> bytes:
    return build_udp(source, 4000, destination, port, bytes(size))


def tcp(source: IPAddress, destination: IPAddress = CORRESPONDENT, port: int = 80) -> bytes:
    segment = (4000).to_bytes(2, "big") + port.to_bytes(2, "big") + bytes(8) + b"\x50\x02" + bytes(6)
    return ip_packet(source, destination, TCP, segment)


def echo(source: IPAddress, destination: IPAddress = CORRESPONDENT) -> bytes:
    return ip_packet(source, destination, ICMP, b"\x08\0\xf7\xfd\0\x01\0\x01")


def fragments(source: IPAddress, destination: IPAddress = CORRESPONDENT) -> list[bytes]:
    whole = bytearray(udp(source, destination, size=4000))
    whole[4:6], whole[6:8], whole[10:12] = b"\0\x07", b"\0\0", b"\0\0"
    header_sum = sum(int.from_bytes(whole[place : place + 2], "big") for place in range(0, 20, 2))
    whole[10:12] = (0xFFFF - (header_sum % 0xFFFF or 0xFFFF)).to_bytes(2, "big")
    return split(bytes(whole), 1472)


def icmp_error(source: IPAddress, destination: IPAddress, about: bytes) -> bytes:
    """Port unreachable, quoting a packet."""
    from upmt_nf.datapath.checksum import checksum

    body = b"\x03\x03\0\0\0\0\0\0" + about
    return ip_packet(source, destination, ICMP, body[:2] + checksum(body).to_bytes(2, "big") + body[4:])


# --- forged inner sources ---

PACKETS: dict[str, Callable[[IPAddress], list[bytes]]] = {
    "udp": lambda source: [udp(source)],
    "tcp": lambda source: [tcp(source)],
    "icmp": lambda source: [echo(source)],
    "fragments": fragments,
    "error": lambda source: [icmp_error(source, CORRESPONDENT, udp(CORRESPONDENT, source))],
}


@pytest.mark.parametrize("kind", PACKETS)
def test_a_host_is_believed_as_itself(kind: str) -> None:
    node = Node()
    verdicts = [node.up(packet) for packet in PACKETS[kind](BOAT)]
    assert verdicts[-1].deliver is not None


@pytest.mark.parametrize("kind", PACKETS)
@pytest.mark.parametrize("claimed", [CAR, CORRESPONDENT, ANCHOR, ip_address("160.80.100.1")], ids=str)
@pytest.mark.parametrize("is_protected", [False, True], ids=["plain", "cookie"])
def test_a_forged_inner_source_is_dropped_counted_and_teaches_nothing(
    kind: str, claimed: IPAddress, is_protected: bool
) -> None:
    node = Node()
    packets = PACKETS[kind](claimed)
    encode: Callable[[bytes], bytes] = bytes
    if is_protected:
        secret = bytes(range(8))
        node.boat.format = Cookie(secret, secret)
        encode = lambda packet: node.boat.format.encode(node.boat, packet)  # noqa: E731
    verdicts = [node.up(encode(packet)) for packet in packets]
    assert all(verdict == Inbound() for verdict in verdicts)
    assert node.counted("forged_source") == len(packets)
    assert not node.paft.flows
    assert len(node.forwarder._uplink) == 0


def test_an_error_about_another_hosts_flow_is_dropped() -> None:
    node = Node()
    node.up(udp(CAR), CAR_AT)
    assert node.up(icmp_error(BOAT, CORRESPONDENT, udp(CORRESPONDENT, CAR))) == Inbound()
    assert node.counted("unfounded_error") == 1


# --- strangers ---


@pytest.mark.parametrize(
    "payload",
    [
        udp(BOAT),
        tcp(CORRESPONDENT),
        build_udp(BOAT, 862, ANCHOR, 862, bytes(44)),
        build_udp(BOAT, 5060, ANCHOR, 5061, b"x"),
        b"",
        b"\x10" + bytes(40),
        b"\x20" + bytes(40),
        b"\x45",
        b"\x60" + bytes(60),
        Random(1).randbytes(500),
    ],
)
def test_packets_of_unknown_tunnels_are_dropped_counted_and_never_answered(payload: bytes) -> None:
    asked: list[bytes] = []

    def hears(remote: bytes, _: bytes, __: float) -> bool:
        asked.append(remote)
        return True

    node = Node(hears)
    for number in range(100):
        assert node.up(payload, Endpoint(STRANGER.address, 1000 + number)) == Inbound()
    assert node.counted("unknown_tunnel") == 100
    assert not asked
    assert not node.paft.flows
    assert len(node.paft.tunnels_by_remote) == 2


def test_signalling_of_strangers_is_heard_within_their_limits_only() -> None:
    node = Node(lambda remote, _, __: remote == packed_endpoint(STRANGER))
    word = build_udp(BOAT, 5060, ANCHOR, 5060, b"MESSAGE ...")
    signal = node.up(word, STRANGER).signal
    assert signal is not None
    assert (signal.tunnel, signal.payload) == (None, b"MESSAGE ...")
    assert node.up(word, Endpoint(STRANGER.address, 9)) == Inbound()
    forged = build_udp(CAR, 5060, ANCHOR, 5060, b"MESSAGE ...")
    assert node.up(forged, BOAT_AT) == Inbound(), "also from where another has a tunnel"
    own = node.up(word, BOAT_AT).signal
    assert own is not None
    assert own.tunnel is node.boat


# --- whom hosts reach ---


@pytest.mark.parametrize(
    ("destination", "reason"),
    [("10.0.0.7", "private"), ("10.99.0.2", "host"), ("127.0.0.1", "special"), ("224.0.0.5", "special")],
)
@pytest.mark.parametrize("kind", [udp, tcp, echo])
def test_refused_destinations_are_counted_by_reason(kind: Any, destination: str, reason: str) -> None:
    node = Node()
    verdict = node.up(kind(BOAT, ip_address(destination)))
    assert verdict.deliver is None
    assert node.counted(f"refused_{reason}") == 1
    assert not node.paft.flows
    # The host is told, in its own tunnel, unless nobody may be told about such a packet.
    assert (verdict.answer is not None) == (reason != "special" or destination.startswith("127"))


def test_fragments_to_a_refused_destination_are_refused_once_they_are_whole() -> None:
    node = Node(deny=[PeerRule(ip_network("86.0.0.0/8"), 53)])
    for packet in fragments(BOAT):
        assert node.up(packet).deliver is None
    assert node.counted("refused_denied") == 1


def test_a_flow_is_judged_once() -> None:
    node = Node()
    judged: list[bytes] = []
    judge = node.forwarder._reach._judge

    def counting(address: bytes, protocol: int, port: int) -> str | None:
        judged.append(address)
        return judge(address, protocol, port)

    node.forwarder._reach._judge = counting  # type: ignore[method-assign]
    for _ in range(50):
        assert node.up(tcp(BOAT)).deliver is not None
    node.forwarder._reach._judged.clear()
    for _ in range(50):
        assert node.up(tcp(BOAT)).deliver is not None
    assert len(judged) == 1


def test_a_handover_request_opens_no_way_round_the_judgement() -> None:
    """A host may name flows before they have packets: that is an entry in PAFT, but no permission."""
    node = Node()
    forbidden = tcp(BOAT, ip_address("192.168.0.9"), 22)
    key = flow_of(forbidden)
    assert key is not None
    node.paft.move(key, node.boat, 1.0)
    assert node.up(forbidden).deliver is None
    assert node.counted("refused_private") == 1


def test_an_error_to_a_refused_correspondent_is_refused_though_its_flow_is_not() -> None:
    node = Node()
    node.up(udp(BOAT))
    about = udp(CORRESPONDENT, BOAT)
    assert node.up(icmp_error(BOAT, ip_address("10.0.0.9"), about)).deliver is None
    assert node.counted("refused_private") == 1
    assert node.up(icmp_error(BOAT, CORRESPONDENT, about)).deliver is not None


def test_what_may_not_be_reached_reaches_nobody() -> None:
    node = Node(deny=[PeerRule(ip_network("198.51.100.0/24"))])
    node.up(udp(BOAT))
    assert node.forwarder.downlink(udp(CORRESPONDENT, BOAT), 2.0).tunnel is node.boat
    for source, reason in (("198.51.100.7", "denied"), ("192.168.0.1", "private"), ("10.99.0.2", "host")):
        assert node.forwarder.downlink(udp(ip_address(source), BOAT), 2.0).payloads == ()
        assert node.counted(f"kept_out_{reason}") == 1
    router = ip_address("10.0.0.254")
    answered = build_udp(BOAT, 4000, CORRESPONDENT, 53, bytes(10))
    error = packet_too_big(answered, 1400, router)
    assert error is not None
    assert node.forwarder.downlink(error, 2.0).tunnel is node.boat, "a router on the way may have any address"


def test_hosts_talk_with_each_other_when_that_is_wanted() -> None:
    node = Node(between_hosts=True)
    node.up(udp(CAR), CAR_AT)
    there = udp(BOAT, CAR)
    assert node.up(there).deliver == there
    assert node.forwarder.downlink(there, 1.0).tunnel is node.car
    back = build_udp(CAR, 53, BOAT, 4000, b"answer")
    assert node.up(back, CAR_AT).deliver == back
    assert node.forwarder.downlink(back, 1.0).tunnel is node.boat


# --- one host and another ---


def test_a_host_that_floods_with_fragments_does_not_hurt_anothers() -> None:
    node = Node()
    first, *others = fragments(CAR)
    node.up(first, CAR_AT)
    pieces = fragments(BOAT)
    for number in range(20_000):
        piece = bytearray(pieces[0])
        piece[4:6] = (number & 0xFFFF).to_bytes(2, "big")
        piece[10:12] = b"\0\0"
        header_sum = sum(int.from_bytes(piece[place : place + 2], "big") for place in range(0, 20, 2))
        piece[10:12] = (0xFFFF - (header_sum % 0xFFFF or 0xFFFF)).to_bytes(2, "big")
        node.up(bytes(piece))
    assert node.counted("reassembly_full") > 19_000
    assert node.forwarder._uplink._bytes <= 2 << 20
    assert [node.up(piece, CAR_AT).deliver for piece in others][-1] is not None


def test_errors_for_one_host_do_not_spend_anothers() -> None:
    node = Node()
    for _ in range(5000):
        node.up(udp(BOAT, ip_address("10.0.0.7")))
    assert node.up(udp(CAR, ip_address("10.0.0.7")), CAR_AT).answer is not None
    for _ in range(5000):
        node.forwarder.downlink(udp(ip_address("203.0.113.5"), BOAT, size=1480), 1.0)
    assert node.forwarder.downlink(udp(CORRESPONDENT, CAR, size=1480), 1.0).error is not None


def test_random_bytes_never_raise() -> None:
    node, chance = Node(), Random(5)
    for _ in range(3000):
        node.forwarder.uplink(chance.randbytes(chance.randrange(80)), 1.0)
        node.up(chance.randbytes(chance.randrange(120)), chance.choice((BOAT_AT, STRANGER)))
        start = chance.choice((b"\x45\0\0\x2c", b"\x60\0\0\0"))
        node.forwarder.uplink(start + chance.randbytes(chance.randrange(120)), 1.0)


def test_sip_outside_the_tunnels_is_handed_on_wherever_it_comes_from() -> None:
    node, asked = Node(), b"REGISTER sip:45.0.0.1 SIP/2.0\r\n\r\n"
    for remote in (BOAT_AT, STRANGER):
        verdict = node.up(asked, remote)
        assert verdict.probe == (remote, asked, 0)
        (arrived,) = node.forwarder.arrived(packed_endpoint(remote), 0, asked, len(asked), 1.0)
        assert arrived.probe == (remote, asked, 0)
    for other in (b"MESSAGE sip:45.0.0.1 SIP/2.0\r\n\r\n", b"REGISTERED", b"SIP/2.0 200 OK\r\n\r\n"):
        assert node.up(other, STRANGER) == Inbound()
