"""A course of events to replay: JSON lines, written by hand or recorded on a host (docs/policies.md).

    {"upmt_trace": 1, "start": "2026-11-25T08:00:00"}
    {"t": 0, "network": "wifi", "up": true, "delay_ms": 20, "jitter_ms": 2, "loss": 0.001, "throughput": 20e6}
    {"t": 0, "application": "call", "rate": 128e3}
    {"t": 30, "network": "wifi", "loss": 0.2}
    {"t": 60, "end": true}

What a line does not say stays as it was; null takes a value back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from upmt_nf.model.errors import ConfigError
from upmt_nf.model.identity import ApplicationName, NetworkName

VERSION = 1
_MAX_LINES = 5_000_000
_LONGEST = 1e10
QUALITIES: Mapping[str, tuple[str, float]] = {
    "delay_ms": ("delay", 1e-3),
    "jitter_ms": ("jitter", 1e-3),
    "loss": ("loss", 1.0),
    "throughput": ("throughput", 1.0),
    "limit": ("limit", 1.0),
}
"""Key of a line -> field of `Quality`, and the factor to its unit."""


@dataclass(frozen=True, slots=True)
class PathStep:
    """A network changed. `quality`: fields of `Quality` that did."""

    at: float
    network: NetworkName
    is_up: bool | None
    is_doubtful: bool | None
    quality: Mapping[str, float | None]
    reason: str


@dataclass(frozen=True, slots=True)
class TrafficStep:
    """From now on an application wants to send and receive `rate` bit/s, both ways together."""

    at: float
    application: ApplicationName
    rate: float


@dataclass(frozen=True, slots=True)
class LockStep:
    """A person locks an application to a network, or releases it (None)."""

    at: float
    application: ApplicationName
    network: NetworkName | None


@dataclass(frozen=True, slots=True)
class CrashStep:
    """The daemon is killed and is back after `seconds`."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class FailStep:
    """For `seconds` no move succeeds."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class EndStep:
    """The last line."""

    at: float


Step = PathStep | TrafficStep | LockStep | CrashStep | FailStep | EndStep


@dataclass(frozen=True, slots=True)
class Trace:
    """`start`: seconds since 1970-01-01 00:00 local time at t = 0. Steps in the order of time.

    `left_out`: applications of a recorded trace that have no policy, so that nothing is to be said of them.
    """

    start: float
    steps: tuple[Step, ...]
    left_out: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.steps[-1].at if self.steps else 0.0


def read_trace(text: str, file: str, networks: Iterable[str], applications: Iterable[str]) -> Trace:
    """Raises ConfigError with file, line and reason."""
    reader = _Reader(frozenset(networks), frozenset(applications))
    for number, line in enumerate(text.splitlines(), start=1):
        if number > _MAX_LINES:
            raise ConfigError(f"{file}:{number}: a trace has no more than {_MAX_LINES} lines")
        if line.strip():
            try:
                reader.take(line)
            except ValueError as reason:
                raise ConfigError(f"{file}:{number}: {reason}") from reason
    if reader.start is None:
        raise ConfigError(
            f'{file}:1: is empty; the first line is {{"upmt_trace": {VERSION}, "start": "..."}}'
        )
    return Trace(reader.start, tuple(reader.steps), tuple(reader.left_out))


class _Reader:
    def __init__(self, networks: frozenset[str], applications: frozenset[str]) -> None:
        self.start: float | None = None
        self.steps: list[Step] = []
        self.left_out: dict[str, None] = {}
        self._is_recorded = False
        self._networks = networks
        self._applications = applications

    def take(self, line: str) -> None:
        try:
            said = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as reason:
            raise ValueError(f"is not JSON: {reason}") from reason
        if not isinstance(said, dict):
            raise ValueError("is not a JSON object")
        if self.start is None:
            self.start = _start_of(said)
            self._is_recorded = said.get("recorded") is True
            return
        if self.steps and isinstance(self.steps[-1], EndStep):
            raise ValueError("comes after the end")
        at = _number(said, "t", 0, _LONGEST)
        if self.steps and at < self.steps[-1].at:
            raise ValueError(f"t {at:g} is before {self.steps[-1].at:g}: lines go in the order of time")
        del said["t"]
        if (
            self._is_recorded
            and isinstance(name := said.get("application"), str)
            and name not in self._applications
        ):
            # A host has applications that go by a list of networks, too.
            self.left_out[name] = None
            return
        self.steps.append(self._step(at, said))

    def _step(self, at: float, said: dict[str, Any]) -> Step:
        kinds: dict[str, Callable[[float, dict[str, Any]], Step]] = {
            "lock": self._lock,
            "release": self._release,
            "application": self._traffic,
            "crash": lambda at, said: CrashStep(at, _number(said, "crash", 0, _LONGEST)),
            "fail_moves": lambda at, said: FailStep(at, _number(said, "fail_moves", 0, _LONGEST)),
            "end": lambda at, _: EndStep(at),
            "network": self._path,
        }
        for key, reader in kinds.items():
            if key in said:
                return reader(at, said)
        raise ValueError(f"says none of {', '.join(kinds)}")

    def _path(self, at: float, said: dict[str, Any]) -> PathStep:
        _only(said, {"network", "up", "doubtful", "reason", *QUALITIES})
        quality: dict[str, float | None] = {}
        for key, (name, factor) in QUALITIES.items():
            if key in said:
                most = 1.0 if key == "loss" else 1e12
                quality[name] = None if said[key] is None else _number(said, key, 0, most) * factor
        for key in ("up", "doubtful"):
            if not isinstance(said.get(key, True), bool):
                raise ValueError(f"{key} is true or false")
        reason = said.get("reason", "")
        if not isinstance(reason, str):
            raise ValueError("reason is a text")
        return PathStep(at, self._network(said), said.get("up"), said.get("doubtful"), quality, reason)

    def _traffic(self, at: float, said: dict[str, Any]) -> TrafficStep:
        _only(said, {"application", "rate"})
        return TrafficStep(at, self._application(said, "application"), _number(said, "rate", 0, 1e12))

    def _lock(self, at: float, said: dict[str, Any]) -> LockStep:
        _only(said, {"lock", "network"})
        return LockStep(at, self._application(said, "lock"), self._network(said))

    def _release(self, at: float, said: dict[str, Any]) -> LockStep:
        _only(said, {"release"})
        return LockStep(at, self._application(said, "release"), None)

    def _network(self, said: dict[str, Any]) -> NetworkName:
        name = said.get("network")
        if name not in self._networks:
            raise ValueError(f"there is no network {name!r}; there are {', '.join(sorted(self._networks))}")
        return NetworkName(name)

    def _application(self, said: dict[str, Any], key: str) -> ApplicationName:
        name = said.get(key)
        if name not in self._applications:
            known = ", ".join(sorted(self._applications)) or "none"
            raise ValueError(f"there is no application {name!r} with a policy; there are {known}")
        return ApplicationName(name)


def _start_of(said: dict[str, Any]) -> float:
    if said.get("upmt_trace") != VERSION:
        raise ValueError(f'the first line is {{"upmt_trace": {VERSION}, "start": "2026-11-25T08:00:00"}}')
    start = said.get("start", "1970-01-05T00:00:00")
    try:
        then = datetime.fromisoformat(start)
    except (TypeError, ValueError) as reason:
        raise ValueError(f"start {start!r} is no time such as 2026-11-25T08:00:00") from reason
    return (then.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()


def _number(said: dict[str, Any], key: str, least: float, most: float) -> float:
    value = said.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"{key} {value!r} is not a number from {least:g} to {most:g}")
    return float(value)


def _only(said: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(said) - known):
        raise ValueError(f"{unknown[0]!r} is no key here; keys are t, {', '.join(sorted(known))}")
