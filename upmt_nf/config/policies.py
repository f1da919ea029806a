"""`[[policy]]` of the mobile host's file, and what an application says of its policy -> values of `policy/`.

A policy extends a profile, one of the authors' kinds or another `[[policy]]`; what it says itself replaces that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from upmt_nf.config.checked import Complaint, Section
from upmt_nf.config.quantities import Rate, Share, SomeTime, Time, WrittenBudget, WrittenHours
from upmt_nf.config.toml_lines import KeyPath
from upmt_nf.config.values import Name
from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.budget import Budget
from upmt_nf.policy.network import NetworkFacts, Protection
from upmt_nf.policy.policy import SCORED, Kind, Policy
from upmt_nf.policy.profiles import BARE_KINDS, PROFILES
from upmt_nf.policy.quality import BEST_VOICE_SCORE, MORE_IS_BETTER, Criterion, Thresholds, Weights

ANY = "any"
LONGEST_REORDER = 0.5
"""Seconds: a sender takes what is later for lost."""
KindName = Literal[
    "PriorityList",
    "Static",
    "Any",
    "Block",
    "PerformancePriorityList",
    "VoipPerformance",
    "BestPerformance",
    "WiredBeforeWireless",
    "OnlyFree",
]
ProtectionName = Literal["plain", "cookie", "sealed"]


def listed(value: Any) -> Any:
    """One as a list of one."""
    return [value] if isinstance(value, str) else value


NetworkOrder = Annotated[tuple[Name, ...], BeforeValidator(listed), Field(min_length=1)]
"""Networks in order of preference; `any` stands for all others in the order of the file."""
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class ThresholdsSection(Section):
    """`leave = { delay = "250 ms" }`: limits, each with its unit."""

    delay: SomeTime | None = None
    """One way."""
    jitter: SomeTime | None = None
    loss: Share | None = None
    throughput: Rate | None = None
    voice_score: Annotated[float, Field(ge=1, le=BEST_VOICE_SCORE)] | None = None
    """1 to 4.42 (MOS)."""

    def value(self) -> Thresholds:
        """As the policy has it."""
        return Thresholds(self.delay, self.jitter, self.loss, self.throughput, self.voice_score)


class WeightsSection(Section):
    """`weights = { cost = 3, throughput = 1 }`: how much each criterion counts in the score."""

    cost: Weight = 0
    throughput: Weight = 0
    loss: Weight = 0
    delay: Weight = 0
    jitter: Weight = 0
    security: Weight = 0


class PolicyTerms(Section):
    """What a policy may say, always or at certain hours."""

    networks: NetworkOrder | None = None
    leave: ThresholdsSection = ThresholdsSection()
    enter: ThresholdsSection = ThresholdsSection()
    weights: WeightsSection | None = None
    margin: Annotated[float, Field(gt=0, le=3)] | None = None
    bad_for: Time | None = None
    good_for: SomeTime | None = None
    hold: Time | None = None
    penalty_longest: SomeTime | None = None
    forgive: SomeTime | None = None
    protection: ProtectionName | None = None
    protection_untrusted: ProtectionName | None = None
    cost_limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Of a gigabyte, in the unit of `network.cost`."""
    budgets: Annotated[tuple[WrittenBudget, ...], BeforeValidator(listed)] | None = None
    redundant: bool | None = None
    """Each packet by the two best networks at once."""
    reorder: SomeTime | None = None
    """How long an arriving packet may wait for those that were sent before it."""


class HoursSection(PolicyTerms):
    """`[[policy.when]]`: what else holds at certain hours."""

    hours: WrittenHours
    kind: KindName | None = None


