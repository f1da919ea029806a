"""`[[policy]]` of the mobile host's file, and what an application says of its policy -> values of `policy/`.

A policy extends a profile, one of the authors' kinds or another `[[policy]]`; what it says itself replaces that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from upmt_nf.config.checked import Complaint
from upmt_nf.config.policy_objections import objections
from upmt_nf.config.policy_sections import ANY, PolicySection, PolicyTerms
from upmt_nf.config.toml_lines import KeyPath
from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.network import NetworkFacts, Protection
from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.profiles import BARE_KINDS, PROFILES
from upmt_nf.policy.quality import Weights


@dataclass(frozen=True, slots=True)
class PolicyBook:
    """All policies of a file by name, ready for use, and what is wrong with them."""

    policies: Mapping[str, Policy]
    complaints: tuple[Complaint, ...]


def policy_book(sections: Sequence[PolicySection], networks: Sequence[NetworkFacts]) -> PolicyBook:
    """Profiles, kinds and sections with their networks spelled out. Complaints name the place in the file."""
    return _Book(sections, networks).read()


def spelled_out(order: Iterable[str], networks: Sequence[NetworkFacts]) -> tuple[NetworkName, ...]:
    """`any` replaced by all other networks, in the order of the file."""
    order = list(order)
    others = [facts.name for facts in networks if facts.name not in order]
    found: dict[NetworkName, None] = {}
    for name in order:
        found |= dict.fromkeys(others if name == ANY else [NetworkName(name)])
    return tuple(found)


def with_networks(policy: Policy, order: Iterable[str], networks: Sequence[NetworkFacts]) -> Policy:
    """The same policy for other networks; hours that have networks of their own keep them."""
    names = spelled_out(order, networks)
    by_time = tuple(
        (hours, replace(other, networks=names) if other.networks == policy.networks else other)
        for hours, other in policy.by_time
    )
    return replace(policy, networks=names, by_time=by_time)


class _Book:
    def __init__(self, sections: Sequence[PolicySection], networks: Sequence[NetworkFacts]) -> None:
        self._sections = sections
        self._networks = networks
        self._places = {section.name: place for place, section in reversed(list(enumerate(sections)))}
        self._complaints: list[Complaint] = []
        everything = spelled_out([ANY], networks)
        self._known: dict[str, Policy] = {
            name: replace(policy, networks=() if policy.kind is Kind.BLOCK else everything)
            for name, policy in {**BARE_KINDS, **PROFILES}.items()
        }

    def read(self) -> PolicyBook:
        for place, section in enumerate(self._sections):
            if section.name in PROFILES or section.name in {kind.value for kind in Kind}:
                self._complain(
                    place, "name", f"{section.name!r} is a ready-made policy: extend it by another name"
                )
            elif self._places[section.name] != place:
                self._complain(place, "name", f"{section.name!r} is there twice")
        for section in self._sections:
            self._policy(section.name, ())
        return PolicyBook(self._known, tuple(self._complaints))

    def _policy(self, name: str, through: tuple[str, ...]) -> Policy | None:
        if name in self._known:
            return self._known[name]
        place = self._places.get(name)
        if place is None:
            return None
        if name in through:
            self._complain(place, "extends", f"{' extends '.join((*through, name))}: a circle")
            return None
        section = self._sections[place]
        start = self._start(section, place, (*through, name))
        if start is None:
            # Something to go on with, so that the rest of the file is checked as well.
            start = self._known["Any"]
        policy = self._amended(start, section, ("policy", place))
        by_time = []
        for index, hours in enumerate(section.when):
            path: KeyPath = ("policy", place, "when", index)
            if hours.hours in [other.hours for other in section.when[:index]]:
                self._complaints.append(((*path, "hours"), "these hours are there already: the first wins"))
            kind = Kind(hours.kind) if hours.kind is not None else policy.kind
            by_time.append((hours.hours, self._amended(replace(policy, kind=kind), hours, path)))
        self._known[name] = replace(policy, by_time=tuple(by_time) or start.by_time)
        return self._known[name]

    def _start(self, section: PolicySection, place: int, through: tuple[str, ...]) -> Policy | None:
        if section.extends is not None and section.kind is not None:
            self._complain(place, "kind", "extends says the kind already")
        if section.extends is not None:
            start = self._policy(section.extends, through)
            if start is None and section.extends not in through:
                known = ", ".join([*PROFILES, *BARE_KINDS, *self._places])
                self._complain(place, "extends", f"there is no policy {section.extends!r}; there are {known}")
            return start
        if section.kind is None:
            self._complain(place, "name", "say what it is: kind or extends is missing")
            return None
        if section.kind == Kind.STATIC.value:
            return replace(self._known["PriorityList"], kind=Kind.STATIC)
        return self._known[section.kind]

    def _complain(self, place: int, key: str, reason: str) -> None:
        self._complaints.append((("policy", place, key), reason))

    # --- one policy ---

    def _amended(self, start: Policy, terms: PolicyTerms, path: KeyPath) -> Policy:
        given: dict[str, Any] = {
            key: value
            for key in ("margin", "bad_for", "good_for", "hold", "penalty_longest", "forgive", "cost_limit")
            if (value := getattr(terms, key)) is not None
        }
        if terms.networks is not None:
            given["networks"] = spelled_out(terms.networks, self._networks)
        elif start.kind is not Kind.BLOCK and not start.networks:
            given["networks"] = spelled_out([ANY], self._networks)
        if terms.reorder is not None:
            given["reorder"] = terms.reorder
        for key in ("protection", "protection_untrusted"):
            if (value := getattr(terms, key)) is not None:
                given[key] = Protection[value.upper()]
        if terms.budgets is not None:
            given["budgets"] = terms.budgets
        if terms.redundant is not None:
            given["is_redundant"] = terms.redundant
        if terms.weights is not None:
            given["weights"] = Weights(**terms.weights.model_dump())
        given["leave"] = terms.leave.value().over(start.leave)
        given["enter"] = terms.enter.value().over(start.enter)
        if isinstance(terms, PolicySection):
            given["name"] = terms.name
        policy = replace(start, **given)
        self._complaints += [
            ((*path, *place), reason) for place, reason in objections(policy, terms, self._networks)
        ]
        return policy
