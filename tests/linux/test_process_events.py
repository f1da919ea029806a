"""The kernel tells of processes; what it tells is read without surprise."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_namespace import Namespace, is_readable

from upmt_nf.linux.process_events import Kind, ProcessEvent, ProcessEvents, parse_event
from upmt_nf.model.errors import FacilityError


def message(kind: int, *ids: int) -> bytes:
    return bytes(16 + 20) + struct.pack("=IIQ4I", kind, 0, 0, *(*ids, 0, 0, 0, 0)[:4]) + bytes(8)


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (message(0x1, 5, 5, 7, 7), ProcessEvent(Kind.FORKED, 7, 5)),
        (message(0x1, 5, 5, 8, 7), None),
        (message(0x2, 7, 7), ProcessEvent(Kind.EXECUTED, 7)),
        (message(0x2, 8, 7), ProcessEvent(Kind.EXECUTED, 7)),
        (message(0x4, 7, 7), ProcessEvent(Kind.UID_CHANGED, 7)),
        (message(0x40, 7, 7), ProcessEvent(Kind.GID_CHANGED, 7)),
        (message(0x200, 7, 7), ProcessEvent(Kind.RENAMED, 7)),
        (message(0x200, 8, 7), None),
        (message(0x80000000, 7, 7), ProcessEvent(Kind.ENDED, 7)),
        (message(0x80000000, 8, 7), None),
        (message(0), None),
        (b"", None),
    ],
)
def test_each_event(data: bytes, event: ProcessEvent | None) -> None:
    assert parse_event(data) == event


@given(st.binary(max_size=100))
def test_any_bytes_are_an_event_or_nothing(data: bytes) -> None:
    found = parse_event(data)
    assert found is None or found.pid >= 0


@pytest.fixture
def events(namespace: Namespace) -> Iterator[ProcessEvents]:
    """Events, from inside a namespace that is not the first; skipped when the kernel tells nothing."""
    try:
        made = ProcessEvents()
    except FacilityError as reason:
        pytest.skip(str(reason))
    yield made
    made.close()


@pytest.mark.kernel
def test_a_program_begins_and_ends(events: ProcessEvents) -> None:
    done = subprocess.Popen(["/bin/true"])
    done.wait()
    found: list[ProcessEvent] = []
    deadline = time.monotonic() + 10
    while ProcessEvent(Kind.ENDED, done.pid) not in found and time.monotonic() < deadline:
        if is_readable(events):
            found += [event for event in events.read() if event.pid == done.pid]
    kinds = [event.kind for event in found]
    assert (kinds[0], kinds[-1]) == (Kind.FORKED, Kind.ENDED)
    assert Kind.EXECUTED in kinds


@pytest.mark.kernel
def test_what_was_executed_is_told_before_its_first_word(events: ProcessEvents) -> None:
    with subprocess.Popen(["/bin/echo", "here"], stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        one.stdout.readline()
        assert ProcessEvent(Kind.EXECUTED, one.pid) in list(events.read())


@pytest.mark.kernel
def test_the_test_is_still_in_its_own_namespace(namespace: Namespace, events: ProcessEvents) -> None:
    assert namespace.run("ip -o link").count("\n") == 1
