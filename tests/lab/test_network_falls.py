"""Twenty applications on a network that falls: one exchange on the wire moves them all, and each has its receipt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab_driver import BOTH_PLANES, Lab, wait_until

pytestmark = [pytest.mark.lab, BOTH_PLANES]

CORRESPONDENT, FIRST, COUNT, RATE = "86.0.0.1", 6000, 20, 25
NAMES = [f"app{number:02}" for number in range(COUNT)]


class Program:
    """One beside this test that answers lines."""

    def __init__(self, lab: Lab, host: str, file: str, *words: str) -> None:
        command = (*lab.words(host), sys.executable, str(Path(__file__).with_name(file)), *words)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready\n"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def ask(self) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def end(self) -> None:
        self._process.communicate()


def test_twenty_applications_leave_and_come_back_by_one_exchange_each_time(lab: Lab) -> None:
    ports = [str(FIRST + number) for number in range(COUNT)]
    for name, port in zip(NAMES, ports, strict=True):
        lab.ask("assign", "--app", name, "--destination", f"{CORRESPONDENT}:{port}", "--to", "net0,any")
    echo = str(Path(__file__).with_name("echo.py"))
    lab.start("ch", sys.executable, echo, *(f"{CORRESPONDENT}:{port}" for port in ports))
    lab.await_listener("ch", FIRST + COUNT - 1)
    sniffer = Program(lab, "mh", "signal_sniffer.py", "if0", "if1")
    flows = Program(lab, "mh", "side_by_side.py", CORRESPONDENT, str(FIRST), str(COUNT), str(RATE))
    try:
        # Until the anchor knows each flow by its application, which it is told in the background.
        wait_until(lambda: lab.ask("status")["counters"]["flows_named"] >= COUNT, "all flows are named", 60)
        leave(lab, sniffer, flows, "down", "net1")
        for row in leave(lab, sniffer, flows, "up", "net0"):
            assert row["mode"] == "make-before-break"
            assert row["counts"]["down"]["lost"] == 0
        leave(lab, sniffer, flows, "blackhole", "net1")
    finally:
        flows.end()
        sniffer.end()
        lab.link("net0", "restore")


def leave(lab: Lab, sniffer: Program, flows: Program, action: str, target: str) -> list[dict[str, Any]]:
    """Something happens to net0, and all go to another network: their receipts."""
    before = lab.ask("handovers", "--last", "1")[-1]["number"]
    flows.ask()
    sniffer.ask()
    lab.link("net0", action)
    wait_until(lambda: len(receipts(lab, before, target)) == COUNT, f"all are on {target} after {action}", 60)
    requests = [request for request in sniffer.ask() if request[2] == "HandoverRequest"]
    assert [request[0] for request in requests] == [{"net0": "if0", "net1": "if1"}[target]], requests

    def counted() -> list[dict[str, Any]]:
        return [row for row in receipts(lab, before, target) if row["counts"] is not None]

    rows = wait_until(
        lambda: counted() if len(counted()) == COUNT else None, "both ends have counted all", 60
    )
    assert sorted(row["application"] for row in rows) == NAMES
    heard = flows.ask()
    for row in rows:
        answers, gap_ms = heard[str(FIRST + NAMES.index(row["application"]))]
        assert answers > 0
        # The program sees the gap of packets there and back, the receipt that of the way down.
        assert 0 < row["counts"]["down"]["gap_ms"] <= gap_ms + 1000 / RATE, (row, gap_ms)
    return list(rows)


def receipts(lab: Lab, after: int, target: str) -> list[dict[str, Any]]:
    """Of the applications, since."""
    rows = lab.ask("handovers", "--last", "100")
    return [
        row for row in rows if row["number"] > after and row["application"] in NAMES and row["to"] == target
    ]
