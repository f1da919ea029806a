"""Forwards in the kernel and in the store: in, out, as before; and who listens already."""

from __future__ import annotations

import socket
import sqlite3
from ipaddress import ip_address
from pathlib import Path

import pytest
from kernel_namespace import Namespace

from upmt_nf.config.forwards import forward_of
from upmt_nf.config.values import AddressPool, matching_blocks
from upmt_nf.linux import netfilter
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.forward_store import ForwardStore
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.lease_store import LeaseStore
from upmt_nf.linux.listeners import listener_on
from upmt_nf.linux.rule_files import read_rules
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import TCP, UDP
from upmt_nf.model.forward import Forward, Opening, PortSpan, StaticNat
from upmt_nf.model.identity import TerminalId
from upmt_nf.routing.openings import incoming_lines, outgoing_lines
from upmt_nf.routing.rule_text import RuleSet

VALUES = {
    "anchor": "45.0.0.1",
    "tunnel_port": "1800",
    "virtual_interface": "upmt0",
    "queue_outbound": "7000",
    "queue_inbound": "7001",
    "pool": "1.2.3.4-1.2.3.254",
    "nat_ports": "40000-60999",
    "between_hosts": "",
}
BOAT = TerminalId("boat7@fleet.example")
OWN, OTHER, VIRTUAL = map(ip_address, ("45.0.0.1", "45.0.0.2", "1.2.3.4"))


def forward(first: int, last: int, there: int, protocol: int = TCP) -> Forward:
    return forward_of(protocol, OWN, PortSpan(first, last), BOAT, PortSpan(there, there))


def rules(*what: Forward | StaticNat) -> RuleSet:
    openings = [Opening(each, VIRTUAL) for each in what]
    blocks = {"incoming": incoming_lines(openings, ()), "outgoing": outgoing_lines(openings, ())}
    return read_rules("anchor", VALUES, blocks=blocks)


@pytest.mark.kernel
def test_openings_go_in_and_out_and_leave_nothing(namespace: Namespace, journal: Journal) -> None:
    for probe in (
        "-A PREROUTING -p tcp -m comment --comment x -j DNAT --to-destination 1.2.3.4:22-24/80",
        "-A POSTROUTING -j SNAT --to-source 1.2.3.4",
    ):
        namespace.iptables(f"-t nat {probe}")
        namespace.iptables("-t nat -F")
    namespace.iptables("-t nat -A PREROUTING -p tcp --dport 8022 -j RETURN")
    bare = namespace.rules()
    netfilter.install(rules(), journal)
    closed = namespace.rules(with_counters=True)
    opened = rules(forward(8022, 8022, 22), forward(9000, 9010, 5000, UDP), StaticNat(OTHER, BOAT))
    assert netfilter.install(opened, journal) == [
        "table nat: UPMT-INCOMING, UPMT-NAT, PREROUTING, POSTROUTING"
    ]
    assert netfilter.verify(opened) == []
    assert netfilter.install(opened, journal) == []
    said = namespace.run("iptables-legacy -w -t nat -S").splitlines()
    assert [line for line in said if "DNAT" in line or "SNAT" in line] == [
        '-A UPMT-INCOMING -d 45.0.0.1/32 -p tcp -m tcp --dport 8022 -m comment --comment "forward tcp '
        '45.0.0.1:8022 to boat7@fleet.example 22" -j DNAT --to-destination 1.2.3.4:22',
        '-A UPMT-INCOMING -d 45.0.0.1/32 -p udp -m udp --dport 9000:9010 -m comment --comment "forward udp '
        '45.0.0.1:9000-9010 to boat7@fleet.example 5000-5010" -j DNAT --to-destination 1.2.3.4:5000-5010/9000',
        '-A UPMT-INCOMING -d 45.0.0.2/32 -m comment --comment "static NAT 45.0.0.2 for boat7@fleet.example" '
        "-j DNAT --to-destination 1.2.3.4",
        '-A UPMT-NAT -s 1.2.3.4/32 -m comment --comment "static NAT 45.0.0.2 for boat7@fleet.example" '
        "-j SNAT --to-source 45.0.0.2",
    ]
    netfilter.install(rules(), journal)
    assert namespace.rules(with_counters=True) == closed
    netfilter.install(opened, journal)
    cleanup(journal)
    assert namespace.rules() == bare