class PolicySection(PolicyTerms):
    """`[[policy]]`: a policy of the administrator's own."""

    name: Name
    kind: KindName | None = None
    extends: Name | None = None
    when: tuple[HoursSection, ...] = ()


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
        self._complaints += [((*path, *place), reason) for place, reason in self._objections(policy, terms)]
        return policy

    def _objections(self, policy: Policy, terms: PolicyTerms) -> Iterator[Complaint]:
        yield from self._unknown_networks(policy, terms)
        yield from _misplaced(policy, terms)
        yield from _thresholds(policy, terms)
        yield from _times(policy, terms)
        yield from self._budgets(policy, terms)
        if not [name for name in policy.networks if name not in self._names]:
            yield from self._impossible(policy, terms)

    @property
    def _names(self) -> dict[NetworkName, NetworkFacts]:
        return {facts.name: facts for facts in self._networks}

    def _unknown_networks(self, policy: Policy, terms: PolicyTerms) -> Iterator[Complaint]:
        there = f"there are {', '.join(self._names)}"
        for name in terms.networks or ():
            if name != ANY and name not in self._names:
                yield ("networks",), f"there is no network {name!r}; {there}"
        for budget in terms.budgets or ():
            if budget.network is not None and budget.network not in self._names:
                yield ("budgets",), f"there is no network {budget.network!r}; {there}"
            elif budget.network is not None and budget.network not in policy.networks:
                yield ("budgets",), f"{budget}: the policy never uses {budget.network}"

    def _budgets(self, policy: Policy, terms: PolicyTerms) -> Iterator[Complaint]:
        budgets = terms.budgets or ()
        for place, budget in enumerate(budgets):
            same = (budget.period, budget.network, budget.is_cost)
            if same in [(other.period, other.network, other.is_cost) for other in budgets[:place]]:
                yield ("budgets",), f"{budget}: there is another one of the same kind before it"
            if (reason := too_small(budget, policy.networks, self._names)) is not None:
                yield ("budgets",), reason

    def _impossible(self, policy: Policy, terms: PolicyTerms) -> Iterator[Complaint]:
        """What no network of the policy can ever satisfy."""
        if policy.kind is Kind.BLOCK:
            return
        candidates = [self._names[name] for name in policy.networks]
        reasons = {facts.name: policy.never(facts) for facts in candidates}
        if all(reason is not None for reason in reasons.values()):
            said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            keys = ("protection", "protection_untrusted", "cost_limit", "networks", "kind", "extends")
            key = next((key for key in keys if getattr(terms, key, None) is not None), "name")
            yield (key,), f"no network can ever satisfy it: {said}"
        speeds = [facts.throughput for facts in candidates]
        known = [speed for speed in speeds if speed is not None]
        for key in ("leave", "enter"):
            wanted = getattr(policy, key).throughput
            if wanted and known and len(known) == len(speeds) and max(known) < wanted:
                reason = (
                    f"throughput {wanted / 1e6:g} Mbit/s: the fastest network has {max(known) / 1e6:g} Mbit/s"
                )
                yield (key,), reason


def too_small(
    budget: Budget, networks: Iterable[NetworkName], known: Mapping[NetworkName, NetworkFacts]
) -> str | None:
    """A budget that is gone before it can be counted, by the network's throughput; None when it is large enough."""
    for name in networks:
        facts = known.get(name)
        if facts is None or facts.throughput is None or budget.network not in (None, name):
            continue
        second = facts.throughput / 8 * (facts.cost / 1e9 if budget.is_cost else 1.0)
        if budget.limit < 4 * second:
            return f"{budget}: {name} can use that up in less than four seconds, which cannot be kept"
    return None


def _misplaced(policy: Policy, terms: PolicyTerms) -> Iterator[Complaint]:
    """Terms that mean nothing for this kind."""
    said = terms.model_fields_set
    kind = policy.kind
    if kind is Kind.STATIC and len(policy.networks) != 1:
        yield ("networks",), f"Static is for one network, here are {len(policy.networks)}"
    if kind is Kind.BLOCK:
        for key in sorted(said - {"name", "kind", "extends", "hours", "when"}):
            yield (key,), "means nothing where everything is blocked"
    if kind in (Kind.STATIC, Kind.ANY):
        for key in sorted(said & {"leave", "enter", "good_for", "hold"}):
            if kind is Kind.STATIC or key in ("good_for", "hold"):
                yield (key,), f"{kind.value} never moves for that"
    if terms.reorder is not None and terms.reorder > LONGEST_REORDER:
        yield ("reorder",), f"no packet waits longer than {1000 * LONGEST_REORDER:g} ms for another"
    if terms.redundant and kind is not Kind.BLOCK and len(policy.networks) < 2:
        yield ("redundant",), f"needs two networks, and {', '.join(policy.networks)} is one"
    if "weights" in said and kind is not Kind.BEST_PERFORMANCE:
        yield ("weights",), f"only BestPerformance has a score to weigh, not {kind.value}"
    if "weights" in said and not policy.weights.total:
        yield ("weights",), "all are 0"
    if "margin" in said and kind not in SCORED:
        yield ("margin",), f"only BestPerformance and VoipPerformance have a score, not {kind.value}"


def _thresholds(policy: Policy, terms: PolicyTerms) -> Iterator[Complaint]:
    leave, enter = policy.leave.given(), policy.enter.given()
    keys: list[str] = [key for key in ("enter", "leave") if key in terms.model_fields_set] or ["name"]
    for criterion, limit in leave.items():
        if criterion is Criterion.LOSS and limit >= 1:
            yield (keys[-1],), "loss 100 %: no network is ever worse"
        other = enter.get(criterion)
        if other is None:
            continue
        is_stricter = other > limit if criterion in MORE_IS_BETTER else other < limit
        if not is_stricter:
            yield (
                (keys[0],),
                f"{criterion.value}: enter must be stricter than leave, or a network is left as soon as it is gone to",
            )


def _times(policy: Policy, terms: PolicyTerms) -> Iterator[Complaint]:
    key = "penalty_longest" if terms.penalty_longest is not None else "good_for"
    if policy.penalty_longest < policy.good_for:
        yield (key,), "penalty_longest is shorter than good_for"
    key = "forgive" if terms.forgive is not None else "penalty_longest"
    if policy.forgive < policy.penalty_longest:
        yield (key,), "forgive is shorter than penalty_longest: nothing would ever be held against a network"
