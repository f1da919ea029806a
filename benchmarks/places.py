"""Labs of a benchmark and the programs that run on their hosts, started there without another Python."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from upmt_nf.daemon.control_client import call
from upmt_nf.lab import lab as the_lab
from upmt_nf.lab import namespaces
from upmt_nf.lab.topology import CABLES

_END_SECONDS = 3.0


class Place:
    """A running lab; what was started there ends with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._programs: list[subprocess.Popen[str]] = []

    def run(self, host: str, *command: str, timeout: float = 60) -> str:
        """Run to the end; gives what it printed. Raises CalledProcessError with what it said."""
        with namespaces.entered(self.name, host):
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def start(self, host: str, *command: str, log: str | None = None) -> subprocess.Popen[str]:
        """Start a program that can be talked to, or with `log` one that writes there."""
        with namespaces.entered(self.name, host), open(log or os.devnull, "a") as file:
            program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if log else subprocess.PIPE,
                stdout=file if log else subprocess.PIPE,
                stderr=subprocess.STDOUT if log else None,
                text=True,
            )
        self._programs.append(program)
        return program

    @contextlib.contextmanager
    def running(self, host: str, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A program for a while; it has printed its first line when this begins."""
        program = self.start(host, *command)
        try:
            assert program.stdout is not None
            program.stdout.readline()
            yield program
        finally:
            self.end(program)

    def end(self, program: subprocess.Popen[str]) -> None:
        """End a program that `start` began, by force when it does not listen."""
        program.terminate()
        try:
            program.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
        for stream in (program.stdin, program.stdout):
            if stream is not None:
                stream.close()
        self._programs.remove(program)

    def ask(self, command: str, host: str = "mh", **arguments: Any) -> Any:
        """Ask the daemon of a host, as the command line does."""
        with namespaces.entered(self.name, host):
            return call(command, **arguments)

    def switch_offloads(self, state: str) -> None:
        """`on` or `off` for segmentation and merging on every cable, so that off means packets as on a wire."""
        for cable in CABLES:
            if not all(namespaces.exists(self.name, port.host) for port in (cable.one, cable.other)):
                continue
            for port in (cable.one, cable.other):
                self.run(port.host, "ethtool", "-K", port.interface, "tso", state, "gso", state, "gro", "off")

    def close(self) -> None:
        """End what runs and remove the lab."""
        for program in list(self._programs):
            self.end(program)
        the_lab.down(self.name, say=lambda _: None)


@contextlib.contextmanager
def place(name: str, datapath: str = "agent", protection: str = "plain", *, daemons: bool) -> Iterator[Place]:
    """A lab of our own, with both daemons or bare."""
    the_lab.up(name, datapath, protection, with_daemons=daemons, say=lambda _: None)
    here = Place(name)
    try:
        yield here
    finally:
        here.close()


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """The first true value of `condition`. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(0.02)
    return value
