"""Whose each flow of a PAFT is by its virtual address, and which one makes room when the table is full."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from itertools import islice

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.model.flow import FlowBytes

_EVICTION_SAMPLE = 32
"""Entries looked at, in rotation, to find one that can go: constant work, however large the table."""
_EVICTION_ROUNDS = 8
_BUSY_SECONDS = 0.2
"""A flow with a packet within this time is let go of only when all others that were looked at are busy, too."""


class OwnedFlows:
    """Flows by owner, the packed virtual address.

    `most` bounds all of them, `most_each` those of one owner: a host that floods evicts only its own flows, also when
    all together are too many.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self.most = max(1, most)
        self.most_each = max(1, most_each)
        self._number = 0
        self._owned: OrderedDict[bytes, OrderedDict[FlowBytes, FlowEntry]] = OrderedDict()

    def enter(self, entry: FlowEntry) -> None:
        """A flow is new, of a key that is not there; see `in_the_way` before."""
        self._owned.setdefault(entry.owner, OrderedDict())[entry.key] = entry
        self._number += 1

    def leave(self, entry: FlowEntry) -> None:
        """A flow that is there ended."""
        owned = self._owned[entry.owner]
        del owned[entry.key]
        if not owned:
            del self._owned[entry.owner]
        self._number -= 1

    def of(self, owner: bytes) -> Collection[FlowEntry]:
        """All flows of an owner, in rotation: a view."""
        return self._owned.get(owner, {}).values()

    def number_of(self, owner: bytes) -> int:
        """How many flows an owner has."""
        return len(self._owned.get(owner, ()))

    def in_the_way(self, owner: bytes, now: float) -> FlowEntry | None:
        """The flow that must leave before this owner may have one more; None: there is room."""
        owned = self._owned.get(owner)
        if owned is not None and len(owned) >= self.most_each:
            return _longest_silent(owned, now)
        if self._number >= self.most:
            return _longest_silent(self._heaviest(owner), now)
        return None

    def _heaviest(self, owner: bytes) -> OrderedDict[FlowBytes, FlowEntry]:
        """Whose flows make room: the newcomer's own when it has its fair share, else those of one who has more."""
        fair = self.most // (len(self._owned) + (owner not in self._owned))
        heaviest = self._owned.get(owner)
        if heaviest is not None and len(heaviest) >= fair:
            return heaviest
        for other in list(islice(self._owned, _EVICTION_SAMPLE)):
            owned = self._owned[other]
            self._owned.move_to_end(other)
            if heaviest is None or len(owned) > len(heaviest):
                heaviest = owned
        assert heaviest is not None, "a full table has flows"
        return heaviest


def _longest_silent(among: OrderedDict[FlowBytes, FlowEntry], now: float) -> FlowEntry | None:
    """The longest silent of the next few entries in rotation, before all one that is past its time.

    Busy flows stand together, as they began together: where all that was looked at are busy, look further.
    """
    victim: FlowEntry | None = None
    for _ in range(_EVICTION_ROUNDS):
        for key in list(islice(among, _EVICTION_SAMPLE)):
            entry = among[key]
            among.move_to_end(key)
            if victim is None or (not entry.is_idle(now), entry.last_seen) < (
                not victim.is_idle(now),
                victim.last_seen,
            ):
                victim = entry
        if victim is None or now - victim.last_seen > _BUSY_SECONDS or len(among) <= _EVICTION_SAMPLE:
            break
    return victim
