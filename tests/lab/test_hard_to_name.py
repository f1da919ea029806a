"""Programs that are hard to tell: reused numbers, ends at once, cgroups made anew, crowds of sockets, odd names.

The answer is right, or it is said that it is a guess; it is never wrong in silence.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, wait_until
from talking import ECHO, PATIENCE, SNIFFER, TALKER, Program, answers, ask, flows_of, somebodys_cgroup
from wire_schema import complaints

from upmt_nf.linux.cgroups import hierarchy
from upmt_nf.model.errors import UpmtError

pytestmark = pytest.mark.lab

FAR, PORT = "86.0.0.1", 6010
PYTHON = os.path.realpath("/usr/bin/python3")


@pytest.fixture
def far(lab: Lab) -> Lab:
    """The lab with something to talk to."""
    lab.on("mh", "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
    lab.start("ch", sys.executable, ECHO, f"{FAR}:{PORT}")
    lab.await_listener("ch", PORT)
    return lab


@contextlib.contextmanager
def talker(lab: Lab, *options: str, program: tuple[str, ...] = (PYTHON,)) -> Iterator[Program]:
    made = Program(lab, *program, TALKER, *options)
    try:
        yield made
    finally:
        made.end()


def application_of(lab: Lab, program: Program, protocol: str = "udp") -> str:
    """Whose a new flow of a program is, once its first packet was answered."""
    key = program.open(protocol, FAR, PORT)
    wait_until(lambda: answers(program, [key]) > 0, "its flow is answered", PATIENCE)
    flow = flows_of(lab, [key])[key]
    assert not flow["is_guess"]
    return str(flow["application"])


NAMES = (
    "two words",
    "new\nline",
    "ü" * 127 + "x",
    "-dash",
    "quo\"ted'",
    "[bracket]",
    "st*r?",
    "(par) R 1",
    "\x7f\x01",
    " ",
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_program_of_any_name(far: Lab, tmp_path: Path, name: str) -> None:
    program, other = tmp_path / name, tmp_path / f"{name[:50]}-not"
    shutil.copy(PYTHON, program)
    shutil.copy(PYTHON, other)
    arguments = ("assign", f"--command={name}", "--to", "net1", "--app", f"odd-{NAMES.index(name)}")
    far.on("mh", *UPMT, *arguments)
    try:
        with talker(far, program=("env", "PYTHONHOME=/usr", str(program))) as right:
            assert application_of(far, right) == f"odd-{NAMES.index(name)}"
        if "*" not in name:
            with talker(far, program=("env", "PYTHONHOME=/usr", str(other))) as wrong:
                assert application_of(far, wrong) != f"odd-{NAMES.index(name)}"
    finally:
        # Patterns would claim the others' programs as well.
        ask(far, "assign", application="done", match={"command": name}, networks=["net0"])


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128, ""], ids=ascii)
def test_a_name_that_no_program_can_have_is_refused(far: Lab, name: str) -> None:
    answer = far.on("mh", *UPMT, "assign", f"--command={name}", "--to", "net1", "--app", "never", check=False)
    assert answer.returncode == 2
    assert "1 to 255 bytes" in answer.stderr


def test_a_name_that_cannot_name_an_application_asks_for_another(far: Lab) -> None:
    answer = far.on("mh", *UPMT, "assign", "--command", "a\nb", "--to", "net1", check=False)
    assert answer.returncode == 2
    assert "--app" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_reused_pid_is_somebody_else(far: Lab) -> None:
    with talker(far) as first:
        pid = first.pid
        ask(far, "assign", application="by-pid", match={"pid": pid}, networks=["net1"])
        assert application_of(far, first) == "by-pid"
    second = None
    for _ in range(50):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        second = Program(far, PYTHON, TALKER)
        if second.pid == pid:
            break
        second.end()
        second = None
    if second is None:
        pytest.skip("the pid could not be had again")
    try:
        assert application_of(far, second) != "by-pid"
    finally:
        second.end()


def test_a_process_that_is_not_there_cannot_be_assigned(far: Lab) -> None:
    with pytest.raises(UpmtError, match="no process 4194303"):
        ask(far, "assign", application=None, match={"pid": 4194303}, networks=["net1"])


SAY_AND_END = """
import os, socket, sys
open("/proc/self/comm", "w").write("oneword")
made = socket.socket(type=socket.SOCK_DGRAM)
made.connect((sys.argv[1], int(sys.argv[2])))
print(made.getsockname()[1], flush=True)
made.send(b"x")
os._exit(0)
"""


def test_a_program_that_ends_at_once_is_known_or_said_to_be_a_guess(far: Lab) -> None:
    ask(far, "assign", application="brief", match={"command": "oneword"}, networks=["net1"])
    ports: list[str] = []
    for _ in range(30):
        said = far.on("mh", PYTHON, "-c", SAY_AND_END, FAR, str(PORT)).stdout
        ports.append(f"udp:{said.strip()}")
    flows = wait_until(
        lambda: found if len(found := flows_of(far, ports)) == len(set(ports)) else None,
        "all flows are there",
        PATIENCE,
    )
    for flow in flows.values():
        assert flow["application"] == "brief" or flow["is_guess"], flow
    if ask(far, "status")["counters"]["process_events_lost"] == 0:
        assert sum(flow["application"] == "brief" for flow in flows.values()) > len(flows) / 2


CONNECT_AND_END = SAY_AND_END.replace("socket.SOCK_DGRAM", "socket.SOCK_STREAM").replace(
    'made.send(b"x")', ""
)


def test_a_connection_outlives_its_program_and_is_still_its_own(far: Lab) -> None:
    ask(far, "assign", application="brief", match={"command": "oneword"}, networks=["net1"])
    said = far.on("mh", PYTHON, "-c", CONNECT_AND_END, FAR, str(PORT)).stdout
    flow = flows_of(far, [f"tcp:{said.strip()}"])[f"tcp:{said.strip()}"]
    assert flow["application"] == "brief"


def test_our_own_cgroup_made_anew_is_the_applications_still(far: Lab) -> None:
    root = hierarchy()
    assert root is not None
    ask(far, "assign", application="again", match={}, networks=["net1"])
    run = (*UPMT, "run", "--app", "again", "--", PYTHON)
    with talker(far, program=run) as first:
        assert application_of(far, first) == "again"
        inside = Path(f"/proc/{first.pid}/cgroup").read_text().splitlines()
        path = root / next(line[4:] for line in inside if line.startswith("0::"))
    wait_until(lambda: not (path / "cgroup.procs").read_text(), "it is empty", PATIENCE)
    path.rmdir()
    with talker(far, program=run) as second:
        for protocol in ("tcp", "udp", "icmp"):
            assert application_of(far, second, protocol) == "again"


def test_somebodys_cgroup_made_anew_is_the_applications_still(far: Lab) -> None:
    with somebodys_cgroup() as own:
        group = own / "jobs"
        ask(far, "assign", application="jobs", match={"cgroup": f"{own.name}/jobs"}, networks=["net1"])
        for _ in range(2):
            group.mkdir()
            with talker(far, "--cgroup", str(group)) as one:
                assert application_of(far, one) == "jobs"
            wait_until(lambda: not (group / "cgroup.procs").read_text(), "it is empty", PATIENCE)
            group.rmdir()


CROWD = """
import os, resource, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
open("/proc/self/comm", "w").write(sys.argv[4])
os.setgid(65534); os.setuid(65534)
made = []
for _ in range(count):
    one = socket.socket(type=socket.SOCK_DGRAM)
    one.connect((address, port))
    made.append(one)
