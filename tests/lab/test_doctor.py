"""The doctor on real hosts: healthy, after a crash, beside other people's rules."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def bare_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab without daemons."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def doctor(lab: Lab, *options: str, host: str = "mh") -> tuple[dict[str, dict[str, Any]], list[str], int]:
    answer = lab.on(host, *UPMT, "doctor", "--json", *options, check=False)
    value = json.loads(answer.stdout)
    return {finding["check"]: finding for finding in value["findings"]}, value["fixed"], answer.returncode


def errors(findings: dict[str, dict[str, Any]]) -> list[str]:
    return [check for check, finding in findings.items() if finding["state"] == "error"]


def links_and_rules(lab: Lab) -> str:
    return lab.on("mh", "sh", "-c", "ip -o link; ip rule; iptables-legacy-save | grep -v '^[#:]'").stdout


def test_without_a_daemon_it_says_what_would_be_chosen_and_changes_nothing(bare_lab: Lab) -> None:
    before = links_and_rules(bare_lab)
    findings, fixed, code = doctor(bare_lab, "--fix")
    assert links_and_rules(bare_lab) == before
    assert (errors(findings), fixed, code) == ([], [], 0)
    assert "would be made of" in findings["virtual_interface"]["detail"]
    assert set(findings["clock"]) == {"check", "state", "detail", "remedy", "is_fixable"}
    text = bare_lab.on("mh", *UPMT, "doctor").stdout
    assert "kernel.queue_target" in text


def test_a_killed_daemon_is_found_and_cleaned_up(bare_lab: Lab) -> None:
    before = links_and_rules(bare_lab)
    pid = bare_lab.start_daemon("mh")
    wait_until(lambda: bare_lab.is_answering("mh"), "the daemon answers")
    findings, _, _ = doctor(bare_lab)
    assert findings["leftovers"]["state"] == "ok"
    assert findings["daemon"]["state"] == "warning"  # no anchor runs
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not bare_lab.is_answering("mh"), "it is dead")
    findings, _, code = doctor(bare_lab)
    assert (errors(findings), code) == (["leftovers"], 1)
    findings, fixed, code = doctor(bare_lab, "--fix")
    assert (errors(findings), code) == ([], 0)
    assert any("interface upmt0 removed" in line for line in fixed)
    assert links_and_rules(bare_lab) == before
    bare_lab.end_programs()


def test_other_software_in_our_way_is_named(bare_lab: Lab) -> None:
    rule = ("pref", "4655", "fwmark", "0x3/0xff", "lookup", "99")
    mark = ("OUTPUT", "-d", "203.0.113.7/32", "-j", "MARK", "--set-xmark", "0x7/0xffffffff")
    bare_lab.on("mh", "ip", "rule", "add", *rule)
    bare_lab.on("mh", "iptables-legacy", "-t", "mangle", "-A", *mark)
    try:
        findings, _, code = doctor(bare_lab)
        assert code == 1
        assert errors(findings) == ["foreign_policy_rules", "foreign_marks"]
        assert "4655: fwmark 0x3/0xff lookup 99" in findings["foreign_policy_rules"]["detail"]
        assert "203.0.113.7" in findings["foreign_marks"]["detail"]
    finally:
        bare_lab.on("mh", "ip", "rule", "del", *rule)
        bare_lab.on("mh", "iptables-legacy", "-t", "mangle", "-D", *mark)


def test_a_healthy_pair_has_no_errors(lab: Lab) -> None:
    for host in ("mh", "an"):
        findings, _, code = doctor(lab, host=host)
        assert (errors(findings), code) == ([], 0)
        assert findings["rules"]["detail"] == "the kernel has exactly the daemon's rules"
        assert "is made of" in findings["virtual_interface"]["detail"]


def test_sysctls_that_somebody_changed_are_put_right(lab: Lab) -> None:
    lab.on("mh", "sysctl", "-qw", "net.ipv4.conf.if0.rp_filter=1")
    findings, _, code = doctor(lab)
    assert (errors(findings), code) == (["reverse_path"], 1)
    findings, fixed, code = doctor(lab, "--fix")
    assert (errors(findings), code, len(fixed)) == ([], 0, 1)
    lab.on("mh", "ping", "-c", "1", "86.0.0.1")
    lab.on("an", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    assert errors(doctor(lab, host="an")[0]) == ["forwarding"]
    lab.on("an", "sysctl", "-qw", "net.ipv4.ip_forward=1")
