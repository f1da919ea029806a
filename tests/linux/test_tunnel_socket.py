"""The sockets that leave by one network: what is on the wire, and what each refusal of the kernel becomes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from kernel_namespace import Namespace, is_readable

from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.packet import build_udp
from upmt_nf.linux.tunnel_socket import PathLost, PathTooSmall, SignallingSocket, TunnelSocket
from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import Endpoint

pytestmark = pytest.mark.kernel

CARE_OF, ANCHOR = ip_address("192.168.100.25"), Endpoint(ip_address("45.0.0.1"), 1800)
CARE_OF6, ANCHOR6 = ip_address("2001:db8:1::25"), Endpoint(ip_address("2001:db8:45::1"), 1800)
LOCAL = ip_address("127.0.0.1")
MARK = 0x1001


@pytest.fixture
def host(namespace: Namespace) -> Namespace:
    """A host whose if0 leads to the anchor, for marked packets only."""
    namespace.link("if0", "192.168.100.25/24")
    namespace.run("ip address add 2001:db8:1::25/64 dev if0 nodad")
    namespace.run("ip neigh add 192.168.100.1 lladdr 02:00:00:00:00:01 dev if0")
    namespace.run("ip -6 neigh add 2001:db8:1::1 lladdr 02:00:00:00:00:01 dev if0")
    namespace.run("ip route add default via 192.168.100.1 dev if0 table 7001")
    namespace.run("ip -6 route add default via 2001:db8:1::1 dev if0 table 7001")
    namespace.run(f"ip rule add fwmark {MARK:#x}/0x1fff lookup 7001")
    namespace.run(f"ip -6 rule add fwmark {MARK:#x}/0x1fff lookup 7001")
    return namespace


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what was opened."""
    with ExitStack() as opened:
        yield opened


def tunnel(stack: ExitStack, version: int = 4, port: int = 1500) -> TunnelSocket:
    """A mobile host's tunnel by if0."""
    address, remote = (CARE_OF, ANCHOR) if version == 4 else (CARE_OF6, ANCHOR6)
    made = TunnelSocket("if0", address, port, MARK, remote)
    stack.callback(made.close)
    return made


