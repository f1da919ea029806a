"""Daemons that end in the middle of traffic: killed, replaced by a newer one, hung. What is lost by it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from lab_driver import BOTH_PLANES, UPMT, Lab, wait_until

from upmt_nf.daemon.lifetime import MAKE_WAY
from upmt_nf.lab import daemons
from upmt_nf.lab.stream_report import StreamReport, report
from upmt_nf.lab.voice_stream import read_log

pytestmark = [pytest.mark.lab, pytest.mark.alone]
FAST = pytest.mark.parametrize("lab_of_module", ["fast"], indirect=True)

CORRESPONDENT = "86.0.0.1"
STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")


def start_stream(lab: Lab, application: str, log: Path, rate: int, port: int) -> subprocess.Popen[str]:
    """Numbered packets there and back until they are ended; returns when they flow."""
    lab.start("ch", *STREAM, "echo", str(port), str(log.with_suffix(".echo")))
    lab.await_listener("ch", port)
    stream = lab.start(
        "mh", *UPMT, "run", "--app", application, "--",
        *STREAM, "send", CORRESPONDENT, str(port), str(rate), "300", str(log),
    )  # fmt: skip
    await_packets(log, rate)
    return stream


def await_packets(log: Path, count: int) -> None:
    """Wait until so many more have come back."""
    before = log.stat().st_size if log.exists() else 0
    wait_until(lambda: log.exists() and log.stat().st_size > before + 16 * count, f"{count} more came back")


def end_daemon(lab: Lab, host: str, how: int) -> None:
    """Returns when nobody answers any more."""
    os.kill(daemon_of(lab, host), how)
    wait_until(lambda: not lab.is_answering(host), "it is dead")


def start_daemon(lab: Lab, host: str) -> None:
    """Not by the driver, which would end it with this test. Returns when the tunnels are up again."""
    daemons.start(lab.name, host)
    wait_until(lambda: lab.is_answering(host), "the daemon answers")
    wait_until(lambda: lab.ask("status")["association"]["state"] == "associated", "associated")
    lab.await_networks_up()


def daemon_of(lab: Lab, host: str) -> int:
    """Its pid; not that of the one that keeps it."""
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


@BOTH_PLANES
def test_daemons_are_killed_and_replaced_one_after_the_other(lab: Lab, tmp_path: Path) -> None:
    """Under TCP both ways and 1,000 packets/s there and back. `pytest -s` says what the agent plane loses by it."""
    log, is_fast = tmp_path / "stream.log", lab.ask("status")["datapath"] == "fast"
    # Known to nobody but the daemon that is about to be killed.
    lab.ask("assign", "--app", "spoken", "--to", "net1,any")
    stream = start_stream(lab, "spoken", log, 1000, 5011)
    lab.start("ch", "iperf3", "-s", "-1", "-p", "5201")
    lab.await_listener("ch", 5201)
    words = ("-c", CORRESPONDENT, "-p", "5201", "-t", "300", "--bidir", "-b", "20M", "-J")
    with (tmp_path / "iperf3.json").open("w") as report_of_tcp:
        tcp = subprocess.Popen((*lab.words("mh"), "iperf3", *words), stdout=report_of_tcp)
        wait_until(lambda: tcp_bytes(lab), "TCP goes both ways")
        for how, host in product((signal.SIGKILL, MAKE_WAY) if is_fast else (signal.SIGKILL,), ("mh", "an")):
            end_daemon(lab, host, how)
            if is_fast:
                await_packets(log, 300)
            start_daemon(lab, host)
            await_packets(log, 300)
        before = tcp_bytes(lab)
        wait_until(
            lambda: all(now > then for now, then in zip(tcp_bytes(lab), before, strict=True)), "TCP goes on"
        )
        for program in (tcp, stream):
            program.terminate()
            program.wait(timeout=30)
    ways = [until_its_end(arrivals) for arrivals in (log.with_suffix(".echo"), log)]
    print(
        *(f"  {way.lost} of {way.sent} lost, longest gap {way.longest_gap_ms:.0f} ms" for way in ways), end=""
    )
    assert [way.duplicated for way in ways] == [0, 0]
    if is_fast:
        assert [way.lost for way in ways] == [0, 0]
        seconds = json.loads((tmp_path / "iperf3.json").read_text())["intervals"]
        assert len(seconds) > 3
        assert all(each["bytes"] > 0 for second in seconds for each in second["streams"])
        (flow,) = (flow for flow in lab.ask("flows") if flow["destination_port"] == 5011)
        assert flow["application"] == "spoken"
        wait_until(lambda: network_of_flow(lab, 5011) == "net1", "it goes by its own list of networks")


@FAST
def test_a_hung_daemon_delays_new_flows_no_longer_than_its_watchdog_says(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "stream.log"
    end_daemon(lab, "mh", MAKE_WAY)
    keeper = daemons.start(lab.name, "mh", "--watchdog", "3")
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers")
    lab.await_networks_up()
    stream = start_stream(lab, "default", log, 200, 5013)
    hung = daemon_of(lab, "mh")
    os.kill(hung, signal.SIGSTOP)
    assert lab.on("mh", "ping", "-c", "1", "-W", "1", CORRESPONDENT, check=False).returncode != 0
    # One a second until the first answer: three to kill it, one until it is started again, and its start.
    lab.on("mh", "ping", "-c", "1", "-w", "20", CORRESPONDENT)
    assert daemon_of(lab, "mh") != hung
    lab.await_networks_up()
    await_packets(log, 20)
    stream.terminate()
    stream.wait(timeout=30)
    assert [until_its_end(each).lost for each in (log.with_suffix(".echo"), log)] == [0, 0]
    # The daemon stays for the next test.
    os.kill(keeper, signal.SIGKILL)


@FAST
def test_a_daemon_with_the_agent_alone_ends_what_the_fast_one_left(lab: Lab) -> None:
    end_daemon(lab, "mh", signal.SIGKILL)
    assert "host_out" in lab.on("mh", "tc", "filter", "show", "dev", "upmt0", "egress").stdout
    file = lab.directory_of_state() / "mobile-host.toml"
    fast = file.read_text()
    file.write_text(fast.replace('datapath = "fast"', 'datapath = "agent"'))
    try:
        start_daemon(lab, "mh")
        assert lab.ask("status")["datapath"] == "agent"
        assert lab.on("mh", "tc", "filter", "show", "dev", "upmt0", "egress").stdout == ""
        assert "clsact" not in lab.on("mh", "tc", "qdisc", "show").stdout
        lab.on("mh", "ping", "-c", "1", CORRESPONDENT)
    finally:
        file.write_text(fast)


def until_its_end(log: Path) -> StreamReport:
    """Of a stream that was ended: up to the last packet that was seen."""
    arrivals = read_log(log)
    return report(arrivals, 0, max(each.number for each in arrivals))


def tcp_bytes(lab: Lab) -> tuple[int, ...]:
    """What iperf3's connections have brought away and received; empty before both ways have begun."""
    text = lab.on("mh", "ss", "-Htin", "dport", "=", "5201").stdout
    sums = tuple(
        sum(map(int, re.findall(rf"{name}:(\d+)", text))) for name in ("bytes_acked", "bytes_received")
    )
    return sums if min(sums) > 100_000 else ()


def network_of_flow(lab: Lab, port: int) -> str:
    """The network that the flow to this port goes by."""
    return next(str(each["network"]) for each in lab.ask("flows") if each["destination_port"] == port)
