"""Which rules and cgroups make which application, and whose a new flow is.

First match wins: what `upmt run` started, then what was assigned at run time (latest first), then the configuration.
"""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from upmt_nf.classify.facts import ProcessFacts
from upmt_nf.classify.reasons import MARKED, UNNAMED, Decider, Reason
from upmt_nf.classify.rules import (
    ApplicationRule,
    first_match,
    needs_lookup,
    netfilter_lines,
    parse_destination,
)
from upmt_nf.config.mobile_host import ApplicationSection, MatchSection
from upmt_nf.datapath.host_forwarder import Classified
from upmt_nf.datapath.paft import FlowEntry
from upmt_nf.linux.processes import Processes
from upmt_nf.linux.sock_diag import SockDiag, SocketFacts
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import FlowBytes, FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, ApplicationId, ApplicationName
from upmt_nf.model.names import MAX_APPLICATION_ID, application_in

_MAX_NAME = 64
_NAMED_AT_ONCE = 100
_STILL_ALIVE = 10.0
"""Seconds of silence after which a flow's socket is not looked for any more."""


@dataclass(slots=True)
class Application:
    """A named class of flows: its number in the fwmark and the conditions that make it, as people wrote them."""

    name: ApplicationName
    id: ApplicationId
    conditions: list[str] = field(default_factory=list)
    is_native: bool = False
    """Left alone, as if UPMT were not there."""
    on_no_network: str | None = None
    """`hold`, `reject` or `native`; None: held while there is an association, left alone without."""
    is_stranded: bool = False
    """No network that its policy allows works."""

    @property
    def goes_native(self) -> bool:
        """Whether its new flows are left alone now."""
        return self.is_native or (self.is_stranded and self.on_no_network == "native")

    @property
    def is_guarded(self) -> bool:
        """Whether it has a kill switch: by the tunnels or not at all."""
        return not self.is_native and self.on_no_network in ("hold", "reject")


class Source(Enum):
    """Where applications are declared, in the order in which their rules are tried."""

    APPLIED = "upmt apply"
    SAVED = "upmt assign --save"
    CONFIGURATION = "configuration"


