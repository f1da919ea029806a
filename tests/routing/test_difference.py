"""Wanted against present: what is applied gives what is wanted, and never through a moment without a way."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.routing.difference import Change, difference
from upmt_nf.routing.plan import Kind, NetworkRouting, RouteSpec, Routing, RuleSpec, host_routing

NETWORKS = [ip_network(text) for text in ("0.0.0.0/0", "10.0.0.0/8", "::/0", "2001:db8::/32")]

routes = st.builds(
    RouteSpec,
    destination=st.sampled_from(NETWORKS),
    table=st.sampled_from([254, 7000, 7001]),
    kind=st.sampled_from(Kind),
    interface=st.sampled_from([None, "if0", "if1"]),
    metric=st.sampled_from([0, 65535]),
)
rules = st.builds(
    RuleSpec,
    priority=st.integers(4600, 4603),
    version=st.sampled_from([4, 6]),
    table=st.sampled_from([254, 7001]),
    mark=st.sampled_from([None, 0x1001]),
)


def place(route: RouteSpec) -> tuple[object, ...]:
    return route.destination, route.table, route.metric


routings = st.builds(
    Routing,
    st.lists(routes, unique_by=place, max_size=8).map(tuple),
    st.lists(rules, unique=True, max_size=8).map(tuple),
)


class KernelModel:
    """`ip route replace`, `ip route del`, `ip rule add` and `ip rule del`, as far as they matter."""

    def __init__(self, present: Routing) -> None:
        self.routes = {place(route): route for route in present.routes}
        self.rules = set(present.rules)

    def perform(self, change: Change) -> None:
        match change.is_addition, change.what:
            case True, RouteSpec() as route:
                self.routes[place(route)] = route
            case False, RouteSpec() as route:
                assert self.routes.pop(place(route)) == route, "another route was deleted"
            case True, RuleSpec() as rule:
                assert rule not in self.rules, "the rule is there already"
                self.rules.add(rule)
            case False, RuleSpec() as rule:
                self.rules.remove(rule)


@given(routings, routings)
def test_applying_the_difference_gives_what_is_wanted(wanted: Routing, present: Routing) -> None:
    kernel = KernelModel(present)
    for change in difference(wanted, present):
        kernel.perform(change)
    assert set(kernel.routes.values()) == set(wanted.routes)
    assert kernel.rules == set(wanted.rules)


@given(routings, routings)
def test_routes_then_rules_are_added_then_rules_then_routes_deleted(
    wanted: Routing, present: Routing
) -> None:
    order = [(change.is_addition, type(change.what)) for change in difference(wanted, present)]
    steps = [(True, RouteSpec), (True, RuleSpec), (False, RuleSpec), (False, RouteSpec)]
    assert order == sorted(order, key=steps.index)


@given(routings, routings)
def test_what_stays_is_there_at_every_moment(wanted: Routing, present: Routing) -> None:
    kernel = KernelModel(present)
    kept = {place(route) for route in wanted.routes} & {place(route) for route in present.routes}
    for change in difference(wanted, present):
        kernel.perform(change)
        assert kept <= kernel.routes.keys()
        assert set(wanted.rules) & set(present.rules) <= kernel.rules


@given(routings)
def test_equal_in_any_order_needs_nothing(routing: Routing) -> None:
    assert difference(routing, routing) == []
    assert difference(replace(routing, routes=routing.routes[::-1], rules=routing.rules[::-1]), routing) == []


def test_another_gateway_is_one_replacement() -> None:
    anchor, address = ip_address("45.0.0.1"), ip_interface("10.10.10.25/24")
    old = NetworkRouting(1, "if0", address, ip_address("10.10.10.1"))
    new = replace(old, gateway=ip_address("10.10.10.2"))
    changes = difference(host_routing(None, [new], anchor), host_routing(None, [old], anchor))
    assert [str(change) for change in changes] == [
        "ip route add default via 10.10.10.2 dev if0 src 10.10.10.25 table 7001 proto 117"
    ]


def test_a_network_that_goes_takes_its_rules_before_its_routes() -> None:
    network = NetworkRouting(1, "if0", ip_interface("10.10.10.25/24"), None)
    anchor = ip_address("45.0.0.1")
    changes = difference(host_routing(None, [], anchor), host_routing(None, [network], anchor))
    assert [str(change) for change in changes] == [
        "ip rule del pref 4600 from all fwmark 0x1001/0x1fff lookup 7001 protocol 117",
        "ip rule del pref 4660 from 10.10.10.25/32 lookup 7001 protocol 117",
        "ip route del 10.10.10.0/24 dev if0 scope link src 10.10.10.25 table 7001 proto 117",
        "ip route del default dev if0 scope link src 10.10.10.25 table 7001 proto 117",
        "ip route del unreachable default metric 65535 table 7001 proto 117",
    ]
