"""Policy routing in a kernel: twice is once, no moment without a way, nobody else's routes and rules touched."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from kernel_namespace import GROUP_ROUTES, GROUP_RULES, KernelEvents, Namespace
from pyroute2 import IPRoute

from upmt_nf.linux import routes
from upmt_nf.linux.journal import Journal, RoutingChanged
from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.names import VIRTUAL_INTERFACE
from upmt_nf.routing.difference import Change
from upmt_nf.routing.plan import NetworkRouting, Routing, anchor_routing, host_routing

pytestmark = pytest.mark.kernel

ANCHOR, VIPA = ip_address("45.0.0.1"), ip_address("1.2.3.4")
ANCHOR6, VIPA6 = ip_address("2001:db8:45::1"), ip_address("2001:db8:9::4")


@pytest.fixture
def host(namespace: Namespace) -> Namespace:
    """The mobile host of the paper's fig. 6, with IPv6 beside it."""
    namespace.link("if0", "192.168.100.25/24")
    namespace.link("if1", "10.10.10.25/24")
    namespace.link(VIRTUAL_INTERFACE, "1.2.3.4/32")
    namespace.run("ip address add 2001:db8:1::25/64 dev if0 nodad")
    namespace.run(f"ip address add 2001:db8:9::4/128 dev {VIRTUAL_INTERFACE} nodad")
    return namespace


def network(index: int, address: str, gateway: str | None) -> NetworkRouting:
    return NetworkRouting(
        index, f"if{index - 1}", ip_interface(address), ip_address(gateway) if gateway else None
    )


IF0 = network(1, "192.168.100.25/24", "192.168.100.1")
IF1 = network(2, "10.10.10.25/24", "10.10.10.1")
IF0_IPV6 = network(1, "2001:db8:1::25/64", "2001:db8:1::1")
FIGURE_6 = host_routing(VIPA, [IF0, IF1], ANCHOR)


def present() -> Routing:
    with IPRoute() as kernel:
        return routes.present(kernel)


def everything(namespace: Namespace) -> str:
    """All routes and rules of both families."""
    commands = ("ip route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule")
    return "\n".join("\n".join(sorted(namespace.run(command).splitlines())) for command in commands)


@pytest.mark.parametrize(
    "wanted",
    [
        FIGURE_6,
        host_routing(None, [IF0], ANCHOR),
        host_routing(VIPA, [network(2, "10.10.10.25/24", None)], ANCHOR),
        host_routing(VIPA6, [IF0_IPV6], ANCHOR6),
        host_routing(VIPA6, [network(1, "2001:db8:1::25/64", None)], ANCHOR6),
        anchor_routing([ip_network("1.2.3.4/30"), ip_network("2001:db8:7::/64")]),
    ],
    ids=["fig. 6", "no virtual address", "no gateway", "IPv6", "IPv6, no gateway", "anchor"],
)
def test_what_is_applied_is_there_and_twice_is_once(
    host: Namespace, journal: Journal, wanted: Routing
) -> None:
    assert [change.what for change in routes.apply(wanted, journal)] == [*wanted.routes, *wanted.rules]
    found = present()
    assert set(found.routes) == set(wanted.routes)
    assert set(found.rules) == set(wanted.rules)
    with KernelEvents(GROUP_ROUTES | GROUP_RULES) as events:
        assert routes.apply(wanted, journal) == []
        assert events.kinds() == []
    assert set(present().routes) == set(wanted.routes)


@pytest.mark.parametrize(
    ("question", "way"),
    [
        ("198.51.100.1", "dev upmt0 table 7000 src 1.2.3.4"),
        ("198.51.100.1 mark 0x1001", "via 192.168.100.1 dev if0 table 7001 src 192.168.100.25 mark 0x1001"),
        ("198.51.100.1 mark 0x1002", "via 10.10.10.1 dev if1 table 7002 src 10.10.10.25 mark 0x1002"),
        ("198.51.100.1 mark 0xff1002", "via 10.10.10.1 dev if1 table 7002 src 10.10.10.25 mark 0xff1002"),
        ("198.51.100.1 from 10.10.10.25", "from 10.10.10.25 via 10.10.10.1 dev if1 table 7002"),
        ("198.51.100.1 mark 0x1fff", "via 192.168.100.9 dev if0 src 192.168.100.25 mark 0x1fff"),
        ("45.0.0.1", "via 192.168.100.9 dev if0 src 192.168.100.25"),
        ("10.10.10.77", "dev if1 src 10.10.10.25"),
        ("198.51.100.1 mark 0x2", "dev upmt0 table 7000 src 1.2.3.4 mark 2"),
    ],
)
def test_packets_go_where_figure_6_says(host: Namespace, journal: Journal, question: str, way: str) -> None:
    host.run("ip route add default via 192.168.100.9 dev if0")
    routes.apply(FIGURE_6, journal)
    destination = question.split()[0]
    said = " ".join(host.run(f"ip route get {question}").splitlines()[0].split())
    assert said.removesuffix(" uid 0").strip() == f"{destination} {way}"


def test_an_outer_packet_never_strays_to_another_network(host: Namespace, journal: Journal) -> None:
    host.run("ip route add default via 10.10.10.1 dev if1")
    routes.apply(host_routing(VIPA, [IF0, IF1], ANCHOR), journal)
    host.run("ip route del default table 7001 via 192.168.100.1")
    assert not host.succeeds("ip route get 198.51.100.1 mark 0x1001")


