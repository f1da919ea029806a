"""What routing wants, as an administrator reads it: the paper's fig. 6 word for word."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from upmt_nf.model.names import MAX_NETWORKS
from upmt_nf.routing.plan import NetworkRouting, anchor_routing, host_routing

ANCHOR, VIPA = ip_address("45.0.0.1"), ip_address("1.2.3.4")
IF0 = NetworkRouting(1, "if0", ip_interface("192.168.100.25/24"), ip_address("192.168.100.1"))
IF1 = NetworkRouting(2, "if1", ip_interface("10.10.10.25/24"), ip_address("10.10.10.1"))

FIGURE_6 = """\
ip route add 192.168.100.0/24 dev if0 scope link src 192.168.100.25 table 7001 proto 117
ip route add default via 192.168.100.1 dev if0 src 192.168.100.25 table 7001 proto 117
ip route add unreachable default metric 65535 table 7001 proto 117
ip route add 10.10.10.0/24 dev if1 scope link src 10.10.10.25 table 7002 proto 117
ip route add default via 10.10.10.1 dev if1 src 10.10.10.25 table 7002 proto 117
ip route add unreachable default metric 65535 table 7002 proto 117
ip route add default dev upmt0 scope link src 1.2.3.4 table 7000 proto 117
ip route add unreachable default metric 65535 table 7000 proto 117
ip rule add pref 4600 from all fwmark 0x1001/0x1fff lookup 7001 protocol 117
ip rule add pref 4600 from all fwmark 0x1002/0x1fff lookup 7002 protocol 117
ip rule add pref 4620 from all fwmark 0x1fff/0x1fff goto 4710 protocol 117
ip rule add pref 4640 from all to 45.0.0.1/32 lookup main protocol 117
ip rule add pref 4660 from 192.168.100.25/32 lookup 7001 protocol 117
ip rule add pref 4660 from 10.10.10.25/32 lookup 7002 protocol 117
ip rule add pref 4670 from all to 224.0.0.0/4 goto 4710 protocol 117
ip rule add pref 4670 from all to 255.255.255.255/32 goto 4710 protocol 117
ip rule add pref 4680 from all lookup main suppress_prefixlength 0 protocol 117
ip rule add pref 4700 from all iif lo lookup 7000 protocol 117
ip rule add pref 4710 from all nop protocol 117"""

WITH_VIRTUAL_ADDRESS_ONLY = (
    "ip route add default dev upmt0",
    "ip route add unreachable default metric 65535 table 7000",
    "ip rule add pref 4670",
    "ip rule add pref 4680",
    "ip rule add pref 4700",
    "ip rule add pref 4710",
)


def test_the_next_hop_is_the_gateway_unless_the_destination_is_near() -> None:
    assert IF0.next_hop(ip_address("45.0.0.1")) == IF0.gateway
    assert IF0.next_hop(ip_address("192.168.100.9")) == ip_address("192.168.100.9")
    alone = NetworkRouting(3, "ppp0", ip_interface("10.0.0.7/32"), None)
    assert alone.next_hop(ip_address("45.0.0.1")) == ip_address("45.0.0.1")


def test_figure_6_with_a_virtual_address() -> None:
    assert str(host_routing(VIPA, [IF0, IF1], ANCHOR)) == FIGURE_6


def test_figure_6_before_a_virtual_address_is_known() -> None:
    # Without rules of ours behind it there is nothing to go past.
    plain = FIGURE_6.replace("fwmark 0x1fff/0x1fff goto 4710", "fwmark 0x1fff/0x1fff lookup main")
    expected = [line for line in plain.splitlines() if not line.startswith(WITH_VIRTUAL_ADDRESS_ONLY)]
    assert str(host_routing(None, [IF0, IF1], ANCHOR)).splitlines() == expected
    assert len(expected) == len(FIGURE_6.splitlines()) - 7


def test_a_network_without_a_gateway_is_reached_on_the_link() -> None:
    network = NetworkRouting(2, "ppp0", ip_interface("10.0.0.7/32"), None)
    assert [str(route) for route in host_routing(None, [network], ANCHOR).routes] == [
        "10.0.0.7/32 dev ppp0 scope link src 10.0.0.7 table 7002 proto 117",
        "default dev ppp0 scope link src 10.0.0.7 table 7002 proto 117",
        "unreachable default metric 65535 table 7002 proto 117",
    ]


def test_ipv6_says_so_on_every_line() -> None:
    network = NetworkRouting(3, "if0", ip_interface("2001:db8:1::25/64"), ip_address("fe80::1"))
    routing = host_routing(ip_address("2001:db8:9::4"), [network], ip_address("2001:db8:45::1"))
    assert (
        str(routing)
        == """\
