"""The mobile host's policies while it runs: the clock on the wall, what is spent, reloads, the record of handovers."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from upmt_nf.config.mobile_host import MobileHostConfig
from upmt_nf.daemon.wall_clock import local_offset
from upmt_nf.linux.record_store import RecordStore
from upmt_nf.mobility.handover_steps import Step
from upmt_nf.mobility.host_commands import HandoverFinished
from upmt_nf.mobility.host_events import ClockRead, HostEvent
from upmt_nf.mobility.tallies import Counted
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.identity import DEFAULT_APPLICATION
from upmt_nf.policy.budget import Ledger
from upmt_nf.policy.candidates import Path as NetworkPath
from upmt_nf.policy.civil_time import CivilClock
from upmt_nf.policy.policy import Policy

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two looks at the clock on the wall, and two savings of what was spent."""


class HostPolicies:
    """Raises UpmtError when budgets cannot be kept over restarts."""

    def __init__(self, config: MobileHostConfig) -> None:
        self.config = config
        self.counts: Counter[tuple[str, str]] = Counter()
        """Handovers since the start, by application and outcome."""
        self._chosen = config.policies()
        self._timer: asyncio.TimerHandle | None = None
        self._offset: float | None = None
        self._saved: object = None
        self._uncounted: dict[int, tuple[int, dict[str, Any], float]] = {}
        """Records that wait for their counts, and when they were decided, by the number of `Counted`."""
        self._store = self._open()

    # --- for the machine's settings ---

    @property
    def default(self) -> Policy | tuple[str, ...]:
        """What applications go by that say nothing."""
        return self._chosen.get(DEFAULT_APPLICATION, self.config.default_networks)

    def ledger(self, now: float) -> Ledger:
        """What was spent before this start. The daemon may have been killed: what was not counted counts as spent."""
        if self._store is None:
            return Ledger()
        guards = {facts.name: NetworkPath(facts).guard(TICK) for facts in self.config.facts()}
        names = list(self._chosen) if self._has_budgets() else []
        try:
            rows = self._store.spent()
            return Ledger.recovered(
                rows, names, guards if rows else None, CivilClock(local_offset(now)).at(now)
            )
        except (ValueError, sqlite3.Error) as reason:
            raise UpmtError(
                f"{self.config.mobile_host.records}: what was spent is damaged: {reason}"
            ) from reason

    # --- while it runs ---

    def begin(self, take: Callable[[HostEvent], None], ledger: Callable[[], Ledger]) -> None:
        """Tell the machine the time, now and whenever somebody sets the clock; save what is spent."""
        self._tick(take, ledger)

    def _tick(self, take: Callable[[HostEvent], None], ledger: Callable[[], Ledger]) -> None:
        loop = asyncio.get_running_loop()
        offset = local_offset(loop.time())
        if self._offset is None or abs(offset - self._offset) > 1.0:
            self._offset = offset
            take(ClockRead(offset))
        if self._store is not None and self._has_budgets() and (rows := ledger().saved()) != self._saved:
            self._store.keep_spent(rows)
            self._saved = rows
        self._timer = loop.call_later(TICK, self._tick, take, ledger)

    def adopt(self, config: MobileHostConfig) -> dict[str, str]:
        """The policies of a file that was read again; gives the names of those that are others now: which way."""
        before, after = self.config.book().policies, config.book().policies
        self.config, self._chosen = config, config.policies()
        return {
            name: "added" if name not in before else "removed" if name not in after else "changed"
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        }

    # --- the record of handovers ---

    def note(self, finished: HandoverFinished) -> dict[str, Any] | None:
        """Keep a handover's record."""
        record = handover_record(finished, datetime.now().astimezone().isoformat(timespec="milliseconds"))
        if record is None:
            return None
        self.counts[record["application"] or "", record["outcome"]] += 1
        if self._store is not None:
            number = self._store.keep_handover(record)
            if finished.number is not None and number:
                started = finished.receipt.started if finished.receipt is not None else 0.0
                self._uncounted[finished.number] = number, record, started
        return record

    def note_counts(self, counted: Counted) -> None:
        """Complete a handover's record by what it cost."""
        number, record, started = self._uncounted.pop(counted.number, (0, {}, 0.0))
        if self._store is not None and number:
            steps = [*record["steps"], *steps_report(counted.steps, started)]
            whole = {**record, "counts": counts_report(counted), "steps": sorted(steps, key=_when)}
            self._store.complete_handover(number, whole)

    def handovers(self, after: int, most: int) -> list[dict[str, Any]]:
        """The newest, oldest first."""
        if self._store is None:
            raise UpmtError(f"there are no records: {self.config.mobile_host.records} could not be opened")
        waiting = {number for number, *_ in self._uncounted.values()}
        rows = self._store.handovers(after, most)
        return [{"counts": None, "steps": [], **row, "is_counting": row["number"] in waiting} for row in rows]

    def close(self, ledger: Ledger) -> None:
        """Save, and end."""
        if self._timer is not None:
            self._timer.cancel()
        if self._store is not None:
            if self._has_budgets():
                self._store.keep_spent(ledger.saved())
            self._store.close()

    def _open(self) -> RecordStore | None:
        try:
            return RecordStore(Path(self.config.mobile_host.records))
        except UpmtError as reason:
            if self._has_budgets():
                raise
            log.warning("%s: handovers are not recorded", reason)
            return None

    def _has_budgets(self) -> bool:
        # Of all that are in the file: an application may be given any of them at run time.
        policies = [*self.config.book().policies.values()]
        policies += [other for policy in policies for _, other in policy.by_time]
        return any(policy.budgets for policy in policies) or any(
            section.budgets for section in self.config.network
        )


