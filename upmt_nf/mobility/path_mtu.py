"""The search for the largest packet that a tunnel's path takes, by packets of that size (RFC 8899, DPLPMTUD).

    ceiling answered                -> that is it: one question on most paths
    ceiling not answered, floor is  -> in between, halving, until both bounds are within `PRECISION`
    floor not answered              -> nothing is known: the path is lossy, or the anchor does not answer such questions

Needs no ICMP, which many networks drop, and believes none. An answer is as large as the question, so it tells of both
directions together. Knows neither tunnels nor STAMP.
"""

from __future__ import annotations

from collections.abc import Callable

TRIES = 3
"""Questions of one size before it is believed to be too large."""
PRECISION = 8
"""Bytes."""
FLOOR = 1180
"""Inner packet, bytes: what every tunnel over a path of 1,280 bytes, IPv6's least, carries in any format."""
LEAST_PATIENCE = 0.3


class PathMtuSearch:
    """One tunnel's. Sizes are those of inner packets, bytes."""

    def __init__(self, ceiling: int, patience: Callable[[], float], now: float) -> None:
        self.found: int | None = None
        """The largest size that passes both ways."""
        self.is_finished = False
        self.sent = 0
        """Bytes of inner packets that were sent for it."""
        self._ceiling = ceiling
        self._patience = patience
        self._next_at = now
        self._asked = ceiling
        self._tries = 0
        self._too_large = ceiling + 1

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do (seconds)."""
        return None if self.is_finished else self._next_at

    def handle_timeout(self, now: float) -> int | None:
        """The size of a question to ask now, or None."""
        if self.is_finished or now < self._next_at:
            return None
        if self._tries == TRIES and self._give_up_size():
            return None
        self._tries += 1
        self._next_at = now + max(LEAST_PATIENCE, self._patience())
        self.sent += self._asked
        return self._asked

    def answer(self, size: int, now: float) -> None:
        """An answer of this size came, perhaps late or twice."""
        if self.is_finished or size > self._ceiling or size <= (self.found or 0):
            return
        self.found = size
        self._too_large = max(self._too_large, size + 1)
        self._ask_between()
        self._next_at = now

    def _give_up_size(self) -> bool:
        """No answer to a size: try another; True when that ends the search."""
        self._too_large = self._asked
        if self.found is None and self._asked > FLOOR:
            self._ask(FLOOR)
        elif self.found is None:
            self.is_finished = True
        else:
            self._ask_between()
        return self.is_finished

    def _ask_between(self) -> None:
        assert self.found is not None
        if self._too_large - self.found <= PRECISION or self.found == self._ceiling:
            self.is_finished = True
        else:
            self._ask((self.found + self._too_large) // 2)

    def _ask(self, size: int) -> None:
        self._asked, self._tries = size, 0
