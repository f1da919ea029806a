"""What a path carries at most, from what it carries anyway: only a full path tells.

    round trip  ___________________/-----------------\\____    the queue of a full path grows: every probe finds it
    carried     ____/---------------------------------\\___    bytes of our tunnel, both ways
                                   |<- SATURATED ->|  limit = the highest rate meanwhile; believed for BELIEVED

An idle path is unknown and not slow, and so is one that carries little however long its round trip: at least `QUEUED`
bytes of ours must wait in it, which a call or a change of the route never makes. Knows neither tunnels nor policies.
"""

from __future__ import annotations

from math import inf

WINDOW, LONGEST_WINDOW = 1.0, 10.0
"""Seconds over which a rate is taken; after a longer pause between two probes nothing is known of what was in it."""
SATURATED = 3
"""Windows in a row."""
QUEUED = 16_000
"""Bytes: rate times the growth of the round trip."""
BELIEVED = 60.0
"""Seconds after the last saturated window."""
MEMORY = 600.0
"""Seconds for which the shortest round trip is remembered, at least half of them."""


class PathCapacity:
    """One tunnel's. Times in seconds, rates in bit/s."""

    __slots__ = ("_before", "_limit", "_limit_at", "_rates", "_shortest", "_since", "_turn_at", "_window")

    def __init__(self) -> None:
        self._shortest = [inf, inf]
        """Round trips: of this half of the memory, and of the one before."""
        self._turn_at = -inf
        self._since: float | None = None
        self._before = 0
        self._window = inf
        """The shortest round trip of this window: what every probe of it found."""
        self._rates: list[float] = []
        """Of the windows in a row that were saturated."""
        self._limit = 0.0
        self._limit_at = -inf

    def limit(self, now: float) -> float | None:
        """The most that it carries, both ways together; None: not known."""
        return self._limit if now - self._limit_at <= BELIEVED else None

    def note(self, carried: int, trip: float, now: float) -> None:
        """A probe took `trip`; the tunnel has carried so many bytes since it is there."""
        if now >= self._turn_at:
            self._shortest = [inf, self._shortest[0]]
            self._turn_at = now + MEMORY / 2
        self._shortest[0] = min(self._shortest[0], trip)
        if self._since is None or carried < self._before or now - self._since > LONGEST_WINDOW:
            self._rates.clear()
            self._begin(carried, now)
            return
        self._window = min(self._window, trip)
        if (seconds := now - self._since) < WINDOW:
            return
        self._judge((carried - self._before) / seconds, self._window - min(self._shortest), now)
        self._begin(carried, now)

    def _begin(self, carried: int, now: float) -> None:
        self._since, self._before, self._window = now, carried, inf

    def _judge(self, rate: float, growth: float, now: float) -> None:
        """A window with so many bytes a second and a round trip that is longer by so much than the shortest."""
        if rate * growth < QUEUED:
            self._rates.clear()
            if 8 * rate > self._limit:
                # It carries more than was thought, and is not full.
                self._limit_at = -inf
            return
        self._rates = [*self._rates[1 - SATURATED :], 8 * rate]
        if len(self._rates) == SATURATED:
            self._limit, self._limit_at = max(self._rates), now
