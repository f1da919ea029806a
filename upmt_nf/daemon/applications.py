"""Which rules and cgroups make which application, and whose a new flow is.

First match wins: what `upmt run` started, then what was assigned at run time (latest first), then what is declared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from upmt_nf.classify.reasons import MARKED, UNNAMED, Decider, Mechanism, Reason, mechanism_of
from upmt_nf.classify.rules import (
    ApplicationRule,
    first_match,
    is_guess,
    needs_lookup,
    netfilter_lines,
    netfilter_part,
)
from upmt_nf.config.application_sections import (
    ApplicationSection,
    MatchSection,
    named_anchor,
    with_parts,
)
from upmt_nf.daemon.flow_owners import UNASKED, FlowOwners, Owner
from upmt_nf.daemon.flow_policies import FlowPolicies, check
from upmt_nf.daemon.matches import conditions_said, rule_of
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.host_forwarder import Classified
from upmt_nf.linux.process_events import ProcessEvents
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import FlowBytes, FlowKey, IPAddress
from upmt_nf.model.identity import DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, ApplicationId, ApplicationName
from upmt_nf.model.names import CGROUP_ROOT, MAX_APPLICATION_ID, application_in

log = logging.getLogger(__name__)

UNRULED = Classified(DEFAULT_APPLICATION_ID, 0, "", UNNAMED)
"""Any flow while there are no rules: the same for all of them, as thousands may begin within a second."""

_MAX_NAME = 64


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
    anchor: str | None = None
    """The name of the one that it goes by, or its address; None: whichever the host uses."""
    resolver: tuple[str, ...] | None = None
    """Name servers that what `upmt run` starts asks itself; none in the tuple: the system's way."""
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
        self,
        configured: Iterable[ApplicationSection],
        default: Literal["tunnel", "native"] = "tunnel",
        is_settled: Callable[[str], bool] = lambda path: True,
    ) -> None:
        """`is_settled`: whether a cgroup of ours is still the directory that netfilter's rules were loaded with."""
        self.by_name: dict[ApplicationName, Application] = {}
        self.by_id: dict[ApplicationId, Application] = {}
        self.started: list[ApplicationRule] = []
        """Of `upmt run`: cgroups of our own."""
        self.refusing: set[ApplicationId] = set()
        """Applications whose senders are told when there is no network."""
        self.can_mark_sockets = True
        """The kernel takes the program that marks the sockets of `upmt run`."""
        self._assigned: list[ApplicationRule] = []
        self._words: dict[ApplicationRule, str] = {}
        """What was assigned at run time, as people wrote it."""
        self._order: list[ApplicationRule] | None = None
        """All of them as `rules` gives them: asked for by each first packet, made anew after a change."""
        self._declared: dict[Source, list[ApplicationRule]] = {source: [] for source in Source}
        self.sections: dict[Source, tuple[ApplicationSection, ...]] = dict.fromkeys(Source, ())
        self.flow_policies = FlowPolicies()
        self._addresses: dict[str, tuple[IPAddress, ...]] = {}
        self.owners = FlowOwners()
        self.rules_changed: Callable[[], None] = lambda: None
        """Is called when the rules are not what they were, before any flow is held against the new ones."""
        self.found: Callable[[FlowKey, Owner], None] = lambda flow, owner: None
        """Is told whose flow was looked up."""
        self._is_settled = is_settled
        self._add(DEFAULT_APPLICATION).is_native = default == "native"
        self.declare(Source.CONFIGURATION, tuple(configured))

    @property
    def rules(self) -> list[ApplicationRule]:
        """Every rule, in the order in which they are tried."""
        if self._order is None:
            declared = (rule for rules in self._declared.values() for rule in rules)
            self._order = [*self.started, *self._assigned, *declared]
            self.owners.are_cgroups_asked = any(rule.asks_for_cgroup for rule in self._order)
        return self._order

    def _reorder(self) -> None:
        self._order = None
        self.rules_changed()

    def declare(
        self, source: Source, sections: tuple[ApplicationSection, ...]
    ) -> dict[ApplicationName, tuple[str, ...] | None]:
        """From now on a source says this; gives the applications whose policy that changes, None: none of their own.

        Raises UsageError, and then nothing has changed.
        """
        check(sections)
        made = {section.name: [_given(match) for match in section.match] for section in sections}
        for matches in made.values():
            for given in matches:
                rule_of(DEFAULT_APPLICATION_ID, given)
        before = self._effective()
        for old in self.sections[source]:
            application = self.by_name[ApplicationName(old.name)]
            for match in old.match:
                application.conditions.remove(conditions_said(_given(match)))
        self._declared[source].clear()
        for section in sections:
            application = self.define(ApplicationName(section.name))
            for given in made[section.name]:
                self._declared[source].append(self._declared_rule(application.id, given))
                application.conditions.append(conditions_said(given))
        for part in with_parts(sections):
            # Those of `flow`, which have no rules of their own.
            self.define(ApplicationName(part.name))
        self.sections[source] = sections
        self._reorder()
        after = self._effective()
        self.flow_policies.set(after.values(), lambda name: self.by_name[name].id)
        for section in after.values():
            for place, said in enumerate(section.said_of_flows):
                self.by_name[ApplicationName(section.part_name(place))].conditions = [said]
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
                if section.name not in found:
                    found |= {part.name: part for part in with_parts((section,))}
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
        application.anchor = named_anchor(section)
        application.resolver = _resolver_of(section)

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

    def set_anchor(self, application: Application, anchor: str | None) -> list[Application]:
        """It goes by this anchor, and so do its parts; gives those for which that is another one than before."""
        whole_of = self.flow_policies.whole_of
        changed = [
            each
            for each in self.by_name.values()
            if whole_of(each.id) == application.id and each.anchor != anchor
        ]
        for each in changed:
            each.anchor = anchor
        return changed

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
        return netfilter_lines(self.rules, self.native_ids(), version, queue, self._is_decidable)

    def is_left_alone(self, key: FlowBytes, mark: int, dscp: int = 0) -> bool:
        """Whether a flow that begins is an application's that is left alone."""
        return self.by_id[self.classify(key, mark, dscp).application_id].goes_native

    def _is_decidable(self, rule: ApplicationRule) -> bool:
        """Netfilter takes a cgroup's path for the directory of that moment: only our own live as long as the rules."""
        path = (rule.cgroup or "").strip("/")
        return rule.cgroup is None or (path.startswith(f"{CGROUP_ROOT}/") and self._is_settled(path))

    @property
    def decided_by_netfilter(self) -> int:
        """How many of the rules netfilter decides alone, the first ones."""
        return len(netfilter_part(self.rules, self._is_decidable))

    def native_ids(self) -> frozenset[ApplicationId]:
        """Applications whose new flows are left alone now."""
        return frozenset(each.id for each in self.by_name.values() if each.goes_native)

    @property
    def needs_lookup(self) -> bool:
        """Whether flows that netfilter leaves unmarked need their process."""
        return needs_lookup(self.rules, self._is_decidable)

    def define(self, name: ApplicationName) -> Application:
        """The application of that name, made when it is new. Raises UsageError for a bad name."""
        if name in self.by_name:
            return self.by_name[name]
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise UsageError(
                f"{name!r} is no name for an application: 1 to {_MAX_NAME} printable characters (give one with --app)"
            )
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
        self._reorder()
        return True

    def assign(
        self, name: str | None, match: Mapping[str, Any]
    ) -> tuple[Application, ApplicationRule | None]:
        """An assignment made at run time; the same conditions again are moved to the front, not doubled.

        Without a name the application is called by its conditions. Raises UsageError.
        """
        said = conditions_said(match)
        application = self.define(ApplicationName(name if name is not None else said))
        if not match:
            return application, None
        rule = self._addressed(rule_of(application.id, match, self._began))
        # The same conditions for another application before would make this one dead.
        self._assigned = [rule, *(old for old in self._assigned if not _same_conditions(old, rule))]
        self._reorder()
        self._words[rule] = said
        if said not in application.conditions:
            application.conditions.append(said)
        return application, rule

    def take_back(self, name: str | None, match: Mapping[str, Any]) -> list[ApplicationRule]:
        """End assignments made at run time: those of these conditions, those of an application, or both; gives them.

        What is declared of an application that has no other counts again. Raises UsageError.
        """
        wanted = rule_of(DEFAULT_APPLICATION_ID, match) if match else None
        found = [
            rule
            for rule in self._assigned
            if name in (None, self.by_id[rule.application].name)
            and (wanted is None or _same_conditions(replace(rule, started=None), wanted))
        ]
        self._assigned = [rule for rule in self._assigned if rule not in found]
        self._reorder()
        for rule in found:
            said, application = self._words.pop(rule, ""), self.by_id[rule.application]
            section = self.section_of(application.name)
            declared = (
                [conditions_said(_given(each)) for each in section.match] if section is not None else []
            )
            if said in application.conditions and said not in declared:
                application.conditions.remove(said)
        names = {self.by_id[rule.application].name for rule in found}
        for one in names | ({ApplicationName(name)} if name in self.by_name else set()):
            application = self.by_name[one]
            if all(rule.application != application.id for rule in self._assigned):
                self._settle(application, self.section_of(one))
        return found

    def _declared_rule(self, application: ApplicationId, given: Mapping[str, Any]) -> ApplicationRule:
        return self._addressed(rule_of(application, given, self._began_if_there))

    def _addressed(self, rule: ApplicationRule) -> ApplicationRule:
        if rule.destination_name is None:
            return rule
        return replace(rule, addresses=self._addresses.get(rule.destination_name, ()))

    def _began(self, pid: int) -> int:
        facts = self.owners.facts_of(pid)
        if facts is None:
            raise UsageError(f"there is no process {pid}")
        return facts.started

    def _began_if_there(self, pid: int) -> int:
        facts = self.owners.facts_of(pid)
        if facts is None:
            log.warning("there is no process %d: the configuration's rule for it matches nothing", pid)
        return facts.started if facts is not None else -1

    # --- destinations by name ---

    @property
    def destination_names(self) -> set[str]:
        """The names whose addresses are wanted."""
        return {rule.destination_name for rule in self.rules if rule.destination_name is not None}

    def set_addresses(self, name: str, addresses: tuple[IPAddress, ...]) -> bool:
        """The addresses that a name has now; whether any rule changed by that."""
        if self._addresses.get(name, ()) == addresses:
            return False
        self._addresses[name] = addresses

        def renewed(rules: list[ApplicationRule]) -> list[ApplicationRule]:
            return [
                replace(rule, addresses=addresses) if rule.destination_name == name else rule
                for rule in rules
            ]

        self._reorder()
        self._assigned = renewed(self._assigned)
        self._declared = {source: renewed(rules) for source, rules in self._declared.items()}
        return True

    # --- whose is it ---

    def watch_processes(self, hierarchy: Path | None) -> ProcessEvents | None:
        """Use what the kernel tells of processes and sockets from now on (see `FlowOwners`)."""
        return self.owners.watch(hierarchy)

    def close(self) -> None:
        """Take what is in the kernel out of it."""
        self.owners.close()

    def classify(self, key: FlowBytes, mark: int, dscp: int = 0) -> Classified:
        """Whose a new flow is: netfilter's mark if there is one, else the first rule that matches."""
        if not mark and not self.rules and not self.flow_policies.has_parts:
            return UNRULED
        flow = FlowKey.unpacked(key)
        marked = ApplicationId(application_in(mark))
        if marked in self.by_id:
            return Classified(self.flow_policies.part_of(marked, flow, dscp), 0, "", MARKED)
        # Without a rule that asks for it, who it is can be found out when somebody wants to know (`name_processes`).
        return self.look_up(flow, dscp, is_needed=self.needs_lookup)

    def classify_incoming(self, key: FlowBytes) -> Classified:
        """Whose a flow is that a correspondent began: netfilter marks our own packets only, so the socket is asked."""
        return self.look_up(FlowKey.unpacked(key), 0, is_needed=bool(self.rules))

    def look_up(self, flow: FlowKey, dscp: int, *, is_needed: bool) -> Classified:
        """Whose a flow is by the rules, with its process when that `is_needed`."""
        rules = self.rules
        owner = self.owners.behind(flow) if is_needed else UNASKED
        self.found(flow, owner)
        facts = owner.process
        rule = first_match(rules, flow, facts, dscp)
        why = Reason(Decider.AGENT, rule, owner.found_by, _is_guess(owner, rules, rule, flow, dscp))
        id = rule.application if rule is not None else DEFAULT_APPLICATION_ID
        id = self.flow_policies.part_of(id, flow, dscp)
        pid, command = (facts.pid, facts.command) if facts is not None else (0, "")
        return Classified(id, pid, command, why, owner.cookie, has_ended=not owner.has_socket)

    def mechanism_of(self, entry: FlowEntry) -> Mechanism:
        """By what a flow was told from others. Netfilter leaves its mark alone: the mechanism of its rules for that."""
        reason = entry.why if isinstance(entry.why, Reason) else Reason(Decider.AGENT)
        if reason.rule is not None:
            return mechanism_of(reason.rule)
        if reason.decider is not Decider.NETFILTER:
            return Mechanism.DEFAULT
        fitting = {
            mechanism_of(rule)
            for rule in netfilter_part(self.rules, self._is_decidable)
            if rule.application == entry.application_id and rule.matches_flow(entry.flow, entry.dscp)
        }
        return fitting.pop() if len(fitting) == 1 else Mechanism.MARK

    def assignments(self) -> list[dict[str, Any]]:
        """Every rule in the order of trial, as `upmt assignments --json` prints it."""
        by_netfilter = self.decided_by_netfilter
        return [
            {
                "place": place,
                "application": self.by_id[rule.application].name,
                "conditions": str(rule),
                "addresses": [str(address) for address in rule.addresses],
                "origin": self.origin_of(rule),
                "decided_by": (Decider.NETFILTER if place <= by_netfilter else Decider.AGENT).value,
            }
            for place, rule in enumerate(self.rules, start=1)
        ]

    def origin_of(self, rule: ApplicationRule) -> str:
        """Where a rule comes from: `upmt run`, `upmt assign` or the configuration."""
        if rule in self.started:
            return "upmt run"
        if rule in self._assigned:
            return "upmt assign"
        found = (source.value for source, rules in self._declared.items() if rule in rules)
        return next(found, Source.CONFIGURATION.value)


def _settings(section: ApplicationSection | None) -> object:
    return section and (
        section.networks,
        section.policy,
        section.on_no_network,
        section.anchor,
        section.resolver,
    )


def _resolver_of(section: ApplicationSection | None) -> tuple[str, ...] | None:
    if section is None or section.resolver is None:
        return None
    return tuple(map(str, section.resolver)) if isinstance(section.resolver, tuple) else ()


def _given(match: MatchSection) -> dict[str, Any]:
    return match.model_dump(exclude_none=True)


def _is_guess(
    owner: Owner,
    rules: Iterable[ApplicationRule],
    found: ApplicationRule | None,
    flow: FlowKey,
    dscp: int,
) -> bool:
    """Whether another answer was possible, had the process been known for certain."""
    if owner.found_by is None or owner.is_certain:
        return False
    return is_guess(rules, None if owner.process is not None else found, flow, dscp)


def _same_conditions(one: ApplicationRule, other: ApplicationRule) -> bool:
    return replace(one, application=other.application) == other