class Applications:
    """All applications of this host."""

    def __init__(
        self, configured: Iterable[ApplicationSection], default: Literal["tunnel", "native"] = "tunnel"
    ) -> None:
        self.by_name: dict[ApplicationName, Application] = {}
        self.by_id: dict[ApplicationId, Application] = {}
        self.started: list[ApplicationRule] = []
        """Of `upmt run`: cgroups of our own."""
        self.refusing: set[ApplicationId] = set()
        """Applications whose senders are told when there is no network."""
        self.can_mark_sockets = True
        """The kernel takes the program that marks the sockets of `upmt run`."""
        self._assigned: list[ApplicationRule] = []
        self._declared: dict[Source, list[ApplicationRule]] = {source: [] for source in Source}
        self.sections: dict[Source, tuple[ApplicationSection, ...]] = dict.fromkeys(Source, ())
        self._sockets = SockDiag()
        # The daemon's own raw sockets send no application's packets.
        self._processes = Processes(ignored=os.getpid())
        self._add(DEFAULT_APPLICATION).is_native = default == "native"
        self._default = default
        self.declare(Source.CONFIGURATION, tuple(configured))

    @property
    def rules(self) -> list[ApplicationRule]:
        """Every rule, in the order in which they are tried."""
        declared = (rule for rules in self._declared.values() for rule in rules)
        return [*self.started, *self._assigned, *declared]

    def declare(
        self, source: Source, sections: tuple[ApplicationSection, ...]
    ) -> dict[ApplicationName, tuple[str, ...] | None]:
        """From now on a source says this; gives the applications whose policy that changes, None: none of their own.

        Raises UsageError, and then nothing has changed.
        """
        made = {section.name: [_given(match) for match in section.match] for section in sections}
        for matches in made.values():
            for given in matches:
                _rule(DEFAULT_APPLICATION_ID, given)
        before = self._effective()
        for old in self.sections[source]:
            application = self.by_name[ApplicationName(old.name)]
            for match in old.match:
                application.conditions.remove(_said(_given(match)))
        self._declared[source].clear()
        for section in sections:
            application = self.define(ApplicationName(section.name))
            for given in made[section.name]:
                self._declared[source].append(_rule(application.id, given))
                application.conditions.append(_said(given))
        self.sections[source] = sections
        after = self._effective()
        changed: dict[ApplicationName, tuple[str, ...] | None] = {}
        for name in {**before, **after}:
            if _settings(before.get(name)) != _settings(after.get(name)):
                self._settle(self.by_name[ApplicationName(name)], after.get(name))
                changed[ApplicationName(name)] = after[name].networks if name in after else None
        return changed

    def _effective(self) -> dict[str, ApplicationSection]:
        """What counts of each application: the first source that names it."""
        found: dict[str, ApplicationSection] = {}
        for sections in self.sections.values():
            for section in sections:
                found.setdefault(section.name, section)
        return found

    @property
    def policies(self) -> dict[ApplicationName, tuple[str, ...]]:
        """What is declared of the networks of each application."""
        return {ApplicationName(name): section.networks for name, section in self._effective().items()}

    def section_of(self, name: ApplicationName) -> ApplicationSection | None:
        """What is declared of an application."""
        return self._effective().get(name)

    def _settle(self, application: Application, section: ApplicationSection | None) -> None:
        if application.name != DEFAULT_APPLICATION:
            application.is_native = section is not None and section.policy == "native"
        self.set_on_no_network(application, section.on_no_network if section is not None else None)

    @property
    def is_any_native(self) -> bool:
        """Whether anything is, or may become, left alone by name."""
        return any(each.is_native or each.on_no_network == "native" for each in self.by_name.values())

    @property
    def marks_sockets(self) -> bool:
        """Whether the sockets of `upmt run` are to be told apart when they are created."""
        return self.is_any_native and self.can_mark_sockets

    def set_on_no_network(self, application: Application, choice: str | None) -> None:
        """What is to become of its packets when no network is left."""
        application.on_no_network = choice
        if choice == "reject":
            self.refusing.add(application.id)
        else:
            self.refusing.discard(application.id)

    def note_stranded(self, names: Container[ApplicationName]) -> bool:
        """These have no network now; gives whether that changes what is left alone."""
        before = [each.goes_native for each in self.by_name.values()]
        for application in self.by_name.values():
            application.is_stranded = application.name in names
        return before != [each.goes_native for each in self.by_name.values()]

    def netfilter_lines(self, version: int = 4, queue: int | None = None) -> list[str]:
        """The rules that netfilter decides alone, for the rule file's `@applications`.

        `queue`: where first packets go that the agent must tell apart before they are routed.
        """
        native = frozenset(each.id for each in self.by_name.values() if each.goes_native)
        return netfilter_lines(self.rules, native, version, queue)

    def is_left_alone(self, key: FlowBytes, mark: int) -> bool:
        """Whether a flow that begins is an application's that is left alone."""
        return self.by_id[self.classify(key, mark).application_id].goes_native

    def define(self, name: ApplicationName) -> Application:
        """The application of that name, made when it is new. Raises UsageError for a bad name."""
        if name in self.by_name:
            return self.by_name[name]
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise UsageError(f"{name!r} is no name for an application: 1 to {_MAX_NAME} printable characters")
        return self._add(name)

    def _add(self, name: ApplicationName) -> Application:
        number = ApplicationId(len(self.by_name) + DEFAULT_APPLICATION_ID)
        if number > MAX_APPLICATION_ID:
            raise UsageError(f"there are {MAX_APPLICATION_ID} applications already")
        application = self.by_name[name] = self.by_id[number] = Application(name, number)
        return application

    def add_cgroup(self, application: Application, path: str) -> bool:
        """Members of this cgroup belong to the application; False when that is known already."""
        rule = ApplicationRule(application.id, cgroup=path)
        if rule in self.started:
            return False
        self.started.append(rule)
        return True

    def assign(
        self, name: str | None, match: Mapping[str, Any]
    ) -> tuple[Application, ApplicationRule | None]:
        """An assignment made at run time; the same conditions again are moved to the front, not doubled.

        Without a name the application is called by its conditions. Raises UsageError.
        """
        said = _said(match)
        application = self.define(ApplicationName(name if name is not None else said))
        if not match:
            return application, None
        rule = _rule(application.id, match)
        # The same conditions for another application before would make this one dead.
        self._assigned = [rule, *(old for old in self._assigned if not _same_conditions(old, rule))]
        if said not in application.conditions:
            application.conditions.append(said)
        return application, rule

    # --- whose is it ---

    def classify(self, key: FlowBytes, mark: int) -> Classified:
        """Whose a new flow is: netfilter's mark if there is one, else the first rule that matches."""
        flow = FlowKey.unpacked(key)
        marked = ApplicationId(application_in(mark))
        is_marked = marked in self.by_id
        if is_marked:
            return Classified(marked, 0, "", MARKED)
        # Without a rule that asks for it, who it is can be found out when somebody wants to know (`name_processes`).
        return self._look_up(flow, is_needed=needs_lookup(self.rules))

    def classify_incoming(self, key: FlowBytes) -> Classified:
        """Whose a flow is that a correspondent began: netfilter marks our own packets only, so the socket is asked."""
        return self._look_up(FlowKey.unpacked(key), is_needed=bool(self.rules))

    def _look_up(self, flow: FlowKey, *, is_needed: bool) -> Classified:
        pid = self._pid_behind(flow) if is_needed else 0
        facts = self._processes.facts_of(pid) if pid else None
        rule = first_match(self.rules, flow, facts)
        command = facts.command if facts is not None else ""
        if rule is None:
            return Classified(DEFAULT_APPLICATION_ID, pid, command, UNNAMED)
        return Classified(rule.application, pid, command, Reason(Decider.AGENT, rule))

    def reclassify(self, entries: Iterable[FlowEntry], rule: ApplicationRule) -> list[FlowKey]:
        """Running flows that a new rule claims become its application's; gives them (adopting a program)."""
        known: dict[int, ProcessFacts | None] = {}
        moved: list[FlowKey] = []
        for entry in entries:
            flow = entry.flow
            if rule.needs_process or rule.uid is not None or rule.gid is not None or rule.cgroup is not None:
                pid = self._pid_behind(flow) or entry.pid
                if pid not in known:
                    known[pid] = self._processes.facts_of(pid) if pid else None
                facts = known[pid]
                entry.pid = pid
            else:
                facts = None
            if entry.application_id != rule.application and first_match(self.rules, flow, facts) == rule:
                entry.application_id, entry.why = rule.application, Reason(Decider.AGENT, rule)
                moved.append(flow)
        return moved

    def reconsider(
        self, entries: Iterable[FlowEntry], gone: Iterable[ApplicationRule]
    ) -> dict[ApplicationName, list[FlowKey]]:
        """Running flows of applications that lost a rule become whose they are without it; gives those that moved.

        A flow whose socket is not there any more stays as it was.
        """
        touched = {rule.application for rule in gone}
        moved: dict[ApplicationName, list[FlowKey]] = {}
        for entry in entries:
            if entry.application_id not in touched or self._sockets.find(entry.flow) is None:
                continue
            found = self._look_up(entry.flow, is_needed=True)
            if found.application_id != entry.application_id:
                entry.application_id, entry.why, entry.mark = found.application_id, found.why, 0
                moved.setdefault(self.by_id[found.application_id].name, []).append(entry.flow)
        return moved

    @property
    def counters(self) -> dict[str, int]:
        """What was not found out, by reason."""
        return {"processes_unsearched": self._processes.unsearched}

    def name_processes(self, entries: Iterable[FlowEntry], now: float) -> None:
        """Find the processes of flows that were not looked up when they began, as netfilter had decided alone.

        Of the busiest moments' flows only the newest: this is for people to read, and packets wait meanwhile.
        """
        unnamed = [entry for entry in entries if not entry.pid and now - entry.last_seen < _STILL_ALIVE]
        sockets = {
            entry.key: socket.inode
            for entry in unnamed[-_NAMED_AT_ONCE:]
            if (socket := self._sockets.find(entry.flow)) is not None
        }
        owners = self._processes.owners_of(set(sockets.values()))
        for entry in unnamed:
            entry.pid = owners.get(sockets.get(entry.key, 0), 0)
            entry.command = self._processes.command_of(entry.pid) if entry.pid else ""

    def look(self, flow: FlowKey) -> tuple[SocketFacts | None, ProcessFacts | None]:
        """The socket and the process behind a flow as they are now, whatever it costs: for people who ask."""
        socket = self._sockets.find(flow)
        pid = self._processes.owners_of([socket.inode]).get(socket.inode) if socket is not None else None
        return socket, self.facts_of(pid) if pid else None

    def facts_of(self, pid: int) -> ProcessFacts | None:
        """What can be known of a process; None when there is none of that number."""
        return self._processes.facts_of(pid)

    def origin_of(self, rule: ApplicationRule) -> str:
        """Where a rule comes from: `upmt run`, `upmt assign` or the configuration."""
        if rule in self.started:
            return "upmt run"
        if rule in self._assigned:
            return "upmt assign"
        found = (source.value for source, rules in self._declared.items() if rule in rules)
        return next(found, Source.CONFIGURATION.value)

    def _pid_behind(self, flow: FlowKey) -> int:
        socket = self._sockets.find(flow)
        if socket is None or socket.inode == 0:
            return 0
        return self._processes.owner_of(socket.inode, socket.uid, time.monotonic()) or 0


