"""One end's keys of a protected tunnel, from the newest to those that still open what is under way.

The host gets new keys with an answer of the anchor, and uses them at once. The anchor `waits`: its answer may be lost,
so it goes on with the old key until it hears the new one.

    host     old old | new new new new        the answer came
    anchor   old old   old old | new new      the first packet under the new key came
                                     |-- OVERLAP --| then the old one is forgotten
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

OVERLAP: Final = 30.0
"""Seconds that an old key still opens packets after a newer one was heard from the other end."""
MOST_KEYS: Final = 8
"""Kept at once, whatever is lost: the one that seals, the last one heard, and the newest others."""


@dataclass(slots=True, eq=False)
class Key:
    """Both directions of one key. `id` is the anchor's number of it, 0 to 255."""

    id: int
    ends_at: float | None = field(default=None, init=False)


K = TypeVar("K", bound=Key)


class KeyRing(Generic[K]):
    """Iterates over what may be heard, newest first."""

    __slots__ = ("_heard", "_keys", "_waits", "current")

    def __init__(self, first: K, *, waits: bool) -> None:
        self.current = first
        """The key that seals."""
        self._waits = waits
        self._heard = first
        self._keys = [first]

    def __iter__(self) -> Iterator[K]:
        return iter(self._keys)

    def add(self, key: K) -> None:
        """New keys were agreed."""
        if not self._waits:
            self.current = key
        needed = (self.current, self._heard)
        others = [known for known in self._keys if known.id != key.id or known in needed]
        while len(others) >= MOST_KEYS:
            others.remove(next(known for known in reversed(others) if known not in needed))
        self._keys = [key, *others]

    def hear(self, key: K) -> None:
        """The other end proved that it seals with this key."""
        if key is self._heard or self._keys.index(key) > self._keys.index(self._heard):
            return
        self._heard = key
        if self._waits:
            self.current = key

    def retire(self, now: float) -> bool:
        """Forget keys that ended more than OVERLAP ago; True while there are some that will."""
        place = self._keys.index(self._heard)
        newer, older = self._keys[: place + 1], self._keys[place + 1 :]
        for key in older:
            key.ends_at = now + OVERLAP if key.ends_at is None else key.ends_at
        self._keys = newer + [key for key in older if key.ends_at is not None and now < key.ends_at]
        return len(self._keys) > 1
