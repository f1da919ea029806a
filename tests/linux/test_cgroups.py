"""One cgroup an application: made, joined, seen by netfilter, removed without a trace."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_namespace import Namespace, eventually, own_namespace, program

from upmt_nf.classify.rules import ApplicationRule, netfilter_lines
from upmt_nf.linux import cgroups, netfilter
from upmt_nf.linux.cgroups import ApplicationCgroups
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.journal import CgroupMade, HierarchyMounted, Journal, Record
from upmt_nf.linux.netns import namespace_cookie
from upmt_nf.linux.processes import Processes
from upmt_nf.model.errors import FacilityError, KernelError, UsageError
from upmt_nf.model.identity import ApplicationId, ApplicationName
from upmt_nf.model.names import CGROUP_ROOT
from upmt_nf.routing.rule_text import expand

pytestmark = pytest.mark.kernel

OWN_ROOT = f"upmt-test{os.getpid()}"
"""A common root that only this process uses."""
VOICE, VIDEO = ApplicationName("voice"), ApplicationName("video-2.0")


@pytest.fixture
def made(namespace: Namespace, journal: Journal) -> Iterator[ApplicationCgroups]:
    """The cgroups of this test's namespace, put back afterwards."""
    try:
        yield ApplicationCgroups(journal)
    except FacilityError as reason:
        pytest.skip(str(reason))
    finally:
        cleanup(Journal(journal.directory))


def root() -> Path:
    found = cgroups.hierarchy()
    if found is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    return found


