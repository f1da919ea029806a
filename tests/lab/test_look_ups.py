"""Look-ups follow the application: `upmt run` has its programs ask name servers themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab

pytestmark = pytest.mark.lab

ASK = "import socket; print(socket.getaddrinfo('boat.example', 80, socket.AF_INET)[0][4][0])"


def test_a_look_up_goes_by_the_applications_network(lab: Lab) -> None:
    lab.start("ch", sys.executable, str(Path(__file__).parent / "name_server.py"), "53")
    lab.await_listener("ch", 53)
    lab.ask("assign", "--app", "asker", "--to", "net1")
    run = (*UPMT, "run", "--app", "asker", "--resolver", "86.0.0.1", "--", "/usr/bin/python3", "-c", ASK)
    assert lab.on("mh", *run).stdout.strip() == "192.0.2.7"
    asked = [flow for flow in lab.ask("flows") if flow["destination_port"] == 53]
    assert {(flow["application"], flow["network"]) for flow in asked} == {("asker", "net1")}


def test_doctor_says_who_asks(lab: Lab) -> None:
    (finding,) = [row for row in lab.ask("doctor")["findings"] if row["check"] == "dns"]
    assert finding["state"] in ("ok", "warning")


def test_a_resolver_is_an_address(lab: Lab) -> None:
    for words in (("--resolver", "dns.example"), ("--resolver", "86.0.0.1", "--system-resolver")):
        answer = lab.on("mh", *UPMT, "run", *words, "--", "true", check=False)
        assert answer.returncode == 2
        assert "Traceback" not in answer.stderr
