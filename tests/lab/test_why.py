"""`upmt why` says of real flows what is really so."""

import json
import os
import sys
from functools import partial

import pytest
from lab_driver import UPMT, Lab, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"


def flow_of(lab: Lab, application: str) -> str:
    def find() -> str | None:
        for flow in lab.ask("flows"):
            if flow["application"] == application:
                ends = (
                    f"{flow['source']}:{flow['source_port']}>{flow['destination']}:{flow['destination_port']}"
                )
                return f"{flow['protocol']}:{ends}"
        return None

    found: str = wait_until(find, f"{application} has a flow")
    return found


def test_a_started_program_is_known_by_its_cgroup(lab: Lab) -> None:
    lab.ask("assign", "--app", "started", "--to", "net1,any")
    ping = lab.start("mh", *UPMT, "run", "--app", "started", "--", "ping", "-i", "0.1", CORRESPONDENT)
    flow = flow_of(lab, "started")
    answer = lab.ask("why", flow)
    assert (answer["kind"], answer["subject"]) == ("flow", flow)
    (shown,) = answer["flows"]
    assert shown["process"]["pid"] == ping.pid
    assert shown["process"]["command"] == "ping"
    assert shown["process"]["cgroup"].endswith("/started")
    assert shown["process"]["executable"] == os.readlink(f"/proc/{ping.pid}/exe")
    assert shown["socket"]["uid"] == 0
    found = shown["classification"]
    assert (found["mechanism"], found["decided_by"], found["place"]) == ("cgroup", "netfilter", 1)
    assert found["origin"] == "upmt run"
    assert int(found["mark"].partition("/")[0], 16) == answer["application"]["id"]
    assert shown["network"] == "net1"
    tunnel = answer["path"]["tunnel"]
    assert tunnel["local"] == "10.10.10.25:1600"
    assert tunnel["reflexive"] == "65.0.0.1:34000"
    assert tunnel["remote"] == "45.0.0.1:1800"
    assert tunnel["outer_rule"] in lab.on("mh", "sh", "-c", RULES_AS_WE_WRITE_THEM).stdout
    chosen = [row for row in answer["networks"] if row["is_chosen"]]
    assert [row["name"] for row in chosen] == ["net1"]
    assert f"upmt handover '{flow}' --to net0" in answer["changes"]
    by_pid = lab.ask("why", str(ping.pid))
    assert [row["flow"] for row in by_pid["flows"]] == [flow]
    assert by_pid["new_flows"]["application"] == "started"
    by_name = lab.ask("why", "started")
    assert by_name["application"] == answer["application"]


RULES_AS_WE_WRITE_THEM = "ip rule | sed 's/^\\([0-9]*\\):\\s*/pref \\1 /; s/ proto / protocol /'"


def _flows_of_process(lab: Lab, pid: str) -> list[object]:
    answer = lab.on("mh", *UPMT, "why", pid, "--json", check=False)
    flows: list[object] = json.loads(answer.stdout)["flows"] if answer.returncode == 0 else []
    return flows


def test_each_mechanism_is_named(lab: Lab) -> None:
    ping = ("ping", "-i", "0.1", CORRESPONDENT)
    lab.start("mh", *ping)
    assert lab.ask("why", flow_of(lab, "default"))["flows"][0]["classification"]["mechanism"] == "default"
    lab.end_programs()
    for application, match, mechanism, decider in (
        ("there", ["--destination", "86.0.0.0/8"], "destination", "netfilter"),
        ("root", ["--uid", "0"], "owner", "netfilter"),
        ("pinger", ["--command", "ping"], "process", "agent"),
    ):
        lab.ask("assign", "--app", application, *match, "--to", "any")
        pid = str(lab.start("mh", *ping).pid)
        wait_until(partial(_flows_of_process, lab, pid), "its flow is known")
        answer = lab.ask("why", pid)
        found = answer["flows"][0]["classification"]
        assert (found["mechanism"], found["decided_by"]) == (mechanism, decider)
        # What `upmt run` started comes before what is assigned, the latest assignment before the others.
        started = sum(app["match"] == [] for app in lab.ask("apps")) - 1
        assert found["place"] == 1 + started
        assert answer["application"]["name"] == application
        assert found["origin"] == "upmt assign"
        lab.end_programs()


def test_a_network_that_fails_is_the_reason(lab: Lab) -> None:
    lab.ask("assign", "--app", "only0", "--to", "net0")
    lab.link("net0", "down")

    def why() -> str:
        answer = lab.ask("why", "only0")
        row = next(row for row in answer["networks"] if row["name"] == "net0")
        return str(row["why"]) if answer["application"]["network"] is None else ""

    assert "no carrier" in wait_until(why, "net0 is down")
    assert "net0 coming up" in lab.ask("why", "only0")["changes"]


def test_people_read_it_on_one_screen(lab: Lab) -> None:
    lab.start("mh", *UPMT, "run", "--app", "shown", "--", "ping", "-i", "0.1", CORRESPONDENT)
    flow = flow_of(lab, "shown")
    text = lab.on("mh", *UPMT, "why", flow).stdout
    for word in (
        "executable",
        "cgroup",
        "socket",
        "classified",
        "policy",
        "pref 4700",
        "wire",
        "what would change",
    ):
        assert word in text
    assert len(text.splitlines()) < 40


def test_what_is_not_there_is_said_in_one_line(lab: Lab) -> None:
    for subject in ("nobody", "udp:1.2.3.4:1>86.0.0.1:2", "99999999", "udp:nonsense>", "--"):
        answer = lab.on("mh", *UPMT, "why", subject, check=False)
        assert answer.returncode == 2
        assert "Traceback" not in answer.stderr
    bound = lab.on("mh", *UPMT, "why", "udp:192.168.100.25:1>86.0.0.1:2", check=False)
    assert "care-of address of if0" in bound.stderr
    assert "untunnelled" in bound.stderr
    assert lab.on("an", *UPMT, "why", "default", check=False).returncode == 2


def test_everybody_may_ask(lab: Lab) -> None:
    program = "import os, sys; os.setuid(65534); os.execvp(sys.argv[1], sys.argv[1:])"
    answer = lab.on("mh", sys.executable, "-c", program, *UPMT, "why", "default", "--json", check=False)
    if answer.returncode == 0:
        assert json.loads(answer.stdout)["kind"] == "application"
    else:
        assert "only root" not in answer.stderr
