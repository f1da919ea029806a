"""What has changed on a mobile host, for scripts that follow it (`upmt events`): one form for all kinds of changes."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from upmt_nf.linux.event_store import EventStore
from upmt_nf.mobility.commands import EventKind, Happened
from upmt_nf.mobility.host_associations import HostAssociations
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.identity import ApplicationName, NetworkName

log = logging.getLogger(__name__)


class EventLog:
    """Kept in the file `records`; without it nothing is kept, and asking says so."""

    def __init__(self, records: str) -> None:
        self._path = records
        self._barred: dict[tuple[ApplicationName, NetworkName], str] = {}
        try:
            self._store: EventStore | None = EventStore(Path(records))
        except UpmtError as reason:
            log.warning("%s: events are not kept", reason)
            self._store = None

    def note(self, happened: Happened) -> None:
        """Keep what happened."""
        self._keep(event_report(happened))

    def note_handover(self, record: dict[str, Any] | None) -> None:
        """A handover as `upmt handovers` shows it; None: there was none."""
        if record is None:
            return
        reason = record["failure"] if record["outcome"] != "done" else record["cause"]
        kind = EventKind.HANDOVER if record["outcome"] == "done" else EventKind.HANDOVER_FAILED
        where = {key: record[key] for key in ("application", "from", "to")}
        self._keep({"event": kind.value, "network": None, **where, "reason": reason})

    def look_at_budgets(self, machine: HostAssociations, now: float) -> None:
        """Note which budgets keep whom from where, as far as that is new."""
        barred = machine.spent_budgets(now)
        for (application, network), reason in {**self._barred, **barred}.items():
            if (application, network) in self._barred and (application, network) in barred:
                continue
            is_barred = (application, network) in barred
            new, old = ("barred", "open") if is_barred else ("open", "barred")
            self.note(Happened(EventKind.BUDGET, reason, network, application, old, new))
        self._barred = barred

    def events(self, after: int, most: int) -> list[dict[str, Any]]:
        """The newest, oldest first. Raises UpmtError."""
        if self._store is None:
            raise UpmtError(f"there are no events: {self._path} could not be opened")
        return self._store.events(after, most)

    def close(self) -> None:
        """End."""
        if self._store is not None:
            self._store.close()

    def _keep(self, record: dict[str, Any]) -> None:
        if self._store is not None:
            at = datetime.now().astimezone().isoformat(timespec="milliseconds")
            self._store.keep({"time": at, **record})


def event_report(happened: Happened) -> dict[str, Any]:
    """One of `events`, without its number and time."""
    return {
        "event": happened.kind.value,
        "network": happened.network,
        "application": happened.application,
        "from": happened.old,
        "to": happened.new,
        "reason": happened.reason,
    }
