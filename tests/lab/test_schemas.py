"""What the daemons put on the wire, and what the commands answer, as the published schemas say."""

import json
import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until
from typer.testing import CliRunner
from wire_schema import body_complaints, body_of, commands_with_json, unpublished

from upmt_nf.cli.main import app
from upmt_nf.lab import namespaces

pytestmark = pytest.mark.lab

ETHERNET = 14
TUNNEL_PORT, SIGNALLING_PORT = 1800, 5060
ECHO = "socat UDP-RECVFROM:7100,fork PIPE"
VOICE = '[[application]]\nname = "call"\npolicy = "voice"\n'
TRACE = """\
{"upmt_trace": 1, "start": "2026-11-25T17:30:00"}
{"t": 0, "network": "net0", "up": true, "delay_ms": 8, "jitter_ms": 1, "loss": 0}
{"t": 0, "network": "net1", "up": true, "delay_ms": 30, "jitter_ms": 1, "loss": 0}
{"t": 50, "network": "net0", "up": false, "reason": "link down"}
{"t": 90, "end": true}
"""
SPEECH = "while sleep 0.1; do echo word; done | socat - UDP:86.0.0.1:7100"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt(
            "lab", "up", "--name", lab.name, "--no-daemons", "--protection", "sealed", "--datapath", "agent"
        )
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def frames(file: Path) -> Iterator[bytes]:
    data = file.read_bytes()
    place = 24
    while place + 16 <= len(data):
        size = struct.unpack_from("<4I", data, place)[2]
        yield data[place + 16 : place + 16 + size]
        place += 16 + size


def bodies(file: Path) -> Iterator[bytes]:
    """The bodies of all SIP on an access wire, outside the tunnels and inside."""
    for frame in frames(file):
        ports, payload = udp(frame[ETHERNET:])
        if TUNNEL_PORT in ports:
            ports, payload = udp(payload)
        if SIGNALLING_PORT in ports and (body := body_of(payload)):
            yield body


def udp(packet: bytes) -> tuple[tuple[int, ...], bytes]:
    """Ports and payload of a UDP packet over IPv4, whose checksum a capture need not have."""
    if len(packet) < 28 or packet[0] != 0x45 or packet[9] != 17:
        return (), b""
    length = int.from_bytes(packet[2:4])
    return struct.unpack("!2H", packet[20:24]), packet[28:length]


def kinds_on(files: list[Path]) -> set[str]:
    return {json.loads(body)["mType"] for file in files for body in bodies(file)}


def record(lab: Lab, directory: Path) -> list[Path]:
    """Capture both access wires from now on."""
    files = [directory / f"{interface}.pcap" for interface in ("if0", "if1")]
    for file in files:
        lab.start("mh", "tcpdump", "--immediate-mode", "-U", "-n", "-i", file.stem, "-w", str(file), "udp")
        wait_until(partial(lambda file: file.exists() and file.stat().st_size >= 24, file), "tcpdump listens")
    return files


def test_the_wire_and_the_answers_are_as_the_schemas_say(bare: Lab, tmp_path: Path) -> None:
    lab = bare
    files = record(lab, tmp_path)
    anchor = lab.start(
        "an", *UPMT, "anchor", "run", "--config", str(lab.directory_of_state() / "anchor.toml")
    )
    lab.start_daemon("mh")
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers")
    lab.await_networks_up()
    answers: list[tuple[str, Any]] = []
    lab.start("ch", "sh", "-c", ECHO)
    lab.await_listener("ch", 7100)
    lab.start("mh", *UPMT, "run", "--app", "talk", "--", "sh", "-c", SPEECH)
    wait_until(lambda: lab.ask("flows"), "the flow is there")
    answers.append(("handover", lab.ask("handover", "talk", "--to", "net1")))
    answers.append(("handover", lab.ask("handover", "talk", "--to", "net0")))
    for name in ("status", "networks", "tunnels", "apps", "flows"):
        answers += [(name, lab.ask(name)), (name, lab.ask(name, host="an"))]
    lab.link("net1", "down")
    wait_until(lambda: lab.ask("networks")[1]["state"] == "down", "the network is down")
    answers += [(name, lab.ask(name)) for name in ("status", "networks", "tunnels")]
    anchor.terminate()
    wait_until(lambda: "NoticeAnswer" in kinds_on(files), "the anchor said goodbye")
    for name, answer in answers:
        assert unpublished(name, answer) == [], (name, answer)
    found = [body for file in files for body in bodies(file)]
    assert {body: wrong for body in found if (wrong := body_complaints(body))} == {}
    assert kinds_on(files) == {
        "AssociationRequest",
        "AssociationResponse",
        "TunnelSetupRequest",
        "TunnelSetupResponse",
        "HandoverRequest",
        "HandoverResponse",
        "AnchorNotice",
        "NoticeAnswer",
        "FlowCountsRequest",
        "FlowCountsResponse",
    }


