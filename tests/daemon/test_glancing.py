"""How often the tunnels are looked at: as the machine says, and more often where the kernel tells late of links."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from upmt_nf.daemon.glancing import HURRIED_LOOK, TOLD_LATE, Glancing
from upmt_nf.mobility.glances import BUSY_LOOK, IDLE_LOOK


class Machine:
    """One that wants to be looked at that often."""

    def __init__(self, every: float) -> None:
        self.every = every

    def next_glance(self, now: float) -> float:
        return now + self.every

    def glance(self, _: float) -> list[Any]:
        return []


class Clock:
    """A loop of which only the timers exist."""

    def __init__(self) -> None:
        self.now, self.due = 100.0, 0.0
        self.call: Callable[[], object] = lambda: None

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Any) -> asyncio.TimerHandle:
        self.due, self.call = when, call
        return asyncio.TimerHandle(when, call, (), self)  # type: ignore[arg-type]

    def _timer_handle_cancelled(self, _: asyncio.TimerHandle) -> None:
        pass

    def get_debug(self) -> bool:
        return False


def looks_within(seconds: float, every: float, *, has_changed: bool) -> int:
    """So many, of a machine that wants one so often."""
    clock, looks = Clock(), []
    glancing = Glancing(clock, Machine(every), lambda: looks.append(clock.now), lambda _: None)  # type: ignore[arg-type]
    if has_changed:
        glancing.links_changed()
    end = clock.now + seconds
    while clock.due <= end:
        clock.now = clock.due
        clock.call()
    return len(looks)


@pytest.mark.parametrize("has_changed", [False, True])
def test_while_nothing_passes_a_change_makes_no_difference(has_changed: bool) -> None:
    assert looks_within(1.0, IDLE_LOOK, has_changed=has_changed) == pytest.approx(1 / IDLE_LOOK, abs=1)


def test_after_a_change_it_is_looked_more_often_while_something_passes() -> None:
    assert looks_within(1.0, BUSY_LOOK, has_changed=False) == pytest.approx(1 / BUSY_LOOK, abs=1)
    assert looks_within(1.0, BUSY_LOOK, has_changed=True) > 0.9 / HURRIED_LOOK


def test_and_not_for_ever() -> None:
    hurried = looks_within(TOLD_LATE, BUSY_LOOK, has_changed=True)
    assert looks_within(TOLD_LATE + 1, BUSY_LOOK, has_changed=True) <= hurried + 1 / BUSY_LOOK + 1
