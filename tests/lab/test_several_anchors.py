"""Two anchors, with real programs: the second takes over from a killed first, nothing leaks, both come back.

mh -- gw0, gw1 -- inet -- an   45.0.0.1, leases 1.2.3.x
                        |- an2  46.0.0.1, leases 1.2.4.x
                        `- ch   86.0.0.1
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

from upmt_nf.mobility.anchor_choice import GRACE, PATIENCE

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"
FIRST, SECOND = "45.0.0.1", "46.0.0.1"
KEEPALIVE = 1.0
"""As the lab configures it."""
WORKS_AGAIN_WITHIN = 3 * KEEPALIVE + PATIENCE + GRACE + 1.5
"""Seconds: docs/configuration.md, and something for the client's own timeouts and a busy machine."""

CALLER = """
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        with socket.create_connection((sys.argv[1], 8200), timeout=0.3) as peer:
            peer.sendall(b"hello")
            if peer.recv(5) == b"hello":
                print(time.monotonic(), peer.getsockname()[0], flush=True)
    except OSError:
        pass
    time.sleep(0.05)
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Lab]:
    """A lab with two anchors and sealed tunnels; no daemon runs yet."""
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--anchors", "2", "--protection", "sealed")
        lab.start("ch", "socat", "TCP-LISTEN:8200,reuseaddr,fork,backlog=64", "PIPE")
        lab.await_listener("ch", 8200)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def anchor_in_use(lab: Lab) -> str:
    anchor: str = lab.ask("status")["association"]["anchor"]
    return anchor


def states(lab: Lab) -> dict[str, str]:
    return {each["address"]: each["state"] for each in lab.ask("status")["association"]["anchors"]}


def calls(path: Path) -> list[tuple[float, str]]:
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(float(at), source) for at, source in (line for line in lines if len(line) == 2)]


def test_the_second_anchor_takes_over_from_a_killed_first_and_nothing_leaks(
    pair: Lab, tmp_path: Path
) -> None:
    pids = pair.start_pair()
    assert anchor_in_use(pair) == FIRST
    assert pair.ask("status", host="an2")["associations"] == []
    leaks, log = tmp_path / "leaks", tmp_path / "calls"
    native = f"(src host 192.168.100.25 or src host 10.10.10.25 or net 1.2.0.0/16) and host {CORRESPONDENT}"
    for interface in ("if0", "if1"):
        pair.start(
            "mh", "tcpdump", "-Z", "root", "--immediate-mode", "-U", "-n", "-i", interface,
            "-w", f"{leaks}.{interface}", native,
        )  # fmt: skip
    captures = [Path(f"{leaks}.{interface}") for interface in ("if0", "if1")]
    wait_until(
        lambda: all(file.exists() and file.stat().st_size == 24 for file in captures), "tcpdump listens"
    )
    caller = pair.start(
        "mh", *UPMT, "run", "--app", "caller", "--",
        "sh", "-c", f"exec {sys.executable} -c '{CALLER}' {CORRESPONDENT} 14 > {log}",
    )  # fmt: skip
    wait_until(lambda: log.exists() and len(calls(log)) > 10, "the calls go through")
    killed_at = time.monotonic()
    os.kill(pids["an"], signal.SIGKILL)
    assert caller.wait(timeout=30) == 0
    by_first = [at for at, source in calls(log) if source.startswith("1.2.3.")]
    by_second = [at for at, source in calls(log) if source.startswith("1.2.4.")]
    assert by_first
    assert by_second
    assert by_second[0] - killed_at <= WORKS_AGAIN_WITHIN
    assert len(by_second) > 10
    assert anchor_in_use(pair) == SECOND
    assert pair.ask("status")["association"]["virtual_address"].startswith("1.2.4.")
    assert [file.stat().st_size for file in captures] == [24, 24], "a packet went out natively"
    rules = pair.on("mh", "iptables-legacy-save").stdout + pair.on("mh", "ip", "rule").stdout
    assert SECOND in rules
    assert FIRST not in rules


def test_the_first_is_not_returned_to_before_the_second_goes_down_and_then_gives_the_old_address(
    pair: Lab,
) -> None:
    pids = pair.start_pair()
    address = pair.ask("status")["association"]["virtual_address"]
    os.kill(pids["an"], signal.SIGKILL)
    wait_until(lambda: anchor_in_use(pair) == SECOND, "the second is in use", 10)
    pair.on("an", *UPMT, "cleanup")
    pair.start_daemon("an")
    wait_until(lambda: pair.is_answering("an"), "the first is back")
    pair.await_networks_up()
    wait_until(lambda: states(pair)[FIRST] == "idle", "the first was told that we left", 50)
    assert anchor_in_use(pair) == SECOND
    assert pair.ask("status", host="an")["associations"] == []
    os.kill(pids["an2"], signal.SIGTERM)
    wait_until(lambda: anchor_in_use(pair) == FIRST, "its notice is enough", 3)
    pair.await_networks_up()
    assert pair.ask("status")["association"]["virtual_address"] == address
    pair.on("mh", "ping", "-c", "1", "-W", "2", CORRESPONDENT)


def test_both_down_and_back(pair: Lab) -> None:
    pids = pair.start_pair()
    for host in ("an", "an2"):
        os.kill(pids[host], signal.SIGKILL)
    wait_until(lambda: all(network["state"] == "dead" for network in pair.ask("networks")), "all is dead", 10)
    assert pair.on("mh", "ping", "-c", "1", "-W", "1", CORRESPONDENT, check=False).returncode != 0
    time.sleep(3)
    for host in ("an", "an2"):
        pair.on(host, *UPMT, "cleanup")
        pair.start_daemon(host)
    wait_until(lambda: all(pair.is_answering(host) for host in ("an", "an2")), "both anchors answer")
    wait_until(lambda: pair.ask("status")["association"]["state"] == "associated", "associated again", 45)
    pair.await_networks_up()
    pair.on("mh", "ping", "-c", "1", "-W", "2", CORRESPONDENT)
    used = anchor_in_use(pair)
    other = "an2" if used == FIRST else "an"
    wait_until(lambda: pair.ask("status", host=other)["associations"] == [], "one lease is left", 50)


def test_a_host_that_stops_on_its_second_anchor_leaves_nothing_anywhere(pair: Lab) -> None:
    pids = pair.start_pair()
    pair.on("mh", "ip", "link", "set", "if1", "down")
    pair.on("inet", "ip", "link", "set", "an", "down")
    wait_until(lambda: anchor_in_use(pair) == SECOND, "the second is in use", 10)
    pair.on("inet", "ip", "link", "set", "an", "up")
    pair.on("mh", "ip", "link", "set", "if1", "up")
    pair.on("mh", "ip", "route", "add", "default", "via", "10.10.10.1", "dev", "if1", "metric", "200")
    pair.await_networks_up()
    tunnels = pair.ask("tunnels")
    assert [tunnel["remote"] for tunnel in tunnels] == [f"{SECOND}:1800"] * 2
    os.kill(pids["mh"], signal.SIGTERM)
    wait_until(lambda: not pair.is_answering("mh"), "it has stopped")
    wait_until(
        lambda: not any(pair.ask("status", host=host)["associations"] for host in ("an", "an2")),
        "both have their leases back",
        3,
    )
    assert "nothing to put back" in pair.on("mh", *UPMT, "cleanup").stdout
    left = pair.on("mh", "sh", "-c", "ip rule; ip route show table all; iptables-legacy-save")
    assert "117" not in left.stdout
    assert "UPMT" not in left.stdout
