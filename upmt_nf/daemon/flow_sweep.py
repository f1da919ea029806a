"""What the kernel counted of flows, brought back to PAFT in rounds: by small parts, so that no packet waits for it.

A round looks at flows that had a packet since the one before; every few rounds at all of them. However many they are,
a part takes about a millisecond, and what is left waits for the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Iterator

import numpy as np

from upmt_nf.datapath.fast_layout import (
    ANY_SOCKET,
    FLOW,
    FLOW_COUNTS,
    FLOW_COUNTS_AT,
    FLOW_KEY,
    FLOW_LAST_SEEN_AT,
    FlowRow,
    flow_bytes,
)
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.linux.libbpf import BpfMap
from upmt_nf.model.flow import FlowBytes
from upmt_nf.model.identity import TunnelId

ROUND = 0.5
"""Seconds between the beginnings of two rounds: nothing waits for the flows' counts but people, who ask."""
_PAUSE, _PAUSE_WHEN_URGENT = 0.02, 0.005
"""Seconds between two parts."""
_REST, _REST_WHEN_URGENT = 100.0, 20.0
"""From the beginning of one round to that of the next so many times what the round took: of very many flows, too, the
sweep is no more than a hundredth, or a twentieth, of what a core does, if the rest is not too long."""
_LONGEST_REST = 10.0
"""Seconds, however long a round took: what names and counts are made of must not be too old."""
_PART_SECONDS = 0.001
_ROWS = 256
"""Read by one call to the kernel."""
_OVERLAP = 50_000_000
"""Nanoseconds that a round looks back behind the beginning of the one before: the programs' clock is a coarse one."""
_ROUNDS_TO_ALL = 8


class FlowSweep:
    """The flows of map `flows` and those of `paft`.

    `heard_as` makes a time of the programs' clock ours, `told_as` the other way round. `is_urgent` says whether
    somebody waits for what the kernel has learnt. `doomed`: flows that PAFT has forgotten and the kernel not yet;
    `back` is called with one that came by another tunnel since, `let_in` with those that PAFT never knew.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        flows: BpfMap,
        paft: Paft,
        *,
        heard_as: Callable[[int], float],
        told_as: Callable[[float], int],
        is_urgent: Callable[[], bool],
        doomed: Container[FlowBytes],
        back: Callable[[FlowBytes, Tunnel, FlowRow], None],
    ) -> None:
        self._loop = loop
        self._flows = flows
        self._paft = paft
        self._heard_as = heard_as
        self._told_as = told_as
        self._is_urgent = is_urgent
        self._doomed = doomed
        self._back = back
        self.let_in: Callable[[FlowBytes, FlowRow], None] = lambda key, row: None
        self._parts: Iterator[tuple[bytes, bytes]] = iter(())
        self._began = self._spent = 0.0
        """When this round began, and how long it has taken so far (seconds)."""
        self._rounds = self._since = 0
        self._timer = loop.call_later(_PAUSE, self._tick)

    def close(self) -> None:
        """No more rounds."""
        self._timer.cancel()

    def _tick(self) -> None:
        is_urgent = self._is_urgent()
        self._timer = self._loop.call_later(_PAUSE_WHEN_URGENT if is_urgent else _PAUSE, self._tick)
        began = self._loop.time()
        self._look_on(began, is_urgent=is_urgent)
        self._spent += self._loop.time() - began

    def _look_on(self, began: float, *, is_urgent: bool) -> None:
        while True:
            if (part := next(self._parts, None)) is None:
                if not self._is_due(began, is_urgent=is_urgent):
                    return
                self._begin_round(began)
                part = next(self._parts, (b"", b""))
                is_urgent = False
            self.count(self._changed(*part))
            if self._loop.time() - began >= _PART_SECONDS or not part[0]:
                return

    def _is_due(self, now: float, *, is_urgent: bool) -> bool:
        """Whether the next round may begin."""
        rest = min(_LONGEST_REST, self._spent * (_REST_WHEN_URGENT if is_urgent else _REST))
        return now >= self._began + (rest if is_urgent else max(ROUND, rest))

    def _begin_round(self, now: float) -> None:
        self._since = 0 if self._rounds % _ROUNDS_TO_ALL == 0 else self._told_as(self._began) - _OVERLAP
        self._rounds += 1
        self._began, self._spent = now, 0.0
        self._parts = self._flows.parts(_ROWS)

    def _changed(self, keys: bytes, rows: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Those that had a packet since the last round."""
        seen = np.frombuffer(rows, dtype=np.uint64).reshape(-1, FLOW.size // 8)[:, FLOW_LAST_SEEN_AT // 8]
        key, row = FLOW_KEY.size, FLOW.size
        for at in np.flatnonzero(seen >= max(0, self._since)).tolist():
            yield keys[at * key : (at + 1) * key], rows[at * row : (at + 1) * row]

    def count_all(self) -> None:
        """All flows at once, whatever it takes: for people who ask."""
        for part in self._flows.items():
            self.count(part)

    def count(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Bring these up to date; keys and rows as the map has them."""
        flows, boot = self._paft.flows, self._heard_as(0)
        for key, packed in rows:
            entry = flows.get(flow_bytes(key))
            if entry is None:
                self._take_unknown(flow_bytes(key), FlowRow.unpacked(packed))
                continue
            if FLOW_COUNTS.unpack_from(packed, FLOW_COUNTS_AT) == entry.offloaded:
                continue
            self._take(entry, FlowRow.unpacked(packed), boot)

    def take(self, entry: FlowEntry, row: FlowRow) -> None:
        """Bring a flow that PAFT knows up to date."""
        self._take(entry, row, self._heard_as(0))

    def _take(self, entry: FlowEntry, row: FlowRow, boot: float) -> None:
        if row.socket not in (0, ANY_SOCKET, entry.socket):
            # Let in by the kernel, in place of one that is over: PAFT hears of it soon.
            return
        before = entry.offloaded
        entry.packets_out += row.packets_out - before[0]
        entry.bytes_out += row.bytes_out - before[1]
        entry.packets_in += row.packets_in - before[2]
        entry.bytes_in += row.bytes_in - before[3]
        entry.offloaded = row.counts
        entry.last_seen = max(entry.last_seen, boot + row.last_seen / 1e9)
        self._take_learnt(entry, row)

    def _take_unknown(self, key: FlowBytes, row: FlowRow) -> None:
        """Of a host that started anew, whose new tunnel the kernel has learnt before us; or let in by the kernel."""
        learnt = self._paft.tunnels.get(TunnelId(row.tunnel))
        if learnt is not None and key in self._doomed:
            self._back(key, learnt, row)
        elif row.socket and key not in self._doomed:
            self.let_in(key, row)

    def _take_learnt(self, entry: FlowEntry, row: FlowRow) -> None:
        own, learnt = self._paft.own_tunnel_of(entry), self._paft.tunnels.get(TunnelId(row.tunnel))
        heading = self._paft.headings.get(entry.application_id)
        if heading is None:
            if learnt is not None and learnt is not own:
                entry.previous, entry.pinned = entry.pinned, learnt
        elif row.application == entry.application_id:
            is_apart = row.tunnel and row.course == heading.course & 0xFFFFFFFF
            entry.pinned, entry.course = learnt if is_apart else None, heading.course