def cgroup_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process to put somewhere."""
    process = subprocess.Popen(["/bin/sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_cgroup_is_made_below_our_own_and_written_down(made: ApplicationCgroups, journal: Journal) -> None:
    path = made.make(VOICE)
    assert path == made.path_of(VOICE) == f"{CGROUP_ROOT}/{namespace_cookie()}/voice"
    assert (root() / path / "cgroup.procs").exists()
    inode = (root() / path).stat().st_ino
    assert made.make(VOICE) == path
    assert (root() / path).stat().st_ino == inode
    written = [record.path for record in journal.records() if isinstance(record, CgroupMade)]
    assert written[-2:] == [str((root() / path).parent), str(root() / path)]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "-a", "a..b", "a b", "a\n", "ä", "x" * 65])
def test_a_name_that_could_lead_elsewhere_is_refused(made: ApplicationCgroups, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a cgroup"):
        made.make(ApplicationName(name))
    assert not (root() / CGROUP_ROOT / namespace_cookie()).exists()


def test_a_process_joins_and_its_children_with_it(made: ApplicationCgroups) -> None:
    spawn = "import subprocess as s; c = s.Popen(['sleep', '60']); print(c.pid, flush=True)"
    with program(
        f"import sys; sys.stdin.readline(); {spawn}; sys.stdin.read(); c.kill(); c.wait()"
    ) as process:
        made.join(VOICE, process.pid)
        assert cgroup_of(process.pid) == f"/{made.path_of(VOICE)}"
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        assert cgroup_of(child) == f"/{made.path_of(VOICE)}"
        facts = Processes().facts_of(child)
        assert facts is not None
        assert facts.cgroup == f"/{made.path_of(VOICE)}"
        made.join(VIDEO, process.pid)
        assert cgroup_of(process.pid) == f"/{made.path_of(VIDEO)}"
        assert cgroup_of(child) == f"/{made.path_of(VOICE)}"
        process.stdin.close()
        process.wait()
        process.stdin = None


def test_a_process_that_is_gone_cannot_join(made: ApplicationCgroups) -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    with pytest.raises(
        KernelError, match=f"process {gone.pid} cannot join the cgroup of voice: No such process"
    ):
        made.join(VOICE, gone.pid)


def test_cleanup_leaves_nothing_and_the_processes_in_peace(
    made: ApplicationCgroups, journal: Journal, sleeper: subprocess.Popen[bytes]
) -> None:
    made.join(VOICE, sleeper.pid)
    made.make(VIDEO)
    ours = root() / CGROUP_ROOT / namespace_cookie()
    said = cleanup(journal)
    assert {f"cgroup {ours / name} removed" for name in (VOICE, VIDEO)} <= set(said)
    assert not ours.exists()
    assert sleeper.poll() is None
    assert cgroup_of(sleeper.pid) == "/"


def test_what_is_there_after_a_crash_is_removed_as_well(made: ApplicationCgroups, journal: Journal) -> None:
    made.make(VOICE)
    journal.path.unlink()
    again = Journal(journal.directory)
    ApplicationCgroups(again).make(VOICE)
    cleanup(again)
    assert not (root() / CGROUP_ROOT / namespace_cookie()).exists()


def test_the_common_root_goes_with_the_last_of_its_users(
    made: ApplicationCgroups, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "CGROUP_ROOT", OWN_ROOT)
    common = root() / OWN_ROOT
    journals = []
    with own_namespace():
        other = Journal(journal.directory / "other")
        ApplicationCgroups(other).make(VOICE)
        journals.append(other)
    ApplicationCgroups(journal).make(VOICE)
    journals.append(journal)
    assert len(list(common.iterdir())) > 2
    for each in journals:
        assert common.is_dir()
        cleanup(each)
    assert not common.exists()


def test_a_root_that_another_daemon_removes_meanwhile_is_made_again(
    made: ApplicationCgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "CGROUP_ROOT", OWN_ROOT)
    ours = ApplicationCgroups(made._journal)
    note = made._journal.note

    def note_late(record: Record) -> None:
        if record == CgroupMade(str(root() / OWN_ROOT / namespace_cookie())):
            (root() / OWN_ROOT).rmdir()
        note(record)

    monkeypatch.setattr(made._journal, "note", note_late)
    assert (root() / ours.make(VOICE)).is_dir()


def test_removing_says_whether_there_was_anything(made: ApplicationCgroups) -> None:
    path = root() / made.make(VOICE)
    (path / "below").mkdir()
    with pytest.raises(KernelError, match=f"cgroup {path} cannot be removed: "):
        cgroups.remove_directory(str(path))
    (path / "below").rmdir()
    assert cgroups.remove_directory(str(path))
    assert not cgroups.remove_directory(str(path))


def test_where_no_hierarchy_is_to_be_seen_one_is_mounted_and_unmounted(
    namespace: Namespace, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "hierarchy", lambda: None)
    place = journal.directory / "cgroup2"
    try:
        path = ApplicationCgroups(journal).make(VOICE)
    except FacilityError as reason:
        cleanup(journal)
        pytest.skip(str(reason))
    assert (place / path / "cgroup.procs").exists()
    assert HierarchyMounted(str(place)) in list(journal.records())
    said = cleanup(journal)
    assert f"{place} unmounted" in said
    assert f"cgroup {place / path} removed" in said
    assert not place.exists()
    assert str(place) not in Path("/proc/self/mounts").read_text()


def test_netfilter_knows_the_packets_of_a_process_in_a_cgroup(
    namespace: Namespace, made: ApplicationCgroups, journal: Journal
) -> None:
    path = made.make(VOICE)
    namespace.iptables(f"-t mangle -A INPUT -m cgroup --path {path}")
    lines = netfilter_lines([ApplicationRule(ApplicationId(2), cgroup=path)])
    text = "*mangle\n-A OUTPUT -j UPMT-CLASSIFY\n@applications\n"
    netfilter.install(expand(text, "my.rules", {}, (), lines), journal)
    text = "import socket, sys; sys.stdin.readline()\n" + (
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)); print(flush=True)"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger, program(text) as process:
        made.join(VOICE, process.pid)
        stranger.sendto(b"x", ("127.0.0.1", 9))
        assert namespace.packets_counted("mangle", "UPMT-CLASSIFY") == 0
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        eventually(lambda: namespace.packets_counted("mangle", "UPMT-CLASSIFY") == 1, "the packet is counted")
