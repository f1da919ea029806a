"""How a flow's packets come while it moves to another tunnel: the longest gap, and what the new way overtook.

Counts by tunnel, so that it needs no sequence numbers. Knows no handover.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from upmt_nf.datapath.paft import Tunnel


class Seen(NamedTuple):
    """How the packets of a flow came since it was moved, as a mirror saw it; `gap` in seconds."""

    late: int
    gap: float


class Arrivals:
    """One flow, one direction, from the move on. Times in seconds."""

    __slots__ = ("_has_come", "_last", "_target", "gap", "late")

    def __init__(self, target: Tunnel | None, last: float) -> None:
        self.gap = 0.0
        """The longest time between two packets, from `last` on, when the old tunnel was heard last."""
        self.late = 0
        """Packets that came by another tunnel after the first one by `target`."""
        self._target = target
        self._last = last
        self._has_come = False

    def take(
        self, tunnel: Tunnel | None, packets: int, now: float, *, is_overtaken: bool | None = None
    ) -> None:
        """Packets came together. Of numbered ones it is known whether later ones came before (`is_overtaken`)."""
        self.gap = max(self.gap, now - self._last)
        self._last = now
        if is_overtaken is not None:
            self.late += packets if is_overtaken else 0
            return
        if tunnel is self._target:
            self._has_come = True
        elif self._has_come:
            self.late += packets
