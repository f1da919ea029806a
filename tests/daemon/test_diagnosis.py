"""What the doctor makes of facts, without a kernel."""

from dataclasses import replace
from typing import Any

import pytest

from upmt_nf.daemon.diagnosis import DaemonFacts, Finding, diagnose, foreign_marks
from upmt_nf.linux.facilities import RULES
from upmt_nf.linux.host_facts import HostFacts, PolicyRule

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
)  # fmt: skip
HOST = DaemonFacts("mobile-host", ("wlan0",), (), "associated")


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
