"""Events: one form for all kinds of changes, numbered, kept and bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from mobility_terminal import NET0, VOICE, VOICE_ID
from mobility_world import World, associated
from wire_schema import unpublished

from upmt_nf.daemon.event_log import EventLog
from upmt_nf.linux import event_store
from upmt_nf.mobility.commands import EventKind, Happened
from upmt_nf.mobility.host_associations import HostAssociations
from upmt_nf.mobility.host_events import ApplicationAssigned, ApplicationLocked
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.identity import ApplicationName, NetworkName

RECORD: dict[str, Any] = {
    "outcome": "done",
    "failure": None,
    "cause": "delay 300 ms is above 250 ms",
    "application": "call",
    "from": "wifi",
    "to": "lte",
}


def told(world: World) -> list[tuple[str, str | None, str | None]]:
    return [(each.kind.value, each.old, each.new) for each in world.host.happened]


def test_every_change_of_state_is_told_once() -> None:
    world = associated(World(networks=1))
    assert told(world) == [
        ("network", "down", "setup"),
        ("association", "idle", "registering"),
        ("association", "registering", "associated"),
        ("network", "setup", "up"),
    ]
    world.host.happened.clear()
    world.host.define(VOICE, VOICE_ID)
    world.host.take(ApplicationAssigned(VOICE, (NET0,)))
    world.host.take(ApplicationLocked(VOICE, NET0))
    world.host.take(ApplicationLocked(VOICE, None))
    assert told(world) == [("policy", None, "net0"), ("lock", None, "net0"), ("lock", None, None)]
    world.host.happened.clear()
    world.run(7200)
    assert told(world) == [], "what is refreshed has not changed"
    world.host.vanish(NET0)
    assert told(world) == [("network", "up", "down")]


def test_events_are_numbered_over_restarts_and_as_the_schema_says(tmp_path: Path) -> None:
    file = str(tmp_path / "records.sqlite")
    log = EventLog(file)
    log.note(Happened(EventKind.NETWORK, "no carrier", NetworkName("wifi"), None, "up", "down"))
    log.note_handover(RECORD)
    log.note_handover({**RECORD, "outcome": "failed", "failure": "no answer", "from": None})
    log.note_handover(None)
    log.close()
    log = EventLog(file)
    log.note(Happened(EventKind.LOCK, "locked", application=ApplicationName("call"), new="lte"))
    rows = log.events(0, 100)
    assert unpublished("events", rows) == []
    assert [row["number"] for row in rows] == [1, 2, 3, 4]
    assert [row["event"] for row in rows] == ["network", "handover", "handover-failed", "lock"]
    assert rows[1]["reason"] == "delay 300 ms is above 250 ms"
    assert [row["number"] for row in log.events(2, 1)] == [4]


def test_only_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_store, "MOST_EVENTS", 10)
    log = EventLog(str(tmp_path / "records.sqlite"))
    for _ in range(25):
        log.note_handover(RECORD)
    assert [row["number"] for row in log.events(0, 1000)] == list(range(16, 26))


def test_a_budget_is_told_when_it_bars_and_when_it_does_not_any_more(tmp_path: Path) -> None:
    class Host:
        def __init__(self) -> None:
            self.barred: dict[tuple[str, str], str] = {}

        def spent_budgets(self, _: float) -> dict[tuple[str, str], str]:
            return self.barred

    log, host = EventLog(str(tmp_path / "records.sqlite")), Host()
    for barred in ({}, {("call", "lte"): "1 GB/day is spent"}, {("call", "lte"): "1 GB/day is spent"}, {}):
        host.barred = barred
        log.look_at_budgets(cast(HostAssociations, host), 0.0)
    rows = [(row["application"], row["network"], row["from"], row["to"]) for row in log.events(0, 10)]
    assert rows == [("call", "lte", "open", "barred"), ("call", "lte", "barred", "open")]


def test_without_a_file_nothing_is_kept_and_asking_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = EventLog(str(tmp_path / "file" / "records.sqlite"))
    log.note_handover(RECORD)
    with pytest.raises(UpmtError, match=r"records\.sqlite"):
        log.events(0, 10)
    log.close()
