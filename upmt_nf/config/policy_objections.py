"""What makes no sense in a policy: unknown networks, contradictions, what no network can ever satisfy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from upmt_nf.config.checked import Complaint
from upmt_nf.config.policy_sections import ANY, PolicyTerms
from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.budget import Budget, Period
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import SCORED, Kind, Policy
from upmt_nf.policy.quality import MORE_IS_BETTER, Criterion, Thresholds, rate_said

LONGEST_REORDER = 0.5
"""Seconds: a sender takes what is later for lost."""
_Named = Mapping[NetworkName, NetworkFacts]


def objections(policy: Policy, terms: PolicyTerms, networks: Sequence[NetworkFacts]) -> Iterator[Complaint]:
    """What is wrong with a policy because of `terms`, which were said last; places are keys of `terms`."""
    named = {facts.name: facts for facts in networks}
    yield from _unknown_networks(policy, terms, named)
    yield from _misplaced(policy, terms)
    yield from _thresholds(policy, terms)
    yield from _times(policy, terms)
    yield from _budgets(policy, terms, named)
    if all(name in named for name in policy.networks):
        yield from _impossible(policy, terms, networks)


def _unknown_networks(policy: Policy, terms: PolicyTerms, named: _Named) -> Iterator[Complaint]:
    there = f"there are {', '.join(named)}"
    order = terms.networks or ()
    for place, name in enumerate(order):
        if name in order[:place]:
            yield ("networks",), f"{name!r} is there twice"
        elif name != ANY and name not in named:
            yield ("networks",), f"there is no network {name!r}; {there}"
    for budget in terms.budgets or ():
        if budget.network is not None and budget.network not in named:
            yield ("budgets",), f"there is no network {budget.network!r}; {there}"
        elif budget.network is not None and budget.network not in policy.networks:
            yield ("budgets",), f"{budget}: the policy never uses {budget.network}"


def _budgets(policy: Policy, terms: PolicyTerms, named: _Named) -> Iterator[Complaint]:
    budgets = terms.budgets or ()
    # A network that is not there is complained about by itself.
    costs = [named[name].cost for name in policy.networks if name in named]
    for place, budget in enumerate(budgets):
        same = (budget.period, budget.network, budget.is_cost)
        if same in [(other.period, other.network, other.is_cost) for other in budgets[:place]]:
            yield ("budgets",), f"{budget}: there is another one of the same kind before it"
        if (reason := too_small(budget, policy.networks, named)) is not None:
            yield ("budgets",), reason
        if budget.is_cost and costs and not any(costs):
            yield ("budgets",), f"{budget}: none of the policy's networks costs anything"
        month = replace(budget, period=Period.MONTH)
        of_month = [other for other in budgets if replace(other, limit=budget.limit) == month]
        if budget.period is Period.DAY and of_month and of_month[0].limit < budget.limit:
            yield ("budgets",), f"{budget} is more than {of_month[0]}: no day is longer than its month"


def _impossible(policy: Policy, terms: PolicyTerms, networks: Sequence[NetworkFacts]) -> Iterator[Complaint]:
    if policy.kind is Kind.BLOCK:
        return
    if (reason := never_satisfied(policy, networks)) is not None:
        keys = ("protection", "protection_untrusted", "cost_limit", "networks", "kind", "extends")
        key = next((key for key in keys if getattr(terms, key, None) is not None), "name")
        yield (key,), reason
    for key, reason in too_fast(policy, networks):
        yield (key if key in terms.model_fields_set else "name",), reason


def never_satisfied(policy: Policy, networks: Iterable[NetworkFacts]) -> str | None:
    """Why none of a policy's networks is ever allowed; None when one is."""
    reasons = {facts.name: policy.never(facts) for facts in networks if facts.name in policy.networks}
    if not all(reasons.values()):
        return None
    return "no network can ever satisfy it: " + "; ".join(
        f"{name}: {reason}" for name, reason in reasons.items()
    )


def too_fast(
    policy: Policy, networks: Iterable[NetworkFacts]
) -> Iterator[tuple[Literal["leave", "enter"], str]]:
    """Thresholds of throughput that none of a policy's networks can keep, by what the file says of them."""
    speeds = [facts.throughput for facts in networks if facts.name in policy.networks]
    known = [speed for speed in speeds if speed is not None]
    limits: tuple[tuple[Literal["leave", "enter"], Thresholds], ...]
    limits = (("leave", policy.leave), ("enter", policy.enter))
    for key, thresholds in limits:
        wanted = thresholds.throughput
        if wanted and known and len(known) == len(speeds) and max(known) < wanted:
            yield key, f"throughput {rate_said(wanted)}: the fastest network has {rate_said(max(known))}"


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


_PATIENCE = frozenset(("good_for", "hold"))
"""What is waited for before something better is gone to."""


def _misplaced(policy: Policy, terms: PolicyTerms) -> Iterator[Complaint]:
    """Terms that mean nothing for this kind."""
    said = terms.model_fields_set
    kind = policy.kind
    if kind is Kind.STATIC and len(policy.networks) != 1:
        yield ("networks",), f"Static is for one network, here are {len(policy.networks)}"
    if kind is Kind.BLOCK:
        for key in sorted(said - {"name", "kind", "extends", "hours", "when"}):
            yield (key,), "means nothing where everything is blocked"
    if "hours" in said and not said - {"hours"}:
        yield ("hours",), "says nothing of what holds at these hours"
    if kind is Kind.STATIC:
        for key in sorted(said & {"leave", "enter", *_PATIENCE, "bad_for", "penalty_longest", "forgive"}):
            yield (key,), f"{kind.value} never moves for that"
    if kind is Kind.ANY:
        for key in sorted(said & _PATIENCE):
            yield (key,), f"{kind.value} never moves for that"
    if terms.reorder is not None and terms.reorder > LONGEST_REORDER:
        yield ("reorder",), f"no packet waits longer than {1000 * LONGEST_REORDER:g} ms for another"
    if terms.redundant and kind is not Kind.BLOCK and len(policy.networks) < 2:
        yield ("redundant",), f"needs two networks, and {', '.join(policy.networks)} is one"
    if "weights" in said and kind is not Kind.BEST_PERFORMANCE:
        yield ("weights",), f"only BestPerformance has a score to weigh, not {kind.value}"
    if "weights" in said and not policy.weights.total:
        yield ("weights",), "all are 0"
    if kind is Kind.BEST_PERFORMANCE and terms.margin is not None and terms.margin >= 1:
        yield ("margin",), "no score is better by so much: scores of BestPerformance are from 0 to 1"
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
