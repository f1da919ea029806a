"""What ends in a while unless it comes back: the first to end first, and by whose it is."""

from __future__ import annotations

from itertools import islice
from typing import Generic, TypeVar

Key = TypeVar("Key")


class Doomed(Generic[Key]):
    """A set in the order of its ends. `Key` names one thing, an owner is a packed virtual address.

    Times (seconds) are given in rising order, so that what is due stands in front, however many wait behind.
    """

    def __init__(self) -> None:
        self._waiting: dict[Key, tuple[float, bytes]] = {}
        self._owned: dict[bytes, set[Key]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: object) -> bool:
        return key in self._waiting

    def add(self, key: Key, owner: bytes, until: float) -> None:
        """It ends then; what was said before counts no more."""
        self.discard(key)
        self._waiting[key] = until, owner
        self._owned.setdefault(owner, set()).add(key)

    def discard(self, key: Key) -> None:
        """It has ended, or is back."""
        if (known := self._waiting.pop(key, None)) is not None:
            owned = self._owned[known[1]]
            owned.remove(key)
            if not owned:
                del self._owned[known[1]]

    def due(self, now: float, most: int) -> list[Key]:
        """Those whose time has come, no more than so many; they stay until they are discarded."""
        found = []
        for key, (until, _) in islice(self._waiting.items(), most):
            if until > now:
                break
            found.append(key)
        return found

    def of(self, owner: bytes) -> list[Key]:
        """Those of an owner, in no order."""
        return list(self._owned.get(owner, ()))
