"""What a mobile host remembers over restarts, in SQLite: what was spent of budgets, and its last handovers."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from upmt_nf.linux.database import opened

MOST_HANDOVERS = 10_000
"""The newest are kept."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spent (
    application TEXT NOT NULL, network TEXT NOT NULL,
    day INTEGER NOT NULL, month INTEGER NOT NULL, of_day REAL NOT NULL, of_month REAL NOT NULL,
    PRIMARY KEY (application, network)
) STRICT;
CREATE TABLE IF NOT EXISTS handover (number INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL) STRICT;
"""


class RecordStore:
    """The file. Raises UpmtError naming it when it cannot be opened; a failed write later costs that write."""

    def __init__(self, path: Path) -> None:
        self._database = opened(path, _SCHEMA, "records")

    def spent(self) -> list[tuple[Any, ...]]:
        """Rows as `policy.budget.Ledger.recovered` takes them."""
        return self._database.execute(
            "SELECT application, network, day, month, of_day, of_month FROM spent"
        ).fetchall()

    def keep_spent(self, rows: Iterable[Sequence[Any]]) -> None:
        """Rows as `policy.budget.Ledger.saved` gives them."""
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._database.execute("COMMIT")

    def keep_handover(self, record: dict[str, Any]) -> int:
        """One more; the oldest goes when there are too many. Gives its number, 0 when it could not be kept."""
        with contextlib.suppress(sqlite3.Error):
            added = self._database.execute(
                "INSERT INTO handover (record) VALUES (?)", (json.dumps(record, default=str),)
            )
            self._database.execute(
                "DELETE FROM handover WHERE number <= ?", ((added.lastrowid or 0) - MOST_HANDOVERS,)
            )
            return added.lastrowid or 0
        return 0

    def complete_handover(self, number: int, record: dict[str, Any]) -> None:
        """The same, with what was found out later."""
        with contextlib.suppress(sqlite3.Error):
            self._database.execute(
                "UPDATE handover SET record = ? WHERE number = ?", (json.dumps(record, default=str), number)
            )

    def handovers(self, after: int, most: int) -> list[dict[str, Any]]:
        """The newest `most` of those with a number above `after`, oldest first, each with its `number`."""
        rows = self._database.execute(
            "SELECT number, record FROM handover WHERE number > ? ORDER BY number DESC LIMIT ?", (after, most)
        ).fetchall()
        return [{"number": number, **json.loads(record)} for number, record in reversed(rows)]

    def close(self) -> None:
        """Close the file."""
        self._database.close()
