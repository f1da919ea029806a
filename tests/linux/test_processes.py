"""From a socket's inode to its process, and what is known of a process: never a wrong answer, rather none."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from kernel_namespace import eventually, program

from upmt_nf.linux import processes
from upmt_nf.linux.processes import Processes

HOLD = """
import socket, sys
held = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(3)]
import os
print(*(os.fstat(s.fileno()).st_ino for s in held), flush=True)
sys.stdin.readline()
held.pop().close()
print("closed", flush=True)
sys.stdin.read()
"""


class Clock:
    """So much time passes from one question to the next that searching is never limited."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 1000.0
        return self._now


later = Clock()


def inode_of(held: socket.socket) -> int:
    return os.fstat(held.fileno()).st_ino


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_the_process_that_has_a_socket_open_is_found_until_it_closes_it() -> None:
    with program(HOLD) as process:
        first, _, last = (int(word) for word in line(process).split())
        known = Processes()
        assert known.owner_of(first, 0, later()) == process.pid
        assert known.owner_of(last, 0, later()) == process.pid
        say(process)
        assert line(process) == "closed\n"
        assert known.owner_of(last, 0, later()) is None
        assert known.owner_of(first, 0, later()) == process.pid
    assert known.owner_of(first, 0, later()) is None


def test_a_socket_that_another_user_made_is_found_as_well() -> None:
    with program(HOLD) as process:
        inode = int(line(process).split()[0])
        assert Processes().owner_of(inode, 4711, later()) == process.pid


def test_a_socket_that_nobody_has_open_has_no_owner() -> None:
    with socket.socket() as closed:
        inode = inode_of(closed)
        assert Processes().owner_of(inode, os.geteuid(), later()) == os.getpid()
    assert Processes().owner_of(inode, os.geteuid(), later()) is None
    assert Processes().owner_of(0, 0, later()) is None


def test_searching_takes_its_share_of_the_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, searches = [0.0], [0]

    def slow_search(_: int) -> list[int]:
        clock[0] += 0.2
        searches[0] += 1
        return []

    monkeypatch.setattr(processes, "_newest_first", slow_search)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    known = Processes(share=0.1)
    for now in (100.0, 100.0, 100.0, 101.0):
        assert known.owner_of(1, 0, now) is None
    assert (searches[0], known.unsearched) == (2, 2)
    assert known.owner_of(1, 0, 103.0) is None
    assert (searches[0], known.unsearched) == (3, 2)
    for now in range(1000, 1100):
        known.owner_of(1, 0, now)
    assert 50 <= searches[0] - 3 <= 52


def test_the_next_socket_of_who_answered_lately_needs_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Processes()
    with ExitStack() as held:
        made, place = [], 900
        for _ in range(2):
            one = held.enter_context(socket.socket())
            made.append(one)
            place = fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, place) + 1
            held.callback(os.close, place - 1)
        assert known.owner_of(inode_of(made[0]), 0, later()) == os.getpid()

        def search(_: int) -> list[int]:
            pytest.fail("all processes were searched")

        monkeypatch.setattr(processes, "_newest_first", search)
        assert known.owner_of(inode_of(made[1]), 0, later()) == os.getpid()


def test_many_sockets_are_found_by_one_search() -> None:
    with program(HOLD) as process, socket.socket() as own:
        inodes = [int(word) for word in line(process).split()]
        mine = inode_of(own)
        expected = {**dict.fromkeys(inodes, process.pid), mine: os.getpid()}
        assert Processes().owners_of([*inodes, mine, 0, 1]) == expected
    assert Processes().owners_of(inodes) == {}
    assert Processes().owners_of([]) == {}


def test_the_facts_of_a_process() -> None:
    with subprocess.Popen(["/bin/sleep", "31.5"]) as sleeper:
        try:
            # The kernel names a program before it shows its arguments.
            arguments = Path(f"/proc/{sleeper.pid}/cmdline")
            eventually(lambda: b"31.5" in arguments.read_bytes(), "sleep runs")
            facts = Processes().facts_of(sleeper.pid)
            assert facts is not None
            assert (facts.pid, facts.command) == (sleeper.pid, "sleep")
            assert facts.executable == os.path.realpath("/bin/sleep")
            assert facts.arguments == ("/bin/sleep", "31.5")
            assert (facts.uid, facts.gid) == (os.geteuid(), os.getegid())
            assert tuple(each.pid for each in facts.ancestors[:2]) == (os.getpid(), os.getppid())
            listed = Path(f"/proc/{sleeper.pid}/cgroup").read_text().splitlines()
            assert f"0::{facts.cgroup}" in listed or not any(each.startswith("0::") for each in listed)
        finally:
            sleeper.kill()


def test_the_effective_user_and_group_count() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes somebody else")
    with program(
        "import os, sys; os.setegid(4712); os.seteuid(4711); print(flush=True); sys.stdin.read()"
    ) as one:
        line(one)
        facts = Processes().facts_of(one.pid)
        assert facts is not None
        assert (facts.uid, facts.gid) == (4711, 4712)


def test_odd_names_and_arguments_are_read_as_they_are() -> None:
    rename = "open('/proc/self/comm', 'wb').write(b'a) R 1\\n\\xff')"
    text = f"import sys; {rename}; print(flush=True); sys.stdin.read()"
    with program(text) as process:
        line(process)
        facts = Processes().facts_of(process.pid)
        assert facts is not None
        assert facts.command == "a) R 1\n\udcff"
        assert facts.ancestors[0].pid == os.getpid()
        assert facts.arguments == (sys.executable, "-c", text)


def test_a_process_that_is_gone_has_no_facts() -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    assert Processes().facts_of(gone.pid) is None
    assert Processes.command_of(gone.pid) == ""


def test_a_process_replaced_while_it_is_read_has_no_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(["1", "2"])
    monkeypatch.setattr(processes, "_start_time", lambda _: next(times))
    assert Processes().facts_of(os.getpid()) is None


def test_a_pid_that_was_given_again_is_searched_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    known, searches = Processes(), [0]

    def search(_: int) -> list[int]:
        searches[0] += 1
        return []

    with socket.socket() as held:
        assert known.owner_of(inode_of(held), 0, later()) == os.getpid()
        monkeypatch.setattr(processes, "_newest_first", search)
        known.owner_of(inode_of(held), 0, later())
        assert searches == [0]
        monkeypatch.setattr(processes, "_start_time", lambda _: "another")
        known.owner_of(inode_of(held), 0, later())
        assert searches == [1]
