"""A running lab as a test drives it: by the commands that an administrator types.

What tests ask for again and again (`ask`, `link`) is the same commands without a process for each.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from upmt_nf.cli.main import app
from upmt_nf.daemon.control_client import call
from upmt_nf.lab import links, namespaces
from upmt_nf.lab.topology import LinkAction
from upmt_nf.model.errors import UpmtError

BOTH_PLANES = pytest.mark.parametrize("lab_of_module", ["agent", "fast"], indirect=True)
"""For tests that are the same with either datapath."""
UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
_numbers = itertools.count(1)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """The first true value of `condition`, asked again and again; fails naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain until {what}")
        time.sleep(0.02)


class Lab:
    """A running lab, driven by the commands that an administrator types."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self._programs: list[subprocess.Popen[str]] = []

    def upmt(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`upmt ARGUMENTS` outside of the namespaces. UPMT_TEST_DATAPATH names the datapath where a test does not."""
        datapath = os.environ.get("UPMT_TEST_DATAPATH")
        if datapath and arguments[:2] == ("lab", "up") and "--datapath" not in arguments:
            arguments = (*arguments, "--datapath", datapath)
        return _run((*UPMT, *arguments), check)

    def on(
        self, host: str, *command: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` on a host of the lab and wait for it."""
        return _run((*self.words(host), *command), check, timeout)

    def words(self, host: str) -> tuple[str, ...]:
        """What stands before a command so that it runs on `host`: as `upmt lab exec`, in a fiftieth of the time."""
        return ("nsenter", f"--net=/run/netns/{namespaces.namespace(self.name, host)}", "--")

    def ask(self, *arguments: str, host: str = "mh") -> Any:
        """`upmt ARGUMENTS --json` on a host, parsed."""
        with namespaces.entered(self.name, host):
            done = CliRunner().invoke(app, [*arguments, "--json"])
        if done.exit_code != 0:
            pytest.fail(f"upmt {' '.join(arguments)} on {host}: {done.exception}\n{done.output}")
        return json.loads(done.stdout)

    def start(self, host: str, *command: str) -> subprocess.Popen[str]:
        """Start a program on a host; it is ended with the test."""
        process = subprocess.Popen(
            (*self.words(host), *command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._programs.append(process)
        return process

    def link(self, network: str, action: str) -> None:
        """`upmt lab link NETWORK ACTION`."""
        links.change_link(self.name, links.network_named(network), LinkAction(action))

    def await_listener(self, host: str, port: int) -> None:
        """Wait until something on `host` listens on `port`."""
        wait_until(lambda: f":{port} " in self.on(host, "ss", "-Hlntu").stdout, f"{host} listens on {port}")

    def await_networks_up(self) -> None:
        """Wait until the host is associated and every tunnel is up."""

        def ready() -> bool:
            status = self.ask("status")
            return status["association"]["state"] == "associated" and all(
                network["state"] == "up" for network in status["networks"]
            )

        wait_until(ready, "all tunnels are up", 20)

    def network_of(self, application: str) -> str | None:
        """The network that an application is on."""
        return {app["name"]: app["network"] for app in self.ask("status")["applications"]}.get(application)

    def counters(self) -> dict[str, int]:
        """Packets received and sent by each access interface of the mobile host."""
        links = json.loads(self.on("mh", "ip", "-s", "-j", "link").stdout)
        return {
            link["ifname"]: link["stats64"]["rx"]["packets"] + link["stats64"]["tx"]["packets"]
            for link in links
        }

    def directory_of_state(self) -> Path:
        """Where the lab keeps configurations and logs."""
        return Path(json.loads(self.upmt("lab", "status", "--name", self.name, "--json").stdout)["directory"])

    def start_daemon(self, host: str, config: Path | None = None) -> int:
        """Start the daemon of `mh` or `an` in a lab without daemons; gives its pid, as `lab exec` becomes it."""
        role = {"mh": "mobile-host", "an": "anchor", "an2": "anchor"}[host]
        name = "anchor2" if host == "an2" else role
        file = config or self.directory_of_state() / f"{name}.toml"
        return self.start(host, *UPMT, role, "run", "--config", str(file)).pid

    def start_pair(self) -> dict[str, int]:
        """Start both anchors of a lab with two, then the host, and wait until its networks are up; gives the pids."""
        pids = {host: self.start_daemon(host) for host in ("an", "an2")}
        wait_until(lambda: all(self.is_answering(host) for host in pids), "both anchors answer")
        pids["mh"] = self.start_daemon("mh")
        wait_until(lambda: self.is_answering("mh"), "the daemon answers")
        self.await_networks_up()
        return pids

    def is_answering(self, host: str) -> bool:
        """Whether a daemon answers there."""
        try:
            with namespaces.entered(self.name, host):
                call("status")
        except UpmtError:
            return False
        return True

    def end_programs_on(self, host: str) -> None:
        """End what `start` began on a host."""
        namespace = self.words(host)
        ended = [process for process in self._programs if tuple(process.args)[: len(namespace)] == namespace]  # type: ignore[arg-type]
        _end(ended)
        self._programs = [process for process in self._programs if process not in ended]

    def end_programs(self) -> None:
        """End what `start` began."""
        _end(self._programs)
        self._programs.clear()


def _end(programs: list[subprocess.Popen[str]]) -> None:
    for process in programs:
        if process.poll() is None:
            process.terminate()
    for process in programs:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _run(command: tuple[str, ...], check: bool, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def unique_lab_name() -> str:
    """A lab name that no other test, also in another process, uses."""
    return f"t{os.getpid()}-{next(_numbers)}"
