"""Every kind of policy heeds every threshold: a hair within it and a hair beyond it are two stories."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policy_course import FINE, LTE, WIFI, becomes, both_up, course_of

from upmt_nf.policy.network import NetworkFacts, Protection
from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.quality import MORE_IS_BETTER, Criterion, Quality, Thresholds, voice_score
from upmt_nf.policy.trace import Step

NETWORKS = (NetworkFacts(WIFI, "wired"), NetworkFacts(LTE, "cellular"))
LIMITS = {
    Criterion.DELAY: (0.2, 0.1),
    Criterion.JITTER: (0.04, 0.02),
    Criterion.LOSS: (0.05, 0.02),
    Criterion.THROUGHPUT: (2e6, 5e6),
    Criterion.VOICE_SCORE: (3.0, 3.6),
}
"""`leave` and `enter`."""
MOVING = sorted(set(Kind) - {Kind.STATIC, Kind.BLOCK}, key=lambda kind: kind.value)
RANKED = [Kind.PRIORITY_LIST, Kind.PERFORMANCE_PRIORITY_LIST, Kind.WIRED_BEFORE_WIRELESS, Kind.ONLY_FREE]
"""Those that go back to a better network, whatever its score."""


def policy(kind: Kind, criterion: Criterion) -> Policy:
    # No score is better by so much: what moves it is the threshold.
    margin = 3.0 if kind is Kind.VOIP_PERFORMANCE else 0.99
    leave, enter = (Thresholds(**{criterion.value: limit}) for limit in LIMITS[criterion])
    return Policy("p", kind, (WIFI, LTE), leave, enter, margin=margin, bad_for=2, good_for=10, hold=0)


def quality(criterion: Criterion, value: float) -> dict[str, float | None]:
    """Fine but for this; a voice score comes from the loss that makes it."""
    if criterion is not Criterion.VOICE_SCORE:
        return {**FINE, criterion.value: value}
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        score = voice_score(Quality(FINE["delay"], FINE["jitter"], middle)) or 0.0
        low, high = (middle, high) if score > value else (low, middle)
    return {**FINE, "loss": low}


def hair(criterion: Criterion, limit: float, *, beyond: bool) -> float:
    is_less = beyond == (criterion in MORE_IS_BETTER)
    return limit * (0.999 if is_less else 1.001)


def networks_of(kind: Kind, criterion: Criterion, values: list[float]) -> list[str | None]:
    steps: list[Step] = both_up()
    steps += [
        becomes(50 * (place + 1), WIFI, quality(criterion, value)) for place, value in enumerate(values)
    ]
    course = course_of(policy(kind, criterion), steps, 200, NETWORKS)
    return [move.decision.target for move in course.moves]


@pytest.mark.parametrize("criterion", Criterion)
@pytest.mark.parametrize("kind", MOVING)
def test_a_hair_beyond_leave_is_left_and_a_hair_within_is_not(kind: Kind, criterion: Criterion) -> None:
    limit, _ = LIMITS[criterion]
    assert networks_of(kind, criterion, [hair(criterion, limit, beyond=False)]) == [WIFI]
    assert networks_of(kind, criterion, [hair(criterion, limit, beyond=True)]) == [WIFI, LTE]


@pytest.mark.parametrize("criterion", Criterion)
@pytest.mark.parametrize("kind", RANKED)
def test_a_hair_within_enter_is_gone_back_to_and_a_hair_beyond_is_not(
    kind: Kind, criterion: Criterion
) -> None:
    leave, enter = LIMITS[criterion]
    bad = hair(criterion, leave, beyond=True)
    assert networks_of(kind, criterion, [bad, hair(criterion, enter, beyond=True)]) == [WIFI, LTE]
    assert networks_of(kind, criterion, [bad, hair(criterion, enter, beyond=False)]) == [WIFI, LTE, WIFI]


@pytest.mark.parametrize("kind", MOVING)
def test_cost_and_protection_are_limits_of_every_kind(kind: Kind) -> None:
    wifi = replace(NETWORKS[0], cost=2.0, is_trusted=False, protection=Protection.COOKIE)
    at_most = Policy("p", kind, (WIFI, LTE), cost_limit=2.0, protection_untrusted=Protection.COOKIE)
    within = WIFI if kind is not Kind.ONLY_FREE else LTE
    for policy, wanted in (
        (at_most, within),
        (replace(at_most, cost_limit=1.999), LTE),
        (replace(at_most, protection_untrusted=Protection.SEALED), LTE),
        (replace(at_most, protection=Protection.SEALED, networks=(WIFI,)), None),
    ):
        course = course_of(policy, both_up(), 60, (wifi, NETWORKS[1]))
        assert [move.decision.target for move in course.moves][:1] == ([wanted] if wanted else [])
