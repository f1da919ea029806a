"""What was measured of a network in the past, bounded: the older, the coarser.

    now      1 h             1 day                         30 days
     |--10 s--|------1 min-----|-----------10 min-------------|  nothing

A coarser sample is the mean of those that it stands for. Times are seconds since 1970 (UTC): a history outlives clocks
that begin anew with the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

STEPS: tuple[tuple[int, int], ...] = ((10, 3600), (60, 86400), (600, 30 * 86400))
"""Seconds between two samples, and for how long they are kept."""
SAMPLE_EVERY = STEPS[0][0]
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Measurements:
    """Seconds, parts of one, bit/s and dBm. `up` is how much of the time the network carried packets, from 0 to 1."""

    up: float
    round_trip: float | None = None
    loss: float | None = None
    variation: float | None = None
    """Of the delay, the worse direction."""
    used_up: float | None = None
    used_down: float | None = None
    signal: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured from `at` on for `step` seconds."""

    at: int
    step: int
    measured: Measurements


class History:
    """One network's: takes what is measured, gives samples of every coarseness as they are complete."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, list[Measurements]]] = {}

    def take(self, measured: Measurements, at: float) -> list[Sample]:
        """Every `SAMPLE_EVERY` seconds, or whenever it comes; gives what is to be kept from now on."""
        finest = STEPS[0][0]
        samples = [Sample(int(at) // finest * finest, finest, measured)]
        for step, _ in STEPS[1:]:
            begin = int(at) // step * step
            since, taken = self._open.get(step, (begin, []))
            if since != begin and taken:
                samples.append(Sample(since, step, mean(taken)))
                taken = []
            self._open[step] = begin, [*taken, measured]
        return samples


def mean(taken: Sequence[Measurements]) -> Measurements:
    """Of what was measured at all; a value that nobody measured stays unknown."""
    values: dict[str, float] = {}
    for field in fields(Measurements):
        known = [value for each in taken if (value := getattr(each, field.name)) is not None]
        if known:
            values[field.name] = round(sum(known) / len(known), _DIGITS)
    return Measurements(**values)


def spans(now: float, since: float) -> list[tuple[int, float, float]]:
    """Which samples tell of the time from `since` on: step, from, to; oldest first, none told twice."""
    found: list[tuple[int, float, float]] = []
    end = now + 1
    for step, kept in STEPS:
        begin = max(since, now - kept)
        if begin < end:
            found.append((step, begin, end))
            end = begin
    return found[::-1]


def too_old(now: float) -> Iterable[tuple[int, float]]:
    """What is to be forgotten: step, and before when."""
    return ((step, now - kept) for step, kept in STEPS)
