"""A 5-tuple that is used again is another flow: told by the end of its socket, or by a SYN."""

from __future__ import annotations

from ipaddress import ip_address

import large_packets
import pytest

from upmt_nf.datapath.admission_layout import Begun
from upmt_nf.datapath.fast_layout import ANY_SOCKET
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.icmp import NETWORK_UNREACHABLE, refusal
from upmt_nf.datapath.packet import build_udp, dscp_of, flow_of, is_tcp_opening
from upmt_nf.datapath.paft import Paft
from upmt_nf.model.flow import FlowBytes, FlowKey
from upmt_nf.model.identity import ApplicationId

OWN, ANCHOR, FAR = ip_address("1.2.3.4"), ip_address("45.0.0.1"), ip_address("86.0.0.1")
SYN, ACK = 0x02, 0x10


def udp(tos: int = 0) -> bytes:
    return build_udp(OWN, 4000, FAR, 53, b"x", tos=tos)


def tcp(flags: int) -> bytes:
    return large_packets.tcp(b"", flags=flags, ends=(OWN, FAR))


class World:
    def __init__(self) -> None:
        self.paft = Paft()
        self.asked: list[tuple[int, int]] = []
        self.has_ended = False
        self.socket = 0
        self.forwarder = HostForwarder(self.paft, OWN, ANCHOR, self.classify)

    def classify(self, key: FlowBytes, mark: int, dscp: int = 0) -> Classified:
        self.asked.append((mark, dscp))
        return Classified(ApplicationId(len(self.asked)), 7, "it", None, self.socket, self.has_ended)

    def send(self, packet: bytes, mark: int = 0) -> int:
        assert self.forwarder.introduce(packet, mark, 1.0)[0]
        (entry,) = self.paft.flows.values()
        return entry.application_id


def test_after_the_end_of_its_socket_a_udp_flow_is_asked_about_anew() -> None:
    world = World()
    assert [world.send(udp()) for _ in range(2)] == [1, 1]
    world.forwarder.end(list(world.paft.flows))
    assert world.forwarder.has_ended_flows
    assert [world.send(udp()) for _ in range(2)] == [2, 2]
    world.forwarder.end([])
    assert [world.send(udp()) for _ in range(2)] == [2, 2]


def test_a_tcp_connection_ends_slowly_and_begins_with_a_syn() -> None:
    world = World()
    assert [world.send(tcp(flags)) for flags in (SYN, SYN, ACK)] == [1, 1, 1]
    world.forwarder.end(list(world.paft.flows))
    assert world.send(tcp(ACK)) == 1
    assert world.send(tcp(SYN)) == 2
    (entry,) = world.paft.flows.values()
    entry.packets_in = 1
    assert world.send(tcp(ACK)) == 2
    assert world.send(tcp(SYN)) == 3


def test_an_icmp_error_about_a_flow_is_no_new_flow() -> None:
    world = World()
    answer = build_udp(FAR, 53, OWN, 4000, b"x")
    assert world.send(udp()) == 1
    world.forwarder.end(list(world.paft.flows))
    error = refusal(answer, NETWORK_UNREACHABLE, OWN)
    assert error is not None
    assert world.send(error) == 1
    assert world.send(udp()) == 2


def test_a_flow_whose_socket_has_ended_already_is_not_taken_for_known() -> None:
    world = World()
    world.has_ended = True
    for asked in (1, 2):
        assert world.forwarder.introduce(udp(), 0, 1.0) == (True, None)
        assert len(world.asked) == asked
    world.has_ended = False
    assert world.forwarder.introduce(udp(), 0, 1.0) == (True, next(iter(world.paft.flows)))


def test_a_question_and_its_answer_are_looked_at_and_not_remembered() -> None:
    world = World()
    world.socket = 77
    known = [world.forwarder.introduce(udp(), 0, 1.0)[1] for _ in range(4)]
    (entry,) = world.paft.flows.values()
    assert known == [None, None, entry.key, entry.key]
    assert (entry.application_id, len(world.asked)) == (1, 3)


def test_another_socket_with_the_port_of_a_short_flow_is_another_flow() -> None:
    world = World()
    for socket, expected in ((77, 1), (78, 2), (78, 2), (79, 4), (79, 4), (79, 4), (80, 4)):
        world.socket = socket
        assert world.send(udp()) == expected


def test_a_connection_is_known_from_its_first_packet() -> None:
    world = World()
    world.socket = 77
    assert world.forwarder.introduce(tcp(SYN), 0, 1.0)[1] is not None
    assert world.forwarder.introduce(tcp(ACK), 0, 1.0)[1] is not None
    assert len(world.asked) == 1


def test_ends_of_unknown_flows_are_not_kept() -> None:
    world = World()
    for port in range(5000):
        world.forwarder.end([FlowKey(17, OWN, port, FAR, 53).packed()])
    assert len(world.forwarder._over) <= 1026


def test_the_dscp_of_the_first_packet_is_told_and_kept() -> None:
    world = World()
    world.send(udp(tos=46 << 2 | 1), 5)
    world.send(udp(tos=0), 6)
    assert world.asked == [(5, 46), (6, 46)]


@pytest.mark.parametrize("tos", [0, 0xB8, 0xFF])
def test_dscp_of_both_families(tos: int) -> None:
    assert dscp_of(build_udp(OWN, 1, FAR, 2, b"", tos=tos)) == tos >> 2
    six = ip_address("2001:db8::1")
    assert dscp_of(build_udp(six, 1, six, 2, b"", tos=tos)) == tos >> 2


def test_what_opens_a_connection() -> None:
    assert is_tcp_opening(tcp(SYN))
    assert not is_tcp_opening(tcp(SYN | ACK))
    assert not is_tcp_opening(tcp(SYN)[:30])


def let_in(world: World, packet: bytes, socket: int = 9) -> None:
    key = flow_of(packet)
    assert key is not None
    world.forwarder.begun(Begun(key, socket, 7, ApplicationId(5), 0, 0, 700, 0, "it"), None, 1.0)


def test_a_connection_that_the_kernel_let_in_is_over_when_another_socket_opens_it() -> None:
    world = World()
    let_in(world, tcp(SYN))
    assert next(iter(world.paft.flows.values())).application_id == 5
    assert world.send(tcp(ACK)) == 5
    assert world.send(tcp(SYN)) == 1
    assert world.send(tcp(SYN)) == 1


def test_a_flow_that_the_kernel_let_in_is_its_sockets_only() -> None:
    world = World()
    let_in(world, udp())
    world.socket = 9
    assert world.send(udp()) == 5
    let_in(world, udp())
    assert world.send(udp()) == 5
    world.socket = 10
    assert world.send(udp()) == 3
    let_in(world, udp(), 11)
    (entry,) = world.paft.flows.values()
    assert (entry.application_id, entry.socket, entry.introduced) == (5, 11, 0)


def test_a_flow_of_which_nobody_knows_the_socket_goes_on_when_the_rules_change() -> None:
    world = World()
    let_in(world, udp(), ANY_SOCKET)
    (before,) = world.paft.flows.values()
    world.socket = 9
    assert [world.send(udp()) for _ in range(3)] == [5, 5, 5]
    let_in(world, udp(), ANY_SOCKET)
    assert list(world.paft.flows.values()) == [before]
    assert world.asked == []
