"""A file of SQLite of ours, opened in one place: what it holds is its store's business."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from upmt_nf.model.errors import UpmtError


def opened(path: Path, schema: str, called: str) -> sqlite3.Connection:
    """The file with its tables, made when they are not there; transactions are begun by hand.

    Raises UpmtError naming it, and what it holds as it is `called`, when it cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, isolation_level=None, timeout=2.0)
        database.execute("PRAGMA journal_mode=WAL")
        # The daemon may die at any moment and loses nothing; the machine may, and loses a moment.
        database.execute("PRAGMA synchronous=OFF")
        database.executescript(schema)
    except (OSError, sqlite3.Error) as reason:
        raise UpmtError(f"{path}: the {called} cannot be opened: {reason}") from reason
    return database
