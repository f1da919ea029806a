"""Token buckets: so many units a second, so many at once. Constant memory and work, the clock an argument.

Each bucket is one number, the time at which all that was taken will have been paid for (the virtual scheduling of
ITU-T I.371, annex A).
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from math import inf

_ROUNDING = 1e-6
"""Seconds: a sum of many small numbers must not cost a unit."""


class Bucket:
    """One bucket: `rate` units a second, `burst` units at once when it is full."""

    __slots__ = ("_paid_at", "_rate", "_slack")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._slack = (burst - 1) / rate + _ROUNDING
        self._paid_at = -inf

    def has(self, now: float) -> bool:
        """Whether there is at least one unit. `now` in seconds."""
        return self._paid_at - now <= self._slack

    def take(self, now: float, units: float = 1.0) -> None:
        """Take units, whether they are there or not: what is missing is paid for by waiting."""
        self._paid_at = max(self._paid_at, now) + units / self._rate


class BucketTable:
    """A fixed number of buckets, shared by all keys there are: whoever invents keys makes no memory grow.

    `salt` is secret and random, so that nobody can choose keys that share a bucket with another's.
    """

    __slots__ = ("_mask", "_paid_at", "_rate", "_salt", "_slack")

    def __init__(self, rate: float, burst: float, salt: bytes, *, bits: int = 16) -> None:
        self._rate = rate
        self._slack = (burst - 1) / rate + _ROUNDING
        self._salt = salt
        self._mask = (1 << bits) - 1
        self._paid_at = array("d", [-inf]) * (1 << bits)

    def place(self, key: bytes) -> int:
        """Which bucket is a key's; for `has` and `take`."""
        return int.from_bytes(blake2b(key, digest_size=4, key=self._salt).digest(), "big") & self._mask

    def has(self, place: int, now: float) -> bool:
        """As `Bucket.has`."""
        return self._paid_at[place] - now <= self._slack

    def take(self, place: int, now: float) -> None:
        """Take one unit."""
        self._paid_at[place] = max(self._paid_at[place], now) + 1 / self._rate
