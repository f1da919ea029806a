"""The mobile host's netfilter rules where tunnels lead to more than one anchor, as an administrator reads them."""

from ipaddress import ip_address

from upmt_nf.daemon.host_kernel import host_rules
from upmt_nf.model.flow import Endpoint

ANCHOR, OTHER = Endpoint(ip_address("45.0.0.1"), 1800), Endpoint(ip_address("46.0.0.1"), 1801)
PORTS = {"if0": (1500, 1800), "if1": (1600, 443)}


def lines(*further: tuple[str, int, Endpoint], kind: str = "tun") -> list[str]:
    return str(host_rules(ANCHOR, PORTS, (), kind, further=further)).splitlines()


def test_each_tunnel_is_let_in_from_the_anchor_that_it_leads_to() -> None:
    assert [line for line in lines(("if0", 40123, OTHER)) if line.startswith("-A UPMT-INPUT")] == [
        "-A UPMT-INPUT -i if0 -s 45.0.0.1 -p udp -m udp --sport 1800 --dport 1500 -j ACCEPT",
        "-A UPMT-INPUT -i if1 -s 45.0.0.1 -p udp -m udp --sport 443 --dport 1600 -j ACCEPT",
        "-A UPMT-INPUT -i if0 -s 46.0.0.1 -p udp -m udp --sport 1801 --dport 40123 -j ACCEPT",
    ]


def test_another_anchors_tunnels_add_their_lines_and_change_no_other() -> None:
    for kind, number in (("tun", 2), ("ifb", 3)):
        before, after = lines(kind=kind), lines(("if1", 40124, OTHER), kind=kind)
        added = [line for line in after if line not in before]
        assert len(added) == number
        assert all("-i if1 -s 46.0.0.1 " in line and "--sport 1801 --dport 40124" in line for line in added)
        assert [line for line in after if line not in added] == before
