"""When a tunnel that carries nothing next needs a packet, and whether one octet will do.

What the NAT on the way needs decides (`keepalive`); a whole probe goes no more often than every `probe_interval`, as a
sealed one and its answer cost 264 bytes. That keeps an idle network under 50 kB an hour also where NATs forget soon.
"""

from __future__ import annotations

from random import Random

PROBES = 1.75
"""Keepalive intervals of an unknown NAT between two probes of an idle tunnel: every second packet, with jitter."""


class Resting:
    """One tunnel's. Times in seconds."""

    def __init__(self, idle_after: float, keepalive: float, random: Random) -> None:
        self.keepalive = keepalive
        """Between two packets: the owner knows the NAT's binding time."""
        self._idle_after = idle_after
        self._probe_interval = PROBES * keepalive
        self._random = random
        self._probed_at = self._kept_at = 0.0
        self._part = 1.0

    @property
    def next_at(self) -> float:
        """When the NAT on the way needs the next packet; jittered, but never later than it is known to forgive."""
        return self._kept_at + self._part * self.keepalive

    def is_idle(self, used: float, now: float) -> bool:
        """Whether a tunnel that last carried something at `used` is idle."""
        return now - used >= self._idle_after

    def is_octet_enough(self, now: float) -> bool:
        """Whether the last probe is not long ago."""
        return now - self._probed_at < self._probe_interval

    def has_rested(self, interval: float, now: float) -> bool:
        """Whether the last probe is longer ago than that of a tunnel in use, with its jitter, can be."""
        return now - self._probed_at > 1.1 * interval

    def note_probe(self, now: float) -> None:
        """A probe is sent."""
        self._probed_at = now
        self.note_packet(now)

    def note_packet(self, now: float) -> None:
        """A packet is sent that the NAT sees."""
        self._kept_at, self._part = now, self._random.uniform(0.9, 1.0)
