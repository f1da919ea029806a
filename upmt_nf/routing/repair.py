"""When to look whether others changed our rules, and when to put them back: at once, but never in a fight.

A disturbance is looked at after a moment of quiet, as reloads come in many steps. Each repair that follows soon on the
one before doubles the pause until the next, up to a limit; a quiet time forgets it.
"""

from __future__ import annotations

SETTLE = 0.3
"""Seconds of quiet after the last disturbance ..."""
SETTLE_AT_MOST = 2.0
"""... but no longer than this after the first."""
LOOK_ANYWAY = 60.0
"""Between two looks when nothing was noticed."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 64.0
"""Between two repairs."""


class RepairSchedule:
    """Times in seconds, of one clock."""

    def __init__(self, now: float) -> None:
        self._disturbed_since: float | None = None
        self._disturbed_at = now
        self._looked_at = now
        self._repaired_at: float | None = None
        self._pause = FIRST_PAUSE

    @property
    def pause(self) -> float:
        """Between the last repair and the next one."""
        return self._pause

    def disturb(self, now: float) -> None:
        """Somebody changed something, perhaps of ours."""
        if self._disturbed_since is None:
            self._disturbed_since = now
        self._disturbed_at = now

    def next_look(self) -> float:
        """When to compare what is there with what is wanted."""
        if self._disturbed_since is None:
            return self._looked_at + LOOK_ANYWAY
        quiet = min(self._disturbed_at + SETTLE, self._disturbed_since + SETTLE_AT_MOST)
        if self._repaired_at is not None:
            return max(quiet, self._repaired_at + self._pause)
        return quiet

    def looked(self, now: float, *, has_repaired: bool) -> None:
        """It was compared, and put right if it differed."""
        self._disturbed_since, self._looked_at = None, now
        if not has_repaired:
            return
        is_fight = self._repaired_at is not None and now - self._repaired_at < 4 * self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE) if is_fight else FIRST_PAUSE
        self._repaired_at = now
