"""Rule sets in and out of netfilter: twice is once, drift is found, nobody else's rule or counter is lost."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_namespace import Namespace

from upmt_nf.linux import netfilter
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.journal import Journal, RulesInstalled
from upmt_nf.linux.rule_files import read_rules
from upmt_nf.model.errors import FacilityError, KernelError
from upmt_nf.routing.rule_text import NetfilterRule, RuleSet, expand

pytestmark = pytest.mark.kernel

VALUES = {
    "anchor": "45.0.0.1",
    "tunnel_port": "1800",
    "virtual_interface": "upmt0",
    "queue_outbound": "7000",
    "queue_inbound": "",
    "judged": "0x1f07",
    "admitted": "0x1100",
    "unanswered": "0x1101",
    "unfinished": "0x1f07",
    "marks_of_admitted": "0x1ffe",
    "mark_mask": "0x1fff",
    "virtual_address": "",
    "native": "",
    "tunnelled": "",
    "marks_of_sockets": "",
    "mark_outer": "0x1000",
    "pool": "1.2.3.4-1.2.3.254",
    "nat_ports": "40000-60999",
    "between_hosts": "",
}
NETWORKS = (
    {
        "network_interface": "if0",
        "network_port": "1500",
        "network_anchor": "45.0.0.1",
        "network_anchor_port": "1800",
    },
)
APPLICATION = (
    "-A UPMT-CLASSIFY -m owner --uid-owner 7 -m mark --mark 0x0/0x1fff -j MARK --set-xmark 0x2/0x1fff"
)


@pytest.fixture
def host(namespace: Namespace) -> Namespace:
    """A namespace with rules of other software in every table, and counts on them."""
    for probe in (
        "-t raw -A OUTPUT -j CT --notrack",
        "-t mangle -A OUTPUT -m mark --mark 0x0/0x1fff -m owner --uid-owner 7 -j MARK --set-xmark 0x2/0x1fff",
        "-t mangle -A OUTPUT -j NFQUEUE --queue-num 7000",
        "-t nat -A POSTROUTING -p tcp -m iprange --src-range 1.2.3.4-1.2.3.5 -j MASQUERADE --to-ports 1-2",
        "-t mangle -A OUTPUT -m connmark --mark 0x1f07/0x1fff -j CONNMARK --save-mark --nfmask 0x1fff --ctmask 0x1fff",
        "-t filter -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    ):
        namespace.iptables(probe)
        namespace.iptables(f"{probe.partition('-A')[0]} -F")
    for rule in (
        "-t raw -A PREROUTING -p udp -j ACCEPT",
        "-t mangle -N OTHER",
        "-t mangle -A OTHER -m mark --mark 0x40000/0xff0000 -j RETURN",
        '-t mangle -A OUTPUT -p udp -m comment --comment "somebody else\'s" -j OTHER',
        "-t nat -A POSTROUTING -o lo -j ACCEPT",
        "-t filter -P FORWARD DROP",
        "-t filter -A OUTPUT -p udp --dport 9",
        "-t filter -A OUTPUT ! -o eth7 -p tcp -j REJECT --reject-with tcp-reset",
    ):
        namespace.iptables(rule)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for size in range(7):
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(bytes(size), ("127.0.0.1", 9))
    return namespace


def rules_of(role: str, *applications: str) -> RuleSet:
    return read_rules(role, VALUES, NETWORKS, applications)


def my_rules(*lines: str, table: str = "mangle") -> RuleSet:
    return expand("\n".join([f"*{table}", *lines]), "my.rules", VALUES)


def test_the_packaged_rules_go_in_and_twice_is_once(host: Namespace, journal: Journal) -> None:
    wanted = rules_of("mobile-host", APPLICATION)
    assert netfilter.install(wanted, journal) == [
        "table raw: UPMT-INBOUND, UPMT-NOTRACK, PREROUTING, OUTPUT",
        "table mangle: UPMT-CLASSIFY, UPMT-OUTBOUND, OUTPUT, POSTROUTING",
        "table filter: UPMT-INPUT, INPUT",
    ]
    before = host.rules(with_counters=True)
    assert netfilter.verify(wanted) == []
    assert netfilter.install(wanted, journal) == []
    assert host.rules(with_counters=True) == before
    assert list(journal.records()) == [RulesInstalled(4)]


def test_what_iptables_says_of_the_installed_rules(host: Namespace, journal: Journal) -> None:
    netfilter.install(rules_of("mobile-host", APPLICATION), journal)
    assert [line for line in host.rules().splitlines() if "UPMT-" in line and line.startswith("-A")] == [
        "-A PREROUTING -j UPMT-INBOUND",
        "-A OUTPUT -j UPMT-NOTRACK",
        "-A UPMT-INBOUND -s 45.0.0.1/32 -i if0 -p udp -m udp --sport 1800 --dport 1500 -j CT --notrack",
        "-A UPMT-NOTRACK -m mark --mark 0x1000/0x1000 -j CT --notrack",
        "-A OUTPUT -j UPMT-CLASSIFY",
        "-A POSTROUTING -j UPMT-OUTBOUND",
        "-A UPMT-CLASSIFY -o lo -j RETURN",
        "-A UPMT-CLASSIFY -m mark --mark 0x1000/0x1000 -j RETURN",
        APPLICATION,
        "-A UPMT-OUTBOUND ! -o upmt0 -j RETURN",
        "-A UPMT-OUTBOUND -m mark --mark 0x1101/0x1fff -j CHECKSUM --checksum-fill",
        "-A UPMT-OUTBOUND -m mark --mark 0x1100/0x1ffe -j RETURN",
        "-A UPMT-OUTBOUND -m connmark --mark 0x1f07/0x1fff -m conntrack --ctstate NEW -j CHECKSUM --checksum-fill",
        "-A UPMT-OUTBOUND -m connmark --mark 0x1f07/0x1fff -j RETURN",
        "-A UPMT-OUTBOUND -m mark --mark 0x1f07/0x1fff -j CONNMARK --save-mark --nfmask 0x1fff --ctmask 0x1fff",
        "-A UPMT-OUTBOUND -m mark --mark 0x1f07/0x1fff -j RETURN",
        "-A UPMT-OUTBOUND -j NFQUEUE --queue-num 7000",
        "-A INPUT -j UPMT-INPUT",
        "-A UPMT-INPUT -s 45.0.0.1/32 -i if0 -p udp -m udp --sport 1800 --dport 1500 -j ACCEPT",
    ]


def test_other_peoples_rules_survive_byte_for_byte_with_their_counts(
    host: Namespace, journal: Journal
) -> None:
    before = host.rules(with_counters=True)
    assert "[7:217] -A OUTPUT -p udp" in before
    for wanted in (rules_of("mobile-host"), rules_of("anchor"), rules_of("mobile-host", APPLICATION)):
        netfilter.install(wanted, journal)
        after = host.rules(with_counters=True)
        assert "UPMT-" in after
        assert [line for line in after.splitlines() if "UPMT-" not in line] == before.splitlines()
    assert netfilter.remove() == ["raw", "mangle", "filter"]
    assert host.rules(with_counters=True) == before
    assert netfilter.remove() == []


def test_one_rule_set_takes_the_place_of_another(host: Namespace, journal: Journal) -> None:
    netfilter.install(rules_of("anchor"), journal)
    changed = netfilter.install(rules_of("mobile-host"), journal)
    assert "table nat: our chains removed" in changed
    assert netfilter.verify(rules_of("mobile-host")) == []
    assert "MASQUERADE" not in host.rules()


def test_our_jumps_stand_before_other_peoples_verdicts(host: Namespace, journal: Journal) -> None:
    netfilter.install(rules_of("mobile-host"), journal)
    rules = host.run("iptables-legacy -w -t raw -S PREROUTING").splitlines()
    assert rules[1:] == ["-A PREROUTING -j UPMT-INBOUND", "-A PREROUTING -p udp -j ACCEPT"]


@pytest.mark.parametrize(
    ("damage", "drift"),
    [
        (
            "-D UPMT-CLASSIFY -o lo -j RETURN",
            ["mangle UPMT-CLASSIFY: missing out-interface lo, target RETURN"],
        ),
        ("-D OUTPUT -j UPMT-CLASSIFY", ["mangle OUTPUT: missing target UPMT-CLASSIFY"]),
        ("-A UPMT-CLASSIFY -j DROP", ["mangle UPMT-CLASSIFY: not ours target DROP"]),
        ("-A POSTROUTING -j UPMT-CLASSIFY", ["mangle POSTROUTING: not ours target UPMT-CLASSIFY"]),
        (
            "-R UPMT-CLASSIFY 1 -o lo -j ACCEPT",
            [
                "mangle UPMT-CLASSIFY: missing out-interface lo, target RETURN",
                "mangle UPMT-CLASSIFY: not ours out-interface lo, target ACCEPT",
            ],
        ),
        ("-A UPMT-CLASSIFY -o lo -j RETURN", ["mangle UPMT-CLASSIFY: the rules stand in another order"]),
    ],
)
def test_drift_is_named_and_put_right(
    host: Namespace, journal: Journal, damage: str, drift: list[str]
) -> None:
    wanted = rules_of("mobile-host", APPLICATION)
    netfilter.install(wanted, journal)
    good = host.rules()
    host.iptables(f"-t mangle {damage}")
    assert netfilter.verify(wanted) == drift
    assert len(netfilter.install(wanted, journal)) == 1
    assert netfilter.verify(wanted) == []
    assert host.rules() == good


def test_another_order_is_named_beside_other_drift(host: Namespace, journal: Journal) -> None:
    wanted = rules_of("mobile-host")
    netfilter.install(wanted, journal)
    host.iptables("-t raw -F UPMT-NOTRACK")
    host.iptables("-t mangle -D UPMT-CLASSIFY 1")
    host.iptables("-t mangle -A UPMT-CLASSIFY -o lo -j RETURN")
    assert [line.partition(": ")[0] for line in netfilter.verify(wanted)] == [
        "raw UPMT-NOTRACK",
        "mangle UPMT-CLASSIFY",
    ]


def test_everything_is_missing_before_it_is_installed(host: Namespace) -> None:
    assert len(netfilter.verify(rules_of("mobile-host"))) == len(rules_of("mobile-host").rules)


def changed_under_our_hands(host: Namespace, times: int) -> tuple[Callable[[Any, Any], None], list[int]]:
    """`netfilter._put`, but somebody else adds a rule each of the first `times` times before it is committed."""
    put, calls = netfilter._put, [0]

    def put_late(table: Any, wanted: Any) -> None:
        put(table, wanted)
        calls[0] += 1
        if calls[0] <= times:
            host.run(f"iptables-legacy -w -t {table.name} -A OUTPUT -m mark --mark {calls[0]:#x} -j ACCEPT")

    return put_late, calls


def test_a_change_by_somebody_else_meanwhile_is_kept_and_ours_is_done_again(
    host: Namespace, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_late, calls = changed_under_our_hands(host, 2)
    monkeypatch.setattr(netfilter, "_put", put_late)
    wanted = my_rules("-A OUTPUT -j UPMT-X", "-A UPMT-X -o lo -j RETURN")
    netfilter.install(wanted, journal)
    assert calls == [3]
    assert netfilter.verify(wanted) == []
    for number in (1, 2):
        assert f"-A OUTPUT -m mark --mark {number:#x} -j ACCEPT" in host.rules()
    put_late, calls = changed_under_our_hands(host, 1)
    monkeypatch.setattr(netfilter, "_put", put_late)
    assert netfilter.remove() == ["mangle"]
    assert calls == [2]
    assert "UPMT-" not in host.rules()


def test_endless_changes_by_somebody_else_are_an_error(
    host: Namespace, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_late, calls = changed_under_our_hands(host, 1000)
    monkeypatch.setattr(netfilter, "_put", put_late)
    monkeypatch.setattr(netfilter, "_ATTEMPTS", 3)
    with pytest.raises(KernelError, match=r"iptables table mangle: .*temporarily unavailable"):
        netfilter.install(my_rules("-A UPMT-X -o lo -j RETURN"), journal)
    assert calls == [3]
    assert "UPMT-" not in host.rules()


@pytest.mark.parametrize(
    "rule",
    [
        "-A UPMT-X -m nosuchmatch --value 1 -j RETURN",
        "-A UPMT-X -o lo -j NOSUCHTARGET",
        "-A UPMT-X -s host.invalid -j RETURN",
        "-A UPMT-X -o a-name-of-more-than-15-letters -j RETURN",
        "-A UPMT-X -p nosuchprotocol -j RETURN",
        "-A UPMT-X -p tcp -m tcp --dport 65536 -j RETURN",
        "-A UPMT-X -p tcp -m tcp --dprt 80 -j RETURN",
        "-A UPMT-X -p tcp -m tcp --dport -j RETURN",
        "-A UPMT-X -m mark --mark one -j RETURN",
        "-A UPMT-X -m mark --mark 1 -m mark --mark 2 -j RETURN",
        "-A UPMT-X -o lo -o eth0 -j RETURN",
        "-A UPMT-X -o lo -j NFQUEUE --queue-num 70000",
        "-A UPMT-X stray word -j RETURN",
        "-A UPMT-X -o lo -j",
        "-A UPMT-X -j RETURN -m",
    ],
)
def test_a_rule_that_iptables_cannot_take_whole_is_refused_before_anything_changes(
    host: Namespace, journal: Journal, rule: str
) -> None:
    before = host.rules()
    with pytest.raises(FacilityError, match=r"rule:? -A UPMT-X "):
        netfilter.install(my_rules("-A UPMT-X -o lo -j RETURN", rule), journal)
    assert host.rules() == before


@pytest.mark.parametrize(
    "rule",
    [
        "-A UPMT-X ! -s 10.0.0.0/8 ! -o lo -p tcp -m tcp ! --dport 80 -j RETURN",
        "-A UPMT-X ! -p udp -j RETURN",
        '-A UPMT-X -m comment --comment "two words" -j RETURN',
        "-A UPMT-X -p tcp -m tcp --dport 1:1023 -j MARK --set-xmark 0x2/0x1fff",
        "-A UPMT-X -m mark ! --mark 0x2/0x1fff -j NFQUEUE --queue-num 7 --queue-bypass",
    ],
)
def test_a_rule_comes_out_as_it_went_in(host: Namespace, journal: Journal, rule: str) -> None:
    netfilter.install(my_rules(rule), journal)
    assert host.run("iptables-legacy -w -t mangle -S UPMT-X").splitlines()[1:] == [rule]
    assert netfilter.verify(my_rules(rule)) == []


WORDS = st.sampled_from(["-m", "-j", "!", "-s", "-p", "--dport", "tcp", "RETURN", "10.0.0.0/8", ""])


@given(st.lists(WORDS | st.text(max_size=5), max_size=8))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    with contextlib.suppress(FacilityError):
        netfilter.as_rule(NetfilterRule("mangle", "UPMT-X", tuple(words)))


def test_ipv6_tables_are_others_and_come_and_go_on_their_own(namespace: Namespace, journal: Journal) -> None:
    if not namespace.succeeds("ip6tables-legacy -t mangle -S"):
        pytest.skip("the kernel has no ip6tables")
    namespace.run("ip6tables-legacy -t mangle -A OUTPUT -d 2001:db8::/32 -j ACCEPT")
    before = namespace.run("ip6tables-legacy -t mangle -S")
    marks = {"native": "0x1fff", "tunnelled": "0x1ffe"}
    lines = (APPLICATION, "-A UPMT-CLASSIFY -d 2001:db8:1::/48 -j MARK --set-xmark 0x3/0x1fff")
    ruleset = read_rules("mobile-host-ipv6", {**VALUES, **marks}, (), lines)
    assert netfilter.install(ruleset, journal, 6) == ["table mangle: UPMT-CLASSIFY, OUTPUT"]
    assert netfilter.install(ruleset, journal, 6) == []
    assert netfilter.verify(ruleset, 6) == []
    assert netfilter.verify(RuleSet(())) == []
    assert (
        namespace.run("ip6tables-legacy -t mangle -S OUTPUT").splitlines()[1] == "-A OUTPUT -j UPMT-CLASSIFY"
    )
    namespace.run("ip6tables-legacy -t mangle -D UPMT-CLASSIFY 1")
    assert netfilter.verify(ruleset, 6) == ["mangle UPMT-CLASSIFY: missing out-interface lo, target RETURN"]
    assert cleanup(journal) == ["netfilter chains removed from IPv6 mangle"]
    assert namespace.run("ip6tables-legacy -t mangle -S") == before
