"""Saying goodbye to an anchor that is not used any more, until it has heard it or its lease has ended by itself.

A REGISTER that nobody answered may have been granted all the same, so it is said to every anchor that was asked.
"""

from __future__ import annotations

REPEAT_AFTER = 40.0
"""Seconds from one goodbye to the next: SIP resends each of them for 32."""


class Farewell:
    """One anchor's. Says when; by which networks is its owner's: all that are there."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._next_at: float | None = None

    @property
    def is_going_on(self) -> bool:
        """Whether the anchor may still hold a lease of ours that we do not want."""
        return self._until is not None

    def begin(self, now: float, lasting: float) -> None:
        """Leave; after `lasting` seconds the anchor has forgotten us anyway."""
        self._until, self._next_at = now + lasting, now

    def hurry(self, now: float) -> None:
        """A network has come: say it there too."""
        if self._until is not None:
            self._next_at = now

    def end_within(self, seconds: float, now: float) -> None:
        """We stop: once more, and no longer than this."""
        if self._until is not None:
            self._until, self._next_at = min(self._until, now + seconds), now

    def finish(self) -> None:
        """The anchor has answered, or is asked for an association again."""
        self._until = self._next_at = None

    def next_timeout(self) -> float | None:
        """When `is_due` may say yes, or the end has come."""
        if self._until is None or self._next_at is None:
            return None
        return min(self._until, self._next_at)

    def is_due(self, now: float) -> bool:
        """Whether goodbye is to be said now."""
        if self._until is not None and now >= self._until:
            self.finish()
        if self._next_at is None or now < self._next_at:
            return False
        self._next_at = now + REPEAT_AFTER
        return True
