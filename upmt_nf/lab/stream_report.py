"""What happened to a numbered stream of packets: lost, duplicated, reordered, longest gap. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Arrival:
    """One packet received: its number and when, in seconds."""

    number: int
    at: float


@dataclass(frozen=True, slots=True)
class StreamReport:
    """The fate of the packets of one stretch of a stream."""

    sent: int
    received: int
    lost: int
    duplicated: int
    reordered: int
    longest_gap_ms: float
    """The longest time between two arrivals, in milliseconds."""


def report(arrivals: Sequence[Arrival], first: int, last: int) -> StreamReport:
    """The fate of the packets numbered `first` to `last`, both included.

    Reordered is a packet that came after one with a higher number (RFC 4737 section 3.3).
    """
    chosen = [arrival for arrival in arrivals if first <= arrival.number <= last]
    seen: set[int] = set()
    duplicated = reordered = 0
    highest = first - 1
    for arrival in chosen:
        if arrival.number in seen:
            duplicated += 1
            continue
        seen.add(arrival.number)
        if arrival.number < highest:
            reordered += 1
        highest = max(highest, arrival.number)
    gaps = [later.at - earlier.at for earlier, later in pairwise(chosen)]
    sent = last - first + 1
    return StreamReport(
        sent=sent,
        received=len(chosen),
        lost=sent - len(seen),
        duplicated=duplicated,
        reordered=reordered,
        longest_gap_ms=1000 * max(gaps, default=0.0),
    )
