"""What happens to both ends alike. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeoutReached:
    """The time that `next_timeout` gave has come (or any later one)."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Say goodbye to the other end, then `Stopped`."""
