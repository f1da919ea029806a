"""Delay, loss and rate of an access network, each direction alike, made at its gateway.

With netem where the kernel has it. Otherwise with what it has: TBF for the rate, the statistic match for loss, and
for delay a program that holds packets back (NFQUEUE, `delay_line`).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from upmt_nf.lab import namespaces
from upmt_nf.lab.topology import AccessNetwork
from upmt_nf.model.errors import KernelError, UsageError

_CHAIN = "LAB-SHAPE"
_SIDES = ("lan", "wan")
_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_BURST_SECONDS = 0.01
_LATENCY = "200ms"


@dataclass(frozen=True, slots=True)
class Shape:
    """One direction of a network: `delay` in seconds, `loss` from 0 to 1, `rate` in bit/s; None is not shaped."""

    delay: float | None = None
    loss: float | None = None
    rate: int | None = None


def parse_shape(delay: str | None, loss: str | None, rate: str | None) -> Shape:
    """As people write them: 40ms, 1%, 20mbit. Raises UsageError naming the value."""
    return Shape(
        _parsed("delay", delay, r"(\d+(?:\.\d+)?)(us|ms|s)", {"us": 1e-6, "ms": 1e-3, "s": 1.0}, 60.0),
        _parsed("loss", loss, r"(\d+(?:\.\d+)?)(%)", {"%": 0.01}, 1.0),
        None
        if rate is None
        else int(_parsed("rate", rate, r"(\d+(?:\.\d+)?)([kmg]?bit)", _UNITS, 1e12) or 0),
    )


def _parsed(
    name: str, text: str | None, form: str, units: dict[str, float] | dict[str, int], largest: float
) -> float | None:
    if text is None:
        return None
    matched = re.fullmatch(form, text.strip().lower())
    value = float(matched[1]) * units[matched[2]] if matched else -1.0
    if not 0 <= value <= largest or (name == "rate" and value < 1000):
        example = {"delay": "40ms", "loss": "1%", "rate": "20mbit"}[name]
        raise UsageError(f"{name} {text!r} is not such as {example}")
    return value


class DelayLine:
    """The program that holds a network's packets back. `file`: its pid, its delay in seconds, and the other limits."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def start(self, shape: Shape) -> None:
        """Begin to take packets from the queue. Raises KernelError."""
        self._note("starting", shape)
        process = subprocess.Popen(
            (sys.executable, "-m", "upmt_nf.lab.delay_line", str(self._file)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise KernelError("the delay line did not start: the kernel may lack NFQUEUE")
        self._note(str(process.pid), shape)

    def change(self, shape: Shape) -> bool:
        """Give a running line another delay: no packet is let past it meanwhile. False: more is to be done."""
        try:
            pid, _, *others = self._file.read_text(encoding="utf-8").split()
            if shape.delay is None or others != _others(shape):
                return False
            number = int(pid)
            self._note(pid, shape)
            os.kill(number, signal.SIGHUP)
        except (OSError, ValueError):
            return False
        return True

    def end(self) -> None:
        """What it holds goes on."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self._file.read_text(encoding="utf-8").split()[0]), signal.SIGTERM)
            self._file.unlink()

    def _note(self, pid: str, shape: Shape) -> None:
        self._file.write_text(f"{pid} {shape.delay} {' '.join(_others(shape))}\n", encoding="utf-8")


def _others(shape: Shape) -> list[str]:
    return [str(shape.loss), str(shape.rate)]


def apply_shape(lab: str, network: AccessNetwork, shape: Shape, state: Path) -> str:
    """Shape a network, in place of what was before; gives how it is done. `state` holds the delay line's pid."""
    line = DelayLine(state / f"delay-{network.name}")
    with namespaces.entered(lab, network.gateway):
        if line.change(shape):
            return "delay line"
        _clear(line)
        if shape == Shape():
            return "nothing"
        if _apply_netem(shape):
            return "netem"
        parts = []
        _make_chain()
        if shape.rate:
            for side in _SIDES:
                burst = max(3000, int(shape.rate / 8 * _BURST_SECONDS))
                options = ("rate", f"{shape.rate}bit", "burst", str(burst), "latency", _LATENCY)
                namespaces.run("tc", "qdisc", "replace", "dev", side, "root", "tbf", *options)
            parts.append("tbf")
        if shape.loss:
            _append("-m", "statistic", "--mode", "random", "--probability", f"{shape.loss:.6f}", "-j", "DROP")
            parts.append("statistic")
        if shape.delay:
            line.start(shape)
            _append("-j", "NFQUEUE", "--queue-num", "0")
            parts.append("delay line")
        return ", ".join(parts) or "nothing"


def _apply_netem(shape: Shape) -> bool:
    options: list[str] = []
    if shape.delay:
        options += ["delay", f"{shape.delay * 1e6:.0f}us"]
    if shape.loss:
        options += ["loss", f"{shape.loss * 100:.4f}%"]
    if shape.rate:
        options += ["rate", f"{shape.rate}bit"]
    try:
        for side in _SIDES:
            limit = ("limit", "10000")
            namespaces.run("tc", "qdisc", "replace", "dev", side, "root", "netem", *limit, *options)
    except KernelError:
        return False
    return True


def _clear(line: DelayLine) -> None:
    for side in _SIDES:
        with contextlib.suppress(KernelError):
            namespaces.run("tc", "qdisc", "del", "dev", side, "root")
    for words in (("-D", "FORWARD", "-j", _CHAIN), ("-F", _CHAIN), ("-X", _CHAIN)):
        with contextlib.suppress(KernelError):
            namespaces.run("iptables-legacy", "-w", "-t", "mangle", *words)
    line.end()


def _make_chain() -> None:
    for words in (("-N", _CHAIN), ("-I", "FORWARD", "-j", _CHAIN)):
        namespaces.run("iptables-legacy", "-w", "-t", "mangle", *words)


def _append(*words: str) -> None:
    namespaces.run("iptables-legacy", "-w", "-t", "mangle", "-A", _CHAIN, *words)
