"""One application by a second anchor, everything else by the first, at the same time and with real programs.

mh -- gw0, gw1 -- inet -- an   45.0.0.1, leases 1.2.3.x   everything else
                        |- an2  46.0.0.1, leases 1.2.4.x   the application "home"
                        `- ch   86.0.0.1, says whom it sees
"""

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

from upmt_nf.lab.stream_report import report
from upmt_nf.lab.voice_stream import read_log

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"
FIRST, SECOND = "45.0.0.1", "46.0.0.1"
STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")
SECONDS, RATE = 5, 200
CALLER = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 8200), timeout=30) as peer:
    number = 0
    while True:
        peer.sendall(b"%08d" % number)
        said = b""
        while len(said) < 8:
            said += peer.recv(8 - len(said))
        assert said == b"%08d" % number
        print(number, peer.getsockname()[0], flush=True)
        number += 1
        time.sleep(0.02)
"""


@pytest.fixture(params=["agent", "fast"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A lab with two anchors; no daemon runs yet."""
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt(
            "lab", "up", "--name", lab.name, "--no-daemons", "--anchors", "2", "--protection", "cookie",
            "--datapath", request.param,
        )  # fmt: skip
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / "data").write_bytes(os.urandom(20_000_000))
        lab.start("ch", "socat", "TCP-LISTEN:8200,reuseaddr,fork,backlog=64", "PIPE")
        lab.start("ch", "socat", "TCP-LISTEN:8300,reuseaddr,fork", "SYSTEM:echo $SOCAT_PEERADDR")
        lab.start("ch", sys.executable, "-m", "http.server", "8082", "--directory", str(tmp_path / "served"))
        for port in (8200, 8300, 8082):
            lab.await_listener("ch", port)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def ends(lab: Lab) -> set[tuple[str, str]]:
    """The tunnels that work, by network and anchor."""
    return {(each["network"], each["anchor"]) for each in lab.ask("tunnels") if each["state"] == "up"}


def both_ready(lab: Lab) -> bool:
    """Each network has a tunnel to each anchor."""
    return ends(lab) == {(network, anchor) for network in ("net0", "net1") for anchor in (FIRST, SECOND)}


def application(lab: Lab, name: str) -> dict[str, object]:
    return next(each for each in lab.ask("apps") if each["name"] == name)


def seen_from(lab: Lab, *by: str) -> str:
    """The address that the correspondent sees; empty when nothing comes through."""
    words = ("timeout", "5", "socat", "-T3", "-", f"TCP:{CORRESPONDENT}:8300,connect-timeout=2")
    return lab.on("mh", *by, *words, check=False).stdout.strip()


def stream(lab: Lab, name: str, port: int, log: Path) -> "list[object]":
    lab.start("ch", *STREAM, "echo", str(port), str(log.with_suffix(".echo")))
    lab.await_listener("ch", port)
    sender = lab.start(
        "mh", *UPMT, "run", "--app", name, "--",
        *STREAM, "send", CORRESPONDENT, str(port), str(RATE), str(SECONDS), str(log),
    )  # fmt: skip
    wait_until(lambda: log.exists() and log.stat().st_size > 16 * 50, f"the stream of {name} runs")
    return [sender]


def lost(log: Path) -> tuple[int, int, int, int]:
    """Lost and doubled, there and back again."""
    there = report(read_log(log.with_suffix(".echo")), 0, SECONDS * RATE - 1)
    back = report(read_log(log), 0, SECONDS * RATE - 1)
    return there.lost, there.duplicated, back.lost, back.duplicated


