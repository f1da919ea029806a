"""The journal: what is written survives whatever happens to the process, and a torn line harms no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.linux.journal import (
    CgroupMade,
    HierarchyMounted,
    InterfaceMade,
    Journal,
    Record,
    RoutingChanged,
    RulesInstalled,
    SysctlSet,
)

ALL: list[Record] = [
    SysctlSet("net/ipv4/ip_forward", "0"),
    InterfaceMade("upmt0"),
    RulesInstalled(4),
    RoutingChanged(),
    CgroupMade("/sys/fs/cgroup/upmt/1/voice mail"),
    HierarchyMounted("/run/upmt/1/cgroup2"),
]


def test_every_kind_of_record_is_read_as_it_was_written_oldest_first(journal: Journal) -> None:
    for record in ALL:
        journal.note(record)
    assert list(journal.records()) == ALL
    assert list(Journal(journal.directory).records()) == ALL


def test_a_record_is_in_the_file_when_note_returns(journal: Journal) -> None:
    journal.note(InterfaceMade("upmt0"))
    lines = [json.loads(line) for line in journal.path.read_text().splitlines() if line]
    assert lines == [{"kind": "InterfaceMade", "name": "upmt0"}]
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_the_same_is_written_once_also_after_opening_again(journal: Journal) -> None:
    for record in [*ALL, *ALL]:
        journal.note(record)
    again = Journal(journal.directory)
    for record in ALL:
        again.note(record)
    assert list(again.records()) == ALL


def test_the_first_value_of_a_sysctl_is_the_one_that_counts(journal: Journal) -> None:
    journal.note(SysctlSet("net/ipv4/ip_forward", "0"))
    journal.note(SysctlSet("net/ipv4/ip_forward", "1"))
    Journal(journal.directory).note(SysctlSet("net/ipv4/ip_forward", "2"))
    assert list(journal.records()) == [SysctlSet("net/ipv4/ip_forward", "0")]


def test_a_line_torn_anywhere_loses_itself_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(ALL[0])
    whole = journal.path.read_bytes()
    journal.note(InterfaceMade("upmt0"))
    written = journal.path.read_bytes()[len(whole) :].rstrip()
    for length in range(1, len(written)):
        journal.path.write_bytes(whole + written[:length])
        again = Journal(tmp_path)
        assert list(again.records()) == [ALL[0]]
        again.note(RulesInstalled(4))
        again.note(InterfaceMade("upmt0"))
        assert list(Journal(tmp_path).records()) == [ALL[0], RulesInstalled(4), InterfaceMade("upmt0")]


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"7",
        b"null",
        b"[]",
        b"{}",
        b'{"kind": "NoSuchKind"}',
        b'{"kind": ["InterfaceMade"], "name": "upmt0"}',
        b'{"kind": "InterfaceMade"}',
        b'{"kind": "InterfaceMade", "name": "upmt0", "more": 1}',
        b"\xff\xfe\0",
    ],
)
def test_what_is_no_record_is_passed_over(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "journal").write_bytes(line + b'\n{"kind": "RoutingChanged"}\n')
    journal = Journal(tmp_path)
    assert list(journal.records()) == [RoutingChanged()]
    journal.note(RulesInstalled(4))
    assert list(journal.records()) == [RoutingChanged(), RulesInstalled(4)]


@given(st.binary(max_size=200))
def test_any_file_can_be_read_and_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    (directory / "journal").write_bytes(content)
    Journal(directory).note(RulesInstalled(4))
    assert list(Journal(directory).records())[-1] == RulesInstalled(4)


def test_erased_is_as_new(journal: Journal) -> None:
    journal.note(RoutingChanged())
    journal.erase()
    assert not journal.directory.exists()
    assert list(journal.records()) == []
    journal.note(RoutingChanged())
    assert list(journal.records()) == [RoutingChanged()]
    (journal.directory / "log").write_text("somebody else's")
    journal.erase()
    assert (journal.directory / "log").read_text() == "somebody else's"
    journal.erase()
