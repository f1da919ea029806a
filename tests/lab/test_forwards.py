"""From outside in: forwards and static NAT lead to a real server on the mobile host, and survive its handovers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

ANCHOR, CORRESPONDENT, EXTERNAL = "45.0.0.1", "86.0.0.1", "45.0.0.2"

ONE_WAY = """
import socket, sys, time
address, port, flows, packets, pause = sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:])
senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(flows))]
for _ in range(int(packets)):
    for sender in senders:
        sender.sendto(bytes(1000), (address, port))
        time.sleep(pause)
"""
SILENT = """
import socket, sys
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("", int(sys.argv[1])))
while True:
    listener.recv(2000)
"""


def identity_of(lab: Lab) -> str:
    return str(lab.ask("status", host="an")["associations"][0]["identity"])


def forward(lab: Lab, *words: str, check: bool = True) -> str:
    return lab.on("an", *UPMT, "anchor", "forward", *words, check=check).stdout


def forwards(lab: Lab) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lab.ask("anchor", "forward", "list", host="an")
    return rows


def rules_of(lab: Lab) -> str:
    """The anchor's iptables without counters and dates."""
    saved = lab.on("an", "iptables-legacy-save").stdout
    return re.sub(
        r"\[\d+:\d+\]", "", "\n".join(line for line in saved.splitlines() if not line.startswith("#"))
    )


def received(lab: Lab) -> dict[str, int]:
    """Bytes that each access interface has received."""
    links = json.loads(lab.on("mh", "ip", "-s", "-j", "link").stdout)
    return {
        link["ifname"]: link["stats64"]["rx"]["bytes"] for link in links if link["ifname"] in ("if0", "if1")
    }


def serve(lab: Lab, directory: Path, port: int) -> None:
    lab.start("mh", sys.executable, "-m", "http.server", str(port), "--directory", str(directory))
    lab.await_listener("mh", port)


@pytest.fixture
def closed(lab: Lab) -> Iterator[Lab]:
    """The lab with the default application on net0, and no forward before and after."""
    lab.ask("assign", "--app", "default", "--to", "net0,any")
    wait_until(lambda: lab.network_of("default") == "net0", "default is on net0", 20)
    before = rules_of(lab)
    yield lab
    for row in forwards(lab):
        forward(lab, "remove", row["protocol"], row["ports"], "--external", row["external"])
    assert rules_of(lab) == before


def test_a_download_from_the_mobile_host_survives_handovers(closed: Lab, tmp_path: Path) -> None:
    lab = closed
    data = os.urandom(30_000_000)
    (tmp_path / "data").write_bytes(data)
    serve(lab, tmp_path, 8080)
    assert "open: tcp 45.0.0.1 port 8022" in forward(lab, "add", "tcp", "8022", identity_of(lab), "8080")
    fetched = tmp_path / "fetched"
    url = f"http://{ANCHOR}:8022/data"
    curl = lab.start("ch", "curl", "-sSf", "--limit-rate", "5M", "--max-time", "60", "-o", str(fetched), url)
    wait_until(lambda: fetched.exists() and fetched.stat().st_size > 2_000_000, "the download runs", 20)
    for count in range(6):
        network = ("net1", "net0")[count % 2]
        receipt = lab.ask("handover", "default", "--to", network)
        assert (receipt["to"], receipt["mode"]) == (network, "make-before-break")
        (flow,) = [flow for flow in lab.ask("flows", host="an") if flow["source_port"] == 8080]
        assert flow["network"] == network
        time.sleep(0.3)
    assert curl.wait(timeout=60) == 0, curl.stdout.read() if curl.stdout else ""
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(data).digest()


def test_a_connection_from_outside_survives_the_loss_of_its_network(closed: Lab, tmp_path: Path) -> None:
    lab = closed
    data = os.urandom(20_000_000)
    (tmp_path / "data").write_bytes(data)
    serve(lab, tmp_path, 8081)
    forward(lab, "add", "tcp", "8081", identity_of(lab))
    fetched = tmp_path / "fetched"
    url = f"http://{ANCHOR}:8081/data"
    curl = lab.start("ch", "curl", "-sSf", "--limit-rate", "5M", "--max-time", "60", "-o", str(fetched), url)
    wait_until(lambda: fetched.exists() and fetched.stat().st_size > 2_000_000, "the download runs", 20)
    lab.link("net0", "down")
    assert curl.wait(timeout=60) == 0, curl.stdout.read() if curl.stdout else ""
    assert fetched.read_bytes() == data


