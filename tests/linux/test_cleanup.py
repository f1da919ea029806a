"""Everything put back from the journal alone, also after a crash in the middle and beside what others did."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from kernel_namespace import Namespace

from upmt_nf.linux import netfilter, routes, sysctl
from upmt_nf.linux.cleanup import cleanup, refuse_beside_daemon
from upmt_nf.linux.journal import (
    CgroupMade,
    InterfaceMade,
    Journal,
    RoutingChanged,
    RulesInstalled,
    SysctlSet,
)
from upmt_nf.linux.virtual_interface import VirtualInterface
from upmt_nf.model.errors import KernelError, UpmtError
from upmt_nf.model.names import CONTROL_SOCKET
from upmt_nf.routing.plan import NetworkRouting, host_routing
from upmt_nf.routing.rule_text import expand

pytestmark = pytest.mark.kernel

RULES = expand("*mangle\n-A OUTPUT -j UPMT-X\n-A UPMT-X -o lo -j RETURN\n", "my.rules", {})
NETWORK = NetworkRouting(1, "if0", ip_interface("192.168.100.25/24"), ip_address("192.168.100.1"))


@pytest.fixture
def host(namespace: Namespace) -> Namespace:
    """A host with one network, some rules of its own and strict reverse path checks."""
    namespace.link("if0", "192.168.100.25/24")
    namespace.iptables("-t mangle -A OUTPUT -p udp -j ACCEPT")
    namespace.run("ip rule add pref 4600 from 10.0.0.0/8 lookup 7001")
    namespace.run("sysctl -qw net.ipv4.conf.if0.rp_filter=1 net.ipv4.conf.if0p.accept_redirects=0")
    return namespace


def state(host: Namespace) -> str:
    """All that we may have changed, as text."""
    return "\n".join(
        [
            # Whether an address is known to be nobody else's yet is not ours.
            host.run("ip -o address").replace(" tentative", ""),
            host.run("ip -o link"),
            host.run("ip route show table all"),
            host.run("ip rule"),
            host.rules(with_counters=True),
            host.run("sysctl net.ipv4.ip_forward net.ipv4.conf"),
        ]
    )


def change_everything(journal: Journal) -> None:
    """What a mobile host and an anchor do to a host, together."""
    interface = VirtualInterface(journal)
    interface.make(1400)
    sysctl.loosen_reverse_path(["if0"], journal)
    sysctl.enable_forwarding(journal)
    interface.set_addresses((ip_address("1.2.3.4"),))
    routes.apply(host_routing(ip_address("1.2.3.4"), [NETWORK], ip_address("45.0.0.1")), journal)
    netfilter.install(RULES, journal)


def test_everything_is_as_before_and_said(host: Namespace, journal: Journal) -> None:
    before = state(host)
    change_everything(journal)
    assert state(host) != before
    said = cleanup(Journal(journal.directory))
    assert state(host) == before
    assert said[0] == "netfilter chains removed from mangle"
    assert {"interface upmt0 removed", "sysctl net.ipv4.ip_forward = 0"} <= set(said)
    assert "sysctl net.ipv4.conf.if0.rp_filter = 1" in said
    assert not journal.directory.exists()
    assert cleanup(Journal(journal.directory)) == []


def test_a_second_start_after_a_crash_does_not_forget_how_it_was(host: Namespace, journal: Journal) -> None:
    before = state(host)
    change_everything(journal)
    change_everything(Journal(journal.directory))
    cleanup(Journal(journal.directory))
    assert state(host) == before


def test_what_was_written_down_but_never_done_is_passed_over(host: Namespace, journal: Journal) -> None:
    before = state(host)
    for record in (
        SysctlSet("net/ipv4/ip_forward", "0"),
        SysctlSet("net/ipv4/conf/gone0/rp_filter", "1"),
        InterfaceMade("upmt0"),
        RulesInstalled(4),
        RoutingChanged(),
        CgroupMade("/sys/fs/cgroup/no/such"),
    ):
        journal.note(record)
    assert cleanup(journal) == []
    assert state(host) == before
    assert not journal.path.exists()


def test_what_others_took_away_meanwhile_is_no_error(host: Namespace, journal: Journal) -> None:
    change_everything(journal)
    host.run("ip link del upmt0")
    host.run("ip link del if0")
    host.iptables("-t mangle -F")
    host.iptables("-t mangle -X")
    host.run("ip rule del pref 4620")
    cleanup(journal)
    assert "proto 117" not in host.run("ip route show table all") + host.run("ip rule")
    assert not journal.path.exists()


@pytest.mark.parametrize(
    "torn", [b'{"kind": "Sysctl', b'\n{"kind": "InterfaceMade", "na', b"\0\xff\n", b"\n\n"]
)
def test_a_torn_journal_still_puts_back_all_that_is_whole(
    host: Namespace, journal: Journal, torn: bytes
) -> None:
    before = state(host)
    change_everything(journal)
    with journal.path.open("ab") as file:
        file.write(torn)
    cleanup(Journal(journal.directory))
    assert state(host) == before


def test_one_failure_stops_nothing_else_and_keeps_the_journal(host: Namespace, journal: Journal) -> None:
    before = state(host)
    journal.note(SysctlSet("net/ipv4/conf/lo/tag", "no number"))
    journal.note(SysctlSet("net/ipv4/tcp_rmem", "no numbers"))
    change_everything(journal)
    with pytest.raises(
        KernelError, match=r"not everything .* net/ipv4/tcp_rmem .*; .* net/ipv4/conf/lo/tag "
    ):
        cleanup(journal)
    assert state(host) == before
    assert len(list(Journal(journal.directory).records())) > 2


def test_cleanup_is_refused_beside_a_running_daemon(namespace: Namespace) -> None:
    refuse_beside_daemon()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.bind(CONTROL_SOCKET)
        daemon.listen()
        with pytest.raises(UpmtError, match="a UPMT daemon runs in this network namespace"):
            refuse_beside_daemon()
    refuse_beside_daemon()


def test_the_journal_needs_no_directory_to_clean_up(namespace: Namespace, tmp_path: Path) -> None:
    assert cleanup(Journal(tmp_path / "no" / "such")) == []
