"""What the kernel counted for each tunnel, brought back: one by one where it is asked for, all of them in rounds.

Each tunnel has a slot in an array of the kernel; when there are no more, the rest share slot 0, which tells nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from upmt_nf.datapath.fast_layout import COUNTS, NUMBER, Counts, counts_of
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import Cookie
from upmt_nf.linux.libbpf import BpfMap
from upmt_nf.model.identity import TunnelId

SHARED = 0
_PARTS = 40
"""Calls of `count_some` in a round over all: what a tunnel's silence is judged by must not be older than seconds."""
_LEAST = 64
_FIELDS = len(Counts._fields)
_PACKETS_OUT, _PACKETS_IN, _HEARD = (
    Counts._fields.index(name) for name in ("packets_out", "packets_in", "heard")
)


class TunnelCounts:
    """The slots of `table`. `tunnels` are those that there are, `hear` is told of what came out of one and when.

    `heard_as` makes a time of the programs' clock ours.
    """

    def __init__(
        self,
        table: BpfMap,
        tunnels: Mapping[TunnelId, Tunnel],
        hear: Callable[[Tunnel, float], None],
        heard_as: Callable[[int], float],
        now: Callable[[], float],
    ) -> None:
        self._table = table
        self._tunnels = tunnels
        self._hear = hear
        self._heard_as = heard_as
        self._now = now
        self._slots: dict[TunnelId, int] = {}
        self._ids: list[TunnelId | None] = [None]
        """Whose each slot is."""
        self._told = array("Q", bytes(8 * _FIELDS))
        """What was told of each slot so far, `Counts` after `Counts`."""
        self._seen: NDArray[np.uint64] = np.zeros(_LEAST, np.uint64)
        """The packets that a round found in each slot last, both ways: most have not changed since."""
        self._returned: list[int] = []
        self._next = 0

    def slot(self, id: TunnelId) -> tuple[int, bool]:
        """A tunnel's slot, and whether it has got it just now: then it is to be emptied."""
        known = self._slots.get(id)
        if known is not None:
            return known, False
        slot = SHARED
        if self._returned:
            slot = self._returned.pop()
            self._ids[slot], self._seen[slot] = id, 0
            self._told[slot * _FIELDS : (slot + 1) * _FIELDS] = array("Q", bytes(8 * _FIELDS))
        elif len(self._ids) < self._table.max_entries:
            slot = len(self._ids)
            self._ids.append(id)
            self._told.frombytes(bytes(8 * _FIELDS))
            if slot >= len(self._seen):
                self._seen = np.concatenate((self._seen, np.zeros_like(self._seen)))
        self._slots[id] = slot
        return slot, True

    def give_back(self, id: TunnelId) -> None:
        """A tunnel that has ended needs none."""
        if (slot := self._slots.pop(id, SHARED)) != SHARED:
            self._ids[slot] = None
            self._returned.append(slot)

    def count(self, tunnels: Iterable[Tunnel]) -> None:
        """Add to these tunnels what passed them in the kernel since the last time."""
        for tunnel in tunnels:
            slot = self._slots.get(tunnel.id, SHARED)
            if slot != SHARED and (found := self._table.lookup(NUMBER.pack(slot))) is not None:
                self._add(tunnel, slot, counts_of(found))

    def count_some(self) -> None:
        """The same for the next ones in turn, by one call to the kernel; what has not changed costs next to nothing."""
        used = len(self._ids)
        first = self._next if self._next < used else 0
        number = min(max(_LEAST, -(-used // _PARTS)), used - first)
        self._next = first + number
        cpus = self._table.value_size // COUNTS.size
        read = np.frombuffer(self._table.values(first, number), np.uint64).reshape(-1, cpus, _FIELDS)
        packets = read[:, :, (_PACKETS_OUT, _PACKETS_IN)].sum(axis=(1, 2), dtype=np.uint64)
        changed = np.flatnonzero(packets != self._seen[first : first + number])
        if not len(changed):
            return
        self._seen[first : first + number] = packets
        sums = read[changed].sum(axis=1, dtype=np.uint64)
        sums[:, _HEARD] = read[changed, :, _HEARD].max(axis=1)
        for place, counts in zip(changed.tolist(), sums.tolist(), strict=True):
            id = self._ids[first + place]
            if id is not None and (tunnel := self._tunnels.get(id)) is not None:
                self._add(tunnel, first + place, Counts._make(counts))

    def _add(self, tunnel: Tunnel, slot: int, now: Counts) -> None:
        at = slot * _FIELDS
        before = Counts._make(self._told[at : at + _FIELDS])
        if now == before:
            return
        self._told[at : at + _FIELDS] = array("Q", now)
        tunnel.packets_out += now.packets_out - before.packets_out
        if isinstance(tunnel.format, Cookie):
            tunnel.format.count_sent(now.packets_out - before.packets_out)
        tunnel.bytes_out += now.bytes_out - before.bytes_out
        tunnel.packets_in += now.packets_in - before.packets_in
        tunnel.bytes_in += now.bytes_in - before.bytes_in
        if now.heard:
            self._hear(tunnel, self._heard_as(now.heard))
        # When a packet was put in is not counted; what only came out was there when it was heard.
        is_ours = now.packets_out != before.packets_out
        tunnel.used = self._now() if is_ours else max(tunnel.used, tunnel.heard)
