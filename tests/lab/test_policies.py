"""Policies at work in the lab: the procedure of UPMT's authors, locks, reloads, budgets, receipts."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

from upmt_nf.lab.stream_report import report
from upmt_nf.lab.voice_stream import read_log

pytestmark = pytest.mark.lab

PATIENCE = 30.0
STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")
POLICIES = """
[[policy]]
name = "frugal"
kind = "PriorityList"
networks = ["net0", "net1"]
budgets = "300 kB/day on net0"

[[policy]]
name = "ordered"
kind = "PriorityList"
reorder = "60 ms"

[[policy]]
name = "twice"
extends = "voice"
redundant = true

[[application]]
name = "call"
policy = "voice"

[[application]]
name = "bulk"
policy = "bulk"
"""

WALK = """
[[application]]
name = "video"
policy = "video-call"

[[application]]
name = "backup"
policy = "backup"
"""
MEDIA = """
[[application.flow]]
name = "media"
port = 5006
protocol = "udp"
networks = "net1"
"""


class PolicyLab:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.config = lab.directory_of_state() / "mobile-host.toml"
        self.written = self.config.read_text()
        self.write(POLICIES)
        lab.start_daemon("an")
        self.daemon = lab.start_daemon("mh")
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", PATIENCE)
        lab.await_networks_up()

    def write(self, policies: str) -> None:
        text = self.written.replace(
            "keepalive_interval = 1.0", 'keepalive_interval = 5.0\nmetrics = "127.0.0.1:9377"'
        )
        for interface in ("if0", "if1"):
            # Slow enough that a budget of 300 kB can be kept.
            line = f'interface = "{interface}"'
            text = text.replace(line, f'{line}\nthroughput = "400 kbit/s"')
        self.config.write_text(text + policies)

    def app(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {row["name"]: row for row in self.lab.ask("apps")}[name]
        return found

    def moves(self, name: str) -> list[dict[str, Any]]:
        """What its policy did by itself, first placements aside."""
        return [
            row
            for row in self.lab.ask("handovers", "--last", "1000")
            if row["application"] == name and row["from"] is not None
        ]

    def shape(self, network: str, delay: str, loss: str = "0%") -> None:
        self.lab.upmt("lab", "shape", "--name", self.lab.name, network, "--delay", delay, "--loss", loss)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PolicyLab]:
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        yield PolicyLab(lab)
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_the_authors_procedure_moves_the_call_once_each_way_and_bulk_never(
    world: PolicyLab, tmp_path: Path
) -> None:
    lab, log = world.lab, tmp_path / "call.log"
    lab.start("ch", *STREAM, "echo", "5004", str(log.with_suffix(".echo")))
    lab.await_listener("ch", 5004)
    stream = lab.start(
        "mh", *UPMT, "run", "--app", "call", "--",
        *STREAM, "send", "86.0.0.1", "5004", "50", "300", str(log),
    )  # fmt: skip
    wait_until(lambda: log.exists(), "the stream runs", PATIENCE)
    # The network that came up first was taken first; the better one follows.
    wait_until(lambda: world.app("call")["network"] == "net0", "the call is on its first network", 60)
    assert world.app("call")["policy_name"] == "voice"
    before = {name: len(world.moves(name)) for name in ("call", "bulk")}
    # The step: each way 200 ms more at once is a silence of 400 ms, while which its packets go by both networks.
    for delay in ("200ms", "100ms"):
        world.shape("net0", delay)
        time.sleep(3)
    assert [len(world.moves(name)) for name in before] == list(before.values()), "a jump moves nobody"
    for delay in ("100ms", "200ms"):
        world.shape("net0", delay)
        time.sleep(5)
    assert [row["cause"] for row in world.moves("call")[before["call"] :]] == [], "it bears 200 ms"
    world.shape("net0", "300ms")
    time.sleep(5)
    world.shape("net0", "200ms")
    wait_until(lambda: world.app("call")["network"] == "net1", "the call has moved", PATIENCE)
    (away,) = world.moves("call")[before["call"] :]
    assert (away["mode"], away["rule"]) == ("make-before-break", "voice: leave.delay = 250 ms")
    assert away["numbers"]["source_delay_ms"] > 250
    assert away["numbers"]["target_delay_ms"] < 50
    assert away["flows"] == 1
    world.shape("net0", "0ms")
    wait_until(lambda: world.app("call")["network"] == "net0", "the call has returned", 70)
    assert len(world.moves("call")) == before["call"] + 2
    assert len(world.moves("bulk")) == before["bulk"]
    stream.terminate()
    stream.wait(timeout=30)
    arrivals = read_log(log.with_suffix(".echo"))
    there = report(arrivals, 0, max(each.number for each in arrivals))
    assert (there.lost, there.duplicated) == (0, 0)
    trace = tmp_path / "trace.jsonl"
    ping = lab.start("mh", "ping", "-q", "-i", "0.1", "86.0.0.1")
    lab.on("mh", *UPMT, "trace", "record", str(trace), "--for", "2")
    ping.terminate()
    text = lab.on(
        "mh", *UPMT, "policy", "replay", "--config", str(world.config), "--trace", str(trace)
    ).stdout
    assert "call (voice): 1 handovers, 0 flaps" in text
    assert "left out, as they have no policy: default" in text


@pytest.mark.alone
def test_by_two_networks_nothing_is_lost_or_doubled_when_one_becomes_a_black_hole(
    world: PolicyLab, tmp_path: Path
) -> None:
    lab, log = world.lab, tmp_path / "call.log"
    assert lab.ask("assign", "--app", "call", "--to", "twice")["policy_name"] == "twice"
    wait_until(lambda: world.app("call")["copies_on"], "it has two networks", PATIENCE)
    lab.start("ch", *STREAM, "echo", "5004", str(log.with_suffix(".echo")))
    lab.await_listener("ch", 5004)
    stream = lab.start(
        "mh", *UPMT, "run", "--app", "call", "--",
        *STREAM, "send", "86.0.0.1", "5004", "1000", "8", str(log),
    )  # fmt: skip
    wait_until(
        lambda: log.exists() and log.stat().st_size > 16_000, "a second of the stream has passed", PATIENCE
    )
    # A download beside it: large packets, and answers that the sender's window waits for.
    lab.start("ch", "socat", "TCP-LISTEN:7000", "SYSTEM:for i in $(seq 40); do seq 20000; sleep 0.1; done")
    lab.await_listener("ch", 7000)
    got = tmp_path / "download"
    download = lab.start(
        "mh", *UPMT, "run", "--app", "call", "--", "socat", "-u", "TCP:86.0.0.1:7000", f"CREATE:{got}"
    )
    row, before = world.app("call"), {row["network"]: row for row in lab.ask("tunnels")}
    assert (row["network"], row["copies_on"]) == ("net0", "net1")
    # A second of the stream went by both.
    assert min(tunnel["packets_out"] for tunnel in before.values()) > 500
    (flow,) = (row for row in lab.ask("flows") if row["destination_port"] == 5004)
    assert flow["copies_by"] == [before["net1"]["tunnel_id"]]
    (there,) = (row for row in lab.ask("flows", host="an") if row["destination_port"] == 5004)
    assert len(there["copies_by"]) == 1
    lab.link("net0", "blackhole")
    wait_until(lambda: world.app("call")["network"] == "net1", "the call has left the black hole", PATIENCE)
    lab.link("net0", "up")
    assert stream.wait(timeout=60) == 0
    for end in (log, log.with_suffix(".echo")):
        found = report(read_log(end), 0, 7999)
        assert (found.lost, found.duplicated) == (0, 0), found
    assert download.wait(timeout=60) == 0
    assert got.read_text() == 40 * "".join(f"{number}\n" for number in range(1, 20001))
    (move,) = world.moves("call")[-1:]
    assert "net0" in move["cause"]


@pytest.mark.alone
def test_after_a_move_packets_arrive_in_the_order_in_which_they_were_sent(
    world: PolicyLab, tmp_path: Path
) -> None:
    lab, log = world.lab, tmp_path / "call.log"
    lab.ask("assign", "--app", "call", "--to", "ordered")
    world.shape("net0", "30ms")
    lab.start("ch", *STREAM, "echo", "5004", str(log.with_suffix(".echo")))
    lab.await_listener("ch", 5004)
    stream = lab.start(
        "mh", *UPMT, "run", "--app", "call", "--",
        *STREAM, "send", "86.0.0.1", "5004", "200", "8", str(log),
    )  # fmt: skip
    wait_until(lambda: log.exists() and log.stat().st_size > 3200, "the stream runs", PATIENCE)
    # What is on its way by net0 is overtaken by all that leaves by net1 from then on.
    for network in ("net1", "net0", "net1"):
        assert lab.ask("handover", "call", "--to", network)["to"] == network
    assert stream.wait(timeout=60) == 0
    # On the way up nothing waits: what counts is the order in which the correspondent answered.
    sent, arrived = ([packet.number for packet in read_log(end)] for end in (log.with_suffix(".echo"), log))
    assert sorted(sent) == list(range(1600))
    assert arrived == sent


def test_the_office_workers_walk_moves_the_call_before_the_wifi_dies_and_the_backup_waits(
    world: PolicyLab, tmp_path: Path
) -> None:
    """docs/traces/walk.jsonl on the wire: the Wi-Fi fades step by step, dies, and is there again."""
    lab, log = world.lab, tmp_path / "video.log"
    world.write(POLICIES + WALK)
    text = world.config.read_text().replace("400 kbit/s", "4 Mbit/s").replace("300 kB", "3 MB")
    world.config.write_text(text.replace('interface = "if1"', 'interface = "if1"\ncost = 4.0'))
    assert "network net1 is described otherwise" in lab.ask("mobile-host", "reload")["changes"]
    wait_until(
        lambda: {world.app(name)["network"] for name in ("video", "backup")} == {"net0"},
        "both are on the Wi-Fi",
        60,
    )
    world.shape("net0", "30ms")
    for port in ("5004", "5005"):
        lab.start("ch", *STREAM, "echo", port, str(tmp_path / f"echo{port}.log"))
        lab.await_listener("ch", int(port))
    call = lab.start(
        "mh", *UPMT, "run", "--app", "video", "--", *STREAM, "send", "86.0.0.1", "5004", "50", "300", str(log)
    )
    lab.start(
        "mh", *UPMT, "run", "--app", "backup", "--",
        *STREAM, "send", "86.0.0.1", "5005", "20", "60", str(tmp_path / "backup.log"),
    )  # fmt: skip
    wait_until(lambda: log.exists(), "the call runs", PATIENCE)
    before = len(world.moves("video"))
    # No step is longer than what a path may be silent for before it is left as dead.
    for delay in (100, 170, 240, 310, 380):
        world.shape("net0", f"{delay}ms")
        time.sleep(1)
    wait_until(lambda: world.app("video")["network"] == "net1", "the call is on LTE", PATIENCE)
    assert world.app("backup")["network"] == "net0"
    # What is on its way by the Wi-Fi, and the answers to it, are still to arrive.
    time.sleep(1)
    lab.link("net0", "down")
    wait_until(lambda: world.app("backup")["network"] is None, "the backup waits", PATIENCE)
    lab.link("net0", "up")
    world.shape("net0", "8ms")
    wait_until(lambda: world.app("backup")["network"] == "net0", "the backup goes on", PATIENCE)
    (away,) = world.moves("video")[before:]
    assert (away["to"], away["mode"]) == ("net1", "make-before-break")
    assert away["rule"] == "video-call: leave.delay = 300 ms"
    call.terminate()
    call.wait(timeout=30)
    arrivals = read_log(tmp_path / "echo5004.log")
    found = report(arrivals, 0, max(each.number for each in arrivals))
    assert (found.lost, found.duplicated) == (0, 0), found


def test_flows_of_an_application_go_by_a_policy_of_their_own_and_are_moved_by_themselves(
    world: PolicyLab,
) -> None:
    lab = world.lab
    world.write(POLICIES.replace('policy = "voice"\n', 'policy = "voice"\n' + MEDIA))
    assert lab.ask("mobile-host", "reload")["changes"] == [
        "call: flows port=5006 protocol=udp (networks net1)"
    ]

    def network_of(port: int) -> tuple[str, str] | None:
        found = [row for row in lab.ask("flows") if row["destination_port"] == port]
        return (found[0]["application"], found[0]["network"]) if found else None

    wait_until(lambda: world.app("call")["network"] == "net0", "the call is on its network", 60)
    for port in ("5004", "5006"):
        lab.start("ch", *STREAM, "echo", port, "/dev/null")
        lab.await_listener("ch", int(port))
        lab.start(
            "mh", *UPMT, "run", "--app", "call", "--",
            *STREAM, "send", "86.0.0.1", port, "20", "60", "/dev/null",
        )  # fmt: skip
    wait_until(lambda: network_of(5004) and network_of(5006), "both flows are there", PATIENCE)
    assert (network_of(5004), network_of(5006)) == (("call", "net0"), ("call/media", "net1"))
    assert lab.ask("handover", "call/media", "--to", "net0")["flows"] == 1
    assert (network_of(5004), network_of(5006)) == (("call", "net0"), ("call/media", "net0"))
    assert lab.ask("lock", "call", "--to", "net1")["network"] == "net1"
    assert (network_of(5004), network_of(5006)) == (("call", "net1"), ("call/media", "net0"))
    lab.ask("release", "call")
    world.write(POLICIES)
    lab.ask("mobile-host", "reload")
    assert network_of(5006) == ("call", world.app("call")["network"])


def test_a_lock_a_release_and_another_policy(world: PolicyLab) -> None:
    lab = world.lab
    assert lab.ask("lock", "call", "--to", "net1") == {
        "application": "call",
        "locked": "net1",
        "network": "net1",
    }
    assert world.app("call")["locked"] == "net1"
    why = lab.on("mh", *UPMT, "why", "call").stdout
    assert "policy        voice (net0, net1), locked to net1" in why
    assert "not allowed: it is locked to net1" in why
    assert "upmt release call: its policy decides again" in why
    refused = lab.on("mh", *UPMT, "handover", "call", "--to", "net0", check=False)
    assert (refused.returncode, "it is locked to net1" in refused.stderr) == (1, True)
    assert lab.ask("lock", "call")["locked"] == "net1"
    assert lab.ask("release", "call")["locked"] is None
    assert lab.on("mh", *UPMT, "lock", "call", "--to", "5g", check=False).returncode == 2
    assert lab.on("mh", *UPMT, "lock", "nobody", check=False).returncode == 2
    assert lab.on("mh", *UPMT, "lock", "bulk").stdout.startswith("bulk: locked to net")
    row = lab.ask("assign", "--app", "call", "--to", "Block")
    assert (row["policy_name"], row["network"]) == ("Block", None)
    row = lab.ask("assign", "--app", "call", "--to", "gaming")
    assert row["policy_name"] == "gaming"
    wait_until(lambda: world.app("call")["network"] is not None, "it is placed again", PATIENCE)
    unknown = lab.on("mh", *UPMT, "assign", "--app", "call", "--to", "gamign", check=False)
    assert (unknown.returncode, "the policies are" in unknown.stderr) == (2, True)


def test_a_bad_file_changes_nothing_and_a_good_one_takes_effect_while_a_stream_loses_nothing(
    world: PolicyLab, tmp_path: Path
) -> None:
    lab, log = world.lab, tmp_path / "call.log"
    lab.start("ch", *STREAM, "echo", "5004", str(log.with_suffix(".echo")))
    lab.await_listener("ch", 5004)
    stream = lab.start(
        "mh", *UPMT, "run", "--app", "call", "--",
        *STREAM, "send", "86.0.0.1", "5004", "100", "15", str(log),
    )  # fmt: skip
    wait_until(lambda: log.exists() and log.stat().st_size > 1600, "the stream runs", PATIENCE)
    world.write(POLICIES.replace('policy = "voice"', 'policy = "voise"'))
    refused = lab.on("mh", *UPMT, "mobile-host", "reload", check=False)
    assert refused.returncode == 2
    assert f"{world.config}:" in refused.stderr
    assert "there is no policy 'voise'" in refused.stderr
    assert world.app("call")["policy_name"] == "voice"
    world.write(POLICIES)
    world.config.write_text(world.config.read_text().replace('throughput = "400 kbit/s"', "cost = 2.0", 1))
    answer = lab.ask("mobile-host", "reload")
    assert (answer["changes"], answer["needs_restart"]) == (["network net0 is described otherwise"], [])
    world.config.write_text(world.config.read_text() + '[[policy]]\nname = "new"\nextends = "bulk"\n')
    assert lab.ask("mobile-host", "reload")["changes"] == ["policy new: added"]
    assert {row["name"]: row["cost"] for row in lab.ask("networks")} == {"net0": 2.0, "net1": 0.0}
    world.write(POLICIES.replace('policy = "voice"', 'policy = "gaming"\nnetworks = "net1"'))
    os.kill(world.daemon, signal.SIGHUP)
    wait_until(lambda: world.app("call")["network"] == "net1", "the new policy holds", PATIENCE)
    assert world.app("call")["policy_name"] == "gaming"
    assert stream.poll() is None, "all of it happened while it ran"
    assert stream.wait(timeout=60) == 0
    for end in (log, log.with_suffix(".echo")):
        found = report(read_log(end), 0, 1499)
        assert (found.lost, found.duplicated) == (0, 0), found


def test_a_budget_is_kept_also_by_a_daemon_that_is_killed(world: PolicyLab) -> None:
    lab = world.lab
    lab.ask("assign", "--app", "call", "--to", "frugal")
    lab.start("ch", "socat", "-u", "UDP-RECV:7100", "OPEN:/dev/null")
    lab.await_listener("ch", 7100)
    sender = "while :; do head -c 1000 /dev/zero; sleep 0.05; done | socat -u -b 1000 - UDP:86.0.0.1:7100"
    lab.start("mh", *UPMT, "run", "--app", "call", "--", "sh", "-c", sender)
    wait_until(lambda: world.app("call")["network"] == "net1", "the budget made it leave", PATIENCE)
    (left,) = world.moves("call")[-1:]
    assert left["cause"] == "300 kB/day on net0 is nearly spent"
    sent = sum(row["bytes"] for row in lab.ask("flows") if row["application"] == "call")
    assert sent > 50_000
    world.write(POLICIES.replace('policy = "voice"', 'policy = "frugal"'))
    os.kill(world.daemon, signal.SIGKILL)
    wait_until(lambda: not lab.is_answering("mh"), "it is dead", PATIENCE)
    lab.start_daemon("mh")
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", PATIENCE)
    lab.await_networks_up()
    wait_until(lambda: world.app("call")["network"] == "net1", "what was spent is remembered", PATIENCE)
    assert world.moves("call"), "and what was done"


def test_what_is_shown_and_served(world: PolicyLab) -> None:
    lab = world.lab
    trial = lab.ask("networks", "test", "net0")
    assert (trial["network"], trial["passed"]) == ("net0", True)
    assert {check["state"] for check in trial["checks"]} <= {"ok", "unknown"}
    assert lab.on("mh", *UPMT, "networks", "test", "5g", check=False).returncode == 2
    view = lab.on("mh", *UPMT, "watch", "--once").stdout
    assert all(len(line) <= 80 for line in view.splitlines())
    assert "bulk" in view
    text = lab.on("mh", "curl", "-sS", "http://127.0.0.1:9377/metrics").stdout
    assert 'upmt_network_up{network="net0"} 1' in text
    assert 'upmt_application_network{application="call",network="net0"} 1' in text
    assert "9377" not in lab.on("mh", "ss", "-Hlnt", "not", "src", "127.0.0.1").stdout


def test_handovers_are_followed_as_json_lines(world: PolicyLab) -> None:
    lab = world.lab
    follower = lab.start("mh", *UPMT, "handovers", "--last", "0", "--follow", "--json")
    time.sleep(1)
    lab.ask("handover", "call", "--to", "net1")
    assert follower.stdout is not None
    row = json.loads(follower.stdout.readline())
    while not row["asked"]:
        row = json.loads(follower.stdout.readline())
    assert (row["application"], row["to"], row["outcome"]) == ("call", "net1", "done")
