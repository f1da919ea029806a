"""What is known of processes, kept right by the kernel's events: read once, remembered after their end.

Without events every question is answered from /proc. With them a new program is looked at when it begins, so that
what it is called is known before it connects, and still when it has ended at once.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from upmt_nf.classify.facts import Ancestor, ProcessFacts
from upmt_nf.linux.process_events import LOST, Kind, ProcessEvent, ProcessEvents
from upmt_nf.linux.processes import Processes, cgroup_of, is_in_our_network_namespace

_REMEMBERED = 8192
_EAGER_PER_SECOND = 300.0
"""New programs and names looked at as they begin; more are looked at when they send something."""
_TICKS = os.sysconf("SC_CLK_TCK")
_DEEPEST = 64

Value = TypeVar("Value")


class KnownProcesses:
    """Facts by pid. `now` gives seconds; `read` reads one process's facts from /proc."""

    def __init__(
        self,
        now: Callable[[], float],
        read: Callable[[int], ProcessFacts | None] | None = None,
        is_ours: Callable[[int], bool] = is_in_our_network_namespace,
    ) -> None:
        self._now = now
        self._read = read if read is not None else Processes().facts_of
        self._is_ours = is_ours
        self._events: ProcessEvents | None = None
        self._facts: OrderedDict[int, ProcessFacts] = OrderedDict()
        self._ended: OrderedDict[int, ProcessFacts] = OrderedDict()
        self._parents: OrderedDict[int, int] = OrderedDict()
        self._tokens, self._filled_at = _EAGER_PER_SECOND, now()
        self.lost = 0

    @property
    def is_told(self) -> bool:
        """Whether there are events."""
        return self._events is not None

    def listen(self, events: ProcessEvents) -> None:
        """Go by these events from now on. Call `catch_up` when they are readable."""
        self._events = events

    def catch_up(self) -> None:
        """Take notice of what happened until now."""
        if self._events is not None:
            for event in self._events.read():
                self.take(event)

    def close(self) -> None:
        """Listen no more."""
        if self._events is not None:
            self._events.close()
            self._events = None
        self._forget_all()

    def take(self, event: ProcessEvent) -> None:
        """One event."""
        if event.pid == LOST:
            self.lost += 1
            self._forget_all()
            return
        match event.kind:
            case Kind.FORKED:
                _put(self._parents, event.pid, event.parent)
                self._facts.pop(event.pid, None)
            case Kind.ENDED:
                if (facts := self._facts.pop(event.pid, None)) is not None:
                    _put(self._ended, event.pid, facts)
            case _:
                self._facts.pop(event.pid, None)
                self._look_at(event.pid)

    def facts_of(self, pid: int, *, with_cgroup: bool = True) -> ProcessFacts | None:
        """What is known of a process; None when it is gone.

        Of cgroups the kernel tells nothing: they are read each time, unless `with_cgroup` is False.
        """
        self.catch_up()
        facts = self._facts.get(pid)
        if facts is None:
            facts = self._read(pid)
            if facts is not None and self._parents:
                facts = replace(facts, ancestors=self._lineage(facts))
            if facts is not None and self._events is not None:
                _put(self._facts, pid, facts)
            return facts
        if with_cgroup:
            cgroups = cgroup_of(pid)
            if cgroups is None:
                return None
            if cgroups != (facts.cgroup, facts.other_cgroups):
                facts = replace(facts, cgroup=cgroups[0], other_cgroups=cgroups[1])
                _put(self._facts, pid, facts)
        return facts

    def that_made(
        self, pid: int, made: float, *, with_cgroup: bool = True
    ) -> tuple[ProcessFacts | None, bool]:
        """The process that made a socket `made` seconds after boot, and whether it is still there.

        Whoever has its number now but began later is somebody else.
        """
        facts = self.facts_of(pid, with_cgroup=with_cgroup)
        if facts is not None and _was_there(facts, made):
            return facts, True
        ended = self._ended.get(pid)
        return (ended, False) if ended is not None and _was_there(ended, made) else (None, False)

    def _look_at(self, pid: int) -> None:
        """A new program, name or user: see who it is before it connects, if it is in our namespace and time allows."""
        now = self._now()
        self._tokens = min(_EAGER_PER_SECOND, self._tokens + (now - self._filled_at) * _EAGER_PER_SECOND)
        self._filled_at = now
        if self._tokens < 1:
            return
        self._tokens -= 1
        if self._is_ours(pid) and (facts := self._read(pid)) is not None:
            _put(self._facts, pid, replace(facts, ancestors=self._lineage(facts)))

    def _lineage(self, facts: ProcessFacts) -> tuple[Ancestor, ...]:
        """The ancestors, also those that ended: their orphans have another parent in /proc."""
        found = {ancestor.pid: ancestor for ancestor in facts.ancestors}
        lineage: list[Ancestor] = []
        pid, youngest = facts.pid, facts.started
        while (parent := self._parents.get(pid)) is not None and len(lineage) < _DEEPEST:
            if parent in found:
                break
            gone = self._ended.get(parent)
            if gone is None or gone.started > youngest:
                break
            lineage.append(Ancestor(parent, gone.started, gone.command, gone.executable))
            lineage += [each for each in gone.ancestors if each.pid not in found]
            pid, youngest = parent, gone.started
        merged = {ancestor.pid: ancestor for ancestor in (*lineage, *facts.ancestors)}
        return tuple(merged.values())

    def _forget_all(self) -> None:
        self._facts.clear()
        self._parents.clear()
        self._ended.clear()


def _was_there(facts: ProcessFacts, made: float) -> bool:
    # The kernel counts whole ticks; one more for the rounding of both.
    return facts.started / _TICKS <= made + 1 / _TICKS


def _put(memory: OrderedDict[int, Value], pid: int, value: Value) -> None:
    memory[pid] = value
    memory.move_to_end(pid)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
