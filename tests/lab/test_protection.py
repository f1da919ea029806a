"""Sealed and cookie tunnels and the proofs of both ends, on the wire."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"
SECRET_TEXT = "only the two ends may read this"

REPLAY = """
import socket, struct, sys
data = open(sys.argv[1], "rb").read()
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
place, sent = 24, 0
while place + 16 <= len(data):
    size = struct.unpack_from("<4I", data, place)[2]
    packet = data[place + 16 + 14 : place + 16 + size]
    place += 16 + size
    if packet[9] == 17 and packet[22:24] == (1800).to_bytes(2, "big"):
        # A capture holds unfinished checksums; without one a UDP packet over IPv4 is whole as well.
        raw.sendto(packet[:26] + bytes(2) + packet[28:], ("45.0.0.1", 0))
        sent += 1
print(sent)
"""


@pytest.fixture(scope="module", params=["sealed", "cookie"])
def protected_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--protection", request.param)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--protection", "sealed")
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def protection_of(lab: Lab) -> str:
    text = (lab.directory_of_state() / "mobile-host.toml").read_text()
    return "sealed" if "sealed" in text else "cookie"


def test_a_download_moves_between_protected_tunnels(protected_lab: Lab, tmp_path: Path) -> None:
    lab = protected_lab
    served, fetched = tmp_path / "served", tmp_path / "fetched"
    served.mkdir()
    data = os.urandom(20_000_000)
    (served / "data").write_bytes(data)
    lab.start("ch", sys.executable, "-m", "http.server", "8090", "--directory", str(served))
    lab.await_listener("ch", 8090)
    curl = lab.start(
        "mh", *UPMT, "run", "--app", "bulk", "--",
        "curl", "-sSf", "--limit-rate", "5M", "-o", str(fetched), f"http://{CORRESPONDENT}:8090/data",
    )  # fmt: skip
    wait_until(lambda: fetched.exists() and fetched.stat().st_size > 1_000_000, "the download runs")
    for network in ("net1", "net0", "net1"):
        assert lab.ask("handover", "bulk", "--to", network)["mode"] == "make-before-break"
    assert curl.wait(timeout=60) == 0
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(data).digest()
    lab.end_programs()


def test_the_path_sees_and_repeats_no_more_than_the_format_allows(protected_lab: Lab, tmp_path: Path) -> None:
    lab = protected_lab
    capture = tmp_path / "wan.pcap"
    dump = lab.start("gw0", "tcpdump", "--immediate-mode", "-U", "-n", "-i", "wan", "-w", str(capture), "udp")
    wait_until(lambda: capture.exists() and capture.stat().st_size >= 24, "tcpdump listens")
    lab.ask("assign", "--app", "secret", "--to", "net0")
    echo = "socat UDP-RECVFROM:7100,fork PIPE"
    lab.start("ch", "sh", "-c", echo)
    lab.await_listener("ch", 7100)
    said = lab.on(
        "mh", *UPMT, "run", "--app", "secret", "--",
        "sh", "-c", f"echo '{SECRET_TEXT}' | socat -t 1 - UDP:{CORRESPONDENT}:7100",
    )  # fmt: skip
    assert SECRET_TEXT in said.stdout
    wait_until(lambda: capture.stat().st_size > 2000, "the tunnel's packets were captured")
    dump.send_signal(signal.SIGINT)
    dump.wait(timeout=5)
    is_readable = SECRET_TEXT.encode() in capture.read_bytes()
    assert is_readable == (protection_of(lab) == "cookie")
    if protection_of(lab) == "sealed":
        before = lab.ask("status", host="an")["counters"].get("malformed_inner", 0)
        untracked = ("OUTPUT", "-d", "45.0.0.1/32", "-p", "udp", "-j", "CT", "--notrack")
        lab.on("gw0", "iptables-legacy", "-t", "raw", "-I", *untracked)
        sent = int(lab.on("gw0", sys.executable, "-c", REPLAY, str(capture)).stdout)
        assert sent >= 2
        wait_until(
            lambda: lab.ask("status", host="an")["counters"].get("malformed_inner", 0) >= before + 2,
            "the repeats were refused",
        )
        lab.on("gw0", "iptables-legacy", "-t", "raw", "-D", *untracked)
    lab.end_programs()


def test_plain_packets_from_the_tunnels_own_endpoint_are_refused(protected_lab: Lab) -> None:
    """Somebody behind the same gateway, or on the path, who leaves the protection out."""
    lab = protected_lab
    script = (
        "import socket\n"
        "from ipaddress import ip_address\n"
        "from upmt_nf.datapath.packet import build_udp\n"
        "inner = build_udp(ip_address('1.2.3.4'), 9, ip_address('86.0.0.1'), 7777, b'forged')\n"
        "outer = build_udp(ip_address('160.80.100.1'), 33000, ip_address('45.0.0.1'), 1800, inner)\n"
        "raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)\n"
        "for _ in range(20):\n"
        "    raw.sendto(outer, ('45.0.0.1', 0))\n"
    )
    before = lab.ask("status", host="an")["counters"].get("forged_source", 0)
    lab.on("inet", sys.executable, "-c", script)
    wait_until(
        lambda: lab.ask("status", host="an")["counters"].get("forged_source", 0) >= before + 20,
        "all were refused",
    )


def test_an_anchor_that_takes_plain_only_is_no_anchor_for_a_sealed_network(bare: Lab, tmp_path: Path) -> None:
    config = tmp_path / "anchor.toml"
    text = (bare.directory_of_state() / "anchor.toml").read_text()
    config.write_text(text + 'protection = ["plain"]\n')
    bare.start_daemon("an", config)
    bare.start_daemon("mh")
    wait_until(lambda: bare.is_answering("mh"), "the daemon answers")
    wait_until(lambda: bare.ask("status")["association"]["state"] == "associated", "the host is associated")
    refusals = "refused_403"
    wait_until(lambda: bare.ask("status", host="an")["counters"].get(refusals, 0) >= 2, "it was refused")
    assert all(network["state"] != "up" for network in bare.ask("networks"))
    assert bare.on("mh", "ping", "-c", "1", "-W", "1", CORRESPONDENT, check=False).returncode != 0


def test_a_wrong_secret_gets_no_association_and_says_so(bare: Lab) -> None:
    (bare.directory_of_state() / "secret").write_text("guessed\n")
    bare.start_daemon("an")
    bare.start_daemon("mh")
    wait_until(lambda: bare.is_answering("mh"), "the daemon answers")
    wait_until(lambda: bare.ask("status")["association"]["failure"], "the reason is known")
    assert "403" in bare.ask("status")["association"]["failure"]
    assert bare.ask("status", host="an")["associations"] == []
    assert bare.ask("status", host="an")["counters"]["refused_403"] >= 1


def test_an_anchor_without_our_secret_is_not_believed(bare: Lab, tmp_path: Path) -> None:
    config = tmp_path / "anchor.toml"
    text = (bare.directory_of_state() / "anchor.toml").read_text()
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("users")))
    bare.start_daemon("an", config)
    bare.start_daemon("mh")
    wait_until(lambda: bare.is_answering("mh"), "the daemon answers")
    wait_until(lambda: bare.ask("status")["counters"].get("unproven", 0) >= 1, "it was not believed")
    assert bare.ask("status")["association"]["state"] != "associated"


def test_users_come_and_go_while_the_anchor_runs_and_no_secret_is_said(bare: Lab, tmp_path: Path) -> None:
    anchor = str(bare.directory_of_state() / "anchor.toml")
    bare.start_daemon("an")
    wait_until(lambda: bare.is_answering("an"), "the daemon answers")
    identity = "boat7@fleet.example"
    line = bare.upmt("anchor", "user", "add", identity, "--config", anchor).stdout.strip()
    assert identity in bare.upmt("anchor", "user", "list", "--config", anchor).stdout
    again = bare.upmt("anchor", "user", "add", identity, "--config", anchor, check=False)
    assert again.returncode == 1
    config = tmp_path / "host" / "mobile-host.toml"
    words = (*UPMT, "mobile-host", "enroll", "--config", str(config))
    bare.on("mh", "sh", "-c", f"echo {line} | {' '.join(words)}")
    assert config.with_name("secret").stat().st_mode & 0o077 == 0
    text = config.read_text()
    assert "if0" in text
    assert "if1" in text
    config.write_text(text.replace("[mobile_host]\n", "[mobile_host]\nkeepalive_interval = 1.0\n"))
    bare.start_daemon("mh", config)
    wait_until(lambda: bare.is_answering("mh"), "the daemon answers")
    bare.await_networks_up()
    secret = config.with_name("secret").read_text().strip()
    for said in (json.dumps(bare.ask("status")), bare.on("mh", "ps", "axww").stdout):
        assert secret not in said
    rotated = bare.upmt("anchor", "user", "rotate", identity, "--config", anchor).stdout.strip()
    assert rotated != line
    bare.upmt("anchor", "user", "remove", identity, "--config", anchor)
    assert identity not in bare.upmt("anchor", "user", "list", "--config", anchor).stdout
    wrong = bare.on("mh", "sh", "-c", f"echo upmt1:garbage | {' '.join(words)}", check=False)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
