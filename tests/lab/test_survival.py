"""What a download and a voice stream survive: daemons killed, an anchor long gone, new addresses, leases that ran out.

`pytest -s` prints how long the stream was silent each time. The host's leases last 4 s, its keepalive interval is 1 s.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab_attacker import Rogue
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

from upmt_nf.daemon.control_client import call
from upmt_nf.lab import namespaces
from upmt_nf.lab.stream_report import report
from upmt_nf.lab.voice_stream import read_log
from upmt_nf.linux.users import UsersFile
from upmt_nf.model.errors import UpmtError
from upmt_nf.signaling.digest import REALM, secret_hash

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"
STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")
RATE = 50
LONGEST_SILENCE = 30.0
"""Seconds. The product's own part is three keepalive intervals and two round trips; starting a daemon on a busy machine
takes most of it."""


class Ends:
    """Both daemons of a lab, killed and started as wanted."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pids: dict[str, int] = {}

    def start(self, *hosts: str) -> None:
        for host in hosts:
            self.pids[host] = self.lab.start_daemon(host)

    def kill(self, *hosts: str, how: int = signal.SIGKILL) -> None:
        for host in hosts:
            os.kill(self.pids.pop(host), how)
        for host in hosts:
            wait_until(partial(self.is_dead, host), f"{host} is dead")

    def ask(self, host: str, command: str = "status") -> Any:
        with namespaces.entered(self.lab.name, host):
            try:
                return call(command, timeout=5)
            except UpmtError:
                return None

    def is_dead(self, host: str) -> bool:
        return self.ask(host) is None

    def is_up(self) -> bool:
        status = self.ask("mh")
        return (
            status is not None
            and status["association"]["state"] in ("associated", "refreshing")
            and all(network["state"] == "up" for network in status["networks"])
        )

    def await_up(self) -> None:
        wait_until(self.is_up, "all tunnels are up", 30)


@pytest.fixture(scope="module")
def ends_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--protection", "sealed")
        directory = lab.directory_of_state()
        host, anchor = directory / "mobile-host.toml", directory / "anchor.toml"
        host.write_text(host.read_text().replace("[mobile_host]", "[mobile_host]\nlease_time = 4"))
        anchor.write_text(anchor.read_text() + "minimum_lease_time = 3\n")
        # This gateway gives the tunnel a port as it likes, as a home router does: the one of fig. 6 would stay
        # taken by the old address for as long as the gateway remembers it.
        lab.on("gw0", "iptables-legacy", "-t", "nat", "-D", "POSTROUTING", "1")
        served = lab.directory / "served"
        served.mkdir()
        (served / "data").write_bytes(os.urandom(6_000_000))
        lab.start("ch", sys.executable, "-m", "http.server", "8090", "--directory", str(served))
        lab.start("ch", *STREAM, "echo", "5004", str(lab.directory / "echo.log"))
        lab.await_listener("ch", 8090)
        lab.await_listener("ch", 5004)
        yield Ends(lab)
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


@pytest.fixture
def ends(ends_of_module: Ends) -> Ends:
    """Both ends run and all tunnels are up."""
    ends = ends_of_module
    for host in ("an", "mh"):
        if host not in ends.pids:
            ends.start(host)
    ends.await_up()
    return ends