def test_two_applications_by_two_anchors_at_the_same_time(pair: Lab, tmp_path: Path) -> None:
    pids = pair.start_pair()
    assert ends(pair) == {("net0", FIRST), ("net1", FIRST)}
    assigned = pair.ask("assign", "--app", "home", "--to", "net0,any", "--anchor", "an2", "--save")
    assert assigned["anchor"] == SECOND
    pair.ask("assign", "--app", "rest", "--to", "net0,any")
    wait_until(lambda: both_ready(pair), "both anchors have both networks")
    home = (*UPMT, "run", "--app", "home", "--")
    rest = (*UPMT, "run", "--app", "rest", "--")
    wait_until(lambda: application(pair, "home")["network"] == "net0", "home has its network")
    assert (seen_from(pair, *home), seen_from(pair, *rest), seen_from(pair)) == (SECOND, FIRST, FIRST)
    anchors = pair.ask("status")["association"]["anchors"]
    assert [each["applications"] for each in anchors] == [[], ["home"]]
    assert [each["in_use"] for each in anchors] == [True, False]
    addresses = [each["virtual_address"] for each in anchors]
    assert [address[:6] for address in addresses] == ["1.2.3.", "1.2.4."]

    # Moves of either, live: nothing is lost or doubled, and a large download comes through whole.
    logs = {name: tmp_path / f"{name}.log" for name in ("home", "rest")}
    senders = [*stream(pair, "home", 5004, logs["home"]), *stream(pair, "rest", 5006, logs["rest"])]
    fetched = tmp_path / "fetched"
    curl = pair.start(
        "mh", *home, "curl", "-sSf", "--limit-rate", "8M", "--max-time", "60", "-o", str(fetched),
        f"http://{CORRESPONDENT}:8082/data",
    )  # fmt: skip
    wait_until(lambda: fetched.exists() and fetched.stat().st_size > 1_000_000, "the download runs")
    for name, network in (("home", "net1"), ("rest", "net1"), ("home", "net0"), ("home", "net1")):
        receipt = pair.ask("handover", name, "--to", network)
        assert (receipt["to"], receipt["mode"]) == (network, "make-before-break")
    flows = [
        each for each in pair.ask("flows") if each["application"] == "home" and each["protocol"] == "udp"
    ]
    assert [(each["network"], each["source"]) for each in flows] == [("net1", addresses[0])]
    assert pair.ask("why", "home")["path"]["anchor"] == SECOND
    for sender in senders:
        assert sender.wait(timeout=60) == 0  # type: ignore[attr-defined]
    assert curl.wait(timeout=60) == 0
    data = (tmp_path / "served" / "data").read_bytes()
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert {name: lost(log) for name, log in logs.items()} == {"home": (0, 0, 0, 0), "rest": (0, 0, 0, 0)}

    # The host's daemon dies and comes again: a connection by the second anchor goes on.
    log = tmp_path / "call"
    pair.start("mh", *home, "sh", "-c", f"exec {sys.executable} -c '{CALLER}' {CORRESPONDENT} > {log}")
    wait_until(lambda: log.exists() and log.read_text().count("\n") > 20, "the call runs")
    os.kill(pids["mh"], signal.SIGKILL)
    pids["mh"] = pair.start_daemon("mh")
    wait_until(lambda: pair.is_answering("mh"), "the daemon answers")
    wait_until(lambda: both_ready(pair), "both anchors have both networks again")
    said = log.read_text().count("\n")
    wait_until(lambda: log.read_text().count("\n") > said + 20, "the call goes on")
    assert seen_from(pair, *home) == SECOND

    # The second anchor dies: its application is held, and nobody else notices.
    rest_log = tmp_path / "rest-again.log"
    senders = stream(pair, "rest", 5008, rest_log)
    os.kill(pids["an2"], signal.SIGKILL)
    wait_until(lambda: application(pair, "home")["network"] is None, "home has no network")
    assert application(pair, "rest")["network"] is not None
    assert (seen_from(pair, *home), seen_from(pair, *rest)) == ("", FIRST)
    assert senders[0].wait(timeout=60) == 0  # type: ignore[attr-defined]
    assert lost(rest_log) == (0, 0, 0, 0)
    pids["an2"] = pair.start_daemon("an2")
    wait_until(lambda: application(pair, "home")["network"] is not None, "home has a network again", 60)
    wait_until(lambda: seen_from(pair, *home) == SECOND, "home comes through again")

    # It names no anchor any more, and again; then all is left, and nothing stays anywhere.
    pair.ask("assign", "--app", "home", "--to", "net0,any", "--anchor", "any")
    wait_until(lambda: ends(pair) == {("net0", FIRST), ("net1", FIRST)}, "the second anchor is left")
    assert pair.ask("status", host="an2")["associations"] == []
    wait_until(lambda: seen_from(pair, *home) == FIRST, "home goes with the rest")
    pair.ask("assign", "--app", "home", "--to", "net0,any", "--anchor", "an2")
    wait_until(lambda: both_ready(pair), "both anchors have both networks once more")
    pair.on("mh", *UPMT, "rules", "verify", "--role", "mobile-host")
    os.kill(pids["mh"], signal.SIGTERM)
    wait_until(lambda: not pair.is_answering("mh"), "it has stopped")
    wait_until(
        lambda: not any(pair.ask("status", host=host)["associations"] for host in ("an", "an2")),
        "both have their leases back", 5,
    )  # fmt: skip
    assert "nothing to put back" in pair.on("mh", *UPMT, "cleanup").stdout
    left = pair.on("mh", "sh", "-c", "ip rule; ip route show table all; iptables-legacy-save").stdout
    assert "117" not in left
    assert "UPMT" not in left
