"""`upmt trace record`: what the networks and applications of this host do, as a trace for `upmt policy replay`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from upmt_nf.daemon.control_client import call
from upmt_nf.model.errors import UpmtError
from upmt_nf.policy.trace import VERSION

trace_app = typer.Typer(help="Traces of link qualities.", no_args_is_help=True)

USABLE = ("up", "suspect")


class Recorder:
    """Rows of `networks` and `flows` in, lines of a trace out: only what changed."""

    def __init__(self) -> None:
        self._said: dict[str, dict[str, Any]] = {}
        self._rates: dict[str, float] = {}
        self._bytes: dict[tuple[Any, ...], int] | None = None
        self._counted_at = 0.0

    def networks(self, at: float, rows: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """One line for each network of which something is new."""
        for row in rows:
            now: dict[str, Any] = {"up": row["state"] in USABLE, "doubtful": row["state"] == "suspect"}
            if now["up"]:
                losses = [row.get(key) for key in ("loss_up", "loss_down")]
                known = [loss for loss in losses if loss is not None]
                variation = (row.get("delay_variation_ms") or {}).values()
                jitter = max((value for value in variation if value is not None), default=None)
                now["delay_ms"] = None if row["rtt_ms"] is None else round(row["rtt_ms"] / 2, 3)
                now["jitter_ms"] = jitter
                now["loss"] = max(known) if known else row["loss"]
            before = self._said.get(row["name"], {})
            if new := {key: value for key, value in now.items() if before.get(key, None) != value}:
                yield {"t": round(at, 3), "network": row["name"], **new}
            self._said[row["name"]] = {**before, **now}

    def flows(self, at: float, rows: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """One line for each application whose rate since the last call is another."""
        keys = ("protocol", "source", "source_port", "destination", "destination_port", "application")
        counts = {tuple(row[key] for key in keys): int(row["bytes"]) for row in rows}
        before, self._bytes = self._bytes, counts
        since, self._counted_at = self._counted_at, at
        if before is None or at <= since:
            return
        rates: dict[str, float] = {}
        for key, count in counts.items():
            if isinstance(key[-1], str):
                passed = max(0, count - before.get(key, 0))
                rates[key[-1]] = rates.get(key[-1], 0.0) + 8 * passed / (at - since)
        for name in {**self._rates, **rates}:
            rate = float(round(rates.get(name, 0.0)))
            if rate != self._rates.get(name, 0.0):
                yield {"t": round(at, 3), "application": name, "rate": rate}
            self._rates[name] = rate


@trace_app.command()
def record(
    file: Annotated[Path | None, typer.Argument(help="Where to; standard output by default.")] = None,
    every: Annotated[float, typer.Option(min=0.05, max=60, help="Seconds between two looks.")] = 0.5,
    duration: Annotated[
        float | None, typer.Option("--for", min=0.1, help="Seconds; until Ctrl-C by default.")
    ] = None,
) -> None:
    """Record the quality of this host's networks and the traffic of its applications. Networks not there are `down`."""
    call("networks")
    try:
        out = sys.stdout if file is None else file.open("w", encoding="utf-8")
    except OSError as reason:
        raise UpmtError(f"{file}: cannot be written: {reason.strerror}") from reason
    with suppress(KeyboardInterrupt):
        _record(out, every, duration)
    if file is not None:
        out.close()


def _record(out: TextIO, every: float, duration: float | None) -> None:
    start = datetime.now().replace(microsecond=0).isoformat()
    _write(out, {"upmt_trace": VERSION, "start": start, "recorded": True})
    recorder, begun = Recorder(), time.monotonic()
    at = 0.0
    try:
        while duration is None or at < duration:
            for line in (*recorder.networks(at, call("networks")), *recorder.flows(at, call("flows"))):
                _write(out, line)
            time.sleep(every)
            at = time.monotonic() - begun
    finally:
        _write(out, {"t": round(max(at, time.monotonic() - begun), 3), "end": True})


def _write(out: TextIO, line: Mapping[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()