ip route add -6 2001:db8:1::/64 dev if0 scope link src 2001:db8:1::25 table 7003 proto 117
ip route add -6 default via fe80::1 dev if0 src 2001:db8:1::25 table 7003 proto 117
ip route add -6 unreachable default metric 65535 table 7003 proto 117
ip route add -6 default dev upmt0 scope link src 2001:db8:9::4 table 7000 proto 117
ip route add -6 unreachable default metric 65535 table 7000 proto 117
ip rule add -6 pref 4600 from all fwmark 0x1003/0x1fff lookup 7003 protocol 117
ip rule add -6 pref 4620 from all fwmark 0x1fff/0x1fff goto 4710 protocol 117
ip rule add -6 pref 4640 from all to 2001:db8:45::1/128 lookup main protocol 117
ip rule add -6 pref 4660 from 2001:db8:1::25/128 lookup 7003 protocol 117
ip rule add -6 pref 4670 from all to ff00::/8 goto 4710 protocol 117
ip rule add -6 pref 4680 from all lookup main suppress_prefixlength 0 protocol 117
ip rule add -6 pref 4700 from all iif lo lookup 7000 protocol 117
ip rule add -6 pref 4710 from all nop protocol 117"""
    )


def test_a_network_without_ipv4_is_routed_beside_the_others() -> None:
    alone = NetworkRouting(2, "if1", ip_interface("2001:db8:1::25/64"), ip_address("fe80::1"))
    further = [ip_address("2001:db8:45::1")]
    routing = host_routing(VIPA, [IF0, alone], ANCHOR, further=further, has_other_family=True)
    said = str(routing).splitlines()
    assert [line for line in said if "-6" in line] == [
        "ip route add -6 2001:db8:1::/64 dev if1 scope link src 2001:db8:1::25 table 7002 proto 117",
        "ip route add -6 default via fe80::1 dev if1 src 2001:db8:1::25 table 7002 proto 117",
        "ip route add -6 unreachable default metric 65535 table 7002 proto 117",
        "ip route add -6 unreachable default metric 65535 table 7000 proto 117",
        "ip rule add -6 pref 4600 from all fwmark 0x1002/0x1fff lookup 7002 protocol 117",
        "ip rule add -6 pref 4620 from all fwmark 0x1fff/0x1fff goto 4710 protocol 117",
        "ip rule add -6 pref 4640 from all to 2001:db8:45::1/128 lookup main protocol 117",
        "ip rule add -6 pref 4660 from 2001:db8:1::25/128 lookup 7002 protocol 117",
        "ip rule add -6 pref 4670 from all to ff00::/8 goto 4710 protocol 117",
        "ip rule add -6 pref 4680 from all lookup main suppress_prefixlength 0 protocol 117",
        "ip rule add -6 pref 4700 from all iif lo lookup 7000 protocol 117",
        "ip rule add -6 pref 4710 from all nop protocol 117",
    ]
    only = [line for line in said if "-6" not in line]
    assert only == str(host_routing(VIPA, [IF0], ANCHOR)).splitlines()


def test_no_network_at_all_still_keeps_the_anchor_out_of_the_tunnels() -> None:
    assert str(host_routing(VIPA, [], ANCHOR)).splitlines() == [
        "ip route add default dev upmt0 scope link src 1.2.3.4 table 7000 proto 117",
        "ip route add unreachable default metric 65535 table 7000 proto 117",
        "ip rule add pref 4620 from all fwmark 0x1fff/0x1fff goto 4710 protocol 117",
        "ip rule add pref 4640 from all to 45.0.0.1/32 lookup main protocol 117",
        "ip rule add pref 4670 from all to 224.0.0.0/4 goto 4710 protocol 117",
        "ip rule add pref 4670 from all to 255.255.255.255/32 goto 4710 protocol 117",
        "ip rule add pref 4680 from all lookup main suppress_prefixlength 0 protocol 117",
        "ip rule add pref 4700 from all iif lo lookup 7000 protocol 117",
        "ip rule add pref 4710 from all nop protocol 117",
    ]


def test_every_anchor_that_tunnels_go_to_is_kept_out_of_them() -> None:
    more = host_routing(VIPA, [], ANCHOR, further=[ip_address("46.0.0.1"), ip_address("47.0.0.1")])
    added = [line for line in str(more).splitlines() if line not in str(host_routing(VIPA, [], ANCHOR))]
    assert added == [
        "ip rule add pref 4640 from all to 46.0.0.1/32 lookup main protocol 117",
        "ip rule add pref 4640 from all to 47.0.0.1/32 lookup main protocol 117",
    ]


def test_the_order_in_which_networks_come_up_changes_no_rule() -> None:
    forth, back = host_routing(VIPA, [IF0, IF1], ANCHOR), host_routing(VIPA, [IF1, IF0], ANCHOR)
    assert forth.rules == back.rules
    assert set(forth.routes) == set(back.routes)


def test_the_rules_stand_in_the_order_in_which_the_kernel_asks_them() -> None:
    priorities = [rule.priority for rule in host_routing(VIPA, [IF1, IF0], ANCHOR).rules]
    assert priorities == sorted(priorities)


@pytest.mark.parametrize("index", [0, MAX_NETWORKS + 1])
def test_a_network_without_a_table_of_its_own_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=f"network index {index} is not within"):
        host_routing(VIPA, [NetworkRouting(index, "if0", IF0.address, IF0.gateway)], ANCHOR)


def test_an_anchor_leads_its_pool_to_the_virtual_interface() -> None:
    pool = [ip_network("1.2.3.4/30"), ip_network("1.2.3.8/29"), ip_network("2001:db8::/64")]
    assert (
        str(anchor_routing(pool))
        == """\
ip route add 1.2.3.4/30 dev upmt0 scope link table 254 proto 117
ip route add 1.2.3.8/29 dev upmt0 scope link table 254 proto 117
ip route add -6 2001:db8::/64 dev upmt0 scope link table 254 proto 117"""
    )
