"""Registrations over loopback: the anchor's process, pretend hosts as fast as it answers, and at a steady rate."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.anchor_process import LOOPBACK
from benchmarks.registration_load import Load, PretendHost

UNDER_WAY = 64
"""Registrations that wait for an answer at a time, when the anchor sets the pace."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Anchor:
    """The anchor's process (or an echo), on the first core; we go to the last one."""

    def __init__(self, users: Path | None = None, *, echo: bool = False) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._cores = sorted(os.sched_getaffinity(0))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.setblocking(False)
        port = _free_port()
        words = [sys.executable, "-m", "benchmarks.anchor_process", "--port", str(port)]
        words += ["--core", str(self._cores[0]), "--leases", str(Path(self._directory.name) / "leases")]
        words += ["--users", str(users)] if users is not None else []
        words += ["--echo"] if echo else []
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self.socket.connect((str(LOOPBACK), port))

    def __enter__(self) -> Anchor:
        os.sched_setaffinity(0, {self._cores[-1]})
        return self

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._cores)
        self._process.terminate()
        self._process.wait()
        self.socket.close()
        self._directory.cleanup()

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def rss_mib(self) -> float:
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    def receive(self, patience: float) -> list[bytes]:
        """What has come, after waiting for it."""
        found: list[bytes] = []
        if select.select([self.socket], [], [], patience)[0]:
            for _ in range(256):
                try:
                    found.append(self.socket.recv(65536))
                except BlockingIOError:
                    break
        return found


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((str(LOOPBACK), 0))
        return int(probe.getsockname()[1])


def echoes(seconds: float) -> float:
    """Datagrams a second that a plain Python echo gives back, by the clock."""
    with Anchor(echo=True) as other:
        began, count = monotonic(), 0
        for _ in range(UNDER_WAY):
            other.socket.send(b"x" * 500)
        while monotonic() - began < seconds:
            for data in other.receive(0.1):
                other.socket.send(data)
                count += 1
        return count / (monotonic() - began)


def hammer(anchor: Anchor, load: Load, seconds: float) -> dict[str, float]:
    """As many registrations as the anchor takes, each host associated before; by the clock and by its CPU time."""
    _run(anchor, load, len(load.hosts), 60.0)
    before, cpu, began = load.done, anchor.cpu_seconds, monotonic()
    _run(anchor, load, None, seconds)
    done, spent = load.done - before, anchor.cpu_seconds - cpu
    assert not load.wrong, load.wrong[:3]
    return {
        "per_s": done / (monotonic() - began),
        "per_cpu_s": done / spent,
        "resent": load.resent,
    }


def _run(anchor: Anchor, load: Load, count: int | None, seconds: float) -> None:
    """Until `count` more registrations are done, or for so long; nothing is under way at the end."""
    began, goal = monotonic(), load.done + (count or 0)
    while True:
        now = monotonic()
        is_over = now - began >= seconds or (count is not None and load.done + load.under_way >= goal)
        if is_over and not load.under_way:
            return
        assert now - began < seconds + 10, "the anchor does not answer any more"
        while not is_over and load.under_way < UNDER_WAY:
            data = load.begin(now)
            if data is None:
                break
            anchor.socket.send(data)
            is_over = count is not None and load.done + load.under_way >= goal
        for answer in anchor.receive(0.05):
            again = load.take(answer, now)
            if again is not None:
                anchor.socket.send(again)
        for data in load.resend(now):
            anchor.socket.send(data)


def soak(users: Path, hosts: int, rate: int, seconds: float) -> dict[str, Any]:
    """A steady rate of challenged registrations, whatever the anchor does; its memory every few seconds."""
    load = Load([PretendHost(number, True) for number in range(hosts)], fresh_nonce=True)
    with Anchor(users) as anchor:
        began, cpu, begun = monotonic(), anchor.cpu_seconds, 0
        memory = {0: anchor.rss_mib}
        while (past := monotonic() - began) < seconds:
            while begun < past * rate:
                data = load.begin(began + past)
                if data is None:
                    break
                anchor.socket.send(data)
                begun += 1
            for answer in anchor.receive(0.001):
                again = load.take(answer, began + past)
                if again is not None:
                    anchor.socket.send(again)
            for data in load.resend(began + past):
                anchor.socket.send(data)
            if past >= (at := len(memory) * 5):
                memory[at] = anchor.rss_mib
        spent = anchor.cpu_seconds - cpu
        memory[round(seconds)] = anchor.rss_mib
    return {
        "rate": rate,
        "seconds": seconds,
        "registrations": load.done,
        "per_s": load.done / seconds,
        "challenges": load.challenged,
        "unfinished": load.under_way,
        "wrong": len(load.wrong),
        "examples": load.wrong[:3],
        "resent": load.resent,
        "cpu_share": spent / seconds,
        "rss_mib": memory,
    }
