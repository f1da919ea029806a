"""Budgets and protection are never broken: ten thousand simulated days, with crashes and moves that fail."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from policy_course import (
    APP,
    CABLE,
    FINE,
    LTE,
    WIFI,
    becomes,
    both_up,
    course_of,
    path,
    profile,
    story,
    trace,
)

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.budget import Budget, Ledger, Period
from upmt_nf.policy.civil_time import CivilClock, Hours
from upmt_nf.policy.events import Cause
from upmt_nf.policy.network import NetworkFacts, Protection
from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.replay import Course, replay
from upmt_nf.policy.trace import CrashStep, FailStep, PathStep, Step, Trace, TrafficStep

DAY = 86400.0
COUNT_EVERY = 1800.0
SPEED = 80e3
"""bit/s of each network: 18 MB may pass between two counts."""
BULK, CALL = ApplicationName("bulk"), ApplicationName("call")
FACTS = (
    NetworkFacts(WIFI, "wifi", is_trusted=False, protection=Protection.COOKIE, throughput=SPEED),
    NetworkFacts(
        LTE,
        "cellular",
        cost=4.0,
        is_metered=True,
        protection=Protection.SEALED,
        throughput=SPEED,
        budgets=(Budget(500e6, Period.DAY, LTE), Budget(4e9, Period.MONTH, LTE)),
    ),
    NetworkFacts(CABLE, "wired", protection=Protection.PLAIN, throughput=SPEED),
)
NIGHT = Hours(22 * 3600, 6 * 3600)
_bulk = Policy(
    "bulk",
    Kind.PRIORITY_LIST,
    (WIFI, LTE, CABLE),
    budgets=(
        Budget(200e6, Period.DAY, LTE),
        Budget(3e9, Period.MONTH, LTE),
        Budget(5.0, Period.MONTH, is_cost=True),
    ),
)
POLICIES = {
    # At night it must not be read on the way; by day not on networks that nobody trusts.
    BULK: replace(_bulk, by_time=((NIGHT, replace(_bulk, protection=Protection.COOKIE)),)),
    CALL: replace(
        profile("voice"),
        networks=(CABLE, WIFI, LTE),
        protection_untrusted=Protection.SEALED,
        budgets=(Budget(300e6, Period.DAY, LTE),),
    ),
}


def days(seed: int, count: int) -> Trace:
    random = Random(seed)
    steps: list[Step] = [becomes(0, facts.name, {**FINE, "throughput": SPEED}, True) for facts in FACTS]
    up = {facts.name: True for facts in FACTS}
    at = 0.0
    while (at := at + random.expovariate(1 / 7200)) < count * DAY:
        match random.randrange(12):
            case 0 | 1 | 2 | 3:
                name = random.choice(FACTS).name
                up[name] = not up[name]
                steps.append(path(at, name, up[name]))
            case 4 | 5 | 6:
                steps.append(
                    TrafficStep(at, random.choice((BULK, CALL)), random.choice((0, SPEED / 4, SPEED / 2)))
                )
            case 7 | 8:
                steps.append(path(at, random.choice(FACTS).name, loss=random.choice((0.0, 0.02, 0.1))))
            case 9 | 10:
                steps.append(FailStep(at, random.uniform(1, 600)))
            case _:
                steps.append(CrashStep(at, random.uniform(1, 3600)))
    return trace(steps, count * DAY, start=random.randrange(0, 400) * DAY + random.random() * DAY)


class Meter:
    """Counts what really passed, from where applications were and what they sent; knows nothing of the engine."""

    def __init__(self, course: Trace) -> None:
        self.start = course.start
        self.up = {facts.name: _history(course, facts.name) for facts in FACTS}
        self.rates = {
            name: [
                (step.at, step.rate)
                for step in course.steps
                if isinstance(step, TrafficStep) and step.application == name
            ]
            for name in POLICIES
        }

    def by_period(self, course: Course, network: NetworkName, period: Period) -> dict[int, float]:
        found: dict[int, float] = {}
        rates, ups = self.rates[course.name], self.up[network]
        place = link = 0
        rate, is_up = 0.0, False
        for stay in course.stays:
            begin = stay.begin
            while begin < stay.end:
                while place < len(rates) and rates[place][0] <= begin:
                    rate, place = rates[place][1], place + 1
                while link < len(ups) and ups[link][0] <= begin:
                    is_up, link = ups[link][1], link + 1
                midnight = (int((begin + self.start) // DAY) + 1) * DAY - self.start
                end = min(stay.end, midnight)
                if place < len(rates):
                    end = min(end, rates[place][0])
                if link < len(ups):
                    end = min(end, ups[link][0])
                if network in (stay.network, stay.copies_on) and is_up:
                    key = period.key(CivilClock(self.start).at((begin + end) / 2))
                    found[key] = found.get(key, 0.0) + rate / 8 * (end - begin)
                begin = end
        return found


def _history(course: Trace, network: NetworkName) -> list[tuple[float, bool]]:
    steps = [step for step in course.steps if isinstance(step, PathStep) and step.network == network]
    return [(step.at, step.is_up) for step in steps if step.is_up is not None]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_ten_thousand_days_break_no_budget_and_no_protection(seed: int) -> None:
    course = days(seed, 500)
    # In every other run the call goes by two networks at once, which spends twice.
    policies = {**POLICIES, CALL: replace(POLICIES[CALL], is_redundant=seed % 2 == 1)}
    report = replay(course, FACTS, policies, COUNT_EVERY)
    meter = Meter(course)
    clock = CivilClock(course.start)
    used: dict[ApplicationName, dict[Period, dict[int, float]]] = {}
    for name, policy in POLICIES.items():
        one = report.courses[name]
        used[name] = {period: meter.by_period(one, LTE, period) for period in Period}
        for budget in policy.budgets:
            factor = 4.0 / 1e9 if budget.is_cost else 1.0
            assert max(used[name][budget.period].values()) * factor <= budget.limit, (name, budget)
        for stay, facts in [
            (stay, facts)
            for stay in one.stays
            for facts in FACTS
            if facts.name in (stay.network, stay.copies_on)
        ]:
            # The middle and both ends: a stay that runs into the night must have ended there.
            for at in (stay.begin, (stay.begin + stay.end) / 2, stay.end - 0.01):
                if at >= stay.begin:
                    assert policy.at(clock.at(at)).never(facts) is None, (name, stay, clock.at(at))
    for budget in FACTS[1].budgets:
        periods = set(used[BULK][budget.period]) | set(used[CALL][budget.period])
        for key in periods:
            both = sum(used[name][budget.period].get(key, 0.0) for name in POLICIES)
            assert both <= budget.limit, budget
    # The traces were a temptation: budgets were nearly used up, and crashes and failures came in the way.
    assert max(used[BULK][Period.DAY].values()) > 0.5 * 200e6
    assert (
        any(stay.copies_on is not None for stay in report.courses[CALL].stays) is policies[CALL].is_redundant
    )
    assert any(move.succeeded is False for move in report.courses[BULK].moves)
    assert any(move.decision.cause is Cause.BUDGET for move in report.courses[BULK].moves)


def test_a_budget_that_runs_out_moves_in_time_and_returns_at_midnight() -> None:
    policy = Policy("p", Kind.PRIORITY_LIST, (LTE, WIFI), budgets=(Budget(200e6, Period.DAY, LTE),))
    steps = [*both_up(), TrafficStep(0, APP, 16e6)]
    course = course_of(policy, steps, DAY + 3600)
    first, away, back, again = (move for move in course.moves if move.decision.target != WIFI or move.at > 1)
    assert (first.decision.target, away.decision.cause, away.decision.is_urgent) == (LTE, Cause.BUDGET, False)
    assert 90 < away.at <= 100
    assert "200 MB/day on lte" in away.decision.reason
    assert (back.decision.target, back.decision.cause) == (LTE, Cause.BETTER)
    assert back.at == pytest.approx(DAY, abs=1)
    assert again.decision.cause is Cause.BUDGET


def test_without_another_network_the_application_waits_for_midnight() -> None:
    policy = Policy("p", Kind.STATIC, (LTE,), budgets=(Budget(200e6, Period.DAY, LTE),))
    steps = [*both_up(), TrafficStep(0, APP, 16e6)]
    course = course_of(policy, steps, DAY + 60, start=12 * 3600.0)
    assert [(move.decision.target, move.decision.cause) for move in course.moves[:3]] == [
        (LTE, Cause.FIRST),
        (None, Cause.BARRED),
        (LTE, Cause.BARRED),
    ]
    assert course.moves[2].at == pytest.approx(DAY / 2, abs=1)


def test_bytes_that_a_crash_left_uncounted_are_taken_as_spent() -> None:
    time = CivilClock().at(0)
    ledger = Ledger()
    ledger.add(APP, LTE, 1000, time)
    budget = Budget(1e6, Period.DAY, LTE)
    back = Ledger.recovered(ledger.saved(), [APP], {LTE: 500.0}, time)
    assert back.spent(budget, APP, time, {}) == 1500
    assert Ledger.recovered(ledger.saved()).spent(budget, APP, time, {}) == 1000


def test_a_clock_that_is_set_back_brings_no_budget_back() -> None:
    ledger = Ledger()
    budget = Budget(1e6, Period.DAY, LTE)
    ledger.add(APP, LTE, 1000, CivilClock().at(5 * DAY))
    ledger.add(APP, LTE, 1000, CivilClock().at(4 * DAY))
    assert ledger.spent(budget, APP, CivilClock().at(4 * DAY), {}) == 2000
    assert ledger.spent(budget, APP, CivilClock().at(6 * DAY), {}) == 0


@pytest.mark.parametrize(
    "rows",
    [[["app", "lte"]], [[1, "lte", 1, 1, 0, 0]], [["app", "lte", 1.5, 1, 0, 0]], [["a", "b", 1, 1, "x", 0]]],
)
def test_a_damaged_ledger_is_refused(rows: list[list[object]]) -> None:
    with pytest.raises(ValueError):
        Ledger.recovered(rows)


def test_hours_end_where_they_say() -> None:
    base = Policy("p", Kind.PRIORITY_LIST, (WIFI, LTE))
    policy = replace(base, by_time=((NIGHT, replace(base, networks=(LTE,))),))
    course = course_of(policy, both_up(), DAY, start=12 * 3600.0)
    assert story(course) == [
        (0, WIFI, "first network"),
        (10 * 3600, LTE, "not allowed"),
        (18 * 3600, WIFI, "a better network"),
    ]
