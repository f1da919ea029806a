"""The fast plane in the lab: what passes it, and that nothing stops when a daemon does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, wait_until

from upmt_nf.lab import daemons
from upmt_nf.lab.stream_report import report
from upmt_nf.lab.voice_stream import read_log

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("lab_of_module", ["fast"], indirect=True)]

CORRESPONDENT = "86.0.0.1"
STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")


def start_stream(
    lab: Lab, application: str, log: Path, rate: int, seconds: float, port: int
) -> subprocess.Popen[str]:
    lab.start("ch", *STREAM, "echo", str(port), str(log.with_suffix(".echo")))
    lab.await_listener("ch", port)
    return lab.start(
        "mh", *UPMT, "run", "--app", application, "--",
        *STREAM, "send", CORRESPONDENT, str(port), str(rate), str(seconds), str(log),
    )  # fmt: skip


def left_to_agent(lab: Lab, host: str) -> int:
    counters = lab.ask("status", host=host)["counters"]
    return sum(count for name, count in counters.items() if name.startswith("fast_left"))


def test_a_known_flow_never_reaches_the_agent_and_is_counted(lab: Lab) -> None:
    assert lab.ask("status")["datapath"] == lab.ask("status", host="an")["datapath"] == "fast"
    assert lab.ask("status")["datapath_reason"]
    before = {host: left_to_agent(lab, host) for host in ("mh", "an")}
    lab.on("mh", "ping", "-q", "-c", "500", "-i", "0.002", CORRESPONDENT)
    for host in ("mh", "an"):
        assert left_to_agent(lab, host) - before[host] < 50
        flow = max(
            (each for each in lab.ask("flows", host=host) if each["protocol"] == "icmp"),
            key=lambda f: f["packets"],
        )
        assert flow["packets"] == 1000
        assert flow["bytes"] == 1000 * 84


def test_hundred_planned_handovers_lose_double_and_reorder_nothing(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "stream.log"
    lab.ask("assign", "--app", "quick", "--to", "net0,any")
    stream = start_stream(lab, "quick", log, 2000, 14, 5010)
    wait_until(lambda: log.exists() and log.stat().st_size > 16 * 1000, "the stream runs", 30)
    for count in range(100):
        receipt = lab.ask("handover", "quick", "--to", "net1" if count % 2 == 0 else "net0")
        assert receipt["mode"] == "make-before-break"
        if stream.poll() is not None:
            break
    assert count > 2
    assert stream.wait(timeout=90) == 0
    for there in (log.with_suffix(".echo"), log):
        result = report(read_log(there), 0, 27_999)
        assert (result.lost, result.duplicated, result.reordered) == (0, 0, 0)


def test_nothing_is_lost_when_one_daemon_after_the_other_is_killed_and_starts_again(
    lab: Lab, tmp_path: Path
) -> None:
    log = tmp_path / "stream.log"
    # Known to nobody but the daemon that is about to be killed.
    lab.ask("assign", "--app", "spoken", "--to", "net1,any")
    stream = start_stream(lab, "spoken", log, 1000, 300, 5011)
    lab.start("ch", "iperf3", "-s", "-1", "-p", "5201")
    lab.await_listener("ch", 5201)
    words = ("-c", CORRESPONDENT, "-p", "5201", "-t", "300", "--bidir", "-b", "20M", "-J")
    with (tmp_path / "iperf3.json").open("w") as report_of_tcp:
        tcp = subprocess.Popen((*lab.words("mh"), "iperf3", *words), stdout=report_of_tcp)
        wait_until(lambda: log.exists() and log.stat().st_size > 16 * 1000, "the stream runs", 30)
        for host in ("mh", "an"):
            kill_daemon(lab, host)
            size = log.stat().st_size
            wait_until(lambda: log.stat().st_size > size + 16 * 1000, "the stream goes on without it")  # noqa: B023
            start_daemon(lab, host)
        size = log.stat().st_size
        wait_until(lambda: log.stat().st_size > size + 16 * 1000, "the stream goes on with both")
        for program in (tcp, stream):
            program.terminate()
            program.wait(timeout=30)
    assert lost_until_its_end(log) == 0
    seconds = json.loads((tmp_path / "iperf3.json").read_text())["intervals"]
    assert len(seconds) > 3
    assert all(each["bytes"] > 0 for second in seconds for each in second["streams"])
    (flow,) = (flow for flow in lab.ask("flows") if flow["destination_port"] == 5011)
    assert flow["application"] == "spoken"
    wait_until(
        lambda: (
            next(each for each in lab.ask("flows") if each["destination_port"] == 5011)["network"] == "net1"
        ),
        "it goes by its own list of networks",
    )


def test_a_hung_daemon_delays_new_flows_no_longer_than_its_watchdog_says(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "stream.log"
    stream = start_stream(lab, "default", log, 200, 300, 5013)
    wait_until(lambda: log.exists() and log.stat().st_size > 16 * 200, "the stream runs", 30)
    kill_daemon(lab, "mh")
    config = lab.directory_of_state() / "mobile-host.toml"
    keeper = lab.start("mh", *UPMT, "mobile-host", "run", "--config", str(config), "--watchdog", "3")
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
    lab.await_networks_up()
    hung = daemon_of(lab, "mh")
    os.kill(hung, signal.SIGSTOP)
    assert lab.on("mh", "ping", "-c", "1", "-W", "1", CORRESPONDENT, check=False).returncode != 0
    # One a second until the first answer: three to kill it, one until it is started again, and its start.
    lab.on("mh", "ping", "-c", "1", "-w", "20", CORRESPONDENT)
    assert daemon_of(lab, "mh") != hung
    lab.await_networks_up()
    stream.terminate()
    stream.wait(timeout=30)
    assert lost_until_its_end(log) == 0
    keeper.terminate()
    assert keeper.wait(timeout=20) == 0
    start_daemon(lab, "mh")


SEGMENTS = """
import socket, struct, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.settimeout(10)
datagrams = [bytes([number]) * 1200 for number in range(20)] + [b"last"]
size = (socket.IPPROTO_UDP, 103, struct.pack("=H", 1200))
for _ in range(20):
    made.sendmsg([b"".join(datagrams)], [size], 0, (sys.argv[1], int(sys.argv[2])))
    assert sorted(made.recv(2000) for _ in datagrams) == sorted(datagrams)
