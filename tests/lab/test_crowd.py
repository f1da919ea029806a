"""A host with ten thousand processes, fifty of which begin new flows all the time: each by its own network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from lab_driver import Lab, wait_until
from talking import ECHO, PATIENCE, SNIFFER, Program, ask

pytestmark = [pytest.mark.lab, pytest.mark.alone, pytest.mark.slow]

CROWD = str(Path(__file__).parent / "crowd.py")
FAR, PORT = "86.0.0.1", 6010
RATE, SECONDS, IDLE = 1000, 10, 10_000
"""What a busy machine of two cores carries beside everything else; `benchmarks/first_packet.py` goes on from there."""


def test_no_flow_is_taken_for_another_programs_and_no_first_packet_is_lost(lab: Lab) -> None:
    lab.start("ch", sys.executable, ECHO, f"{FAR}:{PORT}")
    lab.await_listener("ch", PORT)
    ask(lab, "assign", application="odd", match={"command": "odd*"}, networks=["net1"])
    sniffer = Program(lab, "/usr/bin/python3", SNIFFER, "1800", "if0", "if1")
    try:
        words = (FAR, str(PORT), "50", str(RATE), str(SECONDS), str(IDLE))
        result = json.loads(lab.on("mh", "/usr/bin/python3", CROWD, *words, timeout=200).stdout)

        def all_sent() -> dict[str, Any] | None:
            seen = sniffer.ask("report")
            sent = {letter: seen.get(letter, {}) for letter in ("@e", "@o")}
            return sent if sum(sum(by.values()) for by in sent.values()) >= result["flows"] else None

        sent = wait_until(all_sent, f"all packets have left: {result}", PATIENCE)
    finally:
        sniffer.end()
    assert {letter: list(by) for letter, by in sent.items()} == {"@e": ["if0"], "@o": ["if1"]}
    assert result["flows"] >= RATE * SECONDS * 0.98
    status = ask(lab, "status")
    counters = status["counters"]
    for name in ("queue_overruns", "queue_dropped", "processes_unsearched", "process_events_lost"):
        assert counters[name] == 0
    assert result["answered"] == result["flows"]
    if status["admission"] == "kernel":
        # A program's first flow is the agent's, and those that it begins before the agent has told the kernel of it.
        assert counters["kernel_verdicts"] >= 50
        assert counters["kernel_admitted"] >= result["flows"] * 0.9
