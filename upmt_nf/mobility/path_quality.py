"""The newest probes of one tunnel, as policies judge them: quick to see a change, slow to believe a single loss."""

from __future__ import annotations

from collections import deque

from upmt_nf.policy.quality import Quality

DELAYS = 3
"""Round trips, the newest, of which the middle one counts: one late probe is no change."""
PROBES = 100
"""The newest, from which loss is told ..."""
LEAST_PROBES = 20
"""... once there are so many, and one lost probe proves nothing."""
JITTER_GAIN = 1 / 16
"""RFC 3550, section 6.4.1."""


class PathQuality:
    """Fed by the tunnel's machine. Times in seconds."""

    __slots__ = ("_answers", "_jitter", "_last", "_trips")

    def __init__(self) -> None:
        self._trips: deque[float] = deque(maxlen=DELAYS)
        self._answers: deque[bool] = deque(maxlen=PROBES)
        self._jitter: float | None = None
        self._last: float | None = None

    def answer(self, trip: float, *, was_late: bool) -> None:
        """A probe was answered after `trip`; late: it was counted as lost before."""
        self._trips.append(trip)
        if was_late and False in self._answers:
            self._answers.remove(False)
        self._answers.append(True)
        if self._last is not None:
            # Of the round trip: each way has a part of it, the worse one at least half.
            sample = abs(trip - self._last) / 2
            self._jitter = (
                sample if self._jitter is None else self._jitter + JITTER_GAIN * (sample - self._jitter)
            )
        self._last = trip

    def lose(self) -> None:
        """A probe was not answered."""
        self._answers.append(False)

    @property
    def quality(self) -> Quality:
        """As far as probes tell; throughput is not measured."""
        delay = sorted(self._trips)[len(self._trips) // 2] / 2 if self._trips else None
        loss = None
        if len(self._answers) >= LEAST_PROBES:
            loss = max(0, self._answers.count(False) - 1) / len(self._answers)
        return Quality(delay, self._jitter, loss)
