"""Many new flows a second: what the direct path carries without an error, the tunnel carries too."""

import json
import sys
from pathlib import Path

import pytest
from lab_driver import Lab

pytestmark = [pytest.mark.lab, pytest.mark.alone]

PROGRAM = str(Path(__file__).parent / "many_flows.py")


def test_two_thousand_new_flows_a_second_for_ten_seconds(lab: Lab) -> None:
    lab.start("ch", sys.executable, PROGRAM, "serve", "6001")
    lab.await_listener("ch", 6001)
    words = (sys.executable, PROGRAM, "burst", "86.0.0.1", "6001", "2000", "10")
    result = json.loads(lab.on("mh", *words, timeout=60).stdout)
    assert result["failed"] == 0
    assert result["answered"] == result["flows"] == 20_000
    host, anchor = lab.ask("status")["counters"], lab.ask("status", host="an")["counters"]
    assert (host["queue_overruns"], anchor["queue_overruns"]) == (0, 0)


def test_a_rule_that_needs_the_process_loses_no_flow_under_a_flood(lab: Lab) -> None:
    lab.ask("assign", "--command", "no-such-command", "--to", "net1")
    lab.start("ch", sys.executable, PROGRAM, "serve", "6002")
    lab.await_listener("ch", 6002)
    words = (sys.executable, PROGRAM, "burst", "86.0.0.1", "6002", "1000", "5")
    result = json.loads(lab.on("mh", *words, timeout=60).stdout)
    assert (result["failed"], result["answered"]) == (0, 5000)
