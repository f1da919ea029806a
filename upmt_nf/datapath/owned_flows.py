"""Whose each flow of a PAFT is by its virtual address, and which one makes room when the table is full."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from itertools import islice

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.model.flow import FlowBytes

_EVICTION_SAMPLE = 32
"""Entries looked at, in rotation, to find some that can go: constant work, however large the table."""
_EVICTION_ROUNDS = 8
_CHOSEN_OF = 8
"""One of so many that were looked at is chosen to go: the next evictions need not look."""
_BUSY_SECONDS = 0.2
"""A flow with a packet within this time is let go of only when all others that were looked at are busy, too."""


class _Share:
    """The flows of one owner, in rotation, and those that were chosen to go next with when they were seen last."""

    __slots__ = ("chosen", "flows")

    def __init__(self) -> None:
        self.flows: OrderedDict[FlowBytes, FlowEntry] = OrderedDict()
        self.chosen: deque[tuple[FlowEntry, float]] = deque()

    def longest_silent(self, now: float) -> FlowEntry | None:
        """Of some of them, before all one that is past its time."""
        for _ in range(2):
            while self.chosen:
                entry, seen = self.chosen.popleft()
                if entry.last_seen == seen and self.flows.get(entry.key) is entry:
                    return entry
            self._choose(now)
        return None

    def _choose(self, now: float) -> None:
        """Busy flows stand together, as they began together: where all that was looked at are busy, look further."""
        looked_at: list[FlowEntry] = []
        flows = self.flows
        for _ in range(_EVICTION_ROUNDS):
            some = list(islice(flows.values(), _EVICTION_SAMPLE))
            for entry in some:
                flows.move_to_end(entry.key)
            looked_at += some
            if len(flows) <= _EVICTION_SAMPLE or any(now - one.last_seen > _BUSY_SECONDS for one in some):
                break
        ranked = sorted(looked_at, key=lambda entry: (not entry.is_idle(now), entry.last_seen))
        chosen = ranked[: -(-len(ranked) // _CHOSEN_OF)]
        silent = [entry for entry in chosen if now - entry.last_seen > _BUSY_SECONDS]
        self.chosen.extend((entry, entry.last_seen) for entry in silent or chosen)


class OwnedFlows:
    """Flows by owner, the packed virtual address.

    `most` bounds all of them, `most_each` those of one owner: a host that floods evicts only its own flows, also when
    all together are too many.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self.most = max(1, most)
        self.most_each = max(1, most_each)
        self._number = 0
        self._owned: OrderedDict[bytes, _Share] = OrderedDict()

    def enter(self, entry: FlowEntry) -> None:
        """A flow is new, of a key that is not there; see `in_the_way` before."""
        if (share := self._owned.get(owner := entry.owner)) is None:
            share = self._owned[owner] = _Share()
        share.flows[entry.key] = entry
        self._number += 1

    def leave(self, entry: FlowEntry) -> None:
        """A flow that is there ended."""
        share = self._owned[entry.owner]
        del share.flows[entry.key]
        if not share.flows:
            del self._owned[entry.owner]
        self._number -= 1

    def of(self, owner: bytes) -> Collection[FlowEntry]:
        """All flows of an owner, in rotation: a view."""
        share = self._owned.get(owner)
        return () if share is None else share.flows.values()

    def number_of(self, owner: bytes) -> int:
        """How many flows an owner has."""
        share = self._owned.get(owner)
        return 0 if share is None else len(share.flows)

    def in_the_way(self, owner: bytes, now: float) -> FlowEntry | None:
        """The flow that must leave before this owner may have one more; None: there is room."""
        share = self._owned.get(owner)
        if share is not None and len(share.flows) >= self.most_each:
            return share.longest_silent(now)
        if self._number >= self.most:
            return self._heaviest(owner).longest_silent(now)
        return None

    def _heaviest(self, owner: bytes) -> _Share:
        """Whose flows make room: the newcomer's own when it has its fair share, else those of one who has more."""
        fair = self.most // (len(self._owned) + (owner not in self._owned))
        heaviest = self._owned.get(owner)
        if heaviest is not None and len(heaviest.flows) >= fair:
            return heaviest
        for other in list(islice(self._owned, _EVICTION_SAMPLE)):
            share = self._owned[other]
            self._owned.move_to_end(other)
            if heaviest is None or len(share.flows) > len(heaviest.flows):
                heaviest = share
        assert heaviest is not None, "a full table has flows"
        return heaviest