@pytest.mark.parametrize(("network", "interface", "other"), [("net0", "if0", "if1"), ("net1", "if1", "if0")])
def test_first_packets_of_unseen_flows_come_by_the_default_applications_network(
    closed: Lab, network: str, interface: str, other: str
) -> None:
    lab = closed
    lab.ask("handover", "default", "--to", network)
    forward(lab, "add", "udp", "9000-9001", identity_of(lab), "7000")
    lab.start("mh", sys.executable, "-c", SILENT, "7001")
    lab.await_listener("mh", 7001)
    guessed = lab.ask("status", host="an")["counters"].get("guessed_tunnel", 0)
    before = received(lab)
    lab.on("ch", sys.executable, "-c", ONE_WAY, ANCHOR, "9001", "60", "1", "0.01")
    wait_until(lambda: received(lab)[interface] - before[interface] > 60_000, "all are there")
    assert received(lab)[other] - before[other] < 20_000
    assert lab.ask("status", host="an")["counters"].get("guessed_tunnel", 0) == guessed
    flows = [flow for flow in lab.ask("flows") if flow["source_port"] == 7001]
    assert len(flows) >= 60
    assert {(flow["application"], flow["network"]) for flow in flows} == {("default", network)}


def test_a_flow_that_is_never_answered_goes_by_its_applications_network(closed: Lab) -> None:
    lab = closed
    lab.ask("assign", "--app", "logs", "--to", "net1,any")
    lab.start("mh", *UPMT, "run", "--app", "logs", "--", sys.executable, "-c", SILENT, "7002")
    lab.await_listener("mh", 7002)
    forward(lab, "add", "udp", "9002", identity_of(lab), "7002")
    lab.on("ch", sys.executable, "-c", ONE_WAY, ANCHOR, "9002", "1", "8", "0.02")

    def network_at_the_anchor() -> str | None:
        return next(
            (flow["network"] for flow in lab.ask("flows", host="an") if flow["source_port"] == 7002), None
        )

    wait_until(lambda: network_at_the_anchor() == "net1", "the anchor knows the flow's network")
    (flow,) = [flow for flow in lab.ask("flows") if flow["source_port"] == 7002]
    assert (flow["application"], flow["network"]) == ("logs", "net1")


