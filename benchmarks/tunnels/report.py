"""Figures -> Markdown and JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.tunnels.bars import Verdict, verdicts
from benchmarks.tunnels.figures import Figures, median, ratio, spread
from benchmarks.tunnels.measures import measure_of

BASES = ("direct", "relay")


@dataclass(frozen=True, slots=True)
class Result:
    """Everything of one run."""

    command: str
    machine: Mapping[str, str]
    load: tuple[float, float]
    """Of the machine before and after; the second one is mostly our own."""
    rounds: int
    seconds: int
    set_up: Mapping[str, Sequence[str]]
    """contender -> commands"""
    missing: Mapping[str, str] = field(default_factory=dict)
    """contender -> why it could not be had"""
    figures: Figures = field(default_factory=dict)


def medians(result: Result) -> dict[str, dict[str, float | None]]:
    """measure -> contender -> median."""
    return {
        name: {contender: median(row.get(contender, ())) for contender in result.set_up}
        for name, row in result.figures.items()
    }


def as_json(result: Result) -> str:
    """All figures of all rounds, with medians, ratios and spreads."""
    found = medians(result)
    summary = {
        name: {
            contender: {
                "median": row[contender],
                "spread": spread(result.figures[name].get(contender, ())),
                **{f"to_{base}": ratio(row, contender, base) for base in BASES},
            }
            for contender in result.set_up
        }
        for name, row in found.items()
    }
    bars = [
        {**asdict(each.bar), "found": each.found, "is_reached": each.is_reached} for each in verdicts(found)
    ]
    return json.dumps({**asdict(result), "summary": summary, "bars": bars}, indent=2) + "\n"


def as_markdown(result: Result) -> str:
    """The machine, the table (median and its ratio to `relay`, or else to `direct`), the bars, the set-ups."""
    base = next((base for base in reversed(BASES) if base in result.set_up), None)
    lines = [
        f"    {result.command}",
        "",
        ", ".join(f"{name} {value}" for name, value in result.machine.items()) + ".",
        f"Medians of {result.rounds} interleaved rounds, {result.seconds} s a stream"
        + (f"; in brackets the ratio to `{base}`" if base else "")
        + f". Load average before the run {result.load[0]:.1f}, after it {result.load[1]:.1f}.",
        "",
        "| | " + " | ".join(result.set_up) + " |",
        "|---" * (len(result.set_up) + 1) + "|",
    ]
    for name, row in medians(result).items():
        cells = []
        for contender in result.set_up:
            share = ratio(row, contender, base) if base else None
            cells.append(_shown(row[contender]) + ("" if share is None else f" ({share:.2f})"))
        lines.append(f"| {name}, {measure_of(name).unit} | " + " | ".join(cells) + " |")
    lines += _judged(verdicts(medians(result)))
    lines += [f"\nNot here: {name}: {why}." for name, why in result.missing.items()]
    lines.append("\nSet up by:\n")
    for contender, commands in result.set_up.items():
        lines += [f"    # {contender}", *(f"    {command}" for command in commands)]
    return "\n".join(lines) + "\n"


def _judged(found: Sequence[Verdict]) -> list[str]:
    if not found:
        return []
    lines = ["", "| bar | asked | found | reached |", "|---|---|---|---|"]
    for each in found:
        unit = "" if each.bar.than else f" {measure_of(each.bar.measure).unit}"
        said = {True: "yes", False: "**no**", None: "nothing to compare with"}[each.is_reached]
        shown = "-" if each.found is None else _shown(each.found) if unit else f"{each.found:.2f}"
        bar = f"{each.bar.contender}: {each.bar.measure}"
        lines.append(f"| {bar} | {each.bar.asked()}{unit} | {shown}{unit} | {said} |")
    return lines


def _shown(value: float | None) -> str:
    """About three figures."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
