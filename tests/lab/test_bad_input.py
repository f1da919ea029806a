"""Bad input gets a clear error or a counted drop; never a traceback, and what works goes on working."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from lab_driver import UPMT, Lab, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"

FLOOD = r"""
import random, socket, sys, time
from ipaddress import ip_address
from upmt_nf.datapath.packet import build_udp
chance = random.Random(7)
spoofed = build_udp(ip_address("1.2.3.4"), 1, ip_address("86.0.0.1"), 2, b"boo!")
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bodies = [b"{" * 5000, b'{"mType": "HandoverRequest", "pairs": [', b"\xff" * 9000, b"[]", b""]
for number in range(1500):
    garbage = chance.randbytes(chance.randrange(0, 1400))
    body = bodies[number % len(bodies)]
    sip = (f"MESSAGE sip:45.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 1.1.1.1;branch=z9hG4bK{number}\r\nTo: <sip:a@b>\r\n"
           f"From: <sip:c@d>;tag=1\r\nCall-ID: {number}\r\nCSeq: {number} MESSAGE\r\n"
           f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    for port in (1800, 5060):
        for data in (garbage, sip, sip[: chance.randrange(len(sip))], spoofed):
            sender.sendto(data[:60000], ("45.0.0.1", port))
    time.sleep(0.002)  # more at once would be lost in the lab's own wires, pings included
"""


GARBAGE_AT_THE_HOST = """
import random, socket
from ipaddress import ip_address
from upmt_nf.datapath.packet import build_udp
chance = random.Random(3)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
anchor, host = ip_address("45.0.0.1"), ip_address("192.168.100.25")
for number in range(500):
    payload = chance.randbytes(chance.randrange(0, 1400))
    raw.sendto(build_udp(anchor, 1800, host, 1500, payload), (str(host), 0))
"""

REQUESTS = r"""
import socket
requests = [b"garbage", b"[]", b"{", b'{"command": 7}', b'{"command": "nothing"}', b'{"command": "assign"}',
            b'{"command": "join"}', b'{"command": "handover"}', b"[" * 100000, b"x" * 2000000, b"\xff"]
for request in requests:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect("\0upmt/control")
        try:
            control.sendall(request + b"\n")
        except BrokenPipeError:
            pass
        print(control.recv(65536).decode().strip())
"""

FORGERY = """
import socket
from ipaddress import ip_address
from upmt_nf.datapath.packet import build_udp
inner = build_udp(ip_address("86.0.0.1"), 9, ip_address("1.2.3.4"), 7777, b"forged")
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(inner, ("45.0.0.1", 1800))
"""

FORGED_ENDS = """
import socket
from ipaddress import ip_address
from upmt_nf.datapath.packet import build_udp
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for outer, port, inner in (
    ("160.80.100.1", 33000, "1.2.3.5"),
    ("160.80.100.1", 33000, "192.168.100.25"),
    ("160.80.100.1", 33000, "45.0.0.1"),
    ("160.80.100.1", 33001, "1.2.3.4"),
    ("45.0.0.254", 33000, "1.2.3.4"),
    ("160.80.100.1", 33000, "1.2.3.4"),
):
    words = f"{outer} {port} {inner}".encode()
    packet = build_udp(ip_address(inner), 9, ip_address("86.0.0.1"), 7777, words)
    raw.sendto(build_udp(ip_address(outer), port, ip_address("45.0.0.1"), 1800, packet), ("45.0.0.1", 0))
"""

LISTENER = """
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("", 7777))
listener.settimeout(3)
try:
    print("GOT", listener.recv(100))
except TimeoutError:
    print("nothing")
