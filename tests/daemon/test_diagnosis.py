"""What the doctor makes of facts, without a kernel."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from upmt_nf.daemon.diagnosis import DaemonFacts, Finding, diagnose, foreign_marks
from upmt_nf.linux.facilities import RULES
from upmt_nf.linux.host_facts import HostFacts, PolicyRule
from upmt_nf.linux.resolver_view import ResolverFacts

HEALTHY = HostFacts(
    facilities=dict.fromkeys(
        (
            *RULES, "network_namespace", "policy_routing", "packet_queue", "fast_plane", "kernel_admission",
            "process_events", "socket_record",
            "interface_dummy", "interface_ifb", "interface_tun",
        )
    ),
    has_tun_device=True,
    cgroup2="/sys/fs/cgroup",
    knows_cgroup2=True,
    policy_rules=(PolicyRule(0, 4, 2, None, None, 255), PolicyRule(32766, 4, 2, None, None, 254)),
    rules_legacy="",
    rules_nft="",
    nft_tables=(),
    reverse_path={"all": "0", "wlan0": "2", "eth9": "1"},
    src_valid_mark="0",
    ip_forward="0",
    has_default_route=True,
    virtual_interface_kind=None,
    journal_records=0,
    now=1.8e9,
    is_clock_synchronised=True,
    path_mtu_discovery="0",
    link_mtus={"wlan0": 1500, "upmt0": 1440},
)  # fmt: skip
HOST = DaemonFacts("mobile-host", ("wlan0",), (), "associated", tunnel_mtus={"wifi": 1440})


def finding(check: str, daemon: DaemonFacts | None = None, **changed: Any) -> Finding:
    return next(each for each in diagnose(replace(HEALTHY, **changed), daemon) if each.check == check)


def state(check: str, daemon: DaemonFacts | None = None, **changed: Any) -> str:
    return finding(check, daemon, **changed).state.value


@pytest.mark.parametrize("daemon", [None, HOST])
def test_a_healthy_host_has_nothing_to_complain_of(daemon: DaemonFacts | None) -> None:
    assert {each.state.value for each in diagnose(HEALTHY, daemon)} == {"ok"}


def test_every_finding_can_be_written_as_json() -> None:
    report = finding("clock").report()
    assert report == {
        "check": "clock",
        "state": "ok",
        "detail": "the clock is synchronised",
        "remedy": None,
        "is_fixable": False,
    }


def test_a_missing_facility_is_an_error_only_where_nothing_works_without_it() -> None:
    missing = dict(HEALTHY.facilities, queue_target="no such target", owner_match="no such match")
    assert state("kernel.queue_target", facilities=missing) == "error"
    assert "no such target" in finding("kernel.queue_target", facilities=missing).detail
    assert state("kernel.owner_match", facilities=missing) == "warning"
    del missing["queue_target"]
    assert state("kernel.queue_target", facilities=missing) == "warning"


def test_the_virtual_interface_says_what_was_chosen_and_why() -> None:
    without = dict(HEALTHY.facilities, interface_dummy="not supported")
    found = finding("virtual_interface", facilities=without)
    assert (found.state.value, found.detail) == ("ok", "upmt0 would be made of ifb; the kernel lacks dummy")
    none = dict(without, interface_ifb="no", interface_tun="no")
    assert state("virtual_interface", facilities=none) == "error"
    running = finding("virtual_interface", HOST, virtual_interface_kind="ifb", facilities=without)
    assert running.detail == "upmt0 is made of ifb; the kernel lacks dummy"


def test_cgroups() -> None:
    assert "mounts one for itself" in finding("kernel.cgroup2", cgroup2=None).detail
    assert state("kernel.cgroup2", cgroup2=None, knows_cgroup2=False) == "warning"


@pytest.mark.parametrize(
    "left",
    [
        {"journal_records": 7},
        {"virtual_interface_kind": "dummy"},
        {"policy_rules": (PolicyRule(4700, 4, 117, None, None, 7000),)},
        {"rules_legacy": "*raw\n:UPMT-INBOUND - [0:0]\n"},
    ],
)
def test_what_a_killed_daemon_left_is_an_error_without_a_daemon(left: dict[str, Any]) -> None:
    found = finding("leftovers", **left)
    assert found.state.value == "error"
    assert found.is_fixable == ("journal_records" in left)
    assert state("leftovers", HOST, **left) == "ok"


def test_a_kill_switch_is_no_leftover_that_may_be_put_back_unasked() -> None:
    guarded = (PolicyRule(4648, 4, 117, 3, 0x1FFF, 7000),)
    found = finding("leftovers", policy_rules=guarded, journal_records=7)
    assert (found.state.value, found.is_fixable) == ("warning", False)
    assert "`upmt cleanup` lifts it" in (found.remedy or "")
    assert state("leftovers", HOST, policy_rules=guarded) == "ok"


def test_drift_of_the_rules() -> None:
    found = finding("rules", replace(HOST, drift=("raw UPMT-INBOUND: missing x",)))
    assert (found.state.value, found.is_fixable) == ("error", True)
    assert "UPMT-INBOUND" in found.detail


@pytest.mark.parametrize(
    ("overall", "own", "expected"),
    [("0", "0", "ok"), ("1", "0", "error"), ("0", "1", "error"), ("1", "2", "ok"), ("2", "1", "ok")],
)
def test_the_reverse_path_is_strict_where_the_larger_value_is_one(
    overall: str, own: str, expected: str
) -> None:
    assert state("reverse_path", HOST, reverse_path={"all": overall, "wlan0": own}) == expected
    assert state("reverse_path", None, reverse_path={"all": overall, "wlan0": own}) == "ok"


def test_an_anchor_must_forward() -> None:
    anchor = DaemonFacts("anchor", ("eth0",), ())
    assert state("forwarding", anchor, ip_forward="0") == "error"
    assert state("forwarding", anchor, ip_forward="1") == "ok"
    assert state("forwarding", HOST, ip_forward="0") == "ok"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (PolicyRule(5210, 4, 0, 0x80000, 0xFF0000, 52), "ok"),
        (PolicyRule(100, 4, 0, None, None, 99), "warning"),
        (PolicyRule(4650, 4, 16, None, None, 99), "warning"),
        (PolicyRule(9000, 4, 0, 0x1, 0xFFFFFFFF, 99), "error"),
        (PolicyRule(9000, 6, 0, 0x1000, 0x1000, 99), "error"),
        (PolicyRule(4600, 4, 117, 0x1001, 0x1FFF, 7001), "ok"),
    ],
)
def test_rules_of_other_software(rule: PolicyRule, expected: str) -> None:
    assert state("foreign_policy_rules", HOST, policy_rules=(*HEALTHY.policy_rules, rule)) == expected


@pytest.mark.parametrize(
    ("line", "is_ours"),
    [
        ("-A OUTPUT -j MARK --set-xmark 0x40000/0xff0000", False),
        ("-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff", True),
        ("-A PREROUTING -m mark --mark 0x1000 -j ACCEPT", True),
        ("-A PREROUTING -m mark ! --mark 0x4000/0x4000 -j ACCEPT", False),
        ("-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000", False),
        ("-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", True),
        ("-A PREROUTING -m connmark --mark 0x1/0xff -j ACCEPT", False),
        ("-A UPMT-CLASSIFY -j MARK --set-xmark 0x2/0x1fff", False),
        ("-A FORWARD -s 10.0.0.0/8 -j DROP", False),
    ],
)
def test_who_uses_our_mark_bits(line: str, is_ours: bool) -> None:
    assert foreign_marks(f"*mangle\n{line}\nCOMMIT\n") == ([line] if is_ours else [])
    assert state("foreign_marks", rules_legacy=line) == ("error" if is_ours else "ok")


def test_two_kinds_of_netfilter() -> None:
    assert state("netfilter", rules_legacy=None) == "warning"
    assert state("netfilter", nft_tables=("inet filter",)) == "ok"
    assert state("netfilter", HOST, nft_tables=("inet filter",)) == "warning"
    assert state("netfilter", rules_legacy="-A INPUT -j ACCEPT", rules_nft="-A INPUT -j DROP") == "warning"


def test_clock_and_default_route() -> None:
    assert state("clock", now=1e9) == "error"
    assert state("clock", is_clock_synchronised=False) == "warning"
    assert state("default_route", has_default_route=False) == "warning"


def test_a_host_without_an_association_is_a_warning() -> None:
    found = finding("daemon", replace(HOST, association="registering: no answer"))
    assert (found.state.value, "no answer" in found.detail) == ("warning", True)


def test_the_tables_of_ipv6_are_looked_at_too() -> None:
    line = "-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff"
    assert state("foreign_marks", rules_legacy_ipv6=line) == "error"
    assert finding("foreign_marks", rules_nft_ipv6=line).detail.endswith("(IPv6, nft)")
    assert (
        "netfilter chains of IPv6" in finding("leftovers", rules_legacy_ipv6=":UPMT-CLASSIFY - [0:0]").detail
    )
    assert state("netfilter", rules_legacy="-A INPUT -j DROP", rules_nft_ipv6="-A INPUT -j DROP") == "warning"


SOFTWARE: dict[str, tuple[str, str, tuple[PolicyRule, ...]]] = {
    "docker": (
        "ok",
        """*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
