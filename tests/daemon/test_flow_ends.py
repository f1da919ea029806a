"""Closed sockets -> the flows to look at anew, and the sockets that packets came from a moment ago."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from upmt_nf.daemon.flow_ends import FlowEnds
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.paft import Paft
from upmt_nf.linux.socket_ends import EndedSocket
from upmt_nf.model.flow import TCP, UDP, FlowBytes, FlowKey
from upmt_nf.model.identity import ApplicationId

OWN, FAR, OTHER = ip_address("1.2.3.4"), ip_address("86.0.0.1"), ip_address("86.0.0.2")


def flow(protocol: int, port: int, destination: object = FAR) -> FlowKey:
    return FlowKey(protocol, OWN, port, ip_address(str(destination)), 53)


class Ends:
    lost = 0

    def __init__(self) -> None:
        self.waiting: list[EndedSocket] = []

    def read(self) -> Iterator[EndedSocket]:
        while self.waiting:
            yield self.waiting.pop(0)


class Table:
    def __init__(self) -> None:
        self.forgotten: list[FlowBytes] = []

    def forget(self, keys: Iterable[FlowBytes]) -> None:
        self.forgotten += keys


class World:
    def __init__(self, *flows: FlowKey) -> None:
        paft = Paft()
        for each in flows:
            paft.insert(each.packed(), ApplicationId(1), 0.0)
        self.source, self.table = Ends(), Table()
        self.ends = FlowEnds(paft)
        self.ends._ends, self.ends._conntrack = self.source, self.table  # type: ignore[assignment]
        self.forwarder = HostForwarder(
            paft, OWN, ip_address("45.0.0.1"), lambda key, mark, dscp=0: Classified(ApplicationId(1), 0, "")
        )

    def close(self, *sockets: EndedSocket) -> set[FlowKey]:
        self.source.waiting += sockets
        self.ends.take(self.forwarder, OWN)
        return {FlowKey.unpacked(key) for key in self.forwarder._over}


def test_a_connected_socket_was_one_flow() -> None:
    world = World(flow(UDP, 1), flow(UDP, 1, OTHER), flow(UDP, 2), flow(TCP, 1))
    assert world.close(EndedSocket(UDP, 1, FAR.packed, 53)) == {flow(UDP, 1)}
    assert world.table.forgotten == [flow(UDP, 1).packed()]


def test_a_socket_that_was_not_connected_was_all_flows_of_its_port() -> None:
    world = World(flow(UDP, 1), flow(UDP, 1, OTHER), flow(UDP, 2), flow(TCP, 1))
    assert world.close(EndedSocket(UDP, 1, b"", 0)) == {flow(UDP, 1), flow(UDP, 1, OTHER)}


def test_the_entry_of_a_tcp_connection_is_left_to_the_kernel() -> None:
    world = World(flow(TCP, 1))
    assert world.close(EndedSocket(TCP, 1, FAR.packed, 53)) == {flow(TCP, 1)}
    assert world.table.forgotten == []


def test_flows_of_others_are_not_ours_to_end() -> None:
    world = World(flow(UDP, 1))
    assert (
        world.close(EndedSocket(UDP, 9, FAR.packed, 53), EndedSocket(UDP, 1, ip_address("::1").packed, 53))
        == set()
    )


def test_the_cookie_of_a_socket_outlives_it_for_a_moment() -> None:
    world = World()
    assert world.ends.cookie_of(flow(UDP, 1)) == 0
    world.source.waiting += [EndedSocket(UDP, 1, FAR.packed, 53, 77), EndedSocket(UDP, 2, b"", 0, 78)]
    assert world.ends.cookie_of(flow(UDP, 1)) == 77
    assert world.ends.cookie_of(flow(UDP, 1, OTHER)) == 0
    assert world.ends.cookie_of(flow(UDP, 2, OTHER)) == 78
    assert world.ends.cookie_of(flow(TCP, 1)) == 0
    for port in range(3, 40000):
        world.source.waiting.append(EndedSocket(UDP, port, FAR.packed, 53, port))
    assert world.ends.cookie_of(flow(UDP, 39999)) == 39999
    assert world.ends.cookie_of(flow(UDP, 1)) == 0
