"""What is known of processes follows the kernel's events: no stale name, no forgotten end, no reused number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from upmt_nf.classify.facts import Ancestor, ProcessFacts
from upmt_nf.linux.known_processes import KnownProcesses
from upmt_nf.linux.process_events import LOST, Kind, ProcessEvent
from upmt_nf.linux.processes import cgroups_in


class Events:
    """Events as the kernel would give them."""

    def __init__(self) -> None:
        self.waiting: list[ProcessEvent] = []
        self.lost = 0

    def read(self) -> Iterator[ProcessEvent]:
        while self.waiting:
            yield self.waiting.pop(0)

    def close(self) -> None:
        self.waiting.clear()


class Host:
    """Processes, and what looks at them."""

    def __init__(self) -> None:
        self.processes: dict[int, ProcessFacts] = {}
        self.reads = 0
        self.now = 0.0
        self.events = Events()
        self.known = KnownProcesses(lambda: self.now, self.read, lambda pid: True)
        self.known.listen(self.events)  # type: ignore[arg-type]

    def read(self, pid: int) -> ProcessFacts | None:
        self.reads += 1
        return self.processes.get(pid)

    def put(self, pid: int, command: str, started: int, *ancestors: Ancestor) -> None:
        self.processes[pid] = ProcessFacts(
            pid,
            command,
            f"/bin/{command}",
            (command,),
            0,
            0,
            "/",
            ancestors or (Ancestor(1, 1, "init"),),
            started,
        )

    def say(self, kind: Kind, pid: int, parent: int = 0) -> None:
        self.events.waiting.append(ProcessEvent(kind, pid, parent))

    def command(self, pid: int) -> str | None:
        facts = self.known.facts_of(pid, with_cgroup=False)
        return facts.command if facts is not None else None


def test_a_process_is_read_once_until_something_happens_to_it() -> None:
    host = Host()
    host.put(7, "sh", 100)
    assert [host.command(7) for _ in range(3)] == ["sh"] * 3
    assert host.reads == 1
    for kind in (Kind.RENAMED, Kind.UID_CHANGED, Kind.GID_CHANGED):
        host.put(7, kind.name, 100)
        host.say(kind, 7)
        assert host.command(7) == kind.name


def test_a_new_program_is_known_before_anybody_asks() -> None:
    host = Host()
    host.put(7, "curl", 100)
    host.say(Kind.EXECUTED, 7)
    host.known.catch_up()
    del host.processes[7]
    assert host.command(7) == "curl"
    assert host.reads == 1


def test_a_program_that_ended_is_remembered_for_the_sockets_that_it_made() -> None:
    host = Host()
    host.put(7, "dig", 100)
    host.say(Kind.EXECUTED, 7)
    host.known.catch_up()
    del host.processes[7]
    host.say(Kind.ENDED, 7)
    assert host.command(7) is None
    facts, is_there = host.known.that_made(7, 1.5, with_cgroup=False)
    assert facts is not None
    assert (facts.command, is_there) == ("dig", False)
    assert host.known.that_made(7, 0.5) == (None, False)


def test_a_reused_pid_did_not_make_the_sockets_of_the_one_before() -> None:
    host = Host()
    host.put(7, "first", 100)
    assert host.command(7) == "first"
    host.say(Kind.ENDED, 7)
    host.put(7, "second", 500)
    host.say(Kind.FORKED, 7, 1)
    assert host.command(7) == "second"
    before, after = (host.known.that_made(7, made, with_cgroup=False)[0] for made in (2.0, 6.0))
    assert before is not None
    assert after is not None
    assert (before.command, after.command) == ("first", "second")


def test_a_reused_pid_without_events_is_nobodys() -> None:
    host = Host()
    known = KnownProcesses(lambda: 0.0, host.read)
    host.put(7, "second", 500)
    assert known.that_made(7, 2.0) == (None, False)
    assert known.that_made(7, 6.0, with_cgroup=False)[1]


def test_without_events_every_question_is_read() -> None:
    host = Host()
    known = KnownProcesses(lambda: 0.0, host.read)
    host.put(7, "sh", 100)
    for _ in range(3):
        known.facts_of(7, with_cgroup=False)
    assert host.reads == 3


def test_lost_events_make_it_forget_everything() -> None:
    host = Host()
    host.put(7, "sh", 100)
    assert host.command(7) == "sh"
    host.put(7, "curl", 100)
    host.say(Kind.ENDED, LOST)
    assert host.command(7) == "curl"
    assert host.known.lost == 1


def test_an_orphan_keeps_its_ancestors() -> None:
    host = Host()
    host.put(5, "launcher", 50)
    host.put(6, "wrapper", 60, Ancestor(5, 50, "launcher"), Ancestor(1, 1, "init"))
    host.command(5), host.command(6)
    host.say(Kind.FORKED, 7, 6)
    host.say(Kind.ENDED, 6)
    host.put(7, "player", 70)
    facts = host.known.facts_of(7, with_cgroup=False)
    assert facts is not None
    assert [each.command for each in facts.ancestors] == ["wrapper", "launcher", "init"]


def test_a_later_holder_of_the_parents_number_is_no_ancestor() -> None:
    host = Host()
    host.put(6, "other", 900)
    host.command(6)
    host.say(Kind.FORKED, 7, 6)
    host.say(Kind.ENDED, 6)
    host.put(7, "player", 70)
    facts = host.known.facts_of(7, with_cgroup=False)
    assert facts is not None
    assert [each.command for each in facts.ancestors] == ["init"]


def test_a_flood_of_new_programs_is_not_looked_at_one_by_one() -> None:
    host = Host()
    for pid in range(10, 2010):
        host.put(pid, "sh", 100)
        host.say(Kind.EXECUTED, pid)
    host.known.catch_up()
    assert host.reads <= 301
    host.now += 10.0
    host.say(Kind.EXECUTED, 10)
    host.known.catch_up()
    assert host.reads <= 302
    assert host.command(2009) == "sh"


def test_the_cgroup_is_the_one_of_now() -> None:
    host = Host()
    import os

    host.processes[os.getpid()] = replace(
        ProcessFacts(os.getpid(), "me", "", (), 0, 0, "/long ago", (), 1), other_cgroups=()
    )
    first = host.known.facts_of(os.getpid())
    second = host.known.facts_of(os.getpid())
    assert first is not None
    assert second is not None
    assert first.cgroup == "/long ago"
    assert second.cgroup != "/long ago"


def test_the_cgroups_of_every_kind_of_host() -> None:
    v2 = "0::/system.slice/a.service\n"
    v1 = "3:cpu,cpuacct:/docker/7\n2:memory:/docker/7\n1:name=systemd:/system.slice/a.service\n"
    assert cgroups_in(v2) == ("/system.slice/a.service", ())
    assert cgroups_in(v1) == ("/system.slice/a.service", ("/docker/7",))
    assert cgroups_in(v1 + "0::/\n") == ("/", ("/docker/7", "/system.slice/a.service"))
    assert cgroups_in("") == ("/", ())
    assert cgroups_in("4:x:/a:b\n0::/c:d\n") == ("/c:d", ("/a:b",))
