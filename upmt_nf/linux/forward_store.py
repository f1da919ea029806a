"""Forwards that `upmt anchor forward add` made, kept in SQLite beside the leases: they survive restarts."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from upmt_nf.config.forwards import forward_of, read_host, read_ports, read_protocol
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import PROTOCOL_NAMES, IPAddress
from upmt_nf.model.forward import Forward

_SCHEMA = """
CREATE TABLE IF NOT EXISTS forward (
    protocol TEXT NOT NULL,
    external TEXT NOT NULL,
    ports TEXT NOT NULL,
    host TEXT NOT NULL,
    host_ports TEXT NOT NULL,
    PRIMARY KEY (protocol, external, ports)
) STRICT
"""


class ForwardStore:
    """The table. `own` is the anchor's address, which is kept as "nothing said": it may change between restarts.

    Raises UpmtError naming the file when it cannot be read or written: a forward that is not kept is not added.
    """

    def __init__(self, path: Path, own: IPAddress) -> None:
        self._path = path
        self._own = own
        with self._named("opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=2.0)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(_SCHEMA)

    def kept(self) -> list[Forward]:
        """All of them in the order in which they were added; what cannot be read is passed over."""
        with self._named("read"):
            rows = self._database.execute(
                "SELECT protocol, external, ports, host, host_ports FROM forward ORDER BY rowid"
            ).fetchall()
        found = []
        for protocol, external, ports, host, host_ports in rows:
            with contextlib.suppress(ValueError):
                found.append(
                    forward_of(
                        read_protocol(protocol),
                        ip_address(external) if external else self._own,
                        read_ports(ports),
                        read_host(host),
                        read_ports(host_ports),
                    )
                )
        return found

    def keep(self, forward: Forward) -> None:
        """Remember a forward, in the place of another of the same ports."""
        with self._named("written"):
            self._database.execute(
                "INSERT OR REPLACE INTO forward (protocol, external, ports, host, host_ports) VALUES (?, ?, ?, ?, ?)",
                (*self._key(forward), str(forward.host), str(forward.host_ports)),
            )

    def forget(self, forward: Forward) -> None:
        """Remember a forward no more."""
        with self._named("written"):
            self._database.execute(
                "DELETE FROM forward WHERE protocol = ? AND external = ? AND ports = ?", self._key(forward)
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _key(self, forward: Forward) -> tuple[str, str, str]:
        external = "" if forward.external == self._own else str(forward.external)
        return PROTOCOL_NAMES[forward.protocol], external, str(forward.ports)

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as reason:
            raise UpmtError(f"{self._path}: the forwards cannot be {what}: {reason}") from reason