COMMIT""",
        (),
    ),
    "kubernetes": (
        "ok",
        """*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT""",
        (),
    ),
    "calico": (
        "ok",
        """*mangle
:cali-PREROUTING - [0:0]
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -j MARK --set-xmark 0x0/0xe0000
-A cali-PREROUTING -m mark --mark 0x20000/0x20000 -j ACCEPT
COMMIT""",
        (),
    ),
    "tailscale": (
        "warning",
        """*filter
:ts-forward - [0:0]
:ts-input - [0:0]
-A ts-forward -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000
-A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT
COMMIT""",
        (
            PolicyRule(5210, 4, 0, 0x80000, 0xFF0000, 254),
            PolicyRule(5230, 4, 0, 0x80000, 0xFF0000, 253),
            PolicyRule(5250, 4, 0, 0x80000, 0xFF0000, 0),
            PolicyRule(5270, 4, 0, None, None, 52),
        ),
    ),
    "mullvad": ("warning", "", (PolicyRule(32764, 4, 0, 0x6D6F6C65, 0xFFFFFFFF, 0x6D6F6C65),)),
    "wg-quick": (
        "warning",
        """*mangle
-A PREROUTING -p udp -m comment --comment "wg-quick(8) rule for wg0" -j CONNMARK --restore-mark
-A POSTROUTING -p udp -m mark --mark 0xca6c -m comment --comment "wg-quick(8)" -j CONNMARK --save-mark
COMMIT""",
        (PolicyRule(32765, 4, 3, 0xCA6C, 0xFFFFFFFF, 51820), PolicyRule(32764, 4, 3, None, None, 254)),
    ),
}


@pytest.mark.parametrize("name", SOFTWARE)
def test_other_software_is_known_by_what_it_leaves(name: str) -> None:
    expected, saved, rules = SOFTWARE[name]
    changed: dict[str, Any] = {"rules_legacy": saved, "policy_rules": (*HEALTHY.policy_rules, *rules)}
    found = diagnose(replace(HEALTHY, **changed), HOST)
    (software,) = [each for each in found if each.check.startswith("software.")]
    assert (software.check, software.state.value) == (f"software.{name}", expected)
    assert (software.remedy is None) == (expected == "ok")
    # Whose marks are whole words stands on our bits; the others keep off them.
    on_our_bits = name in ("mullvad", "wg-quick")
    assert state("foreign_policy_rules", HOST, **changed) == ("error" if on_our_bits else "ok")
    assert state("foreign_marks", HOST, **changed) == ("error" if name == "wg-quick" else "ok")


def test_a_host_without_any_of_it_is_told_of_none() -> None:
    assert not [each for each in diagnose(HEALTHY, HOST) if each.check.startswith("software.")]


def test_bits_that_are_turned_over_are_written_too() -> None:
    assert state("foreign_marks", rules_legacy="-A X -j MARK --set-xmark 0x4000/0x0") == "ok"
    assert state("foreign_marks", rules_legacy="-A X -j MARK --set-xmark 0x1/0x0") == "error"


@pytest.mark.parametrize(
    ("changed", "tunnels", "expected", "said"),
    [
        ({}, {"wifi": 1440, "lte": 1372}, "ok", "1440 by wifi, 1372 by lte bytes; upmt0 has 1440"),
        ({}, {}, "ok", "wide enough"),
        ({}, {"wifi": 1440, "lte": 1240}, "warning", "1240 by lte"),
        ({"link_mtus": {"wwan0": 1280}}, {}, "warning", "1280 by wwan0"),
        ({"path_mtu_discovery": "1"}, {"wifi": 1440}, "warning", "ip_no_pmtu_disc is 1"),
        ({"path_mtu_discovery": None}, {"wifi": 1440}, "ok", "1440"),
    ],
)
def test_the_size_of_packets(
    changed: dict[str, Any], tunnels: dict[str, int], expected: str, said: str
) -> None:
    found = finding("mtu", replace(HOST, tunnel_mtus=tunnels), **changed)
    assert (found.state.value, said in found.detail) == (expected, True), found


@pytest.mark.parametrize(("mark", "strict"), [("0", "2"), ("1", "2"), ("0", "1"), ("1", "1")])
def test_a_marked_source_check_is_told_and_does_not_make_strict_checks_good(mark: str, strict: str) -> None:
    found = finding("reverse_path", HOST, src_valid_mark=mark, reverse_path={"all": "0", "wlan0": strict})
    assert found.state.value == ("ok" if strict == "2" else "error")
    if strict == "2":
        assert f"src_valid_mark is {mark}" in found.detail


@pytest.mark.parametrize("daemon", [None, HOST, DaemonFacts("anchor", ("eth0",), ("drift",), "lost: why")])
def test_whatever_is_not_well_comes_with_its_remedy(daemon: DaemonFacts | None) -> None:
    bad = replace(
        HEALTHY,
        facilities=dict.fromkeys(HEALTHY.facilities, "no such thing"),
        cgroup2=None,
        knows_cgroup2=False,
        policy_rules=(PolicyRule(100, 4, 0, 0x1, 0xFFFFFFFF, 99),),
        rules_legacy="\n".join(saved for _, saved, _ in SOFTWARE.values()),
        rules_nft="-A INPUT -j DROP",
        reverse_path={"all": "1", "wlan0": "1"},
        has_default_route=False,
        journal_records=3,
        now=0.0,
        is_clock_synchronised=False,
        path_mtu_discovery="1",
        resolver=ResolverFacts((ip_address("127.0.0.53"),), (), ("dns",), has_cache_daemon=False),
    )
    found = [each for each in diagnose(bad, daemon) if each.state.value != "ok"]
    assert len(found) > 20
    assert [each.check for each in found if not each.remedy] == []
    without_tools = diagnose(replace(bad, rules_legacy=None, facilities={}), daemon)
    assert [each.check for each in without_tools if each.state.value != "ok" and not each.remedy] == []


@pytest.mark.parametrize(
    ("resolver", "said"),
    [
        (None, "no application's but its own"),
        ("default", "go as the application default"),
        ("lookups", "go as the application lookups"),
        ("native", "are left alone"),
    ],
)
def test_whose_the_look_ups_of_a_stub_are_is_said(resolver: str | None, said: str) -> None:
    stub = ResolverFacts((ip_address("127.0.0.53"),), (), ("dns",), has_cache_daemon=False)
    daemon = replace(HOST, resolver=resolver) if resolver is not None else None
    found = finding("dns", daemon, resolver=stub)
    assert (found.state.value, said in found.detail) == ("warning", True)
    assert "resolver = " in (found.remedy or "")
