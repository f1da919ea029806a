"""What was measured of networks, and what they carried, over restarts: SQLite, beside the other records.

A failed write costs that write and nothing else; a file that cannot be opened raises UpmtError naming it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from upmt_nf.linux.database import opened
from upmt_nf.mobility.history import Measurements, Sample, spans, too_old
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.usage import KEPT_DAYS, Usage, UsedDay

_SCHEMA = """
CREATE TABLE IF NOT EXISTS used (
    network TEXT NOT NULL, day INTEGER NOT NULL,
    up INTEGER NOT NULL, down INTEGER NOT NULL, cost REAL NOT NULL,
    PRIMARY KEY (network, day)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sample (
    network TEXT NOT NULL, step INTEGER NOT NULL, at INTEGER NOT NULL,
    up REAL NOT NULL, round_trip REAL, loss REAL, variation REAL, used_up REAL, used_down REAL, signal REAL,
    PRIMARY KEY (network, step, at)
) STRICT, WITHOUT ROWID;
"""
_MEASURED = "up, round_trip, loss, variation, used_up, used_down, signal"


class MeasurementStore:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._database = opened(path, _SCHEMA, "records")

    def used(self) -> list[UsedDay]:
        """What networks carried on earlier days. Raises UpmtError when it cannot be read."""
        try:
            rows = self._database.execute("SELECT network, day, up, down, cost FROM used").fetchall()
        except sqlite3.Error as reason:
            raise UpmtError(f"what the networks carried cannot be read: {reason}") from reason
        return [
            UsedDay(NetworkName(network), day, Usage(up, down, cost)) for network, day, up, down, cost in rows
        ]

    def keep_used(self, days: Iterable[UsedDay]) -> None:
        """Save days, in the place of what was saved of them."""
        with self._together():
            for each in days:
                usage = each.usage
                self._database.execute(
                    "INSERT OR REPLACE INTO used VALUES (?, ?, ?, ?, ?)",
                    (each.network, each.day, usage.up, usage.down, usage.cost),
                )
                self._database.execute("DELETE FROM used WHERE day <= ?", (each.day - KEPT_DAYS,))

    def keep_samples(self, network: NetworkName, samples: Iterable[Sample], now: float) -> None:
        """Save samples; what is too old goes. `now` in seconds since 1970."""
        with self._together():
            for each in samples:
                measured = each.measured
                self._database.execute(
                    "INSERT OR REPLACE INTO sample VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        network,
                        each.step,
                        each.at,
                        measured.up,
                        measured.round_trip,
                        measured.loss,
                        measured.variation,
                        measured.used_up,
                        measured.used_down,
                        measured.signal,
                    ),
                )
            for step, before in too_old(now):
                self._database.execute(
                    "DELETE FROM sample WHERE network = ? AND step = ? AND at < ?", (network, step, before)
                )

    def history(self, network: NetworkName, since: float, now: float) -> list[Sample]:
        """The samples from `since` on, oldest first; times in seconds since 1970. Raises UpmtError."""
        found: list[Sample] = []
        try:
            for step, begin, end in spans(now, since):
                rows = self._database.execute(
                    f"SELECT at, {_MEASURED} FROM sample "
                    "WHERE network = ? AND step = ? AND at >= ? AND at < ? ORDER BY at",
                    (network, step, begin, end),
                )
                found += [Sample(at, step, Measurements(*values)) for at, *values in rows]
        except sqlite3.Error as reason:
            raise UpmtError(f"the history of {network} cannot be read: {reason}") from reason
        return found

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("BEGIN")
            yield
            self._database.execute("COMMIT")
            return
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("ROLLBACK")
