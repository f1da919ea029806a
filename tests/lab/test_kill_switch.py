"""The kill switch: not one packet outside of a tunnel, whatever happens to the daemon and whenever it happens."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from host_state import assert_as_before, is_zombie, state_of
from lab_driver import UPMT, Lab, unique_lab_name, wait_until
from talking import ECHO, Program

pytestmark = pytest.mark.lab

KINDS = ("work", "start", "start", "handover", "loss", "start", "stop", "stop", "start", "stopped")
MOMENTS = int(os.environ.get("UPMT_TEST_MOMENTS", len(KINDS)))
"""How often the daemon is killed; `UPMT_TEST_MOMENTS=50` for a long look."""
CORRESPONDENT, CORRESPONDENT6 = "86.0.0.1", "2001:db8:86::1"
GUARDED = """
[[application]]
name = "user"
on_no_network = "hold"
[[application.match]]
uid = 34

[[application]]
name = "group"
on_no_network = "hold"
[[application.match]]
gid = 35

[[application]]
name = "started"
on_no_network = "reject"

[[application]]
name = "strict"
networks = ["net1"]
on_no_network = "reject"
[[application.match]]
uid = 36
"""
TALKER = f"""
import os, socket, sys, time
number, bound = 0, sys.argv[1:]
while True:
    number += 1
    for family, address in ((socket.AF_INET, "{CORRESPONDENT}"), (socket.AF_INET6, "{CORRESPONDENT6}")):
        for kind, port in ((socket.SOCK_DGRAM, 9009), (socket.SOCK_STREAM, 9010)):
            with socket.socket(family, kind) as opened:
                opened.setblocking(False)
                try:
                    if bound and family == socket.AF_INET:
                        opened.bind((bound[0], 0))
                    opened.connect_ex((address, port))
                    if kind == socket.SOCK_DGRAM:
                        opened.send(b"%d" % number)
                except OSError:
                    pass
    time.sleep(0.01)
"""
SINK = """
import socket, sys
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("0.0.0.0", 9009))
with open(sys.argv[1], "ab", buffering=0) as count:
    while True:
        sink.recv(100)
        count.write(b".")
"""


ASK = f"""
import errno, socket
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as opened:
        opened.settimeout(3)
        try:
            opened.connect(("{CORRESPONDENT}", 9))
            opened.send(b"x")
            opened.recv(1)
        except TimeoutError:
            print("silence", end=" ")
        except OSError as reason:
            print(errno.errorcode[reason.errno], end=" ")
"""

CONNECTED = f"""
import errno, socket, sys
running = socket.create_connection(("{CORRESPONDENT}", 6011))
print("ready", flush=True)
sys.stdin.readline()
try:
    running.settimeout(30)
    running.send(b"x")
    print("answered" if running.recv(1) else "ended", flush=True)
except OSError as reason:
    print(errno.errorcode.get(reason.errno, reason), flush=True)
"""


def as_user(uid: int, gid: int = 0) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups")


def is_listening(log: Path) -> bool:
    return log.exists() and "listening" in log.read_text()


class Sniffer:
    """What leaves a host for the correspondent by an access network as itself, in no tunnel."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._files = []
        to_correspondent = f"dst host {CORRESPONDENT} or dst host {CORRESPONDENT6}"
        for interface in ("if0", "if1"):
            file = directory / f"seen-{interface}"
            words = f"tcpdump -lnnUi {interface} '{to_correspondent}' >{file} 2>{file}.log"
            lab.start("mh", "sh", "-c", f"exec {words}")
            log = Path(f"{file}.log")
            wait_until(partial(is_listening, log), "tcpdump listens", 30)
            self._files.append(file)

    def seen(self) -> list[str]:
        return [line for file in self._files for line in file.read_text().splitlines()]