@contextmanager
def traffic(
    ends: Ends, directory: Path, longest: float = LONGEST_SILENCE, application: str = "default"
) -> Iterator[None]:
    """A download and a stream run inside; the download ends whole, the stream is silent no longer than `longest`.

    The address, the NAT's ports and the stream's own socket are the same ones afterwards, or neither would go on.
    """
    lab, fetched, log = ends.lab, directory / "fetched", directory / "stream.log"
    inside = ("mh", *UPMT, "run", "--app", application, "--")
    stream = lab.start(*inside, *STREAM, "send", CORRESPONDENT, "5004", str(RATE), "120", str(log))
    url = f"http://{CORRESPONDENT}:8090/data"
    curl = lab.start(
        *inside, "curl", "-sSf", "--max-time", "90", "--limit-rate", "2M", "-o", str(fetched), url
    )
    wait_until(lambda: log.exists() and log.stat().st_size > 16 * RATE, "the stream runs")
    wait_until(lambda: fetched.exists() and fetched.stat().st_size > 500_000, "the download runs")
    address = ends.ask("mh")["association"]["virtual_address"]
    yield
    ends.await_up()
    assert curl.wait(timeout=90) == 0
    served = (lab.directory / "served/data").read_bytes()
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(served).digest()
    assert ends.ask("mh")["association"]["virtual_address"] == address
    last = read_log(log)[-1].number
    wait_until(lambda: read_log(log)[-1].number > last + RATE // 2, "the stream goes on")
    assert stream.poll() is None
    stream.terminate()
    gap = report(read_log(log), 0, read_log(log)[-1].number).longest_gap_ms / 1000
    print(f"  the stream was silent for {gap:.2f} s", end="")
    assert gap <= longest
    logs = [file.read_text() for file in lab.directory_of_state().glob("*.log")]
    assert not any("Traceback" in text for text in logs)


def test_an_anchor_killed_and_started_again(ends: Ends, tmp_path: Path) -> None:
    """It knows leases only; conntrack has kept the flows' ports. The host finds it out by its keepalives."""
    with traffic(ends, tmp_path):
        ends.kill("an")
        ends.start("an")


def test_a_host_daemon_killed_and_started_again(ends: Ends, tmp_path: Path) -> None:
    """Its interface and rules have stayed, so packets wait and none has leaked; the gap is its start-up."""
    with traffic(ends, tmp_path):
        ends.kill("mh")
        ends.start("mh")


def test_both_ends_killed_and_started_together(ends: Ends, tmp_path: Path) -> None:
    with traffic(ends, tmp_path):
        ends.kill("mh", "an")
        ends.start("an", "mh")


def test_leases_that_ran_out_several_times_without_an_anchor(ends: Ends, tmp_path: Path) -> None:
    """Almost three lifetimes. `tests/mobility/test_long_absence.py` does ten minutes and a day by a pretend clock."""
    silent = 11.0
    with traffic(ends, tmp_path, silent + LONGEST_SILENCE):
        ends.kill("an")
        time.sleep(silent)
        assert ends.ask("mh")["association"]["state"] in ("lost", "registering")
        assert "1.2.3.4" in ends.lab.on("mh", "ip", "-4", "addr").stdout, "the address stays"
        ends.start("an")


def test_a_host_daemon_that_slept_beyond_its_lease(ends: Ends, tmp_path: Path) -> None:
    """The anchor has ended the association meanwhile; the host, awake, finds its own expired."""
    with traffic(ends, tmp_path):
        os.kill(ends.pids["mh"], signal.SIGSTOP)
        wait_until(lambda: ends.ask("an")["associations"] == [], "the lease has ended", 10)
        os.kill(ends.pids["mh"], signal.SIGCONT)


NEW_ADDRESS = """
ip address del 192.168.100.{old}/24 dev if0
ip address add 192.168.100.{new}/24 dev if0
ip route add default via 192.168.100.1 dev if0 metric 100
"""


@pytest.mark.parametrize(("application", "policy"), [("stays", "net0"), ("moves", "net0,any")])
def test_another_care_of_address_as_dhcp_gives_it(
    ends: Ends, tmp_path: Path, application: str, policy: str
) -> None:
    ends.lab.ask("assign", "--app", application, "--to", policy)
    old, new = ("25", "77") if application == "stays" else ("77", "25")
    with traffic(ends, tmp_path, application=application):
        ends.lab.on("mh", "sh", "-ec", NEW_ADDRESS.format(old=old, new=new))
        wait_until(
            lambda: ends.ask("mh")["networks"][0]["care_of_address"] == f"192.168.100.{new}", "it is used"
        )
        # The anchor is told of it at once; that refresh changes nothing else.
        wait_until(
            lambda: f"192.168.100.{new}" in str(ends.ask("an")["associations"][0]["contacts"]),
            "it was refreshed",
        )
    assert len(ends.ask("an", "tunnels")) == 2


def test_a_pool_without_a_free_address_is_told_and_recovers(ends: Ends, tmp_path: Path) -> None:
    lab = ends.lab
    directory = lab.directory_of_state()
    identity, secret = "second@lab.example", "its own"
    UsersFile(directory / "users").set(identity, REALM, secret_hash(identity, REALM, secret))
    config = tmp_path / "anchor.toml"
    text = (directory / "anchor.toml").read_text()
    config.write_text(text.replace('pool = "1.2.3.4-1.2.3.254"', 'pool = "1.2.3.4-1.2.3.4"'))
    ends.kill("mh", how=signal.SIGTERM)
    ends.kill("an", how=signal.SIGTERM)
    ends.pids["an"] = lab.start_daemon("an", config)
    wait_until(lambda: ends.ask("an") is not None, "the anchor answers")
    second = Rogue(lab.name, identity, secret)
    try:
        second.associate()
        assert str(second.address) == "1.2.3.4"
        ends.start("mh")
        wait_until(lambda: (ends.ask("mh") or {}).get("association", {}).get("failure"), "it was refused")
        failure = ends.ask("mh")["association"]["failure"]
        assert "503" in failure
        assert "no virtual address is free" in failure
        gone = second.ask(second.register(0))
        assert gone is not None
        assert gone.status == 200
        # A host that was refused waits as long as it was told to; one that starts now has it at once.
        ends.kill("mh", how=signal.SIGTERM)
        ends.start("mh")
        ends.await_up()
        refused = second.ask(second.register())
        assert refused is not None
        assert refused.status == 503
        assert refused.header("retry-after") == "30"
        ends.kill("mh", how=signal.SIGTERM)
        second.associate()
        assert str(second.address) == "1.2.3.4"
        second.ask(second.register(0))
    finally:
        second.close()
        ends.kill("an", how=signal.SIGTERM)
