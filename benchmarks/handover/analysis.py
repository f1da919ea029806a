"""Logs of a numbered stream -> what it felt of the events. Pure, on arrays, as a log has millions of lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RECORD = np.dtype([("at", "<u8"), ("number", "<u4"), ("flow", "<u4")])
"""A line of meter.c's logs; `at` in nanoseconds of CLOCK_MONOTONIC."""
Log = npt.NDArray[np.void]
BEFORE = 50_000_000
"""Nanoseconds before an event in which a lost packet may still be its work: it was under way."""


@dataclass(frozen=True, slots=True)
class Felt:
    """One direction of a stream around one event, or all along it."""

    lost: int
    duplicated: int
    reordered: int
    """Came after a later one of the same flow (RFC 4737 section 3.3)."""
    gap_ms: float
    """The longest time without an arrival."""


def felt(sent: Log, came: Log, since: int, until: int) -> Felt:
    """What became of the packets sent from `since` to `until` (nanoseconds). Both logs in the order of their times.

    Numbers are those of the sender, no number twice in `sent`. The gap is looked for between the last arrival
    before `since` + BEFORE, when the event is, and the first one after `until`.
    """
    there = sent[(sent["at"] >= since) & (sent["at"] < until)]
    if not len(there):
        return Felt(0, 0, 0, 0.0)
    # Most of a log is of other times: what is left of it is compared one by one.
    near = came[(came["number"] >= there["number"].min()) & (came["number"] <= there["number"].max())]
    mine = near[np.isin(near["number"], there["number"])]
    unique = len(np.unique(mine["number"]))
    return Felt(
        lost=len(there) - unique,
        duplicated=len(mine) - unique,
        reordered=_reordered(mine),
        gap_ms=_longest_gap(came["at"], min(since + BEFORE, until), until) / 1e6,
    )


def _reordered(came: Log) -> int:
    """One sort by flow that keeps the order of arrival; then a number below the flow's highest so far is late."""
    by_flow = came[np.argsort(came["flow"], kind="stable")]
    keys = (by_flow["flow"].astype(np.uint64) << np.uint64(32)) | by_flow["number"]
    highest = np.maximum.accumulate(keys)
    return int(np.count_nonzero(keys[1:] < highest[:-1]))


def _longest_gap(times: npt.NDArray[np.uint64], since: int, until: int) -> int:
    first = max(0, int(np.searchsorted(times, since)) - 1)
    last = min(len(times), int(np.searchsorted(times, until, side="right")) + 1)
    arrivals = np.unique(
        np.concatenate((times[first:last], [np.uint64(until)] if last == len(times) else []))
    )
    return int(np.diff(arrivals.astype(np.int64)).max(initial=0))


def answers_sent(came: Log) -> Log:
    """What the far end sent, which answers each packet at once with a number of its own, counted from 0."""
    sent = came.copy()
    sent["number"] = np.arange(len(came), dtype=np.uint32)
    return sent


def worst(each: Sequence[Felt]) -> Felt:
    """The sums of what was lost, doubled, reordered; the longest of the gaps. Of several events or both directions."""
    return Felt(
        sum(one.lost for one in each),
        sum(one.duplicated for one in each),
        sum(one.reordered for one in each),
        max((one.gap_ms for one in each), default=0.0),
    )
