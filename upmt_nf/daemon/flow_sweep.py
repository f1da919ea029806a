"""The kernel's flows in turn, and of those the few that had a packet since they were looked at last."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from upmt_nf.datapath.fast_layout import FLOW, FLOW_KEY, FLOW_LAST_SEEN_AT
from upmt_nf.linux.libbpf import BpfMap

ROUND = 0.5
"""Seconds between the beginnings of two rounds: nothing waits for the flows' counts but people, who ask."""
_WHOLE = 16
"""Each such round looks at all: the kernel leaves an entry out now and then, when others change meanwhile."""
_LATE = 20_000_000
"""Nanoseconds that the clock of `last_seen`, a coarse one, may be behind."""
_WORD = 8


class FlowSweep:
    """Rounds over the map of flows, each in parts. `now` is the programs' clock, in nanoseconds."""

    def __init__(self, table: BpfMap, now: Callable[[], int]) -> None:
        self._table = table
        self._now = now
        self._parts: Iterator[list[tuple[bytes, bytes]]] = iter(())
        self._rounds = 0
        self._began = self._began_before = 0

    def some(self, *, is_urgent: bool) -> list[tuple[bytes, bytes]]:
        """Keys and rows of the next part's flows that had a packet since the round before the last one began.

        Nothing between two rounds, which follow each other at once while it is urgent.
        """
        found = next(self._parts, None)
        if found is not None:
            return found
        now = self._now()
        if not is_urgent and now - self._began < ROUND * 1e9:
            return []
        since = 0 if self._rounds % _WHOLE == 0 else self._began_before - _LATE
        self._rounds += 1
        self._began_before, self._began = self._began, now
        self._parts = self._round(since)
        return next(self._parts, [])

    def _round(self, since: int) -> Iterator[list[tuple[bytes, bytes]]]:
        for keys, rows in self._table.batches():
            seen = np.frombuffer(rows, np.uint64).reshape(-1, FLOW.size // _WORD)[
                :, FLOW_LAST_SEEN_AT // _WORD
            ]
            yield [
                (
                    bytes(keys[at * FLOW_KEY.size : (at + 1) * FLOW_KEY.size]),
                    bytes(rows[at * FLOW.size : (at + 1) * FLOW.size]),
                )
                for at in np.flatnonzero(seen >= max(0, since)).tolist()
            ]
