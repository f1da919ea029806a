"""Nothing stays behind: after a clean stop, and after `kill -9` of either daemon at any moment."""

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_state import assert_as_before, is_zombie, state_of
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

FOREIGN_RULES = (
    ("-t", "mangle", "-A", "OUTPUT", "-d", "203.0.113.7/32", "-j", "MARK", "--set-xmark", "0x40000/0xff0000"),
    ("-A", "FORWARD", "-s", "203.0.113.0/24", "-j", "DROP"),
    ("-t", "nat", "-A", "POSTROUTING", "-s", "203.0.113.9/32", "-j", "MASQUERADE"),
)
FOREIGN_ROUTING = (
    ("ip", "rule", "add", "pref", "5210", "fwmark", "0x80000/0xff0000", "lookup", "52"),
    ("ip", "route", "add", "203.0.113.0/24", "via", "192.168.100.1", "dev", "if0", "table", "52"),
)


@pytest.fixture(scope="module")
def bare_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab without daemons, whose hosts have rules and routes of other people."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        for host in ("mh", "an"):
            for rule in FOREIGN_RULES:
                lab.on(host, "iptables-legacy", *rule)
        for words in FOREIGN_ROUTING:
            lab.on("mh", *words)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_a_clean_stop_leaves_nothing(bare_lab: Lab) -> None:
    before = {host: state_of(bare_lab, host) for host in ("mh", "an")}
    bare_lab.start_daemon("an")
    bare_lab.start_daemon("mh")
    wait_until(lambda: bare_lab.is_answering("mh"), "the daemon answers")
    bare_lab.await_networks_up()
    bare_lab.on("mh", *UPMT, "run", "--app", "tidy", "--", "ping", "-c", "1", "86.0.0.1")
    assert state_of(bare_lab, "mh") != before["mh"]
    assert state_of(bare_lab, "an") != before["an"]
    bare_lab.end_programs()
    for host in ("mh", "an"):
        assert_as_before(before[host], bare_lab, host)
        assert "nothing to put back" in bare_lab.on(host, *UPMT, "cleanup").stdout


def test_a_clean_stop_says_goodbye_to_the_anchor(bare_lab: Lab) -> None:
    bare_lab.start_daemon("an")
    pid = bare_lab.start_daemon("mh")
    wait_until(lambda: bare_lab.is_answering("mh"), "the daemon answers")
    bare_lab.await_networks_up()
    assert len(bare_lab.ask("status", host="an")["associations"]) == 1
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not bare_lab.ask("status", host="an")["associations"], "the lease is given back")
    bare_lab.end_programs()


@pytest.mark.parametrize("moment", range(10))
def test_kill_nine_at_any_moment_is_cleaned_up(bare_lab: Lab, moment: int) -> None:
    before = {host: state_of(bare_lab, host) for host in ("an", "mh")}
    daemons = {host: bare_lab.start_daemon(host) for host in ("an", "mh")}
    # The first moments lie within start-up, which takes about half a second; the last ones within work.
    moments = random.Random(f"moment {moment}")
    time.sleep(moments.uniform(0.1 * moment, 0.1 * (moment + 1)) + 0.25)
    for pid in moments.sample(tuple(daemons.values()), 2):
        os.kill(pid, signal.SIGKILL)
        time.sleep(moments.uniform(0, 0.2))
    for pid in daemons.values():
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}/fd").exists() or is_zombie(pid), "it is dead")  # type: ignore[misc]
    for host in daemons:
        bare_lab.on(host, *UPMT, "cleanup")
    bare_lab.end_programs()
    for host in daemons:
        assert_as_before(before[host], bare_lab, host)
        assert "nothing to put back" in bare_lab.on(host, *UPMT, "cleanup").stdout


def test_a_killed_daemon_starts_again_over_what_it_left(bare_lab: Lab) -> None:
    before = state_of(bare_lab, "mh")
    bare_lab.start_daemon("an")
    for _ in range(2):
        pid = bare_lab.start_daemon("mh")
        wait_until(lambda: bare_lab.is_answering("mh"), "the daemon answers")
        bare_lab.await_networks_up()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not bare_lab.is_answering("mh"), "it is dead")
    bare_lab.start_daemon("mh")
    wait_until(lambda: bare_lab.is_answering("mh"), "the daemon answers")
    bare_lab.await_networks_up()
    assert bare_lab.ask("status")["association"]["virtual_address"] == "1.2.3.4"
    bare_lab.on("mh", "ping", "-c", "1", "86.0.0.1")
    bare_lab.end_programs()
    assert_as_before(before, bare_lab, "mh")


def test_cleanup_is_refused_beside_a_running_daemon(bare_lab: Lab) -> None:
    bare_lab.start_daemon("an")
    wait_until(lambda: bare_lab.is_answering("an"), "the daemon answers")
    for words in (("cleanup",), ("rules", "remove", "--role", "anchor")):
        answer = bare_lab.on("an", *UPMT, *words, check=False)
        assert answer.returncode == 1
        assert "daemon runs" in answer.stderr
    assert bare_lab.is_answering("an")
    bare_lab.end_programs()


def test_a_network_whose_interface_is_missing_is_down_and_the_others_work(
    bare_lab: Lab, tmp_path: Path
) -> None:
    config = tmp_path / "mobile-host.toml"
    text = (bare_lab.directory_of_state() / "mobile-host.toml").read_text()
    config.write_text(text + '\n[[network]]\nname = "sat"\ninterface = "wwan7"\n')
    bare_lab.start_daemon("an")
    bare_lab.start_daemon("mh", config)
    wait_until(lambda: bare_lab.is_answering("mh"), "the daemon answers")

    def states() -> dict[str, str]:
        return {network["name"]: network["state"] for network in bare_lab.ask("networks")}

    wait_until(lambda: states() == {"net0": "up", "net1": "up", "sat": "down"}, "two networks are up")
    missing = next(network for network in bare_lab.ask("networks") if network["name"] == "sat")
    assert "wwan7" in missing["reason"]
    bare_lab.on("mh", "ping", "-c", "1", "86.0.0.1")
    bare_lab.end_programs()


def test_rules_can_be_shown_installed_verified_and_removed_without_a_daemon(bare_lab: Lab) -> None:
    before = state_of(bare_lab, "an")
    config = ("--role", "anchor", "--config", str(bare_lab.directory_of_state() / "anchor.toml"))
    shown = bare_lab.on("an", *UPMT, "rules", "show", *config).stdout
    assert "-A UPMT-NAT" in shown
    dry = bare_lab.on("an", *UPMT, "rules", "install", *config, "--dry-run").stdout
    assert "iptables -t nat -N UPMT-NAT" in dry
    assert_as_before(before, bare_lab, "an")
    bare_lab.on("an", *UPMT, "rules", "install", *config)
    installed = state_of(bare_lab, "an")
    assert installed != before
    assert "nothing to do" in bare_lab.on("an", *UPMT, "rules", "install", *config).stdout
    assert state_of(bare_lab, "an") == installed
    bare_lab.on("an", *UPMT, "rules", "verify", *config)
    bare_lab.on("an", "iptables-legacy", "-t", "nat", "-D", "UPMT-NAT", "1")
    drift = bare_lab.on("an", *UPMT, "rules", "verify", *config, check=False)
    assert drift.returncode == 1
    assert re.search(r"nat UPMT-NAT: missing .*RETURN", drift.stdout)
    bare_lab.on("an", *UPMT, "rules", "remove", "--role", "anchor")
    assert_as_before(before, bare_lab, "an")
    bare_lab.on("an", *UPMT, "cleanup")