class Wire:
    """What comes out at the other end of if0."""

    def __init__(self, ethertype: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
        self._socket.bind(("if0p", ethertype))

    def packet(self) -> bytes:
        """The next UDP packet."""
        while is_readable(self._socket):
            frame, (_, _, direction, *_) = self._socket.recvfrom(65536)
            packet = frame[14:]
            protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
            if direction != socket.PACKET_OUTGOING and protocol == socket.IPPROTO_UDP:
                return packet
        pytest.fail("no packet came")

    def close(self) -> None:
        self._socket.close()


def wire(stack: ExitStack, ethertype: int = 0x0800) -> Wire:
    made = Wire(ethertype)
    stack.callback(made.close)
    return made


def test_an_outer_packet_on_the_wire(host: Namespace, stack: ExitStack) -> None:
    listening, made = wire(stack), tunnel(stack)
    assert made.local == Endpoint(CARE_OF, 1500)
    for tos in (0, 0xB8, 0x03, 0):
        made.send(b"inner packet", tos)
        packet = listening.packet()
        assert packet[1] == tos
        assert struct.unpack_from("!H", packet, 6) == (0x4000,), "DF, and no fragment"
        assert packet[12:20] == CARE_OF.packed + ANCHOR.address.packed
        assert struct.unpack_from("!HHH", packet, 20) == (1500, 1800, 8 + 12)
        assert packet[28:] == b"inner packet"
    assert made.dropped == 0


def test_another_anchor_is_sent_to_from_the_same_port(host: Namespace, stack: ExitStack) -> None:
    listening, made = wire(stack), tunnel(stack)
    made.turn_to(Endpoint(ip_address("46.0.0.1"), 1801))
    made.send(b"inner", 0)
    packet = listening.packet()
    assert packet[12:20] == CARE_OF.packed + ip_address("46.0.0.1").packed
    assert struct.unpack_from("!HH", packet, 20) == (1500, 1801)
    host.run("ip link set if0 down")
    with pytest.raises(KernelError, match=r"no way from 192\.168\.100\.25 on if0 to 45\.0\.0\.1:1800: "):
        made.turn_to(ANCHOR)


def test_an_outer_packet_of_ipv6(host: Namespace, stack: ExitStack) -> None:
    listening, made = wire(stack, 0x86DD), tunnel(stack, 6)
    made.send(b"inner", 0xB8)
    packet = listening.packet()
    assert struct.unpack_from("!I", packet)[0] >> 20 & 0xFF == 0xB8
    assert packet[8:40] == CARE_OF6.packed + ANCHOR6.address.packed
    assert packet[48:] == b"inner"


def test_an_anchors_socket_sends_to_any_tunnel(host: Namespace, stack: ExitStack) -> None:
    host.run("ip route add default via 192.168.100.1 dev if0")
    listening = wire(stack)
    made = TunnelSocket(None, CARE_OF, 1800, 0, None)
    stack.callback(made.close)
    for number in (1, 2):
        made.send(b"x", number << 2, remote=(f"160.80.100.{number}", 1500 + number))
        packet = listening.packet()
        assert (packet[1], packet[19]) == (number << 2, number)
        assert struct.unpack_from("!HH", packet, 20) == (1800, 1500 + number)


def pair(stack: ExitStack) -> tuple[TunnelSocket, TunnelSocket]:
    """Two sockets of this host that send to each other and take what comes."""
    first = TunnelSocket("lo", LOCAL, 1500, 0, Endpoint(LOCAL, 1800), takes=True)
    stack.callback(first.close)
    second = TunnelSocket(None, LOCAL, 1800, 0, None, takes=True)
    stack.callback(second.close)
    return first, second


def arrived(made: TunnelSocket, count: int) -> list[tuple[bytes, int]]:
    """The next `count` datagrams, each with its type of service."""
    found: list[tuple[bytes, int]] = []
    while len(found) < count and is_readable(made):
        for arrival in made.receive():
            found += [
                (arrival.data[at : at + arrival.size], arrival.tos)
                for at in range(0, len(arrival.data), arrival.size)
            ]
    return found


@pytest.mark.parametrize(
    ("count", "size", "last"), [(1, 100, 100), (2, 1400, 1400), (45, 1400, 20), (200, 64, 64), (150, 1400, 1)]
)
def test_many_datagrams_sent_at_once_arrive_each_for_itself(
    host: Namespace, stack: ExitStack, count: int, size: int, last: int
) -> None:
    host.run("ip link set lo up")
    first, second = pair(stack)
    datagrams = [number.to_bytes(2, "big") * (size // 2) for number in range(count)]
    datagrams[-1] = datagrams[-1][:last]
    first.send(b"".join(datagrams), 0xB8, size)
    assert arrived(second, count) == [(datagram, 0xB8) for datagram in datagrams]
    second.send(b"".join(datagrams), 0x02, size, ("127.0.0.1", 1500))
    assert arrived(first, count) == [(datagram, 0x02) for datagram in datagrams]
    assert (first.dropped, second.dropped) == (0, 0)


def test_an_arrival_says_from_where(host: Namespace, stack: ExitStack) -> None:
    host.run("ip link set lo up")
    first, second = pair(stack)
    first.send(b"hello", 0)
    assert is_readable(second)
    (arrival,) = second.receive()
    assert (arrival.data, arrival.size, arrival.remote) == (b"hello", 5, ("127.0.0.1", 1500))


def test_a_burst_that_the_kernel_cannot_split_goes_one_by_one(
    host: Namespace, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.run("ip link set lo up")
    # No such option: what a kernel before 4.18 makes of it.
    monkeypatch.setattr("upmt_nf.linux.tunnel_socket._UDP_SEGMENT", 1)
    first, second = pair(stack)
    datagrams = [bytes([number]) * 50 for number in range(10)]
    first.send(b"".join(datagrams), 0, 50)
    first.send(b"".join(datagrams), 0, 50)
    assert arrived(second, 20) == [(datagram, 0) for datagram in datagrams * 2]
    assert first.dropped == 0


def test_a_burst_whose_packets_are_too_large_names_what_the_path_takes(
    host: Namespace, stack: ExitStack
) -> None:
    made = tunnel(stack)
    with pytest.raises(PathTooSmall) as caught:
        made.send(bytes(3000), 0, 1480)
    assert caught.value.mtu == 1500
    dropped = made.dropped
    made.send(bytes(2944), 0, 1472)
    assert made.dropped == dropped, "bursts that fit are sent as before"


@pytest.mark.parametrize(("version", "header"), [(4, 28), (6, 48)])
def test_a_packet_larger_than_the_interface_takes(
    host: Namespace, stack: ExitStack, version: int, header: int
) -> None:
    listening, made = wire(stack, 0x0800 if version == 4 else 0x86DD), tunnel(stack, version)
    made.send(bytes(1500 - header), 0)
    assert len(listening.packet()) == 1500
    with pytest.raises(PathTooSmall) as caught:
        made.send(bytes(1501 - header), 0)
    assert caught.value.mtu == 1500
    assert made.dropped == 1
    host.run("ip link set if0 mtu 1400")
    with pytest.raises(PathTooSmall) as caught:
        made.send(bytes(1401 - header), 0)
    assert caught.value.mtu == 1400
    made.send(bytes(1400 - header), 0)


def test_a_packet_larger_than_the_path_takes_as_the_kernel_has_learnt(
    host: Namespace, stack: ExitStack
) -> None:
    made = tunnel(stack)
    host.run("ip route change default via 192.168.100.1 dev if0 table 7001 mtu 1300")
    with pytest.raises(PathTooSmall) as caught:
        made.send(bytes(1301 - 28), 0)
    assert caught.value.mtu == 1300
    made.send(bytes(1300 - 28), 0)


@pytest.mark.parametrize(
    ("version", "loss"),
    [
        (4, "ip link set if0 down"),
        (4, "ip link del if0"),
        (4, "ip address del 192.168.100.25/24 dev if0"),
        (6, "ip link set if0 down"),
        (6, "ip link del if0"),
        (6, "ip -6 route del default table 7001"),
    ],
)
def test_a_network_that_goes_is_a_lost_path(
    host: Namespace, stack: ExitStack, version: int, loss: str
) -> None:
    made = tunnel(stack, version)
    made.send(b"x", 0)
    host.run(loss)
    with pytest.raises(PathLost):
        made.send(b"x", 0)
    assert made.dropped == 1


def test_an_icmp_error_costs_not_even_the_packet_that_meets_it(
    namespace: Namespace, stack: ExitStack
) -> None:
    made = TunnelSocket("lo", LOCAL, 1500, 0, Endpoint(LOCAL, 1800))
    stack.callback(made.close)
    made.send(b"nobody listens", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.settimeout(2)
        listener.bind((str(LOCAL), 1800))
        made.send(b"the kernel says so now", 0)
        assert listener.recv(100) == b"the kernel says so now"
    assert made.dropped == 0


@pytest.mark.parametrize("code", range(16))
def test_forged_icmp_errors_of_every_code_lose_no_path(
    namespace: Namespace, stack: ExitStack, code: int
) -> None:
    made = TunnelSocket("lo", LOCAL, 1500, 0, Endpoint(LOCAL, 1800))
    stack.callback(made.close)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger,
    ):
        listener.settimeout(2)
        listener.bind((str(LOCAL), 1800))
        quoted = build_udp(LOCAL, 1500, LOCAL, 1800, b"12345678")
        body = bytes((3, code, 0, 0, 0, 0, 0, 68)) + quoted
        forger.sendto(body[:2] + checksum(body).to_bytes(2, "big") + body[4:], (str(LOCAL), 0))
        for number in range(3):
            made.send(bytes([number]), 0)
            assert listener.recv(100) == bytes([number])
    assert made.dropped == 0


def test_what_a_filter_of_the_host_drops_is_counted_only(host: Namespace, stack: ExitStack) -> None:
    host.iptables("-A OUTPUT -p udp --dport 1800 -j DROP")
    made = tunnel(stack)
    made.send(b"x", 0)
    assert made.dropped == 1


def test_a_full_send_buffer_is_counted_only(host: Namespace, stack: ExitStack) -> None:
    host.run("ip neigh del 192.168.100.1 dev if0")
    host.run("sysctl -qw net.ipv4.neigh.if0.unres_qlen_bytes=1000000000")
    made = tunnel(stack)
    for _ in range(12000):
        made.send(bytes(1400), 0)
    assert 0 < made.dropped < 12000


@pytest.mark.parametrize(
    ("interface", "address", "reason"),
    [
        (
            "if0",
            "192.168.100.99",
            "cannot bind UDP 192.168.100.99:1500 on if0: Cannot assign requested address",
        ),
        ("if9", "192.168.100.25", "cannot bind UDP 192.168.100.25:1500 on if9: No such device"),
        (None, "10.9.9.9", "cannot bind UDP 10.9.9.9:1500: Cannot assign requested address"),
    ],
)
def test_what_cannot_be_bound_is_named(
    host: Namespace, interface: str | None, address: str, reason: str
) -> None:
    for kind in (TunnelSocket, SignallingSocket):
        more = (None,) if kind is TunnelSocket else ()
        with pytest.raises(KernelError) as caught:
            kind(interface, ip_address(address), 1500, 0, *more)
        assert str(caught.value) == reason


def test_a_port_is_taken_once_and_given_back(host: Namespace, stack: ExitStack) -> None:
    made = tunnel(stack)
    with pytest.raises(
        KernelError, match=r"cannot bind UDP 192\.168\.100\.25:1500 on if0: Address already in use"
    ):
        tunnel(stack)
    made.close()
    tunnel(stack)
    assert tunnel(stack, port=0).local.port > 0


def test_without_a_way_there_is_no_tunnel(host: Namespace, stack: ExitStack) -> None:
    host.run("ip link set if0 down")
    with pytest.raises(KernelError, match=r"no way from 192\.168\.100\.25 on if0 to 45\.0\.0\.1:1800: "):
        tunnel(stack)
    host.run("ip link set if0 up")
    host.run("ip route add default via 192.168.100.1 dev if0 table 7001")
    tunnel(stack)


def signalling(stack: ExitStack, port: int) -> SignallingSocket:
    made = SignallingSocket("lo", LOCAL, port, 0)
    stack.callback(made.close)
    return made


def test_signalling_comes_in_batches_with_its_source(namespace: Namespace, stack: ExitStack) -> None:
    here, there = signalling(stack, 5060), signalling(stack, 5061)
    assert there.receive() == []
    for number in range(70):
        assert here.send_to(b"%d" % number, there.local)
    assert is_readable(there)
    first = there.receive()
    assert first == [(b"%d" % number, here.local) for number in range(64)]
    assert [data for data, _ in there.receive()] == [b"%d" % number for number in range(64, 70)]
    assert not is_readable(there, 0)


def test_signalling_with_empty_and_largest_datagrams(namespace: Namespace, stack: ExitStack) -> None:
    here, there = signalling(stack, 5060), signalling(stack, 5061)
    assert here.send_to(b"", there.local)
    assert here.send_to(bytes(65507), there.local)
    assert not here.send_to(bytes(65508), there.local)
    assert [len(data) for data, _ in there.receive()] == [0, 65507]


def test_signalling_says_when_the_kernel_would_not_send(host: Namespace, stack: ExitStack) -> None:
    made = SignallingSocket("if0", CARE_OF, 5060, MARK)
    stack.callback(made.close)
    assert made.send_to(b"x", ANCHOR)
    host.run("ip link set if0 down")
    assert not made.send_to(b"x", ANCHOR)
    assert not made.send_to(b"x", ANCHOR6)
