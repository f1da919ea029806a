"""Real NATs in the way: they forget, rebind, and hold dead mappings."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

TIMEOUT = 7
"""Seconds that gw0 keeps a silent UDP mapping."""
started: list[int] = []
"""The host's daemon that runs now, by pid."""


@pytest.fixture(scope="module")
def nat_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with sealed tunnels whose host thinks it idle after two seconds."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--protection", "sealed")
        text = (lab.directory_of_state() / "mobile-host.toml").read_text()
        idle = "keepalive_interval = 1.0\nidle_after = 2.0\nkeepalive_idle = 2.0\nkeepalive_longest = 12.0"
        config_of(lab).write_text(text.replace("keepalive_interval = 1.0", idle))
        lab.start_daemon("an")
        started.append(lab.start_daemon("mh", config_of(lab)))
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 40)
        lab.await_networks_up()
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def config_of(lab: Lab) -> Path:
    return lab.directory / "mobile-host.toml"


def network(lab: Lab, name: str = "net0") -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in lab.ask("networks") if row["name"] == name)
    return found


def tunnel(lab: Lab, name: str = "net0") -> dict[str, Any]:
    found: dict[str, Any] = next((row for row in lab.ask("tunnels") if row["network"] == name), {})
    return found


def mapping(lab: Lab, gateway: str = "gw0") -> str | None:
    """The kernel's own number of the tunnel's entry in the gateway's conntrack."""
    words = ("conntrack", "-L", "-p", "udp", "--orig-port-src", "1500", "-o", "id")
    for line in lab.on(gateway, *words, check=False).stdout.splitlines():
        for word in line.split():
            if word.startswith("id="):
                return word
    return None


def test_a_nats_patience_is_found_and_its_mapping_kept(nat_lab: Lab) -> None:
    lab = nat_lab
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
        lab.on("gw0", "sh", "-c", f"echo {TIMEOUT} > /proc/sys/net/netfilter/{name}")
    at_the_nat = TIMEOUT / 1.25

    def found() -> bool:
        known = network(lab)["binding_time_s"]
        return known is not None and at_the_nat < known <= TIMEOUT + 0.3

    wait_until(found, "the NAT's patience is known", 240)
    kept = mapping(lab)
    assert kept is not None
    packets = lab.counters()["if0"]
    start = time.monotonic()
    while time.monotonic() - start < 30:
        assert mapping(lab) == kept, "another mapping, or none"
        time.sleep(1.0)
    spent = lab.counters()["if0"] - packets
    assert spent < 55, "fewer than one exchange a second would be, trials included"
    shown = network(lab)
    assert shown["state"] == "up"
    assert shown["keepalive_s"] < TIMEOUT


def test_what_was_found_is_remembered_over_a_restart(nat_lab: Lab) -> None:
    lab = nat_lab
    wait_until(lambda: network(lab)["binding_time_s"], "something is known", 60)
    known = network(lab)["binding_time_s"]
    remembered = json.loads((lab.directory_of_state() / "mobile-host.json").read_text())["binding_times"]
    assert "net0 192.168.100.1 192.168.100.0/24" in remembered
    os.kill(started.pop(), signal.SIGTERM)
    wait_until(lambda: not lab.is_answering("mh"), "the daemon has ended")
    started.append(lab.start_daemon("mh", config_of(lab)))
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 40)
    assert network(lab)["binding_time_s"] == pytest.approx(known, rel=0.3)
    lab.await_networks_up()


def test_a_nat_that_rebinds_is_followed_after_a_proof_and_not_by_a_packet(nat_lab: Lab) -> None:
    lab = nat_lab
    lab.await_networks_up()
    assert tunnel(lab)["reflexive"] == "160.80.100.1:33000"
    before = lab.ask("status", host="an")["counters"].get("malformed_inner", 0)
    port = 33333
    rule = (
        f"POSTROUTING -o wan -p udp --sport 1500 --dport 1800 -j MASQUERADE --to-ports {port}-{port}".split()
    )
    lab.on("gw0", "iptables-legacy", "-w", "-t", "nat", "-I", *rule)
    lab.on("gw0", "conntrack", "-D", "-p", "udp", "--orig-port-src", "1500", check=False)
    moved = f"160.80.100.1:{port}"
    ping = lab.start("mh", "ping", "-i", "0.2", "-W", "1", "86.0.0.1")
    wait_until(lambda: tunnel(lab).get("reflexive") == moved, "the tunnel's new end is known", 30)
    wait_until(lambda: network(lab)["state"] == "up", "the network is up")
    # Sealed packets from an end that no tunnel has.
    refused = lab.ask("status", host="an")["counters"]["malformed_inner"]
    assert refused > before, "packets from there were not believed"
    ends = {row["tunnel_id"]: row["remote"] for row in lab.ask("tunnels", host="an")}
    assert ends[tunnel(lab)["tunnel_id"]] == moved
    ping.terminate()
    lab.on("gw0", "iptables-legacy", "-w", "-t", "nat", "-D", *rule)


def test_a_dead_mapping_is_left_by_another_source_port(nat_lab: Lab) -> None:
    lab = nat_lab
    lab.await_networks_up()
    port = tunnel(lab)["local"].rpartition(":")[2]
    rule = f"FORWARD -i lan -p udp --sport {port} -j DROP".split()
    lab.on("gw0", "iptables-legacy", "-w", "-I", *rule)
    try:
        wait_until(lambda: network(lab)["state"] == "dead", "the mapping is dead", 40)
        wait_until(lambda: network(lab)["state"] == "up", "the network is up by another port", 90)
        assert tunnel(lab)["local"].rpartition(":")[2] != port
        lab.on("mh", "ping", "-c", "3", "-i", "0.2", "-W", "2", "86.0.0.1")
    finally:
        lab.on("gw0", "iptables-legacy", "-w", "-D", *rule)
