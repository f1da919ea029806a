"""The last events of a mobile host, over restarts: SQLite, beside the other records. Bounded."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from upmt_nf.linux.database import opened
from upmt_nf.model.errors import UpmtError

MOST_EVENTS = 10_000
"""The newest are kept."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS event (number INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL) STRICT"
)


class EventStore:
    """The file. Raises UpmtError naming it when it cannot be opened; a failed write later costs that write."""

    def __init__(self, path: Path) -> None:
        self._database = opened(path, _SCHEMA, "records")

    def keep(self, record: dict[str, Any]) -> None:
        """One more; the oldest goes when there are too many."""
        with contextlib.suppress(sqlite3.Error):
            added = self._database.execute("INSERT INTO event (record) VALUES (?)", (json.dumps(record),))
            self._database.execute(
                "DELETE FROM event WHERE number <= ?", ((added.lastrowid or 0) - MOST_EVENTS,)
            )

    def events(self, after: int, most: int) -> list[dict[str, Any]]:
        """The newest `most` of those with a number above `after`, oldest first. Raises UpmtError."""
        try:
            rows = self._database.execute(
                "SELECT number, record FROM event WHERE number > ? ORDER BY number DESC LIMIT ?",
                (after, most),
            ).fetchall()
        except sqlite3.Error as reason:
            raise UpmtError(f"the events cannot be read: {reason}") from reason
        return [{"number": number, **json.loads(record)} for number, record in reversed(rows)]

    def close(self) -> None:
        """Close the file."""
        self._database.close()
