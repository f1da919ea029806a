"""From a flow to its socket to its process: every kind of socket that an application may have."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from kernel_namespace import Namespace, program

from upmt_nf.linux.processes import Processes
from upmt_nf.linux.sock_diag import SockDiag, SocketFacts
from upmt_nf.model.flow import ICMP, TCP, UDP, FlowKey

pytestmark = pytest.mark.kernel

LOCAL, OTHER, FAR = ip_address("127.0.0.1"), ip_address("127.0.0.2"), ip_address("127.0.0.9")
LOCAL6 = ip_address("::1")


@pytest.fixture
def diag(namespace: Namespace) -> Iterator[SockDiag]:
    """A look-up in the test's namespace; skipped when the kernel has no sock_diag."""
    found = SockDiag()
    with socket.create_server(("127.0.0.1", 9)) as probe:
        if found.find(FlowKey(TCP, LOCAL, 9, FAR, 1)) != facts(probe):
            pytest.skip("the kernel has no sock_diag for TCP")
    yield found
    found.close()


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Closes what was opened."""
    with ExitStack() as stack:
        yield stack


def facts(of: socket.socket, uid: int = 0) -> SocketFacts:
    return SocketFacts(os.fstat(of.fileno()).st_ino, uid)


def udp(sockets: ExitStack, address: str, port: int, peer: str = "") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = sockets.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    made.bind((address, port))
    if peer:
        made.connect((peer, 53))
    return made


def test_a_tcp_connection_and_neither_its_other_end_nor_its_listener(
    diag: SockDiag, sockets: ExitStack
) -> None:
    listener = sockets.enter_context(socket.create_server(("127.0.0.1", 80)))
    client = sockets.enter_context(socket.create_connection(("127.0.0.1", 80)))
    server = sockets.enter_context(listener.accept()[0])
    port = client.getsockname()[1]
    assert diag.find(FlowKey(TCP, LOCAL, port, LOCAL, 80)) == facts(client)
    assert diag.find(FlowKey(TCP, LOCAL, 80, LOCAL, port)) == facts(server)


def test_a_tcp_connection_that_is_only_being_made(
    diag: SockDiag, namespace: Namespace, sockets: ExitStack
) -> None:
    namespace.link("if0", "192.168.100.25/24")
    client = sockets.enter_context(socket.socket())
    client.setblocking(False)
    assert client.connect_ex(("192.168.100.1", 80)) != 0
    address, port = client.getsockname()
    flow = FlowKey(TCP, ip_address(address), port, ip_address("192.168.100.1"), 80)
    assert diag.find(flow) == facts(client)


def test_a_connected_udp_socket_among_others_on_its_port(diag: SockDiag, sockets: ExitStack) -> None:
    first = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    second = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    for each, peer in ((first, "127.0.0.7"), (second, "127.0.0.8")):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        each.bind(("127.0.0.1", 4000))
        each.connect((peer, 53))
    assert diag.find(FlowKey(UDP, LOCAL, 4000, ip_address("127.0.0.7"), 53)) == facts(first)
    assert diag.find(FlowKey(UDP, LOCAL, 4000, ip_address("127.0.0.8"), 53)) == facts(second)


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::"])
def test_an_unconnected_udp_socket(diag: SockDiag, sockets: ExitStack, bound: str) -> None:
    made = udp(sockets, bound, 4001)
    udp(sockets, "127.0.0.2", 4002)
    assert diag.find(FlowKey(UDP, LOCAL, 4001, FAR, 53)) == facts(made)
    assert diag.find(FlowKey(UDP, LOCAL, 4002, FAR, 53)) is None


def test_an_unconnected_udp_socket_bound_to_an_interface(diag: SockDiag, sockets: ExitStack) -> None:
    made = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    made.bind(("0.0.0.0", 4003))
    assert diag.find(FlowKey(UDP, LOCAL, 4003, FAR, 53)) == facts(made)


@pytest.mark.parametrize(
    "order",
    [("0.0.0.0", "127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1", "0.0.0.0")],
    ids=["first", "last"],
)
def test_the_socket_bound_to_the_flows_address_before_the_one_bound_to_all(
    diag: SockDiag, sockets: ExitStack, order: tuple[str, ...]
) -> None:
    made = {}
    for address in order:
        made[address] = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made[address].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made[address].setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        made[address].bind((address, 4004))
    assert diag.find(FlowKey(UDP, OTHER, 4004, FAR, 53)) == facts(made["127.0.0.2"])
    assert diag.find(FlowKey(UDP, LOCAL, 4004, FAR, 53)) == facts(made["127.0.0.1"])
    assert diag.find(FlowKey(UDP, ip_address("127.0.0.3"), 4004, FAR, 53)) == facts(made["0.0.0.0"])


def test_ipv6_sockets(diag: SockDiag, sockets: ExitStack) -> None:
    connected, free = udp(sockets, "::1", 4010, "::1"), udp(sockets, "::", 4011)
    assert diag.find(FlowKey(UDP, LOCAL6, 4010, LOCAL6, 53)) == facts(connected)
    assert diag.find(FlowKey(UDP, LOCAL6, 4011, LOCAL6, 53)) == facts(free)


def test_an_ipv6_socket_that_speaks_ipv4(diag: SockDiag, sockets: ExitStack) -> None:
    sockets.enter_context(socket.create_server(("127.0.0.1", 81)))
    client = sockets.enter_context(socket.socket(socket.AF_INET6))
    client.connect(("::ffff:127.0.0.1", 81))
    assert diag.find(FlowKey(TCP, LOCAL, client.getsockname()[1], LOCAL, 81)) == facts(client)


def test_raw_sockets_by_their_protocol_the_newest_first(diag: SockDiag, sockets: ExitStack) -> None:
    def raw(protocol: int) -> socket.socket:
        return sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol))

    flow = FlowKey(ICMP, LOCAL, 77, FAR, 77)
    assert diag.find(flow) is None
    raw(ICMP)
    newest = raw(ICMP)
    raw(89)
    assert diag.find(flow) == facts(newest)
    assert diag.find(FlowKey(47, LOCAL, 0, FAR, 0)) is None
    any_header = raw(socket.IPPROTO_RAW)
    assert diag.find(FlowKey(47, LOCAL, 0, FAR, 0)) == facts(any_header)
    assert diag.find(flow) == facts(newest)


def test_a_ping_socket_by_its_identifier(diag: SockDiag, namespace: Namespace, sockets: ExitStack) -> None:
    namespace.run('sysctl -qw "net.ipv4.ping_group_range=0 0"')
    made = []
    for identifier in (501, 502):
        each = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
        each.bind(("127.0.0.1", identifier))
        made.append(each)
    assert diag.find(FlowKey(ICMP, LOCAL, 501, FAR, 501)) == facts(made[0])
    assert diag.find(FlowKey(ICMP, LOCAL, 502, FAR, 502)) == facts(made[1])


def test_the_owner_is_told(diag: SockDiag, sockets: ExitStack) -> None:
    made = udp(sockets, "127.0.0.1", 4020)
    os.fchown(made.fileno(), 4711, 0)
    assert diag.find(FlowKey(UDP, LOCAL, 4020, FAR, 53)) == facts(made, 4711)


def test_a_flow_without_a_socket_has_none(diag: SockDiag) -> None:
    for protocol in (TCP, UDP, ICMP, 47):
        assert diag.find(FlowKey(protocol, LOCAL, 4999, FAR, 53)) is None
    assert diag.find(FlowKey(TCP, LOCAL6, 4999, LOCAL6, 53)) is None


def test_many_sockets_fit_into_many_answers(diag: SockDiag, sockets: ExitStack) -> None:
    made = []
    for port in range(5000, 5600):
        each = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        each.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        each.bind(("127.0.0.1", port))
        made.append(each)
    for number in (0, 300, 599):
        assert diag.find(FlowKey(UDP, LOCAL, 5000 + number, FAR, 53)) == facts(made[number])


@pytest.mark.parametrize(
    ("make", "protocol"),
    [
        ("s = socket.create_connection(('127.0.0.1', 82))", TCP),
        ("s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', 82))", UDP),
        ("s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 0))", UDP),
        ("s = socket.socket(type=socket.SOCK_RAW, proto=1)", ICMP),
    ],
    ids=["TCP", "UDP connected", "UDP unconnected", "raw ICMP"],
)
def test_the_process_behind_a_flow_is_found(
    diag: SockDiag, sockets: ExitStack, make: str, protocol: int
) -> None:
    sockets.enter_context(socket.create_server(("127.0.0.1", 82)))
    text = f"import socket, sys; {make}; print(s.getsockname()[1], flush=True); sys.stdin.read()"
    with program(text) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found = diag.find(FlowKey(protocol, LOCAL, 7 if protocol == ICMP else port, LOCAL, 82))
        assert found is not None
        assert Processes().owner_of(found.inode, found.uid, 1000.0) == process.pid