@pytest.mark.parametrize(
    ("old", "new", "question"),
    [
        (IF0, network(1, "192.168.100.25/24", "192.168.100.2"), "198.51.100.1 mark 0x1001"),
        (IF0, network(1, "192.168.100.25/24", None), "198.51.100.1 mark 0x1001"),
        (IF0, network(1, "192.168.100.26/24", "192.168.100.1"), "198.51.100.1 mark 0x1001"),
        (IF0_IPV6, network(1, "2001:db8:1::25/64", "2001:db8:1::2"), "2001:db8:f::1 mark 0x1001"),
    ],
    ids=["gateway", "no gateway", "address", "IPv6 gateway"],
)
def test_a_swap_has_no_moment_without_a_route(
    host: Namespace,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    old: NetworkRouting,
    new: NetworkRouting,
    question: str,
) -> None:
    host.run("ip address add 192.168.100.26/24 dev if0")
    anchor: IPAddress = ANCHOR if old.address.version == 4 else ANCHOR6
    routes.apply(host_routing(None, [old], anchor), journal)
    perform, steps = routes._perform, 0

    def perform_and_look(kernel: IPRoute, change: Change, programs: Mapping[str, int]) -> None:
        nonlocal steps
        perform(kernel, change, programs)
        steps += 1
        assert host.succeeds(f"ip route get {question}"), f"no way after {change}"

    monkeypatch.setattr(routes, "_perform", perform_and_look)
    assert host.succeeds(f"ip route get {question}")
    wanted = host_routing(None, [new], anchor)
    routes.apply(wanted, journal)
    assert steps > 0
    assert set(present().routes) == set(wanted.routes)


def test_additions_come_before_deletions_also_in_the_kernel(host: Namespace, journal: Journal) -> None:
    routes.apply(host_routing(VIPA, [IF0], ANCHOR), journal)
    with KernelEvents(GROUP_ROUTES | GROUP_RULES) as events:
        routes.apply(host_routing(VIPA, [IF1], ANCHOR), journal)
        kinds = events.kinds()
    assert kinds.count("new rule") == kinds.count("del rule") == 2
    assert kinds == sorted(kinds, key=["new route", "new rule", "del rule", "del route"].index)


def test_other_peoples_routes_and_rules_are_left_as_they_are(host: Namespace, journal: Journal) -> None:
    for foreign in (
        "ip route add default via 192.168.100.1 dev if0",
        "ip route add 203.0.113.0/24 dev if1 table 7001 proto static",
        "ip route add 203.0.113.0/24 dev if1 table 7777",
        "ip -6 route add 2001:db8:f::/64 dev if0 table 7001",
        "ip rule add pref 4600 fwmark 0x1001/0x1fff lookup 7777",
        "ip rule add pref 4650 from 10.0.0.0/8 lookup 7777 protocol 3",
        "ip -6 rule add pref 4700 lookup 7777",
    ):
        host.run(foreign)
    before = everything(host)
    assert present() == Routing()
    routes.apply(FIGURE_6, journal)
    assert set(before.splitlines()) <= set(everything(host).splitlines())
    routes.apply(host_routing(VIPA6, [IF0_IPV6], ANCHOR6), journal)
    routes.apply(Routing(), journal)
    assert everything(host) == before


def test_what_the_kernel_dropped_is_put_back(host: Namespace, journal: Journal) -> None:
    routes.apply(FIGURE_6, journal)
    host.run("ip link set if0 down")
    assert {route.interface for route in present().routes} == {None, "if1", VIRTUAL_INTERFACE}
    host.run("ip link set if0 up")
    assert {str(change.what) for change in routes.apply(FIGURE_6, journal)} == {
        "192.168.100.0/24 dev if0 scope link src 192.168.100.25 table 7001 proto 117",
        "default via 192.168.100.1 dev if0 src 192.168.100.25 table 7001 proto 117",
    }
    assert set(present().routes) == set(FIGURE_6.routes)


def test_what_cannot_be_added_is_named(host: Namespace, journal: Journal) -> None:
    missing = NetworkRouting(1, "if9", IF0.address, IF0.gateway)
    with pytest.raises(
        KernelError, match=r"ip route add 192\.168\.100\.0/24 dev if9 .*: there is no interface if9"
    ):
        routes.apply(host_routing(None, [missing], ANCHOR), journal)
    unreachable = network(1, "192.168.100.25/24", "172.16.0.1")
    with pytest.raises(KernelError, match=r"ip route add default via 172\.16\.0\.1 dev if0 .*"):
        routes.apply(host_routing(None, [unreachable], ANCHOR), journal)
    routes.apply(Routing(), journal)
    assert present() == Routing()


def test_it_is_written_down_before_it_is_done(host: Namespace, journal: Journal) -> None:
    with pytest.raises(KernelError):
        routes.apply(host_routing(None, [NetworkRouting(1, "if9", IF0.address, None)], ANCHOR), journal)
    assert list(journal.records()) == [RoutingChanged()]


def test_of_a_full_table_of_others_only_ours_are_read(host: Namespace, journal: Journal) -> None:
    routes.apply(FIGURE_6, journal)
    ours = present()
    for number in range(200):
        host.run(f"ip route add 20.0.{number}.0/24 dev if0 proto bgp")
    host.run("ip route add 20.1.0.0/16 dev if0 proto bgp table 7001")
    assert present() == ours
