"""One named integer a reason. What is dropped is counted, never silent."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Counts by name; a name appears once something was counted under it."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, amount: int = 1) -> None:
        """Count `reason`."""
        self._counts[reason] += amount

    def __getitem__(self, reason: str) -> int:
        return self._counts[reason]

    def as_dict(self) -> dict[str, int]:
        """Every reason with its count, in alphabetical order."""
        return dict(sorted(self._counts.items()))