def _settings(section: ApplicationSection | None) -> object:
    return section and (section.networks, section.policy, section.on_no_network)


def _given(match: MatchSection) -> dict[str, Any]:
    return match.model_dump(exclude_none=True)


def _said(match: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in match.items())


def _same_conditions(one: ApplicationRule, other: ApplicationRule) -> bool:
    fields = ("command", "executable", "uid", "gid", "cgroup", "unit", "pid", "destination", "port")
    return all(getattr(one, name) == getattr(other, name) for name in fields)


_TEXTS = frozenset(("command", "executable", "cgroup", "unit"))


def _rule(application: ApplicationId, match: Mapping[str, Any]) -> ApplicationRule:
    """A rule from conditions as people write them. Raises UsageError that names the condition."""
    fields: dict[str, Any] = {}
    for key, value in match.items():
        match key:
            case "destination":
                fields["destination"], fields["port"] = parse_destination(str(value))
            case "uid":
                fields["uid"] = _number(key, value, lambda name: pwd.getpwnam(name).pw_uid)
            case "gid":
                fields["gid"] = _number(key, value, lambda name: grp.getgrnam(name).gr_gid)
            case "pid":
                fields["pid"] = _number(key, value, None)
            case _ if key in _TEXTS and isinstance(value, str) and value:
                fields[key] = value
            case _:
                raise UsageError(f"{key}={value!r} is no condition for an application")
    return ApplicationRule(application, **fields)


def _number(key: str, value: Any, by_name: Callable[[str], int] | None) -> int:
    text = str(value)
    if text.isascii() and text.isdigit() and int(text) < 2**32:
        return int(text)
    if by_name is not None:
        try:
            return by_name(text)
        except KeyError as reason:
            raise UsageError(f"there is no {key} called {text!r}") from reason
    raise UsageError(f"{key} is a number, not {text!r}")
