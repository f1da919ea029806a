"""Rules of docker, firewalld and the administrator beside ours: theirs stay byte for byte, ours come back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

DOCKER = """\
*nat
:DOCKER - [0:0]
[7:420] -A PREROUTING -d 203.0.113.8/32 -m addrtype --dst-type LOCAL -j DOCKER
[3:180] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[2:120] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:FORWARD DROP [0:0]
[9:540] -A FORWARD -j DOCKER-USER
[8:480] -A FORWARD -o docker0 -j DOCKER
[4:240] -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
[1:60] -A DOCKER-USER -j RETURN
COMMIT
"""
FIREWALLD = """\
*mangle
:PREROUTING_direct - [0:0]
[5:300] -A PREROUTING -d 203.0.113.5/32 -j PREROUTING_direct
COMMIT
*filter
:INPUT_ZONES - [0:0]
[6:360] -A INPUT -s 203.0.113.6/32 -j INPUT_ZONES
[0:0] -A INPUT_ZONES -j REJECT --reject-with icmp-host-prohibited
COMMIT
"""
USERS = """\
*raw
[2:99] -A PREROUTING -s 203.0.113.1/32 -j DROP
COMMIT
*mangle
[1:50] -A OUTPUT -d 203.0.113.2/32 -m comment --comment "mine, not yours" -j MARK --set-xmark 0x40000/0xff0000
COMMIT
"""
IPV6 = """\
*mangle
[4:320] -A OUTPUT -d 2001:db8:f::/48 -j MARK --set-xmark 0x40000/0xff0000
COMMIT
*filter
[3:240] -A INPUT -s 2001:db8:f::/48 -j DROP
COMMIT
"""
GUARDED = """
[[application]]
name = "guarded"
on_no_network = "hold"
[[application.match]]
gid = 35
"""


@pytest.fixture(scope="module")
def crowded_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A mobile host with everybody's rules and counts on them, and no daemon yet."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        for number, (tool, text) in enumerate(
            (("iptables", DOCKER), ("iptables", FIREWALLD), ("iptables", USERS), ("ip6tables", IPV6))
        ):
            file = lab.directory / f"rules-{number}"
            file.write_text(text)
            lab.on("mh", "sh", "-c", f"{tool}-legacy-restore -c --noflush <{file}")
        lab.start_daemon("an")
        wait_until(lambda: lab.is_answering("an"), "the anchor answers", 30)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def others(lab: Lab) -> str:
    """Everybody else's rules with their counts; built-in chains count what passes and are left out."""
    saved = lab.on("mh", "sh", "-c", "iptables-legacy-save -c; ip6tables-legacy-save -c").stdout
    lines = (line for line in saved.splitlines() if "UPMT" not in line and not line.startswith("#"))
    return "\n".join(re.sub(r"^(:[A-Z]+ [A-Z]+) \[.*", r"\1", line) for line in lines)


def config_of(lab: Lab) -> str:
    file = lab.directory / "mobile-host.toml"
    file.write_text((lab.directory_of_state() / "mobile-host.toml").read_text() + GUARDED)
    return str(file)


def verify(lab: Lab, *more: str) -> list[str]:
    words = (*UPMT, "rules", "verify", "--role", "mobile-host", "--json", *more)
    drift: list[str] = json.loads(lab.on("mh", *words, check=False).stdout)["drift"]
    return drift


def test_the_commands_of_a_dry_run_do_exactly_what_install_does(crowded_lab: Lab) -> None:
    lab = crowded_lab
    before = others(lab)
    given = ("--role", "mobile-host", "--config", config_of(lab))
    assert len(verify(lab, *given[2:])) > 5
    commands = lab.on("mh", *UPMT, "rules", "install", *given, "--dry-run").stdout
    assert others(lab) == before
    assert "ip6tables -t mangle -A UPMT-CLASSIFY" in commands
    lab.on("mh", "sh", "-ec", re.sub(r"\b(ip6?tables) ", r"\1-legacy ", commands))
    assert verify(lab, *given[2:]) == []
    assert "nothing to do" in lab.on("mh", *UPMT, "rules", "install", *given).stdout
    assert others(lab) == before
    removal = lab.on("mh", *UPMT, "rules", "remove", "--role", "mobile-host", "--dry-run").stdout
    lab.on("mh", "sh", "-ec", re.sub(r"\b(ip6?tables) ", r"\1-legacy ", removal))
    assert "UPMT" not in lab.on("mh", "sh", "-c", "iptables-legacy-save; ip6tables-legacy-save").stdout
    lab.on("mh", *UPMT, "rules", "install", *given)
    assert verify(lab, *given[2:]) == []
    lab.on("mh", *UPMT, "rules", "remove", "--role", "mobile-host")
    assert others(lab) == before


def test_what_others_do_to_our_rules_is_put_back_and_theirs_stay(crowded_lab: Lab) -> None:
    lab = crowded_lab
    before = others(lab)
    lab.start_daemon("mh", lab.directory / "mobile-host.toml")
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
    lab.await_networks_up()
    assert verify(lab) == []
    assert others(lab) == before
    mischief = {
        "docker restarts": "iptables-legacy -I INPUT 1 -s 203.0.113.66 -j DROP; iptables-legacy -D INPUT 1",
        "one single rule is lost": "iptables-legacy -t mangle -D UPMT-CLASSIFY 1",
        "firewalld reloads": "for tool in iptables ip6tables; do "
        "$tool-legacy-save -c | grep -v UPMT | $tool-legacy-restore -c; done",
        "networkd cleans up": "for p in 4600 4640 4648 4660 4680 4700; do ip rule del pref $p; done; "
        "ip -6 rule del pref 4700; ip -6 route flush table 7000; ip route flush table 7000; ip route flush table 7001",
    }
    for what, command in mischief.items():
        lab.on("mh", "sh", "-c", command)
        wait_until(lambda: not verify(lab), f"our rules are back after: {what}", 30)
        assert others(lab) == before, what
        wait_until(
            lambda: lab.on("mh", "ping", "-c1", "-W1", "86.0.0.1", check=False).returncode == 0, what, 30
        )
    assert lab.ask("status")["counters"]["rules_repaired"] >= 3


def test_drift_is_named_rule_by_rule_beside_a_running_daemon(crowded_lab: Lab) -> None:
    lab = crowded_lab
    lab.on("mh", "sh", "-c", "ip rule add pref 4699 lookup 7000 protocol 117")
    drift = verify(lab)
    assert drift in ([], ["routing: not ours ip rule add pref 4699 from all lookup 7000 protocol 117"])
    shown = json.loads(lab.on("mh", *UPMT, "rules", "show", "--role", "mobile-host", "--json").stdout)
    assert {"table": "mangle", "chain": "OUTPUT", "rule": "-A OUTPUT -j UPMT-CLASSIFY"} in shown["rules_ipv6"]
    assert any(line.startswith("ip rule add pref 4648") for line in shown["routing"])
    assert "UPMT-CLASSIFY" in lab.on("mh", *UPMT, "rules", "show", "--role", "mobile-host", "--ipv6").stdout
