"""What was promised of the datapaths, and whether the medians of a run keep it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tunnels.measures import WIRE

Medians = Mapping[str, Mapping[str, float | None]]
"""measure -> contender -> median."""
_FAST = ("fast-plain", "fast-cookie")
_IN_USER_SPACE = ("wireguard-go", "openvpn-none", "openvpn-aes", "vtun")


@dataclass(frozen=True, slots=True)
class Bar:
    """A contender's figure is to be `factor` times the best of `than`, or `factor` alone; at least, or at most."""

    contender: str
    measure: str
    factor: float
    than: tuple[str, ...] = ()
    at_most: bool = False

    def asked(self) -> str:
        """In words."""
        bound = "<=" if self.at_most else ">="
        if not self.than:
            return f"{bound} {self.factor:,.6g}"
        best = self.than[0] if len(self.than) == 1 else f"the best of {', '.join(self.than)}"
        return f"{bound} {self.factor:g} x {best}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`found` is the figure, or its ratio to the best of those it is compared with; None without one to judge."""

    bar: Bar
    found: float | None

    @property
    def is_reached(self) -> bool | None:
        """None when it cannot be said."""
        if self.found is None:
            return None
        return self.found <= self.bar.factor if self.bar.at_most else self.found >= self.bar.factor


def _bars() -> Iterator[Bar]:
    tcp = [f"TCP {way}, {streams}" for streams in ("1 stream", "10 streams") for way in ("up", "down")]
    for ours in _FAST:
        for name in tcp:
            yield Bar(ours, name, 0.9, ("relay",))
            yield Bar(ours, name, 1.1, ("vxlan",))
        for size in (64, 1400):
            yield Bar(ours, f"UDP up, {size} bytes", 0.9, ("relay",))
            yield Bar(ours, f"UDP up, {size} bytes", 1.3, ("vxlan",))
        for way in ("up", "down"):
            yield Bar(ours, f"{WIRE}TCP {way}, 1 stream", 1.0, ("vxlan",))
        yield Bar(ours, "latency, p50", 1.15, ("relay",), at_most=True)
        yield Bar(ours, "UDP up, 64 bytes", 1.1, ("relay",))
    for way in ("up", "down"):
        name = f"TCP {way}, 1 stream"
        yield Bar("agent-plain", name, 1500)
        yield Bar("agent-plain", name, 3, ("wireguard-go",))
        yield Bar("agent-plain", name, 2, _IN_USER_SPACE)
        yield Bar("agent-sealed", name, 1000)
        yield Bar("agent-sealed", name, 2, ("openvpn-aes",))
    yield Bar("agent-plain", "UDP up, 64 bytes", 35)


BARS: tuple[Bar, ...] = tuple(_bars())
"""All of them, in the order of the report; the last of a fast contender is the one beyond: faster than no tunnel."""


def verdicts(medians: Medians, bars: Sequence[Bar] = BARS) -> list[Verdict]:
    """One for each bar whose contender was measured."""
    return [
        Verdict(bar, _found(medians[bar.measure], bar))
        for bar in bars
        if medians.get(bar.measure, {}).get(bar.contender) is not None
    ]


def _found(row: Mapping[str, float | None], bar: Bar) -> float | None:
    figure = row[bar.contender]
    if figure is None or not bar.than:
        return figure
    others = [value for name in bar.than if (value := row.get(name))]
    if not others:
        return None
    return figure / (min(others) if bar.at_most else max(others))
