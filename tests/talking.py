"""Programs of a test that talk on the mobile host of a lab, and what the daemon knows of their flows."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_driver import Lab, wait_until

from upmt_nf.daemon.control_client import call
from upmt_nf.lab import namespaces
from upmt_nf.linux.cgroups import hierarchy

TALKER, SNIFFER, ECHO = (
    str(Path(__file__).parent / "lab" / name) for name in ("talker.py", "inner_sniffer.py", "echo.py")
)
PATIENCE = 30.0


class Program:
    """A program of the test on the mobile host, spoken to by lines."""

    def __init__(self, lab: Lab, *words: str) -> None:
        self._process = subprocess.Popen(
            (*lab.words("mh"), *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said = self._line().split()
        assert said[0] == "ready", said
        self.pid = int(said[1]) if len(said) > 1 else self._process.pid

    def open(self, protocol: str, address: str, port: int, how: str = "") -> str:
        """Open a socket; gives the flow as `protocol:port`."""
        self._say(f"{how} {protocol} {address} {port}")
        return ":".join(self._line().split())

    def ask(self, what: str = "count") -> Any:
        """What it has counted."""
        self._say(what)
        return json.loads(self._line())

    def line(self, order: str) -> str:
        """What it answers to an order."""
        self._say(order)
        return self._line()

    def end(self) -> None:
        """End it and its children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextlib.contextmanager
def somebodys_cgroup() -> Iterator[Path]:
    """A control group that is not ours, removed with all below it; skipped without cgroup v2."""
    root = hierarchy()
    if root is None:
        pytest.skip("cgroup v2 is not mounted")
    own = root / f"somebody-{os.getpid()}"
    own.mkdir()
    try:
        yield own
    finally:
        for directory in sorted(own.rglob("*"), reverse=True):
            if directory.is_dir():
                wait_until(lambda directory=directory: remove(directory), f"{directory} is empty")  # type: ignore[misc]
        own.rmdir()


def remove(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def ask(lab: Lab, command: str, **arguments: Any) -> Any:
    """A command on the mobile host's control socket, without the cost of a process."""
    with namespaces.entered(lab.name, "mh"):
        return call(command, **arguments)


def flows_of(lab: Lab, keys: list[str]) -> dict[str, dict[str, Any]]:
    return {
        key: flow
        for flow in ask(lab, "flows")
        if (key := f"{flow['protocol']}:{flow['source_port']}") in keys
    }


def answers(program: Program, keys: list[str]) -> int:
    counts: dict[str, int] = program.ask()
    return min(counts.get(key, 0) for key in keys)