"""

UNPRIVILEGED = """
import os, sys
import upmt_nf.cli.main, upmt_nf.daemon.host_daemon, upmt_nf.daemon.lifetime, upmt_nf.cli.reading_config
os.setgid(65534)
os.setuid(65534)
sys.argv = ["upmt", *sys.argv[1:]]
upmt_nf.cli.main.main()
"""


def logs(lab: Lab) -> str:
    directory = Path(json.loads(lab.upmt("lab", "status", "--name", lab.name, "--json").stdout)["directory"])
    return "".join(file.read_text() for file in directory.glob("*.log"))


def test_garbage_at_both_ports_is_counted_and_harms_nothing(lab: Lab) -> None:
    ping = lab.start("mh", "ping", "-q", "-i", "0.02", "-c", "250", CORRESPONDENT)
    lab.on("ch", sys.executable, "-c", FLOOD)

    def are_counted() -> bool:
        counters = lab.ask("status", host="an")["counters"]
        # The kernel's own backlog may cut a flood short before the anchor sees it.
        # A stranger's signalling is looked at up to its limit, its tunnel packets not at all.
        limited = counters.get("source_over_limit", 0) + counters.get("strangers_over_limit", 0)
        is_looked_at = counters.get("sip_refused", 0) > 0
        return bool(counters.get("unknown_tunnel", 0) >= 2000 and limited >= 500 and is_looked_at)

    wait_until(are_counted, "the garbage was counted")
    assert ping.wait(timeout=30) == 0
    assert ping.stdout is not None
    assert " 0% packet loss" in ping.stdout.read()
    assert "Traceback" not in logs(lab)
    assert len(lab.ask("status", host="an")["associations"]) == 1


def test_garbage_from_the_anchors_address_at_the_host_is_counted(lab: Lab) -> None:
    # The gateway's conntrack would give the forged packets another port than the tunnel's.
    untracked = ("OUTPUT", "-d", "192.168.100.25/32", "-j", "CT", "--notrack")
    lab.on("gw0", "iptables-legacy", "-t", "raw", "-I", *untracked)
    lab.on("gw0", sys.executable, "-c", GARBAGE_AT_THE_HOST)
    lab.on("gw0", "iptables-legacy", "-t", "raw", "-D", *untracked)
    wait_until(
        lambda: lab.ask("status")["counters"].get("malformed_inner", 0) > 300, "the garbage was counted"
    )
    lab.on("mh", "ping", "-c", "1", CORRESPONDENT)
    assert "Traceback" not in logs(lab)


def test_bad_requests_on_the_control_socket_are_answered(lab: Lab) -> None:
    answers = [json.loads(line) for line in lab.on("mh", sys.executable, "-c", REQUESTS).stdout.splitlines()]
    assert len(answers) == 11
    assert all(answer["kind"] == "UsageError" for answer in answers), answers
    assert lab.ask("status")["role"] == "mobile-host"
    assert "Traceback" not in logs(lab)


def test_a_second_daemon_is_refused_and_the_first_goes_on(lab: Lab) -> None:
    directory = json.loads(lab.upmt("lab", "status", "--name", lab.name, "--json").stdout)["directory"]
    before = lab.on("mh", "sh", "-c", "ip rule; iptables-legacy-save | grep -c UPMT").stdout
    for host, role in (("mh", "mobile-host"), ("an", "anchor")):
        answer = lab.on(host, *UPMT, role, "run", "--config", f"{directory}/{role}.toml", check=False)
        assert answer.returncode == 1
        assert "already runs" in answer.stderr
        assert "Traceback" not in answer.stderr
    assert lab.on("mh", "sh", "-c", "ip rule; iptables-legacy-save | grep -c UPMT").stdout == before
    lab.on("mh", "ping", "-c", "1", CORRESPONDENT)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("assign", "--command", "x", "--to", "net9"), 2, "net9"),
        (("assign", "--to", "net0"), 2, "--command"),
        (("assign", "--uid", "nobody-at-all", "--to", "net0"), 2, "nobody-at-all"),
        (("assign", "--destination", "1.2.3", "--to", "net0"), 2, "1.2.3"),
        (("assign", "--pid", "x", "--to", "net0"), 2, "pid"),
        (("run", "--app", "a/b", "--", "true"), 2, "a/b"),
        (("run", "--", "no-such-program-here"), 2, "no-such-program-here"),
        (("handover", "default"), 2, "--to"),
        (("nothing",), 2, "nothing"),
    ],
)
def test_a_wrong_command_line_names_what_is_wrong(
    lab: Lab, arguments: tuple[str, ...], code: int, named: str
) -> None:
    answer = lab.on("mh", *UPMT, *arguments, check=False)
    assert answer.returncode == code, answer.stderr
    assert named in answer.stderr
    assert "Traceback" not in answer.stderr


def test_without_a_daemon_reading_ends_with_three() -> None:
    answer = subprocess.run(
        ("unshare", "-n", *UPMT, "status"), capture_output=True, text=True, timeout=30, check=False
    )
    assert answer.returncode == 3
    assert "no UPMT daemon" in answer.stderr


def test_without_root_a_daemon_says_so(lab: Lab) -> None:
    directory = json.loads(lab.upmt("lab", "status", "--name", lab.name, "--json").stdout)["directory"]
    # Not below pytest's own directory, which another run beside this one closes to everybody else.
    with TemporaryDirectory() as readable:
        Path(readable).chmod(0o755)
        config = Path(readable) / "mobile-host.toml"
        config.write_text((Path(directory) / "mobile-host.toml").read_text())
        config.chmod(0o644)
        words = ("mobile-host", "run", "--config", str(config))
        answer = lab.on("ch", sys.executable, "-c", UNPRIVILEGED, *words, check=False)
    assert answer.returncode == 4
    assert "root" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_forged_inner_packet_never_reaches_an_application(lab: Lab) -> None:
    """A packet that was not sent by the correspondent's address through the anchor's NAT does not come out."""
    received = lab.start("mh", sys.executable, "-c", LISTENER)
    lab.await_listener("mh", 7777)
    lab.on("ch", sys.executable, "-c", FORGERY)
    assert received.wait(timeout=10) == 0
    assert received.stdout is not None
    assert received.stdout.read().strip() == "nothing"


def test_plain_believes_who_forges_both_ends_of_a_tunnel_and_nobody_else(lab: Lab) -> None:
    """As documented: `plain` protects nothing beyond these two checks."""
    received = lab.start("ch", sys.executable, "-c", LISTENER.replace("settimeout(3)", "settimeout(30)"))
    lab.await_listener("ch", 7777)
    before = lab.ask("status", host="an")["counters"]
    lab.on("inet", sys.executable, "-c", FORGED_ENDS)
    assert received.wait(timeout=40) == 0
    assert received.stdout is not None
    assert received.stdout.read().strip() == "GOT b'160.80.100.1 33000 1.2.3.4'"
    after = lab.ask("status", host="an")["counters"]
    for reason, count in (("forged_source", 3), ("unknown_tunnel", 2)):
        assert after[reason] == before.get(reason, 0) + count
