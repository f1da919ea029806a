"""How a flow's packets come while it moves to another tunnel: the longest gap, and what the new way overtook.

Counts by tunnel, so that it needs no sequence numbers. Knows no handover.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from upmt_nf.datapath.paft import Tunnel


class Seen(NamedTuple):
    """How the packets of a flow came since it was moved, as a mirror saw it. Times in seconds.

    `first` is when the first came by the new tunnel, `last_elsewhere` when the last did by another one.
    """

    late: int
    gap: float
    first: float | None = None
    last_elsewhere: float | None = None


class Arrivals:
    """One flow, one direction, from the move on. Times in seconds."""

    __slots__ = ("_last", "_target", "first", "gap", "last_elsewhere", "late")

    def __init__(self, target: Tunnel | None, last: float) -> None:
        self.gap = 0.0
        """The longest time between two packets, from `last` on, when the old tunnel was heard last."""
        self.late = 0
        """Packets that came by another tunnel after the first one by `target`."""
        self._target = target
        self._last = last
        self.first: float | None = None
        """When the first came by `target`."""
        self.last_elsewhere: float | None = None
        """When the last came by another tunnel."""

    def take(
        self, tunnel: Tunnel | None, packets: int, now: float, *, is_overtaken: bool | None = None
    ) -> None:
        """Packets came together. Of numbered ones it is known whether later ones came before (`is_overtaken`)."""
        self.gap = max(self.gap, now - self._last)
        self._last = now
        if tunnel is not self._target:
            self.last_elsewhere = now
        elif self.first is None:
            self.first = now
        if is_overtaken is not None:
            self.late += packets if is_overtaken else 0
        elif tunnel is not self._target and self.first is not None:
            self.late += packets
