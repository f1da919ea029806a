"""Flows that the kernel lets in by itself, as it was told whose the flows of a process are (`bpf/admission.bpf.c`).

The kernel learns from the agent: a process's first flow goes the agent's way, and from what was found out then the
kernel knows its other flows, until the process or the rules change. So ten thousand silent processes cost nothing, and
what changes unseen leads back to the agent and never to a stale answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import NamedTuple

from upmt_nf.classify.facts import ProcessFacts
from upmt_nf.classify.reasons import MARKED, Decider, Finder, Reason
from upmt_nf.classify.rules import ApplicationRule
from upmt_nf.classify.verdicts import verdict_of
from upmt_nf.daemon.applications import Applications
from upmt_nf.daemon.flow_owners import Owner
from upmt_nf.datapath.admission_layout import ASKED, GATE, VERDICT, Begun, Identity
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.fast_layout import NUMBER, FlowRow, flow_key
from upmt_nf.datapath.host_forwarder import HostForwarder
from upmt_nf.datapath.paft import Paft
from upmt_nf.linux.admission_program import AdmissionProgram
from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import FlowBytes, FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION_ID, ApplicationId

log = logging.getLogger(__name__)

_TICK = 0.05
_PER_TICK = 2000
"""Flows taken notice of in one go, of those that the kernel let in; more wait for the next."""
_REMEMBERED = 8
"""Generations of rules whose flows may still be on their way to us."""


class _Wanted(NamedTuple):
    """What verdicts depend on, beside the process."""

    rules: tuple[ApplicationRule, ...]
    by_netfilter: int
    """So many of them netfilter decides, before the program looks."""
    native: frozenset[ApplicationId]
    rest: ApplicationId
    """Whose everything is that netfilter left unmarked; 0: that depends on the process."""

    @property
    def asks_for_cgroup(self) -> bool:
        return any(rule.asks_for_cgroup for rule in self.rules)


class Admission:
    """Tells the kernel, and PAFT what the kernel did. Closed until `fit_rules`, and while there is no forwarder."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        program: AdmissionProgram,
        paft: Paft,
        applications: Applications,
    ) -> None:
        self._loop = loop
        self._program = program
        self._paft = paft
        self._applications = applications
        maps = program.maps
        self._gate, self._verdicts, self._asked = maps["gate"], maps["verdicts"], maps["asked"]
        self._begun, self._flows = maps["begun"], maps["flows"]
        # Unlike that of the daemon before: flows which that let in are looked at once more.
        self._generations = itertools.count(time.time_ns() // 1000 & 0x3FFFFFFF | 1)
        self._generation = 0
        self._wanted: _Wanted | None = None
        self._are_rules_in_place = False
        self._rules: dict[int, tuple[ApplicationRule, ...]] = {}
        self._to_teach: list[tuple[FlowKey, Owner]] = []
        self._strangers: dict[FlowBytes, int] = {}
        self._forwarder: HostForwarder | None = None
        self.counters = Counters()
        applications.rules_changed = self.shut
        applications.found = self._note
        applications.owners.makers = maps["makers"].fileno()
        self._timer = loop.call_later(_TICK, self._tick)

    def close(self) -> None:
        """Let nothing in any more, and let go of the program."""
        self._timer.cancel()
        self.shut()
        self._program.close()

    # --- what the kernel is told ---

    def shut(self) -> None:
        """The rules are about to change: until `fit_rules` new flows are the agent's."""
        self._are_rules_in_place = False
        self._open_or_shut()

    def fit_rules(self) -> None:
        """Netfilter has the rules of now: let in what they decide."""
        self._are_rules_in_place = True
        self._open_or_shut()

    def _open_or_shut(self) -> None:
        # Which part of an application a flow is of, only the agent knows. While it has no forwarder it judges nothing:
        # running flows, which each generation looks at once more, go on as an earlier daemon left them.
        is_open = (
            self._are_rules_in_place
            and self._forwarder is not None
            and not self._applications.flow_policies.has_parts
        )
        if not is_open:
            if self._wanted is not None:
                self._wanted = None
                self._write_gate(0)
            return
        wanted = self._wanted_now()
        if wanted == self._wanted:
            return
        self._wanted, self._generation = wanted, next(self._generations)
        self._rules[self._generation] = wanted.rules
        for old in list(self._rules)[:-_REMEMBERED]:
            del self._rules[old]
        self._write_gate(self._generation, wanted.rest, asks_for_cgroup=wanted.asks_for_cgroup)

    def _wanted_now(self) -> _Wanted:
        applications = self._applications
        rules = tuple(applications.rules)
        native = applications.native_ids()
        rest = DEFAULT_APPLICATION_ID
        # A cgroup of ours that somebody makes anew is one that netfilter's rule does not know: the agent finds out.
        if (
            applications.needs_lookup
            or any(rule.asks_for_cgroup for rule in rules)
            or DEFAULT_APPLICATION_ID in native
        ):
            rest = ApplicationId(0)
        return _Wanted(rules, applications.decided_by_netfilter, native, rest)

    def _write_gate(self, generation: int, rest: int = 0, *, asks_for_cgroup: bool = False) -> None:
        try:
            self._gate.update(NUMBER.pack(0), GATE.pack(generation, rest, asks_for_cgroup, 0))
        except KernelError as reason:
            log.warning("%s", reason)

    def _note(self, flow: FlowKey, owner: Owner) -> None:
        """Told to the kernel once the packets that are in our hands have gone on: none may overtake them."""
        if owner.process is None or owner.found_by is not Finder.SOCKET_RECORD or self._wanted is None:
            return
        if not self._to_teach:
            self._loop.call_soon(self._teach_all)
        self._to_teach.append((flow, owner))

    def _teach_all(self) -> None:
        to_teach, self._to_teach = self._to_teach, []
        for flow, owner in to_teach:
            if self._wanted is not None and owner.process is not None:
                self._teach(self._wanted, flow, owner.process, owner.cookie)

    def _teach(self, wanted: _Wanted, flow: FlowKey, facts: ProcessFacts, socket: int) -> None:
        key = flow_key(flow.packed())
        packed = self._asked.lookup(key) if key is not None else None
        if packed is None:
            return
        who, asker = ASKED.unpack(packed)
        identity = Identity.unpacked(who)
        if asker != socket or identity.generation != self._generation or not _is(identity, facts):
            return
        verdict = verdict_of(wanted.rules, facts, wanted.by_netfilter)
        if verdict is None:
            return
        application = verdict.rule.application if verdict.rule is not None else DEFAULT_APPLICATION_ID
        if application in wanted.native:
            return
        place = wanted.rules.index(verdict.rule) + 1 if verdict.rule is not None else 0
        try:
            self._verdicts.update(who, VERDICT.pack(application, place))
            self.counters.add("kernel_verdicts")
        except KernelError as reason:
            log.debug("%s", reason)

    # --- what the kernel did ---

    def use(self, forwarder: HostForwarder | None) -> None:
        """Tell this forwarder of the flows that the kernel lets in; None: let none in, as nobody judges any."""
        self._forwarder = forwarder
        if forwarder is not None:
            forwarder.catch_up = self.catch_up
        self._open_or_shut()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK, self._tick)
        self.catch_up(_PER_TICK)

    def catch_up(self, most: int = 1 << 20) -> None:
        """Take notice of the flows that the kernel has let in."""
        if self._forwarder is None:
            return
        now = self._loop.time()
        for _ in range(most):
            if (packed := self._begun.pop()) is None:
                return
            flow = Begun.unpacked(packed)
            if flow.key in self._paft.flows and self._socket_of(flow.key) != flow.socket:
                # Its ports are another socket's by now.
                continue
            self.counters.add("kernel_admitted")
            self._forwarder.begun(flow, self._why(flow), now)

    def find(self, key: FlowBytes, row: FlowRow) -> None:
        """A flow in the kernel's table that PAFT does not know: there was no room in the queue, if it stays so."""
        if self._strangers.pop(key, 0) != row.socket:
            if len(self._strangers) < _PER_TICK:
                self._strangers[key] = row.socket
        elif self._forwarder is not None:
            application = ApplicationId(row.application)
            found = Begun(key, row.socket, row.generation, application, 0, 0, 0, 0, "")
            self.counters.add("kernel_admitted")
            self._forwarder.begun(found, self._why(found), self._loop.time())

    def _socket_of(self, key: FlowBytes) -> int:
        packed = self._flows.lookup(flow_key(key) or b"")
        return FlowRow.unpacked(packed).socket if packed is not None else 0

    def _why(self, flow: Begun) -> Reason:
        if flow.mark:
            return MARKED
        rules = self._rules.get(flow.generation, ())
        rule = rules[flow.rule - 1] if 0 < flow.rule <= len(rules) else None
        return Reason(Decider.KERNEL, rule, Finder.SOCKET_RECORD if flow.pid else None)


def _is(identity: Identity, facts: ProcessFacts) -> bool:
    """Whether these facts are those of the process as it was when it sent.

    Its control groups /proc has told a moment after the packet: whoever is in others by now is not known by this
    identity any more.
    """
    return (
        identity.pid == facts.pid
        and identity.ticks == facts.started
        and identity.uid == facts.uid
        and identity.gid == facts.gid
        and identity.command == facts.command
    )