def test_forwards_wait_for_their_host_and_survive_a_restart_of_the_anchor(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        bare = rules_of(lab)
        lab.start_daemon("an")
        wait_until(lambda: lab.is_answering("an"), "the anchor answers", 30)
        (identity,) = [
            line.split('"')[1]
            for line in (lab.directory_of_state() / "mobile-host.toml").read_text().splitlines()
            if line.startswith("identity")
        ]
        closed = rules_of(lab)
        assert "waiting" in forward(lab, "add", "tcp", "8022", identity, "8080")
        assert rules_of(lab) == closed
        lab.end_programs()
        lab.start_daemon("an")
        wait_until(lambda: lab.is_answering("an"), "the anchor answers again", 30)
        assert [(row["ports"], row["state"]) for row in forwards(lab)] == [("8022", "waiting")]
        lab.start_daemon("mh")
        wait_until(lambda: lab.is_answering("mh"), "the host answers", 30)
        lab.await_networks_up()
        assert [row["state"] for row in forwards(lab)] == ["open"]
        assert "--dport 8022" in rules_of(lab)
        assert f"forward tcp {ANCHOR}:8022" in lab.on("an", *UPMT, "rules", "show", "--role", "anchor").stdout
        assert lab.on("an", *UPMT, "rules", "verify", "--role", "anchor").returncode == 0
        lab.end_programs()
        assert rules_of(lab) == bare
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


STATIC_NAT = f"""
[[anchor.static_nat]]
external = "{EXTERNAL}"
host = "1.2.3.4"
"""
STATIC_POOL = """
nat = "static"
external_pool = "45.0.0.2-45.0.0.5"
"""


@pytest.mark.parametrize(
    ("section", "pool"), [(STATIC_NAT, "1.2.3.4-1.2.3.254"), (STATIC_POOL, "1.2.3.4-1.2.3.7")]
)
def test_static_nat_works_both_ways_and_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, section: str, pool: str
) -> None:
    directory = tmp_path_factory.mktemp("lab")
    lab = Lab(unique_lab_name(), directory)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        lab.on("an", "ip", "address", "add", f"{EXTERNAL}/24", "dev", "wan")
        bare = rules_of(lab)
        config = directory / "anchor.toml"
        text = (lab.directory_of_state() / "anchor.toml").read_text().replace("1.2.3.4-1.2.3.254", pool)
        port = '\n[[anchor.forward]]\nprotocol = "tcp"\nport = 8022\nhost = "1.2.3.4"\nhost_port = 8080\n'
        config.write_text(text + section + port)
        lab.start_daemon("an", config)
        lab.start_daemon("mh")
        wait_until(lambda: lab.is_answering("mh"), "the host answers", 30)
        lab.await_networks_up()
        (directory / "hello").write_text("hello from the mobile host")
        serve(lab, directory, 8080)
        for outside in (f"{EXTERNAL}:8080", f"{ANCHOR}:8022"):
            assert (
                lab.on("ch", "curl", "-sSf", f"http://{outside}/hello").stdout == "hello from the mobile host"
            )
        lab.on("ch", "ping", "-c", "1", EXTERNAL)
        lab.start("ch", "socat", "TCP-LISTEN:7777,fork,reuseaddr", "SYSTEM:echo $SOCAT_PEERADDR")
        lab.await_listener("ch", 7777)
        for network in ("net1", "net0"):
            lab.ask("handover", "default", "--to", network)
            assert lab.on("mh", "socat", "-", f"TCP:{CORRESPONDENT}:7777").stdout.strip() == EXTERNAL
        assert {(row["state"], row["origin"]) for row in forwards(lab)} == {("open", "configuration")}
        refused = lab.on("an", *UPMT, "anchor", "forward", "remove", "tcp", "8022", check=False)
        assert refused.returncode == 1
        assert "configuration" in refused.stderr
        lab.end_programs()
        assert rules_of(lab) == bare
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


@pytest.mark.parametrize(
    ("host", "words", "code", "named"),
    [
        ("an", ("tcp", "0", "IDENTITY"), 2, "1 to 65535"),
        ("an", ("sctp", "80", "IDENTITY"), 2, "sctp"),
        ("an", ("tcp", "80", "nobody@nowhere.example"), 2, "nobody@nowhere.example"),
        ("an", ("tcp", "80", "8.8.8.8"), 1, "pool"),
        ("an", ("udp", "1800", "IDENTITY"), 1, "tunnels"),
        ("an", ("udp", "5060", "IDENTITY"), 1, "signalling"),
        ("an", ("tcp", "9009", "IDENTITY"), 1, "0.0.0.0:9009"),
        ("mh", ("tcp", "80", "IDENTITY"), 2, "forward_add"),
        ("ch", ("tcp", "80", "IDENTITY"), 3, "no UPMT daemon"),
    ],
)
def test_what_cannot_be_forwarded_is_refused_with_a_reason(
    closed: Lab, host: str, words: tuple[str, ...], code: int, named: str
) -> None:
    lab = closed
    if "9009" in words:
        lab.start("an", "socat", "TCP-LISTEN:9009,fork,reuseaddr", "PIPE")
        lab.await_listener("an", 9009)
    given = [identity_of(lab) if word == "IDENTITY" else word for word in words]
    answer = lab.on(host, *UPMT, "anchor", "forward", "add", *given, check=False)
    assert answer.returncode == code, answer.stderr
    assert named in answer.stderr
    assert "Traceback" not in answer.stderr
    assert forwards(lab) == []
