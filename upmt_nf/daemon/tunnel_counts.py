"""What the kernel counted for each tunnel, brought back: one by one where it is asked for, all of them in rounds.

Each tunnel has a slot in an array of the kernel; when there are no more, the rest share slot 0, which tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from upmt_nf.datapath.fast_layout import NUMBER, Counts, counts_of
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import Cookie
from upmt_nf.linux.libbpf import BpfMap
from upmt_nf.model.identity import TunnelId

SHARED = 0
_PARTS = 40
"""Calls of `count_some` in a round over all: what a tunnel's silence is judged by must not be older than seconds."""
_LEAST = 64


class TunnelCounts:
    """The slots of `table`. `tunnels` are those that there are, `heard_as` makes a time of the programs' clock ours."""

    def __init__(
        self,
        table: BpfMap,
        tunnels: Mapping[TunnelId, Tunnel],
        heard_as: Callable[[int], float],
        now: Callable[[], float],
    ) -> None:
        self._table = table
        self._tunnels = tunnels
        self._heard_as = heard_as
        self._now = now
        self._slots: dict[TunnelId, int] = {}
        self._told: dict[TunnelId, Counts] = {}
        self._ids: list[TunnelId | None] = [None]
        """Whose each slot is."""
        self._empty = hash(bytes(table.value_size))
        self._seen = [self._empty]
        """The hash of what was read of each slot last: most have not changed since."""
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
            self._ids[slot], self._seen[slot] = id, self._empty
        elif len(self._ids) < self._table.max_entries:
            slot = len(self._ids)
            self._ids.append(id)
            self._seen.append(self._empty)
        self._slots[id] = slot
        return slot, True

    def give_back(self, id: TunnelId) -> None:
        """A tunnel that has ended needs none."""
        self._told.pop(id, None)
        if (slot := self._slots.pop(id, SHARED)) != SHARED:
            self._ids[slot] = None
            self._returned.append(slot)

    def count(self, tunnels: Iterable[Tunnel]) -> None:
        """Add to these tunnels what passed them in the kernel since the last time."""
        for tunnel in tunnels:
            slot = self._slots.get(tunnel.id, SHARED)
            if slot != SHARED and (found := self._table.lookup(NUMBER.pack(slot))) is not None:
                self._add(tunnel, found)

    def count_some(self) -> None:
        """The same for the next ones in turn, by one call to the kernel."""
        used = len(self._ids)
        first = self._next if self._next < used else 0
        number = min(max(_LEAST, -(-used // _PARTS)), used - first)
        self._next = first + number
        for slot, found in enumerate(self._table.values(first, number), first):
            if (seen := hash(found)) == self._seen[slot]:
                continue
            self._seen[slot] = seen
            id = self._ids[slot]
            if id is not None and (tunnel := self._tunnels.get(id)) is not None:
                self._add(tunnel, found)

    def _add(self, tunnel: Tunnel, found: bytes) -> None:
        now, before = counts_of(found), self._told.get(tunnel.id, Counts())
        if now == before:
            return
        self._told[tunnel.id] = now
        tunnel.packets_out += now.packets_out - before.packets_out
        if isinstance(tunnel.format, Cookie):
            tunnel.format.count_sent(now.packets_out - before.packets_out)
        tunnel.bytes_out += now.bytes_out - before.bytes_out
        tunnel.packets_in += now.packets_in - before.packets_in
        tunnel.bytes_in += now.bytes_in - before.bytes_in
        tunnel.heard = max(tunnel.heard, self._heard_as(now.heard) if now.heard else 0.0)
        tunnel.used = self._now()
