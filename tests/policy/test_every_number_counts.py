"""Each number of each profile is evaluated: another one gives another outcome."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache, lru_cache
from typing import Any

import pytest
from policy_course import (
    APP,
    CABLE,
    FINE,
    LTE,
    WIFI,
    becomes,
    both_up,
    path,
    profile,
    random_trace,
    story,
    trace,
)

from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import SCORED, Policy
from upmt_nf.policy.profiles import PROFILES
from upmt_nf.policy.quality import Criterion
from upmt_nf.policy.replay import replay
from upmt_nf.policy.trace import Step, Trace

FREE = (
    NetworkFacts(WIFI, "wifi", throughput=50e6),
    NetworkFacts(LTE, "cellular", throughput=20e6),
    NetworkFacts(CABLE, "wired"),
)
PAID = (FREE[0], replace(FREE[1], cost=0.5), replace(FREE[2], cost=4.0))
Story = list[tuple[float, str | None, str]]
TIMES = ("bad_for", "good_for", "hold", "penalty_longest", "forgive")


def other_policies(policy: Policy) -> Iterator[tuple[str, Policy]]:
    """Each number a fifth smaller or larger, one at a time."""
    for factor in (0.8, 1.25):
        for key in TIMES:
            yield f"{key} x {factor}", replace(policy, **{key: getattr(policy, key) * factor})
        for key in ("leave", "enter"):
            limits = getattr(policy, key)
            for criterion, limit in limits.given().items():
                changed = replace(limits, **{criterion.value: limit * factor})
                yield f"{key}.{criterion.value} x {factor}", replace(policy, **{key: changed})
        if policy.kind in SCORED:
            yield f"margin x {factor}", replace(policy, margin=policy.margin * factor)
    if policy.kind in SCORED:
        for field in fields(policy.weights):
            if value := getattr(policy.weights, field.name):
                weights = replace(policy.weights, **{field.name: value * 3})
                yield f"weights.{field.name}", replace(policy, weights=weights)


def around(policy: Policy) -> Iterator[Trace]:
    """Traces that come near each threshold: to and fro between fine and bad, for as long as penalties grow."""
    for gap in (0.0, 0.5, 0.9, 1.1, 1.3):
        # A better network and, a moment later, a still better one: shows `hold`.
        at = 100 + gap * policy.hold
        steps: list[Step] = [
            *both_up(),
            *(path(20, name, False) for name in (WIFI, LTE)),
            becomes(20, CABLE, {**FINE, "throughput": 10e6}, True),
            becomes(100, LTE, {**FINE, "throughput": 20e6}, True),
            becomes(at, WIFI, {**FINE, "throughput": 80e6}, True),
        ]
        yield trace(steps, 900)
    beyond: dict[Criterion, float] = {
        criterion: limit * (0.5 if criterion is Criterion.THROUGHPUT else 2)
        for criterion, limit in policy.leave.given().items()
    }
    for criterion, bad in beyond.items():
        for limits, factors in ((policy.leave, (0.9, 1.1)), (policy.enter, (0.9, 1.1))):
            if (limit := limits.given().get(criterion)) is None:
                continue
            for factor in factors:
                steps = both_up()
                key = criterion.value
                steps.append(becomes(100, WIFI, {key: bad}))
                steps.append(becomes(300, WIFI, {**FINE, key: limit * factor}))
                yield trace(steps, 900)
                yield trace([*steps, path(50, LTE, False), becomes(50, CABLE, FINE, True)], 900)
                yield trace([*both_up(), becomes(100, WIFI, {key: limit * factor})], 900)
        # Bad for a while, again and again: shows bad_for, the growing penalty, its end and its pardon.
        for bad_for, pause in (
            (policy.bad_for * 1.1, 900.0),
            (policy.bad_for * 0.9, 900.0),
            (90.0, 3900.0),
            (90.0, 3200.0),
        ):
            steps = both_up()
            at = 100.0
            for _ in range(9):
                steps.append(becomes(at, WIFI, {criterion.value: bad}))
                steps.append(becomes(at + max(bad_for, 0.1), WIFI, FINE))
                at += max(bad_for, 0.1) + pause
            yield trace(steps, at)
        for wait in (0.9, 1.1):
            # The better network comes back just before or after `hold` is over.
            steps = [
                *both_up(),
                becomes(0, WIFI, {criterion.value: bad}),
                becomes(policy.good_for * wait, WIFI, FINE),
            ]
            yield trace(steps, 900)
    for seed in range(60):
        yield random_trace(seed, 2400)


def policy_of(name: str) -> Policy:
    return profile(name, networks=(WIFI, LTE, CABLE))


@lru_cache(maxsize=2)
def traces_around(name: str) -> tuple[Trace, ...]:
    return tuple(around(policy_of(name)))


def outcome(course: Trace, networks: tuple[NetworkFacts, ...], policy: Policy) -> Story:
    return story(replay(course, networks, {APP: policy}, count_every=3600).courses[APP])


@cache
def usual_outcome(name: str, networks: tuple[NetworkFacts, ...], place: int) -> Story:
    return outcome(traces_around(name)[place], networks, policy_of(name))


def differs(name: str, other: Policy) -> bool:
    return any(
        usual_outcome(name, networks, place) != outcome(course, networks, other)
        for place, course in enumerate(traces_around(name))
        for networks in (FREE, PAID)
    )


def cases() -> list[Any]:
    return [
        pytest.param(name, label, id=f"{name}-{label}")
        for name in PROFILES
        for label, _ in other_policies(profile(name))
    ]


@pytest.mark.parametrize(("name", "label"), cases())
def test_another_number_gives_another_outcome(name: str, label: str) -> None:
    assert differs(name, dict(other_policies(policy_of(name)))[label])
