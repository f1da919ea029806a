"""Where a network's quality is heading: whether it will leave what a policy bears before there is time to prepare.

Straight lines through what was measured lately; knows neither networks nor applications.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from upmt_nf.policy.policy import Policy
from upmt_nf.policy.quality import UNMEASURED, Quality

MEMORY = 10.0
"""Seconds of measurements that make the line ..."""
AHEAD = 5.0
"""... and how far it is drawn."""
_MOST_KEPT = 64
_FIELDS = ("delay", "jitter", "loss", "throughput")


class Trend:
    """One network's. Times in seconds."""

    __slots__ = ("_drawn_to", "_known")

    def __init__(self) -> None:
        self._known: deque[tuple[float, Quality]] = deque(maxlen=_MOST_KEPT)
        self._drawn_to: tuple[float, Quality] | None = None
        """What is expected, and when it was asked for: many applications ask at the same moment."""

    def note(self, quality: Quality, now: float) -> None:
        """It was measured."""
        self._drawn_to = None
        self._known.append((now, quality))
        while len(self._known) > 2 and now - self._known[1][0] > MEMORY:
            self._known.popleft()

    def forget(self) -> None:
        """It carries nothing: what comes next is another story."""
        self._drawn_to = None
        self._known.clear()

    def expected(self, now: float) -> Quality:
        """What it will be like `AHEAD` seconds from now, if it goes on like this; no better than it is."""
        if not self._known:
            return UNMEASURED
        if self._drawn_to is None or self._drawn_to[0] != now:
            _, latest = self._known[-1]
            values = (self._drawn(field, getattr(latest, field), now) for field in _FIELDS)
            self._drawn_to = now, Quality(*values)
        return self._drawn_to[1]

    def _drawn(self, field: str, value: float | None, now: float) -> float | None:
        if value is None:
            return value
        for at, quality in islice(self._known, len(self._known) - 1):
            found = getattr(quality, field)
            if now - at <= MEMORY and found is not None:
                break
        else:
            return value
        since = self._known[-1][0] - at
        if since <= 0:
            return value
        change = float(value - found) / since * AHEAD
        if field == "throughput":
            return max(0.0, value + min(0.0, change))
        worse = value + max(0.0, change)
        return min(1.0, worse) if field == "loss" else worse


def is_at_risk(policy: Policy, expected: Quality) -> bool:
    """Whether a network leaves what a policy bears, or is about to."""
    return policy.leave.violated_by(expected) is not None
