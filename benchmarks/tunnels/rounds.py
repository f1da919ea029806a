"""Rounds in which every contender has its turn at every measure: what disturbs the machine meanwhile disturbs all."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence

from benchmarks.tunnels.contenders import Contender
from benchmarks.tunnels.figures import Figures
from benchmarks.tunnels.measures import ON_WIRES, STEPS, WIRE, Bench, as_on_wires


def run_rounds(
    bench: Bench,
    contenders: Sequence[Contender],
    steps: Sequence[str],
    rounds: int,
    *,
    wires: bool,
    say: Callable[[str], None],
) -> Figures:
    """Every figure of every round; with `wires` those of ON_WIRES with MTU-size packets as well."""
    found: Figures = {}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for step in steps:
            _take(found, bench, contenders, step, number, "", say)
        if wires:
            places = list({contender.place.name: contender.place for contender in contenders}.values())
            with as_on_wires(places):
                for step in (step for step in ON_WIRES if step in steps):
                    _take(found, bench, contenders, step, number, WIRE, say)
    return found


def _take(
    found: Figures,
    bench: Bench,
    contenders: Sequence[Contender],
    step: str,
    number: int,
    prefix: str,
    say: Callable[[str], None],
) -> None:
    # Each round begins with another contender, so that none is always the one after the heaviest.
    turn, begun = number % len(contenders), time.monotonic()
    for contender in (*contenders[turn:], *contenders[:turn]):
        try:
            figures = STEPS[step](bench, contender)
        except (subprocess.SubprocessError, json.JSONDecodeError, KeyError, IndexError, OSError) as reason:
            say(f"{contender.name}: {step} failed in round {number + 1}: {_said(reason)}")
            bench.restart_servers(contender)
            continue
        for name, figure in figures.items():
            found.setdefault(prefix + name, {}).setdefault(contender.name, []).append(figure)
    say(f"  {prefix}{step}: {time.monotonic() - begun:.0f} s")


def _said(reason: Exception) -> str:
    if isinstance(reason, subprocess.CalledProcessError):
        try:
            return str(json.loads(reason.stdout)["error"])
        except (ValueError, KeyError, TypeError):
            return f"{reason} {reason.stderr}"
    return f"{type(reason).__name__}: {reason}"