def test_every_other_answer_is_as_its_schema_says(lab: Lab, tmp_path: Path) -> None:
    lab.start("ch", "sh", "-c", ECHO)
    lab.await_listener("ch", 7100)
    lab.start("mh", *UPMT, "run", "--app", "talk", "--", "sh", "-c", SPEECH)
    flow = wait_until(
        lambda: next((flow for flow in lab.ask("flows") if flow["application"] == "talk"), None), "it talks"
    )
    config = str(lab.directory_of_state() / "mobile-host.toml")
    policies = tmp_path / "policies.toml"
    policies.write_text(Path(config).read_text() + VOICE)
    applications = tmp_path / "applications.toml"
    applications.write_text('[[application]]\nname = "declared"\nnetworks = ["net1"]\nmatch = [{uid = 78}]\n')
    trace = tmp_path / "trace.jsonl"
    trace.write_text(TRACE)
    checked: set[str] = set()

    def answer(host: str, name: str, *options: str) -> Any:
        """Of `upmt NAME OPTIONS --json` on a host; words of the name are parted by a dash or a blank."""
        words = name.split()
        with namespaces.entered(lab.name, host):
            done = CliRunner().invoke(app, [*words, *options, "--json"])
        value = json.loads(done.stdout)
        known = "-".join(words)
        assert unpublished(known, value) == [], (known, value)
        checked.add(known)
        return value

    answer("mh", "assign", "--app", "talk", "--uid", "77", "--to", "net1")
    answer("mh", "handover", "talk", "--to", "net0")
    answer("mh", "lock", "talk")
    answer("mh", "release", "talk")
    assert answer("mh", "assign", "--app", "talk", "--uid", "77", "--remove")["removed"]
    assert answer("mh", "apply", str(applications))["changed"]
    assert {row["origin"] for row in answer("mh", "assignments")} == {"upmt run", "upmt apply"}
    assert answer("mh", "mobile-host reload") == {"changed": False, "changes": [], "needs_restart": []}
    assert answer("mh", "handovers")
    assert answer("mh", "networks test", "net0")["passed"]
    answer("mh", "networks history", "net0")
    assert answer("mh", "usage")
    assert answer("mh", "events")
    of_flow = f"udp:{flow['source']}:{flow['source_port']}>{flow['destination']}:{flow['destination_port']}"
    for subject in ("talk", "default", of_flow, str(flow["pid"] or os.getpid())):
        answer("mh", "why", subject)
    answer("mh", "doctor")
    role = ("--role", "mobile-host")
    assert answer("mh", "rules show", *role)["rules_ipv6"]
    assert answer("mh", "rules install", *role, "--config", config, "--dry-run")["commands"]
    assert answer("mh", "rules remove", *role, "--dry-run")["commands"]
    assert answer("mh", "rules verify", *role) == {"drift": []}
    answer("an", "rules show", "--role", "anchor")
    answer("mh", "policy check", str(policies))
    answer("mh", "policy show", "--config", str(policies))
    assert answer("mh", "policy replay", "--config", str(policies), "--trace", str(trace))["applications"]
    assert answer("an", "anchor forward add", "tcp", "8022", "1.2.3.4", "22")["changed"]
    answer("an", "anchor forward list")
    assert answer("an", "anchor forward remove", "tcp", "8022")["changed"]
    answer("an", "anchor user list", "--config", str(lab.directory_of_state() / "anchor.toml"))
    (lease,) = answer("an", "anchor lease list")
    answer("an", "anchor lease release", lease["identity"])
    for name in ("status", "networks", "tunnels", "apps", "flows"):
        answer("mh", name)
        answer("an", name)
    answer("mh", "lab status", "--name", lab.name)
    assert {"-".join(words) for words in commands_with_json()} == checked


def test_a_schema_is_printed_by_name(tmp_path: Path) -> None:
    lab = Lab("none", tmp_path)
    names = [line.split()[0] for line in lab.upmt("schema").stdout.splitlines()]
    assert {"message", "HandoverRequest", "status", "handover"} <= set(names)
    for name in names:
        printed = CliRunner().invoke(app, ["schema", name]).stdout
        assert json.loads(printed)["$id"] == f"urn:upmt:schema:{name}:1"
    wrong = lab.upmt("schema", "letter", check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("upmt: there is no schema 'letter'")
