"""What is told of each size, which of it is a cost of an association, and how that grows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

Found = Mapping[str, float | str]
"""The figures of one size, by name."""
FLAT = 1.25
"""A cost of an association that is at most so many times that of the smallest crowd is called flat."""


class Kind(Enum):
    """How a figure is compared between sizes."""

    EACH = "a cost of one association"
    ALL = "a cost of all associations together"
    OTHER = "not a cost of associations"


class Figure(NamedTuple):
    """One line of the table. `most`: what was asked."""

    name: str
    title: str
    kind: Kind = Kind.OTHER
    most: float | None = None


FIGURES = (
    Figure("register_per_s", "registrations/s, by the clock"),
    Figure("register_us", "CPU of a registration (REGISTER, 401, REGISTER, 200), us", Kind.EACH),
    Figure("set_up_per_s", "hosts that set both tunnels up/s, by the clock"),
    Figure("set_up_us", "CPU of both setups (each MESSAGE, 401, MESSAGE, 200), us", Kind.EACH),
    Figure("set_up_p50_ms", "a keepalive's answer meanwhile, p50, ms"),
    Figure("set_up_p99_ms", "the same, p99"),
    Figure("flows_per_s", "new flows/s learnt and translated, by the clock"),
    Figure("flows_us", "CPU of a new flow, us", Kind.EACH),
    Figure("flows_lost", "new flows that did not come through", most=0),
    Figure("daemon_kb", "memory of the daemon an association, kB", Kind.EACH, most=16),
    Figure("maps_kb", "maps an association, kB", Kind.EACH, most=4),
    Figure("daemon_mb", "memory of the daemon without hosts, MB"),
    Figure("maps_mb", "maps without hosts, MB"),
    Figure("nothing_percent", "CPU when nothing is asked, %", Kind.ALL),
    Figure("idle_percent", "CPU of keepalives of idle tunnels, %", Kind.ALL),
    Figure("in_use_percent", "CPU of keepalives of tunnels in use, %", Kind.ALL),
    Figure("idle_us", "CPU of a keepalive of an idle tunnel, us", Kind.EACH),
    Figure("in_use_us", "CPU of a keepalive of a tunnel in use, us", Kind.EACH),
    Figure("idle_p50_ms", "a keepalive's answer, p50, ms"),
    Figure("idle_p99_ms", "the same, p99"),
    Figure("handover_per_s", "handovers of one flow/s, by the clock"),
    Figure("handover_us", "CPU of a handover, us", Kind.EACH),
    Figure("handover_p99_ms", "a keepalive's answer meanwhile, p99, ms"),
    Figure("start_s", "kill -9 and start, until the daemon answers, s"),
    Figure("start_us", "CPU of that beyond an empty daemon's start, us an association", Kind.OTHER),
    Figure("back_s", "until all hosts have association and tunnels again, s", Kind.ALL),
    Figure("back_us", "CPU of a host that comes back, us", Kind.EACH),
    Figure("back_p50_ms", "a keepalive's answer meanwhile, p50, ms"),
    Figure("back_p99_ms", "the same, p99"),
    Figure("stream_sent", "packets of flows from before kill -9 until all are back"),
    Figure("stream_lost_up", "of them lost on their way to the correspondent", most=0),
    Figure("stream_lost_down", "of its answers lost", most=0),
    Figure("resent", "requests sent again in all"),
    Figure("unanswered", "keepalives that were not answered", most=0),
    Figure("notices", "notices of the anchor"),
)
"""In the order of the table."""


def growth(figure: Figure, found: Found, least: Found) -> float | None:
    """How many times what an association costs in the crowd `least` it costs in this one; None: it is no cost."""
    here, there = found.get(figure.name), least.get(figure.name)
    if figure.kind is Kind.OTHER or not isinstance(here, float | int) or not isinstance(there, float | int):
        return None
    if figure.kind is Kind.ALL:
        here, there = here / float(found["associations"]), there / float(least["associations"])
    return here / there if there else None


def verdicts(found: list[Found]) -> list[str]:
    """A line for each figure that is above what was asked, or that grows: others are compared to the first crowd."""
    said = []
    for figure in FIGURES:
        for each in found:
            value = each.get(figure.name)
            if figure.most is not None and isinstance(value, float | int) and value > figure.most:
                said.append(f"{figure.title}: {value:g} with {each['associations']:,}, asked {figure.most:g}")
        for each in found[1:]:
            ratio = growth(figure, each, found[0])
            if ratio is not None and ratio > FLAT:
                said.append(
                    f"{figure.title}: {ratio:.2f} times as much with {each['associations']:,}, an association"
                )
    return said


def table(found: list[Found]) -> list[str]:
    """The lines of the table: each figure, and beside it how the cost of an association grew."""
    lines = []
    for title, name in (("associations", "associations"), ("datapath", "datapath")):
        lines.append(f"{title:62}" + "".join(f"{_text(each.get(name)):>12}{'':8}" for each in found))
    for figure in FIGURES:
        cells = []
        for each in found:
            ratio = growth(figure, each, found[0]) if each is not found[0] else None
            cells.append(f"{_text(each.get(figure.name)):>12}{'' if ratio is None else f' x {ratio:.2f}':8}")
        lines.append(f"{figure.title:62}" + "".join(cells))
    return lines


def _text(value: float | str | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