def handover_record(finished: HandoverFinished, time_of_day: str) -> dict[str, Any] | None:
    """As JSON (docs/commands.md, `handovers`). None for a request that named something that does not exist."""
    if finished.is_usage_error:
        return None
    receipt = finished.receipt
    record: dict[str, Any] = {
        "time": time_of_day,
        "outcome": "done" if receipt is not None else "failed",
        "failure": finished.failure,
        "asked": finished.token is not None,
    }
    keys = ["application", "from", "to", "flow", "mode", "flows", "signalling_ms", "moved_ms"]
    keys += ["cause", "rule", "numbers"]
    if receipt is None:
        known: dict[str, Any] = {"application": finished.application, "to": finished.target, "steps": []}
        return {**record, **dict.fromkeys(keys), **known}
    decision = receipt.decision
    return {
        **record,
        "application": receipt.application,
        "from": receipt.source,
        "to": receipt.target,
        "flow": str(receipt.flow) if receipt.flow is not None else None,
        "mode": receipt.mode.value,
        "flows": receipt.flows,
        "signalling_ms": receipt.signalling_ms,
        "moved_ms": receipt.moved_ms,
        "cause": receipt.cause,
        "rule": decision.rule if decision is not None else None,
        "numbers": dict(decision.numbers) if decision is not None else {},
        "steps": steps_report(receipt.steps, receipt.started),
    }


def steps_report(steps: Iterable[Step], decided: float) -> list[dict[str, Any]]:
    """`steps` of a record, in ms since it was `decided` (seconds)."""
    return [
        {
            "step": step.kind.value,
            "ms": round(1000 * (step.at - decided), 3),
            "within_ms": round(1000 * step.within, 3),
        }
        for step in steps
    ]


def _when(step: dict[str, Any]) -> float:
    return float(step["ms"])


def counts_report(counted: Counted) -> dict[str, Any]:
    """`counts` of a record: both directions in packets, or the reason why that is not known."""
    return {
        "flows": counted.flows,
        "for_s": round(counted.seconds, 3),
        "up": asdict(counted.up) if counted.up is not None else None,
        "down": asdict(counted.down) if counted.down is not None else None,
        "reason": counted.reason,
    }
