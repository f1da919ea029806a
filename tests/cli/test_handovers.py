"""What `upmt handovers` shows of what was lost."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from upmt_nf.cli import handovers
from upmt_nf.cli.main import app


def course(lost: int, **more: int) -> dict[str, Any]:
    return {"sent": 50, "lost": lost, "duplicated": None, "late": 0, "gap_ms": 24, **more}


def row(counts: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "number": 1, "time": "2026-01-01T10:00:00+00:00", "outcome": "done", "failure": None, "asked": True,
        "application": "call", "from": "wifi", "to": "lte", "flow": None, "mode": "make-before-break", "flows": 1,
        "signalling_ms": 1.0, "moved_ms": 1.0, "cause": "asked", "rule": None, "numbers": {}, "counts": counts,
        "steps": [], "is_counting": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"up": course(9, lost_at_most=12), "down": course(0, lost_at_most=0)}, ["9-12", "0"]),
        ({"up": course(4), "down": course(1)}, ["4", "1"]),  # as an older daemon wrote it
        ({"up": None, "down": None}, ["-", "-"]),
        (None, ["-", "-"]),
    ],
)
def test_what_was_lost_is_a_number_or_its_bounds(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, Any] | None, words: list[str]
) -> None:
    monkeypatch.setattr(handovers, "call", lambda *_, **__: [row(counts)])
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["handovers"]).stdout
    line = shown.splitlines()[-1].split()
    assert line[line.index("lte") + 3 :][:2] == words


def test_the_long_form_has_the_numbers_and_the_time_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        {"step": "old-heard", "ms": -81.24, "within_ms": 0.0},
        {"step": "decided", "ms": 0.0, "within_ms": 0.0},
        {"step": "anchor-steered", "ms": 6.1, "within_ms": 6.1},
    ]
    numbers = {"source_delay_ms": 310.5, "target_delay_ms": None}
    told = row(None) | {"steps": steps, "numbers": numbers, "rule": "call.delay leave above 150 ms"}
    monkeypatch.setattr(handovers, "call", lambda *_, **__: [told, row(None)])
    lines = CliRunner().invoke(app, ["handovers", "--long"]).stdout.splitlines()
    assert "call: wifi -> lte" in lines[0]
    assert "[call.delay leave above 150 ms]" in lines[0]
    assert lines[1] == "    source_delay_ms 310.5, target_delay_ms unknown"
    assert lines[2] == "    ms: old-heard -81.2, decided 0.0, anchor-steered 6.1 +- 6.1"
    assert len(lines) == 4
