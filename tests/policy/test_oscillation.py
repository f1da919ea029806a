"""However networks behave, an application does not go to and fro: the bound that docs/policies.md states."""

import pytest
from policy_course import APP, NETWORKS, course_of, profile, random_trace

from upmt_nf.policy.events import FORCED, Cause
from upmt_nf.policy.policy import SCORED, Policy
from upmt_nf.policy.profiles import PROFILES
from upmt_nf.policy.replay import Course, replay

SEEDS = range(100)
HOUR = 3600.0


def own_moves(course: Course) -> int:
    return sum(move.decision.cause not in FORCED for move in course.moves)


def forced_moves(course: Course) -> int:
    return sum(move.decision.cause in FORCED for move in course.moves)


def assert_penalties_were_served(course: Course, policy: Policy) -> None:
    """Independent of the engine's own books: who left a network for its faults comes back only after the penalty."""
    faults: dict[str, list[float]] = {}
    for move in course.moves:
        decision = move.decision
        if decision.cause not in FORCED and decision.target is not None:
            past = [at for at in faults.get(decision.target, []) if move.at - at <= policy.forgive]
            # All within the hour that is remembered: none is forgiven yet.
            assert not past or move.at - past[-1] >= policy.penalty(len(past)), (move, past)
        is_swing = policy.kind in SCORED and decision.cause is Cause.BETTER
        if (decision.cause in (Cause.WORSE, Cause.LOST) or is_swing) and decision.source is not None:
            faults.setdefault(decision.source, []).append(move.at)


@pytest.mark.parametrize("name", PROFILES)
def test_a_hundred_random_hours_stay_within_the_bound(name: str) -> None:
    policy = profile(name)
    bound = policy.most_moves(len(NETWORKS), HOUR)
    own, most = 0, 0
    for seed in SEEDS:
        course = replay(random_trace(seed, cuts=False), NETWORKS, {APP: policy}, count_every=600).courses[APP]
        assert own_moves(course) <= bound, seed
        assert_penalties_were_served(course, policy)
        own, most = own + own_moves(course), max(most, own_moves(course))
    if name != "backup":  # which may only be on the one free network
        assert own > 20, "the traces must tempt it to move"
    assert most <= 20


@pytest.mark.parametrize("name", PROFILES)
def test_networks_that_also_fall_and_return_add_only_what_they_force(name: str) -> None:
    policy = profile(name)
    bound = policy.most_moves(len(NETWORKS), HOUR)
    for seed in SEEDS[:40]:
        course = replay(random_trace(seed), NETWORKS, {APP: policy}, count_every=600).courses[APP]
        assert own_moves(course) <= bound + len(NETWORKS) * forced_moves(course), seed
        assert_penalties_were_served(course, policy)


@pytest.mark.parametrize("name", PROFILES)
def test_a_replay_is_the_same_bit_for_bit(name: str) -> None:
    for seed in range(10):
        once, again = (
            replay(random_trace(seed, 900), NETWORKS, {APP: profile(name)}, count_every=60) for _ in range(2)
        )
        assert repr(once) == repr(again)


def test_the_stated_bound_in_numbers() -> None:
    voice = profile("voice")
    assert [voice.penalty(leaves) for leaves in range(8)] == [0, 30, 60, 120, 240, 480, 600, 600]
    assert voice.most_returns(29) == 1
    assert voice.most_returns(60) == 2
    assert voice.most_returns(HOUR) == 10
    assert voice.most_moves(0, HOUR) == 0
    assert course_of(voice, [], 10).moves == []
