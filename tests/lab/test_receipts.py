"""What receipts say was lost, against a capture at both ends' interfaces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")
TAP = (sys.executable, str(Path(__file__).with_name("flow_tap.py")))
PORT = 5004


@pytest.fixture(params=["agent", "fast"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--datapath", request.param)
        lab.await_networks_up()
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


NEARLY = 30
"""Milliseconds: a program sees a packet on a busy machine later than the wire has it."""


def agree(row: dict[str, Any], captured: dict[str, dict[str, int]]) -> None:
    """A receipt and what was captured of the same time."""
    for way, wire in captured.items():
        course = row["counts"][way]
        assert wire["doubled"] == 0
        assert course["duplicated"] in (0, None)
        assert abs(course["late"] - wire["late"]) <= 1, (way, row, captured)
        assert abs(course["gap_ms"] - wire["gap_ms"]) <= NEARLY, (way, row, captured)


def steps_of(row: dict[str, Any]) -> dict[str, float]:
    times = [step["ms"] for step in row["steps"]]
    assert times == sorted(times)
    return {step["step"]: step["ms"] for step in row["steps"]}


def test_receipts_of_a_planned_move_and_of_a_cut_agree_with_a_capture_at_the_wire(
    lab: Lab, tmp_path: Path
) -> None:
    def rows() -> list[dict[str, Any]]:
        """Those of the call that both ends have counted."""
        found = lab.ask("handovers", "--last", "100")
        return [row for row in found if row["application"] == "call" and row["counts"] is not None]

    def told(tap: subprocess.Popen[str]) -> dict[str, dict[str, int]]:
        assert tap.stdin is not None
        assert tap.stdout is not None
        tap.stdin.write("\n")
        tap.stdin.flush()
        found: dict[str, dict[str, int]] = json.loads(tap.stdout.readline())
        return found

    def seen() -> dict[str, dict[str, int]]:
        """What came at either end since the last time: up at the anchor, down at the host."""
        host, anchor = (told(tap) for tap in taps)
        return {"up": anchor["to"], "down": host["from"]}

    taps = [
        subprocess.Popen(
            (*lab.words(host), *TAP, str(PORT), *interfaces),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for host, *interfaces in (("mh", "if0", "if1"), ("an", "wan"))
    ]
    for tap in taps:
        assert tap.stdout is not None
        assert tap.stdout.readline() == "ready\n"
    # What goes by net0 is overtaken by what goes by net1.
    lab.upmt("lab", "shape", "--name", lab.name, "net0", "--delay", "70ms", "--loss", "0%")
    lab.start("ch", *STREAM, "echo", str(PORT), str(tmp_path / "echo.log"))
    lab.await_listener("ch", PORT)
    log = tmp_path / "call.log"
    stream = lab.start(
        "mh", *UPMT, "run", "--app", "call", "--",
        *STREAM, "send", "86.0.0.1", str(PORT), "50", "300", str(log),
    )  # fmt: skip
    wait_until(lambda: log.exists() and log.stat().st_size, "the stream runs")
    seen()
    lab.ask("handover", "call", "--to", "net1")
    (planned,) = wait_until(rows, "the planned move is counted")
    assert planned["mode"] == "make-before-break"
    assert planned["counts"]["reason"] is None
    is_fast = lab.ask("status")["datapath"] == "fast"
    for way in ("up", "down"):
        course = planned["counts"][way]
        assert course["lost"] == 0
        # The kernel's packets pass while both ends are read: those of a round trip each time.
        assert course["lost_at_most"] <= (10 if is_fast else 0), planned
        assert course["duplicated"] in ((0, None) if is_fast else (0,))
    captured = seen()
    agree(planned, captured)
    assert captured["up"]["late"] > 0
    assert captured["down"]["late"] > 0
    kinds = steps_of(planned)
    assert kinds["decided"] <= kinds["asked"] < kinds["answered"] <= kinds["steered"]
    assert kinds["asked"] < kinds["first-packet"] < kinds["old-drained"] < kinds["counted"]
    lab.upmt("lab", "shape", "--name", lab.name, "net0")
    lab.link("net1", "blackhole")
    wait_until(lambda: len(rows()) == 2, "the cut is counted")
    cut = rows()[1]
    assert cut["counts"]["reason"] is None
    agree(cut, seen())
    kinds = steps_of(cut)
    assert kinds["old-heard"] < kinds["decided"] <= kinds["steered"] <= kinds["asked"] < kinds["answered"]
    assert kinds["decided"] < kinds["first-packet"] < kinds["counted"]
    stream.terminate()
    stream.wait(timeout=30)
    host, anchor = (told(tap) for tap in taps)
    for tap in taps:
        tap.communicate()
    lost_up = host["to"]["out"] - anchor["to"]["in"]
    lost_down = anchor["from"]["out"] - host["from"]["in"]
    assert lost_up > 0, (host, anchor)
    for way, lost in (("up", lost_up), ("down", lost_down)):
        course = cut["counts"][way]
        # The daemon reads in bursts: a packet that came beside the question may be counted on its other side.
        assert course["lost"] - 1 <= lost <= course["lost_at_most"] + 1, (cut, lost_up, lost_down)
        assert course["lost_at_most"] - course["lost"] <= (20 if is_fast else 0), cut
    assert cut["counts"]["up"]["gap_ms"] >= 20 * (lost_up - 1)
