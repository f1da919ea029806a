"""Each way to name an application x TCP, UDP, ICMP x new and running flows: it leaves by the named network.

A flow that begins after the assignment has its very first packet there; one that runs moves without a new start.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until
from talking import ECHO, PATIENCE, SNIFFER, TALKER, Program, answers, ask, flows_of, somebodys_cgroup

pytestmark = pytest.mark.lab

CORRESPONDENT, SPECIAL, NAMED = "86.0.0.1", "86.0.0.77", "86.0.0.78"
HOST_NAME = "talker.example"
PORT, OTHER_PORT = 6010, 6020
CONTAINER = "3f" * 32
PROTOCOLS = ("tcp", "udp", "icmp")


@dataclass(frozen=True)
class Way:
    """One way to name the talker: what to assign, and how the talker is to be started for it."""

    name: str
    match: dict[str, Any]
    options: tuple[str, ...] = ()
    address: str = "86.0.0.1"
    port: int = PORT
    protocols: tuple[str, ...] = PROTOCOLS
    decided_by: str = "agent"
    cgroup: str | None = None
    python: bool = False
    how: str = ""
    """`fork`: new flows are those of children of the program that ran before."""


WAYS = (
    Way("command", {"command": "talker one"}, ("--name", "talker one")),
    Way("pattern", {"command": "röhr*"}, ("--name", "röhre")),
    Way("executable", {"executable": "COPY"}, python=True),
    Way("uid", {"uid": 4711}, ("--uid", "4711")),
    Way("gid", {"gid": 4712}, ("--gid", "4712")),
    Way("cgroup", {"cgroup": "ROOT/plain"}, cgroup="plain"),
    Way("unit", {"unit": "film.service"}, cgroup="film.service"),
    Way("slice", {"unit": "film.slice"}, cgroup="film.slice/a.service"),
    Way("container", {"container": CONTAINER[:12]}, cgroup=f"docker-{CONTAINER}.scope"),
    Way("pid", {"pid": "PID"}, how="fork"),
    Way("children", {"command": "parent", "children": True}, ("--name", "parent"), how="fork"),
    Way("destination", {"destination": f"{SPECIAL}/32"}, address=SPECIAL),
    Way("endpoint", {"destination": f"86.0.0.1:{OTHER_PORT}"}, port=OTHER_PORT, protocols=("tcp", "udp")),
    Way("port", {"port": "6021-6029"}, port=6025, protocols=("tcp", "udp")),
    Way("dscp", {"dscp": "AF41"}, ("--dscp", "34")),
    Way("hostname", {"destination_name": HOST_NAME}, address=NAMED),
    Way(
        "combined",
        {"uid": 4713, "command": "both*", "dscp": 10},
        ("--uid", "4713", "--name", "both", "--dscp", "10"),
    ),
)


@pytest.fixture(scope="module", params=["agent", "fast"])
def named_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose mobile host resolves a name of the test's own, with echo servers at the correspondent."""
    directory = tmp_path_factory.mktemp("lab")
    lab = Lab(unique_lab_name(), directory)
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{NAMED} {HOST_NAME}\n")
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--datapath", request.param)
        config = lab.directory_of_state() / "mobile-host.toml"
        lab.start_daemon("an")
        mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
        lab.start(
            "mh", "unshare", "-m", "sh", "-c", mount, str(hosts), *UPMT, "mobile-host", "run", "--config", str(config)
        )  # fmt: skip
        lab.on("mh", "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
        for address in (SPECIAL, NAMED):
            lab.on("ch", "ip", "address", "add", f"{address}/24", "dev", "eth0")
        lab.start("ch", sys.executable, ECHO, *(f"86.0.0.1:{port}" for port in (PORT, OTHER_PORT, 6025)))
        lab.start("ch", sys.executable, ECHO, *(f"{address}:{PORT}" for address in (SPECIAL, NAMED)))
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", PATIENCE)
        lab.await_networks_up()
        for port in (PORT, OTHER_PORT, 6025):
            lab.await_listener("ch", port)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


@pytest.fixture(scope="module")
def sniffer(named_lab: Lab) -> Iterator[Program]:
    """Sees which flow leaves by which interface."""
    program = Program(named_lab, "/usr/bin/python3", SNIFFER, "1800", "if0", "if1")
    yield program
    program.end()


@pytest.fixture
def groups() -> Iterator[Path]:
    """A control group of somebody else."""
    with somebodys_cgroup() as directory:
        yield directory


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way_to_name_an_application(
    way: Way, named_lab: Lab, sniffer: Program, groups: Path, tmp_path: Path
) -> None:
    lab = named_lab
    words = ["/usr/bin/python3", TALKER, *way.options]
    if way.cgroup is not None:
        (groups / way.cgroup).mkdir(parents=True)
        words += ["--cgroup", str(groups / way.cgroup)]
    if way.python:
        copy = tmp_path / "talker program"
        shutil.copy(os.path.realpath("/usr/bin/python3"), copy)
        words = ["env", "PYTHONHOME=/usr", str(copy), TALKER]
    programs = [Program(lab, *words)]
    try:
        running = [programs[0].open(protocol, way.address, way.port) for protocol in way.protocols]
        wait_until(lambda: answers(programs[0], running) > 2, "the running flows are answered", PATIENCE)
        before = flows_of(lab, running)
        assert {flow["network"] for flow in before.values()} == {"net0"}
        assert len(before) == len(running)

        places = {"COPY": str(tmp_path / "talker program"), "PID": programs[0].pid}
        match: dict[str, Any] = {key: places.get(str(value), value) for key, value in way.match.items()}
        if "cgroup" in match:
            match["cgroup"] = match["cgroup"].replace("ROOT", groups.name)
        ask(lab, "assign", application=f"way-{way.name}", match=match, networks=["net1"])

        moved = flows_of(lab, running)
        assert {(flow["application"], flow["network"]) for flow in moved.values()} == {
            (f"way-{way.name}", "net1")
        }
        if way.how:
            new = [programs[0].open(protocol, way.address, way.port, way.how) for protocol in way.protocols]
        else:
            programs.append(Program(lab, *words))
            new = [programs[1].open(protocol, way.address, way.port) for protocol in way.protocols]
        already = answers(programs[0], running)
        wait_until(lambda: answers(programs[0], running) > already + 2, "moved flows are answered", PATIENCE)

        def all_seen() -> dict[str, dict[str, int]] | None:
            seen = sniffer.ask("report")
            return seen if all(seen.get(key, {}).get("if1", 0) > 2 for key in (*new, *running)) else None

        seen = wait_until(all_seen, "new and moved flows leave by net1", PATIENCE)
        assert {key: seen[key] for key in new} == {key: {"if1": seen[key]["if1"]} for key in new}
        found = flows_of(lab, new)
        assert {flow["application"] for flow in found.values()} == {f"way-{way.name}"}
        assert not any(flow["is_guess"] for flow in found.values())
    finally:
        for program in programs:
            program.end()


DOWNLOAD = """
import socket, sys, time, os
open("/proc/self/comm", "w").write(sys.argv[3])
made = socket.create_connection((sys.argv[1], int(sys.argv[2])))
made.settimeout(30)
print("ready", os.getpid(), flush=True)
child = os.fork()
if not child:
    made.close()
    made = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    made.settimeout(30)
sent = 0
while not os.path.exists(sys.argv[4]):
    made.sendall(bytes(20000))
    left = 20000
    while left:
        left -= len(made.recv(left))
    sent += 20000
    time.sleep(0.01)
made.close()
sys.stdout.write(f"{'child' if not child else 'parent'} {sent}\\n"); sys.stdout.flush()
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize(
    "match", [{"pid": "PID"}, {"command": "fetcher", "children": True}], ids=["pid", "command"]
)
def test_a_running_program_and_its_child_are_adopted_without_a_new_start(
    named_lab: Lab, tmp_path: Path, match: dict[str, Any]
) -> None:
    lab, end = named_lab, tmp_path / "end"
    program = lab.start(
        "mh", "/usr/bin/python3", "-c", DOWNLOAD, CORRESPONDENT, str(PORT), "fetcher", str(end)
    )
    assert program.stdout is not None
    pid = int(program.stdout.readline().split()[1])

    def connections() -> list[dict[str, Any]]:
        return [
            flow
            for flow in ask(lab, "flows")
            if flow["protocol"] == "tcp" and flow["packets"] > 20 and flow["pid"] in family
        ]

    family = {pid}

    def both() -> bool:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        family.update(map(int, children))
        return len(connections()) == 2

    wait_until(both, "both connections run", PATIENCE)
    assert {flow["network"] for flow in connections()} == {"net0"}
    name = f"adopted-{'-'.join(match)}"
    arguments = [
        f"--{key}={pid if value == 'PID' else value}" for key, value in match.items() if key != "children"
    ]
    arguments += ["--children"] if match.get("children") else []
    lab.on("mh", *UPMT, "assign", *arguments, "--to", "net1", "--app", name)
    assert {(flow["application"], flow["network"]) for flow in connections()} == {(name, "net1")}
    before = lab.counters()
    wait_until(lambda: lab.counters()["if1"] - before["if1"] > 200, "packets go by net1", PATIENCE)
    after = lab.counters()
    assert after["if0"] - before["if0"] < (after["if1"] - before["if1"]) / 4
    end.touch()
    said = dict(line.split() for line in program.stdout.read().splitlines())
    assert program.wait(timeout=PATIENCE) == 0
    assert all(int(said[who]) > 0 for who in ("parent", "child"))
