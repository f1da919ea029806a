"""Which host had which virtual address, kept in SQLite: an anchor that restarts gives everybody the same again."""

from __future__ import annotations

import contextlib
import sqlite3
from ipaddress import ip_address
from pathlib import Path

from upmt_nf.linux.database import opened
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import TerminalId

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
    identity TEXT PRIMARY KEY,
    address TEXT NOT NULL UNIQUE,
    changed INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT
"""


class LeaseStore:
    """The file. Raises UpmtError naming it when it cannot be opened; a failed write later costs memory only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: list[tuple[str, str]] = []
        # A lease lost with the power is given again by `VIpAddr` in the host's next REGISTER.
        self._database = opened(path, _SCHEMA, "leases")

    def remembered(self) -> dict[TerminalId, IPAddress]:
        """Everybody's address, those that changed last at the end."""
        rows = self._database.execute(
            "SELECT identity, address FROM lease ORDER BY changed, rowid"
        ).fetchall()
        found: dict[TerminalId, IPAddress] = {}
        for identity, address in rows:
            with contextlib.suppress(ValueError):
                found[TerminalId(identity)] = ip_address(address)
        return found

    def keep(self, identity: TerminalId, address: IPAddress) -> bool:
        """This host has this address now, and nobody else; `write` makes it last.

        Gives whether it is the first since then: a thousand hosts that come at once cost few transactions.
        """
        self._unwritten.append((str(identity), str(address)))
        return len(self._unwritten) == 1

    def write(self) -> None:
        """Write what was to be kept, in one transaction."""
        rows, self._unwritten = self._unwritten, []
        with contextlib.suppress(sqlite3.Error), self._database:
            self._database.execute("BEGIN")
            for identity, address in rows:
                self._database.execute(
                    "DELETE FROM lease WHERE address = ? AND identity <> ?", (address, identity)
                )
                self._database.execute(
                    "INSERT INTO lease (identity, address) VALUES (?, ?) ON CONFLICT (identity) DO UPDATE "
                    "SET address = excluded.address, changed = unixepoch()",
                    (identity, address),
                )

    def close(self) -> None:
        """Write and close the file."""
        self.write()
        self._database.close()