@pytest.mark.kernel
def test_a_whole_pool_is_translated_by_few_rules(namespace: Namespace, journal: Journal) -> None:
    namespace.iptables("-t nat -A POSTROUTING -j NETMAP --to 10.0.0.0/28")
    namespace.iptables("-t nat -F")
    inside, outside = (
        AddressPool(ip_address(f"{net}.4"), ip_address(f"{net}.254")) for net in ("1.2.3", "45.0.1")
    )
    pools = matching_blocks(inside, outside)
    blocks = {"incoming": incoming_lines((), pools), "outgoing": outgoing_lines((), pools)}
    wanted = read_rules("anchor", VALUES, blocks=blocks)
    netfilter.install(wanted, journal)
    assert netfilter.verify(wanted) == []
    assert namespace.rules().count("NETMAP") == 2 * len(pools) <= 2 * 16
    assert "-A UPMT-INCOMING -d 45.0.1.128/26 -j NETMAP --to 1.2.3.128/26" in namespace.rules()


@pytest.mark.kernel
def test_who_listens_is_found(namespace: Namespace) -> None:
    namespace.run("ip address add 45.0.0.1/32 dev lo")
    assert listener_on(TCP, OWN, PortSpan(1, 65535)) is None
    with socket.create_server(("0.0.0.0", 8022)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("45.0.0.1", 9005))
        assert listener_on(TCP, OWN, PortSpan(8022, 8022)) == "0.0.0.0:8022"
        assert listener_on(TCP, OTHER, PortSpan(8022, 8022)) is None  # not an address of this host
        assert listener_on(UDP, OWN, PortSpan(8022, 8022)) is None
        assert listener_on(UDP, OWN, PortSpan(9000, 9010)) == "45.0.0.1:9005"
        assert listener_on(UDP, OWN, PortSpan(9006, 9010)) is None
    with socket.create_server(("::", 8023), family=socket.AF_INET6):
        assert listener_on(TCP, OWN, PortSpan(8023, 8023)) == "[::]:8023"


def test_the_store_keeps_forwards_beside_the_leases(tmp_path: Path) -> None:
    path = tmp_path / "leases.sqlite"
    leases, store = LeaseStore(path), ForwardStore(path, OWN)
    wanted = [
        forward(8022, 8022, 22),
        forward(9000, 9010, 5000, UDP),
        forward_of(TCP, OTHER, PortSpan(1, 1), VIRTUAL, None),
    ]
    for each in (*wanted, wanted[0]):
        store.keep(each)
    assert leases.keep(BOAT, VIRTUAL)
    leases.write()
    leases.close()
    store.close()
    store = ForwardStore(path, OWN)
    assert sorted(store.kept(), key=str) == sorted(wanted, key=str)
    store.forget(wanted[1])
    store.forget(wanted[1])
    assert wanted[1] not in store.kept()
    assert len(store.kept()) == 2
    store.close()


def test_the_anchors_own_address_may_change_between_restarts(tmp_path: Path) -> None:
    store = ForwardStore(tmp_path / "leases.sqlite", OWN)
    store.keep(forward(8022, 8022, 22))
    store.close()
    moved = ForwardStore(tmp_path / "leases.sqlite", OTHER)
    assert [each.external for each in moved.kept()] == [OTHER]
    moved.close()


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "leases.sqlite"
    path.write_text("this is no database, and it is long enough to be seen as none" * 20)
    with pytest.raises(UpmtError, match=r"leases\.sqlite: the forwards cannot be opened"):
        ForwardStore(path, OWN)


def test_what_nobody_can_read_in_the_store_is_passed_over(tmp_path: Path) -> None:
    store = ForwardStore(tmp_path / "leases.sqlite", OWN)
    store.keep(forward(8022, 8022, 22))
    with sqlite3.connect(tmp_path / "leases.sqlite") as database:
        database.execute("INSERT INTO forward VALUES ('sctp', '', '1', 'x', '1')")
        database.execute("INSERT INTO forward VALUES ('tcp', 'nowhere', '0', 'x', '1')")
    assert store.kept() == [forward(8022, 8022, 22)]
    store.close()