"""
ECHO = """
import socket, struct, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("0.0.0.0", int(sys.argv[1])))
while True:
    data, source = made.recvfrom(70000)
    made.sendto(data, source)
"""


def test_datagrams_sent_in_one_go_arrive_one_by_one(lab: Lab) -> None:
    """UDP_SEGMENT, as QUIC uses it: the agent has them cut before the tunnel."""
    lab.start("ch", sys.executable, "-c", ECHO, "5015")
    lab.await_listener("ch", 5015)
    lab.on("mh", sys.executable, "-c", SEGMENTS, CORRESPONDENT, "5015")


def test_a_daemon_with_the_agent_alone_ends_what_the_fast_one_left(lab: Lab) -> None:
    kill_daemon(lab, "mh")
    assert "host_out" in lab.on("mh", "tc", "filter", "show", "dev", "upmt0", "egress").stdout
    file = lab.directory_of_state() / "mobile-host.toml"
    fast = file.read_text()
    file.write_text(fast.replace('datapath = "fast"', 'datapath = "agent"'))
    try:
        daemons.start(lab.name, "mh")
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
        assert lab.ask("status")["datapath"] == "agent"
        assert lab.on("mh", "tc", "filter", "show", "dev", "upmt0", "egress").stdout == ""
        assert "clsact" not in lab.on("mh", "tc", "qdisc", "show").stdout
        lab.await_networks_up()
        lab.on("mh", "ping", "-c", "1", CORRESPONDENT)
    finally:
        file.write_text(fast)


def lost_until_its_end(log: Path) -> int:
    """Packets of a stream that was ended, there and back, up to the last one that was seen on each way."""
    ways = (read_log(log.with_suffix(".echo")), read_log(log))
    return sum(report(arrivals, 0, max(each.number for each in arrivals)).lost for arrivals in ways)


def kill_daemon(lab: Lab, host: str) -> None:
    """`kill -9`; returns when nobody answers any more."""
    os.kill(daemon_of(lab, host), signal.SIGKILL)
    wait_until(lambda: not lab.is_answering(host), "it is dead")


def start_daemon(lab: Lab, host: str) -> None:
    """Not by the driver, which would end it with this test. Returns when the tunnels are up again."""
    daemons.start(lab.name, host)
    wait_until(lambda: lab.is_answering(host), "the daemon answers")
    wait_until(lambda: lab.ask("status")["association"]["state"] == "associated", "associated")
    lab.await_networks_up()


def daemon_of(lab: Lab, host: str) -> int:
    role = {"mh": "mobile-host", "an": "anchor"}[host]
    config = str(lab.directory_of_state() / f"{role}.toml").encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if role.encode() in words and config in words and b"--watchdog" not in words:
                return int(entry.name)
    raise AssertionError(f"no daemon runs on {host}")
