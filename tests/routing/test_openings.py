"""Open forwards and static NATs as an administrator reads them in iptables-save."""

from ipaddress import ip_address, ip_network
from pathlib import Path

from upmt_nf.model.flow import TCP, UDP, IPAddress
from upmt_nf.model.forward import Forward, HostRef, Opening, PortSpan, StaticNat
from upmt_nf.model.identity import TerminalId
from upmt_nf.routing.openings import incoming_lines, outgoing_lines
from upmt_nf.routing.rule_text import expand

RULES = Path(__file__).resolve().parents[2] / "rules" / "anchor.rules"
VALUES = {
    "anchor": "45.0.0.1",
    "tunnel_port": "1800",
    "virtual_interface": "upmt0",
    "queue_outbound": "7000",
    "queue_inbound": "7001",
    "pool": "1.2.3.4-1.2.3.9",
    "nat_ports": "",
    "between_hosts": "",
}
BOAT = TerminalId("boat7@fleet.example")
VIRTUAL = ip_address("1.2.3.4")
OWN = ip_address("45.0.0.1")


def forward(
    protocol: int, first: int, last: int, there: int, host: HostRef = BOAT, external: IPAddress = OWN
) -> Opening:
    ports, host_ports = PortSpan(first, last), PortSpan(there, there + last - first)
    return Opening(Forward(protocol, external, ports, host, host_ports), VIRTUAL)


OPENINGS = (
    forward(TCP, 8022, 8022, 22),
    forward(UDP, 9000, 9010, 5000, VIRTUAL),
    forward(TCP, 80, 90, 80),
    Opening(StaticNat(ip_address("45.0.0.2"), TerminalId("o'hara~(2)@fleet.example")), VIRTUAL),
)
POOLS = ((ip_network("1.2.3.0/28"), ip_network("45.0.1.0/28")),)

NAT = """\
*nat
:UPMT-INCOMING - [0:0]
:UPMT-NAT - [0:0]
-A PREROUTING -j UPMT-INCOMING
-A UPMT-INCOMING -m iprange --src-range 1.2.3.4-1.2.3.9 -j RETURN
-A UPMT-INCOMING -d 45.0.0.1 -p tcp -m tcp --dport 8022 -m comment \
--comment "forward tcp 45.0.0.1:8022 to boat7@fleet.example 22" -j DNAT --to-destination 1.2.3.4:22
-A UPMT-INCOMING -d 45.0.0.1 -p udp -m udp --dport 9000:9010 -m comment \
--comment "forward udp 45.0.0.1:9000-9010 to 1.2.3.4 5000-5010" -j DNAT --to-destination 1.2.3.4:5000-5010/9000
-A UPMT-INCOMING -d 45.0.0.1 -p tcp -m tcp --dport 80:90 -m comment \
--comment "forward tcp 45.0.0.1:80-90 to boat7@fleet.example 80-90" -j DNAT --to-destination 1.2.3.4
-A UPMT-INCOMING -d 45.0.0.2 -m comment \
--comment "static NAT 45.0.0.2 for o'hara~(2)@fleet.example" -j DNAT --to-destination 1.2.3.4
-A UPMT-INCOMING -d 45.0.1.0/28 -j NETMAP --to 1.2.3.0/28
-A POSTROUTING -j UPMT-NAT
-A UPMT-NAT -o upmt0 -j RETURN
-A UPMT-NAT -s 1.2.3.4 -m comment \
--comment "static NAT 45.0.0.2 for o'hara~(2)@fleet.example" -j SNAT --to-source 45.0.0.2
-A UPMT-NAT -s 1.2.3.0/28 -j NETMAP --to 45.0.1.0/28
-A UPMT-NAT -m iprange --src-range 1.2.3.4-1.2.3.9 -j MASQUERADE
COMMIT
"""


def test_what_is_open_stands_in_the_nat_table_with_its_reason() -> None:
    blocks = {"incoming": incoming_lines(OPENINGS, POOLS), "outgoing": outgoing_lines(OPENINGS, POOLS)}
    written = str(expand(RULES.read_text(encoding="utf-8"), "anchor.rules", VALUES, blocks=blocks))
    assert written[written.index("*nat") : written.index("*filter")] == NAT
    assert str(expand(written, "again", {})) == written


def test_addresses_of_the_other_family_are_written_its_way() -> None:
    virtual, external = ip_address("2001:db8:9::4"), ip_address("2001:db8::1")
    span = PortSpan(8022, 8022)
    opening = Opening(Forward(TCP, external, span, BOAT, PortSpan(22, 22)), virtual)
    assert incoming_lines([opening], ()) == [
        "-A UPMT-INCOMING -d 2001:db8::1 -p tcp -m tcp --dport 8022 -m comment --comment "
        "'forward tcp [2001:db8::1]:8022 to boat7@fleet.example 22' -j DNAT --to-destination [2001:db8:9::4]:22"
    ]


def test_nothing_open_is_nothing_written() -> None:
    assert incoming_lines((), ()) == outgoing_lines((), ()) == []
