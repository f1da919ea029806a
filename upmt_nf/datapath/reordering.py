"""Numbered packets put in order again, as far as a short wait can: for applications that ask for it.

Whoever owns it delivers what `take` and `release` give, in that order. Knows neither tunnels nor flows.
"""

from __future__ import annotations

from math import inf

from upmt_nf.datapath.copies import Number

MOST = 512
"""Packets that wait at a time; beyond that the oldest gap is given up."""


class Resequencer:
    """One sender's packets. Times in seconds."""

    __slots__ = ("_held", "_next", "_run")

    def __init__(self) -> None:
        self._run = -1
        self._next = 0
        self._held: dict[int, tuple[float, bytes]] = {}
        """Number -> until when it waits, and the packet; without one it has gone on already."""

    def take(self, number: Number, packet: bytes, window: float, now: float) -> list[bytes]:
        """A packet came for the first time; it waits up to `window` for those before it, or not at all (0)."""
        if number.run != self._run:
            out = self._drop_below(inf)
            self._run, self._next = number.run, number.number + 1
            return [*out, packet] if packet else out
        if number.number < self._next:
            return [packet] if packet else []
        if number.number > self._next:
            if window and packet:
                self._held[number.number] = now + window, packet
                return self._drop_below(min(self._held) + 1) if len(self._held) > MOST else []
            self._held[number.number] = inf, b""
            out = [packet] if packet else []
            return out + (self._drop_below(min(self._held) + 1) if len(self._held) > MOST else [])
        self._next += 1
        return ([packet] if packet else []) + self._go_on()

    @property
    def due(self) -> float | None:
        """When `release` has something to give."""
        at = min((until for until, _ in self._held.values()), default=inf)
        return at if at < inf else None

    def release(self, now: float) -> list[bytes]:
        """Packets that have waited long enough, with those before them; what is missing is not waited for any more."""
        over = [number for number, (until, _) in self._held.items() if until <= now]
        return self._drop_below(max(over) + 1) if over else []

    def _drop_below(self, limit: float) -> list[bytes]:
        """Give up all gaps below a number."""
        ready = sorted(number for number in self._held if number < limit)
        if not ready:
            return []
        self._next = ready[-1] + 1
        out = [self._held.pop(number)[1] for number in ready]
        return [packet for packet in out if packet] + self._go_on()

    def _go_on(self) -> list[bytes]:
        out = []
        while (found := self._held.pop(self._next, None)) is not None:
            self._next += 1
            out.append(found[1])
        return [packet for packet in out if packet]