@pytest.fixture
def bare_lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab whose access networks would carry IPv6 to the correspondent as well."""
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        lab.on("mh", "ip", "-6", "address", "add", "2001:db8:1::25/64", "dev", "if0", "nodad")
        lab.on("mh", "ip", "-6", "neigh", "add", "2001:db8:1::1", "lladdr", "02:00:00:00:00:01", "dev", "if0")
        lab.on("mh", "ip", "-6", "route", "add", "default", "via", "2001:db8:1::1", "dev", "if0")
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def config_of(lab: Lab, more: str = GUARDED) -> Path:
    file = lab.directory / "guarded.toml"
    file.write_text((lab.directory_of_state() / "mobile-host.toml").read_text() + more)
    return file


def set_default(lab: Lab, gateway: str, interface: str, metric: int) -> None:
    """A default route that was lost with its link, as the lab had made it."""
    words = f"default via {gateway} dev {interface} metric {metric} proto static"
    lab.on("mh", "ip", "route", "replace", *words.split())


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
    if number == signal.SIGKILL:
        wait_until(lambda: not Path(f"/proc/{pid}/fd").exists() or is_zombie(pid), "it is dead", 30)


def test_nothing_leaks_around_kill_nine_at_any_moment_and_cleanup_lifts_it(bare_lab: Lab) -> None:
    lab, config, count = bare_lab, config_of(bare_lab), bare_lab.directory / "count"
    before = state_of(lab, "mh")
    lab.start_daemon("an")
    lab.start("ch", sys.executable, "-c", SINK, str(count))
    pid = lab.start_daemon("mh", config)
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
    sniffer = Sniffer(lab, lab.directory)
    talker = (sys.executable, "-c", TALKER)
    lab.start("mh", *as_user(34), *talker)
    lab.start("mh", *as_user(34), *talker, "192.168.100.25")
    lab.start("mh", *as_user(0, 35), *talker)
    lab.start("mh", *as_user(36), *talker)
    lab.start("mh", *UPMT, "run", "--app", "started", "--", *talker)
    lab.await_networks_up()
    wait_until(count.exists, "something arrives by a tunnel", 30)

    rounds = random.Random("kill switch")
    for moment in (*KINDS, *(rounds.choice(KINDS) for _ in range(MOMENTS - len(KINDS)))):
        if moment in ("work", "handover", "loss", "stop", "stopped"):
            wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
        if moment in ("handover", "loss"):
            lab.await_networks_up()
        if moment == "handover":
            lab.start("mh", *UPMT, "handover", "user", "--to", "net1")
            time.sleep(rounds.uniform(0.2, 0.6))
        elif moment == "loss":
            lab.link("net1", "down")
            time.sleep(rounds.uniform(0, 0.4))
        elif moment == "stop":
            kill(pid, signal.SIGTERM)
            time.sleep(rounds.uniform(0, 0.3))
        elif moment == "stopped":
            kill(pid, signal.SIGTERM)
            wait_until(lambda: not lab.is_answering("mh"), "the daemon has ended", 30)
        else:
            time.sleep(rounds.uniform(0.1, 1.2))
        if moment != "stopped":
            kill(pid)
        time.sleep(0.3)
        if moment == "loss":
            lab.link("net1", "up")
        assert not sniffer.seen(), moment
        pid = lab.start_daemon("mh", config)

    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
    lab.await_networks_up()
    arrived = count.stat().st_size
    wait_until(lambda: count.stat().st_size > arrived, "it goes on by the tunnels", 30)
    lab.link("net0", "down")
    lab.link("net1", "down")
    time.sleep(0.5)
    lab.link("net0", "up")
    kill(pid)
    lab.on("mh", "ip", "link", "del", "upmt0")
    lab.link("net1", "up")
    set_default(lab, "192.168.100.1", "if0", 100)
    time.sleep(0.5)
    assert not sniffer.seen()

    lab.on("mh", *UPMT, "cleanup")
    wait_until(sniffer.seen, "the sniffer sees what nothing holds any more", 30)
    lab.end_programs()
    set_default(lab, "10.10.10.1", "if1", 200)
    lab.on("mh", "ip", "-6", "route", "replace", "default", "via", "2001:db8:1::1", "dev", "if0")
    assert_as_before(before, lab, "mh")


def test_rejected_at_once_held_in_silence_and_left_alone_meanwhile(bare_lab: Lab) -> None:
    more = """
[[application]]
name = "rejects"
networks = ["net1"]
on_no_network = "reject"
[[application.match]]
uid = 34

[[application]]
name = "holds"
networks = ["net1"]
on_no_network = "hold"
[[application.match]]
uid = 35

[[application]]
name = "falls-back"
networks = ["net1"]
on_no_network = "native"
[[application.match]]
uid = 36
"""
    lab = bare_lab
    lab.start_daemon("an")
    lab.start_daemon("mh", config_of(lab, more))
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
    lab.await_networks_up()

    def ping(uid: int) -> str:
        # CAP_NET_RAW goes with the user: datagram sockets of ICMP do without.
        lab.on("mh", "sysctl", "-qw", "net.ipv4.ping_group_range=0 100000")
        return lab.on(
            "mh", *as_user(uid, uid), "ping", "-c", "1", "-W", "2", CORRESPONDENT, check=False
        ).stdout

    for uid in (34, 35, 36):
        assert "1 received" in ping(uid)
    lab.start("ch", sys.executable, ECHO, f"{CORRESPONDENT}:6011")
    lab.await_listener("ch", 6011)
    running = Program(lab, *as_user(34, 34), "/usr/bin/python3", "-c", CONNECTED)
    lab.link("net1", "down")
    wait_until(lambda: lab.network_of("rejects") is None, "its network is lost", 30)
    try:
        assert running.line("send").strip() == "ECONNRESET"
    finally:
        running.end()
    assert "Packet filtered" in ping(34)
    held = ping(35)
    assert "0 received" in held
    assert "errors" not in held
    for uid, answer in ((34, "EHOSTUNREACH EHOSTUNREACH"), (35, "silence silence")):
        assert lab.on("mh", *as_user(uid), sys.executable, "-c", ASK).stdout.strip() == answer
    assert "1 received" in ping(36)
    assert "src 192.168.100.25" in lab.on("mh", "ip", "route", "get", CORRESPONDENT, "uid", "36").stdout
    lab.link("net1", "up")
    wait_until(lambda: lab.network_of("falls-back") == "net1", "its network is back", 30)
    assert "src 1.2.3.4" in lab.on("mh", "ip", "route", "get", CORRESPONDENT, "uid", "36").stdout
