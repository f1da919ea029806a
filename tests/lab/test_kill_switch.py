"""The kill switch: not one packet outside of a tunnel, whatever happens to the daemon and whenever it happens.

And when `upmt cleanup` has lifted it, the host is byte for byte as before, whatever moment it was.
"""

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

KINDS = ("work", "start", "install", "handover", "loss", "stop", "cleanup", "stopped", "start", "install")
"""When the daemon is killed: at work, as it starts over what an earlier one left, as it starts where none has ever
been, in a handover, as a network is lost, as it stops, before a cleanup that is killed as well, after its end."""
MOMENTS = int(os.environ.get("UPMT_TEST_MOMENTS", len(KINDS)))
"""How often; `UPMT_TEST_MOMENTS=50` for a long look."""
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
        echo = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        datagram, stream = socket.SOCK_DGRAM, socket.SOCK_STREAM
        for kind, port, protocol in ((datagram, 9009, 0), (stream, 9010, 0), (datagram, 0, echo)):
            with socket.socket(family, kind, protocol) as opened:
                opened.setblocking(False)
                try:
                    if bound and family == socket.AF_INET:
                        opened.bind((bound[0], 0))
                    opened.connect_ex((address, port))
                    if protocol:
                        opened.send(bytes((8 if family == socket.AF_INET else 128, 0, 0, 0, 0, 0, 0, 1)))
                    elif kind == socket.SOCK_DGRAM:
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
        self._known = 0

    def seen(self) -> list[str]:
        """Since it was told to forget."""
        return self._lines()[self._known :]

    def forget(self) -> None:
        self._known = len(self._lines())

    def _lines(self) -> list[str]:
        lines = (line for file in self._files for line in file.read_text().splitlines(keepends=True))
        return sorted(line for line in lines if line.endswith("\n"))


class Talkers:
    """Programs of every guarded application that never stop talking, but when they are told to."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        talker = (sys.executable, "-c", TALKER)
        self._running = [
            lab.start("mh", *as_user(34), *talker),
            lab.start("mh", *as_user(34), *talker, "192.168.100.25"),
            lab.start("mh", *as_user(0, 35), *talker),
            lab.start("mh", *as_user(36), *talker),
        ]
        self._start_one_by_upmt()

    def _start_one_by_upmt(self) -> None:
        self._started = self._lab.start(
            "mh", *UPMT, "run", "--app", "started", "--", sys.executable, "-c", TALKER
        )

    def pause(self) -> None:
        """All are silent; the one of `upmt run` ends, as `upmt cleanup` takes its cgroup away."""
        self._started.kill()
        self._started.wait()
        for process in self._running:
            process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        for process in self._running:
            process.send_signal(signal.SIGCONT)
        self._start_one_by_upmt()


@pytest.fixture(params=["agent", "fast"])
def bare_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A lab whose access networks would carry IPv6 to the correspondent as well."""
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--datapath", request.param)
        lab.on("mh", "sysctl", "-qw", "net.ipv4.ping_group_range=0 100000")
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


def started(lab: Lab, config: Path) -> int:
    """A daemon that answers: what it guards is guarded."""
    pid = lab.start_daemon("mh", config)
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
    return pid


def killed_at(moment: str, lab: Lab, config: Path, pid: int, rounds: random.Random) -> int:
    """Kill the daemon at such a moment; gives the pid of the one that was killed last."""
    match moment:
        case "handover":
            lab.await_networks_up()
            lab.start("mh", *UPMT, "handover", "user", "--to", "net1")
            time.sleep(rounds.uniform(0.2, 0.6))
        case "loss":
            lab.await_networks_up()
            lab.link("net1", "down")
            time.sleep(rounds.uniform(0, 0.4))
        case "stop":
            kill(pid, signal.SIGTERM)
            time.sleep(rounds.uniform(0, 0.3))
        case "stopped":
            kill(pid, signal.SIGTERM)
            wait_until(lambda: not lab.is_answering("mh"), "the daemon has ended", 30)
        case "start":
            kill(pid)
            pid = lab.start_daemon("mh", config)
            time.sleep(rounds.uniform(0.1, 1.2))
        case _:
            time.sleep(rounds.uniform(0.1, 1.2))
    kill(pid)
    if moment == "loss":
        time.sleep(0.3)
        lab.link("net1", "up")
        wait_until(lambda: "state UP" in lab.on("mh", "ip", "-o", "link", "show", "if1").stdout, "it is up")
        set_default(lab, "10.10.10.1", "if1", 200)
    return pid


def test_nothing_leaks_around_kill_nine_at_any_moment_and_cleanup_lifts_it(bare_lab: Lab) -> None:
    lab, config, count = bare_lab, config_of(bare_lab), bare_lab.directory / "count"
    before = state_of(lab, "mh")
    lab.start_daemon("an")
    lab.start("ch", sys.executable, "-c", SINK, str(count))
    pid = started(lab, config)
    sniffer = Sniffer(lab, lab.directory)
    talkers = Talkers(lab)
    lab.await_networks_up()
    wait_until(count.exists, "something arrives by a tunnel", 30)

    rounds = random.Random("kill switch")
    for moment in (*KINDS, *(rounds.choice(KINDS) for _ in range(MOMENTS - len(KINDS)))):
        if moment == "install":
            # On a host that has no kill switch yet everybody is silent until there is one.
            kill(pid)
            talkers.pause()
            lab.on("mh", *UPMT, "cleanup")
            pid = lab.start_daemon("mh", config)
            time.sleep(rounds.uniform(0.1, 1.2))
            kill(pid)
        else:
            pid = killed_at(moment, lab, config, pid, rounds)
            time.sleep(0.3)
            assert not sniffer.seen(), moment
            talkers.pause()
        if moment == "cleanup":
            half_done = lab.start("mh", *UPMT, "cleanup")
            time.sleep(rounds.uniform(0.1, 0.5))
            half_done.kill()
            half_done.wait()
        lab.on("mh", *UPMT, "cleanup")
        assert_as_before(before, lab, "mh")
        pid = started(lab, config)
        sniffer.forget()
        talkers.go_on()

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
