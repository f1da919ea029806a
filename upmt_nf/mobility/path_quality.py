"""The newest probes of one tunnel, as policies judge them: quick to see a change, slow to believe a single loss."""

from __future__ import annotations

from collections import deque

from upmt_nf.mobility.measurement import LOSS_WINDOW, PathMeasurement
from upmt_nf.policy.quality import Quality

TRIPS = 3
"""Round trips, the newest, of which the middle one counts: one late probe is no change."""
LEAST_PROBES = 20
"""Answered before loss is believed; and one lost probe more or less proves nothing."""


class PathQuality:
    """Fed by the tunnel's machine. Times in seconds."""

    __slots__ = ("_answers", "_trips")

    def __init__(self) -> None:
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._answers = 0

    def answer(self, trip: float) -> None:
        """A probe was answered after `trip`."""
        self._trips.append(trip)
        self._answers += 1

    def judged(self, measured: PathMeasurement, limit: float | None) -> Quality:
        """Half the middle one of the last round trips; of jitter and loss the worse direction."""
        delay = sorted(self._trips)[len(self._trips) // 2] / 2 if self._trips else None
        jitters = [way.value for way in (measured.up, measured.down) if way.value is not None]
        losses = (
            [loss for loss in measured.losses if loss is not None] if self._answers >= LEAST_PROBES else []
        )
        loss = max(0.0, max(losses) - 1 / min(self._answers, LOSS_WINDOW)) if losses else None
        return Quality(delay, max(jitters, default=None), loss, limit=limit)