print("ready", os.getpid(), flush=True)
for line in sys.stdin:
    for one in made:
        one.send(b"x")
    print(*(one.getsockname()[1] for one in made), flush=True)
"""


def test_nobody_with_a_thousand_sockets_in_each_of_two_programs(far: Lab) -> None:
    ask(far, "assign", application="crowd-b", match={"command": "crowdb", "uid": 65534}, networks=["net1"])
    ask(far, "assign", application="crowd-a", match={"uid": "nobody"}, networks=["net1"])
    ask(far, "assign", application="crowd-b", match={"command": "crowdb", "uid": 65534}, networks=["net1"])
    keys: dict[str, list[str]] = {}
    with contextlib.ExitStack() as running:
        for letter in "ab":
            words = (PYTHON, "-c", CROWD, FAR, str(PORT), "1000", f"crowd{letter}")
            program = Program(far, *words)
            running.callback(program.end)
            keys[letter] = [f"udp:{port}" for port in program.line("go").split()]
        for letter, wanted in keys.items():
            found = wait_until(
                lambda wanted=wanted: flows if len(flows := flows_of(far, wanted)) == 1000 else None,  # type: ignore[misc]
                "all flows are there",
                PATIENCE,
            )
            said = {(flow["application"], flow["is_guess"]) for flow in found.values()}
            assert said == {(f"crowd-{letter}", False)}


def test_a_full_queue_loses_and_counts_but_leaks_and_confuses_nothing(far: Lab) -> None:
    ask(far, "assign", application="flood", match={"command": "flooder"}, networks=["net1"])
    pid = daemon_of(far)
    sniffer = Program(far, PYTHON, SNIFFER, str(PORT), "if0", "if1")
    flood = (
        "import socket; open('/proc/self/comm', 'w').write('flooder')\n"
        f"for _ in range(20000):\n s = socket.socket(type=2); s.connect(('{FAR}', {PORT})); s.send(b'x'); s.close()"
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        far.on("mh", PYTHON, "-c", flood)
    finally:
        os.kill(pid, signal.SIGCONT)
    try:
        wait_until(
            lambda: ask(far, "status")["counters"]["queue_dropped"] >= 3000, "losses are counted", PATIENCE
        )
        # Packets to the correspondent itself on an access interface would have left beside the tunnel.
        assert sniffer.ask("report") == {}
    finally:
        sniffer.end()
    with talker(far, "--name", "flooder") as one:
        assert application_of(far, one) == "flood"
    far.await_networks_up()
    known = [
        flow
        for flow in ask(far, "flows")
        if flow["application"] == "default" and flow["destination_port"] == PORT
    ]
    assert all(flow["is_guess"] for flow in known if flow["command"] is None and flow["protocol"] == "udp")


def daemon_of(lab: Lab) -> int:
    found = subprocess.run(
        ["ip", "netns", "pids", f"{lab.name}-mh"], capture_output=True, text=True, check=True
    ).stdout.split()
    for pid in found:
        if "mobile-host" in Path(f"/proc/{pid}/cmdline").read_text():
            return int(pid)
    pytest.fail("no daemon runs")


def test_the_order_of_the_rules_is_to_be_seen(far: Lab) -> None:
    ask(far, "assign", application="early", match={"command": "a b", "port": "80-90"}, networks=["net1"])
    ask(far, "assign", application="late", match={"uid": 4999, "dscp": "EF"}, networks=["net1"])
    rows = json.loads(far.on("mh", *UPMT, "assignments", "--json").stdout)
    assert complaints("assignments", rows) == []
    assert complaints("flows", ask(far, "flows")) == []
    own = [row for row in rows if row["application"] in ("early", "late")]
    assert [row["application"] for row in own] == ["late", "early"]
    assert own[0] | {"place": 0} == {
        "place": 0,
        "application": "late",
        "conditions": "uid=4999 dscp=46",
        "addresses": [],
        "origin": "upmt assign",
        "decided_by": own[0]["decided_by"],
    }
    assert own[1]["decided_by"] == "agent"
    assert "port=80-90" in far.on("mh", *UPMT, "assignments").stdout


def test_bad_conditions_are_one_line_and_two(far: Lab) -> None:
    for arguments in (
        ("--port", "0"),
        ("--dscp", "64"),
        ("--destination-name", "no such name"),
        ("--uid", "nobody-of-that-name"),
        ("--uid", "0", "--children"),
        ("--destination", "10.0.0.1:5", "--port", "6"),
        ("--pid", "4194303"),
        ("--container", ""),
    ):
        answer = far.on("mh", *UPMT, "assign", *arguments, "--to", "net1", check=False)
        assert answer.returncode == 2, arguments
        assert "Traceback" not in answer.stderr
        assert len(answer.stderr.strip().splitlines()) <= 2 or "Usage" in answer.stderr
    unknown = far.on(
        "mh", *UPMT, "assign", "--destination-name", "no-such-host.invalid", "--to", "net1", check=False
    )
    assert unknown.returncode == 1
    assert "no-such-host.invalid has no address now" in unknown.stderr


FROM_PORT = """
import socket, sys, time
open("/proc/self/comm", "w").write(sys.argv[1])
made = socket.socket(type=socket.SOCK_STREAM if sys.argv[5] == "tcp" else socket.SOCK_DGRAM)
made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
made.bind(("", int(sys.argv[4])))
made.settimeout(30)
made.connect((sys.argv[2], int(sys.argv[3])))
for _ in range(3):
    made.send(b"x")
    made.recv(10)
"""


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_port_that_another_program_has_next_is_that_programs(far: Lab, protocol: str) -> None:
    ask(far, "assign", application="porter", match={"command": "porter"}, networks=["net1"])
    for name, expected in (("porter", "porter"), ("stranger", "default"), ("porter", "porter")):
        far.on("mh", PYTHON, "-c", FROM_PORT, name, FAR, str(PORT), "9999", protocol)
        key = f"{protocol}:9999"
        flow = flows_of(far, [key])[key]
        assert (flow["application"], flow["is_guess"]) == (expected, False)
