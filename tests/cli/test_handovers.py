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
        "is_counting": False,
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
