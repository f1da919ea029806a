"""Courses -> Markdown and JSON. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.handover.moves import Course
from benchmarks.tunnels.figures import percentile

HEADS = (
    "who",
    "event",
    "flows",
    "packets/s",
    "events",
    "lost",
    "doubled",
    "reordered",
    "gap ms",
    "worst",
    "move ms",
    "p99",
)


def row(course: Course) -> tuple[str, ...]:
    """Packets are the sums of all events and both directions; gaps a median and the longest; moves a median and p99."""
    gaps = [max(up.gap_ms, down.gap_ms) for up, down in course.each]
    felt, moves = course.felt, course.move_ms
    flows = f"{course.flows:,}" + ("" if course.known == course.flows else f" ({course.known:,} known)")
    return (
        course.who,
        course.event,
        flows,
        f"{course.rate:,.0f}",
        str(len(course.each)),
        str(felt.lost),
        str(felt.duplicated),
        str(felt.reordered),
        f"{statistics.median(gaps):.1f}" if gaps else "-",
        f"{max(gaps):.1f}" if gaps else "-",
        f"{statistics.median(moves):.2f}" if moves else "-",
        f"{percentile(moves, 0.99):.2f}" if moves else "-",
    )


def costs(courses: Sequence[Course]) -> list[str]:
    """What a move costs with many flows of what it costs with the fewest, a sentence each."""
    found = []
    for course in courses:
        alike = [
            one for one in courses if one.kind[:2] == course.kind[:2] and one.asked_rate == course.asked_rate
        ]
        fewest = min(alike, key=lambda one: one.flows)
        if course is fewest or not course.move_ms or not fewest.move_ms:
            continue
        times = statistics.median(course.move_ms) / statistics.median(fewest.move_ms)
        found.append(
            f"{course.who}, {course.asked_rate:,} packets/s: a move with {course.flows:,} flows costs {times:.2f} x "
            f"what it costs with {fewest.flows:,} (medians of {len(course.move_ms)} and {len(fewest.move_ms)} moves)."
        )
    return found


def as_markdown(
    command: str,
    machine: Mapping[str, str],
    load: tuple[float, float],
    courses: Sequence[Course],
    failures: Sequence[str],
) -> str:
    """One line a course, after what it was made with."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [f"    {command}", "", f"{facts}. Load average before {load[0]:.1f}, after {load[1]:.1f}.", ""]
    lines += ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    lines += ["| " + " | ".join(row(course)) + " |" for course in courses]
    lines += [f"\n{cost}" for cost in costs(courses)]
    lines += [f"\nFailed: {failure}." for failure in failures]
    return "\n".join(lines) + "\n"


def as_json(
    command: str,
    machine: Mapping[str, str],
    load: tuple[float, float],
    courses: Sequence[Course],
    failures: Sequence[str],
) -> str:
    """Every event of every course."""
    value = {
        "command": command,
        "machine": machine,
        "load": load,
        "courses": [asdict(course) for course in courses],
        "failures": list(failures),
    }
    return json.dumps(value, indent=2) + "\n"
