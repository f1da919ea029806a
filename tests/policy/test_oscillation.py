"""However networks behave, an application does not go to and fro, and is decided for alike again (docs/policies.md)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from policy_course import (
    APP,
    LTE,
    NETWORKS,
    WIFI,
    both_up,
    course_of,
    path,
    profile,
    random_trace,
    trace,
)

from upmt_nf.model.identity import ApplicationName
from upmt_nf.policy import replay as replay_module
from upmt_nf.policy.civil_time import CivilClock
from upmt_nf.policy.engine import Engine
from upmt_nf.policy.events import FORCED, Cause, Decision, PolicyEvent
from upmt_nf.policy.policy import SCORED, Policy
from upmt_nf.policy.profiles import PROFILES
from upmt_nf.policy.quality import Criterion
from upmt_nf.policy.replay import Course, replay
from upmt_nf.policy.trace import TrafficStep

HOUR = 3600.0
MOST = 20
"""Moves of its own will that any profile makes in any of the hours; docs/policies.md says so."""
EACH = {
    APP: profile("voice"),
    **{ApplicationName(name): profile(name) for name in PROFILES if name != "voice"},
}
"""Every profile as an application; the traffic of the traces is the voice's."""


class Recorded(Engine):
    """Writes down what it was told, when, and what it decided."""

    log: list[tuple[PolicyEvent, float, list[Decision]]]

    def handle(self, event: PolicyEvent, now: float) -> list[Decision]:
        decisions = super().handle(event, now)
        self.log.append((event, now, decisions))
        return decisions


def assert_the_events_alone_decide(start: float) -> None:
    """Another engine that is told the same at the same times decides the same, to the last bit of every number."""
    again = Engine(NETWORKS, CivilClock(start), count_every=600)
    for event, now, decisions in Recorded.log:
        assert again.handle(event, now) == decisions, (event, now)


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


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_a_hundred_random_hours_stay_within_the_bound_and_are_decided_alike_again(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each profile; all of them live through the same hour, as they know nothing of each other."""
    monkeypatch.setattr(replay_module, "Engine", Recorded)
    own: Counter[str] = Counter()
    for seed in range(first, first + 25):
        Recorded.log = []
        hour = random_trace(seed, cuts=False)
        for name, course in replay(hour, NETWORKS, EACH, count_every=600).courses.items():
            assert own_moves(course) <= EACH[name].most_moves(len(NETWORKS), HOUR), (name, seed)
            assert own_moves(course) <= MOST, (name, seed)
            assert_penalties_were_served(course, EACH[name])
            own[name] += own_moves(course)
        assert_the_events_alone_decide(hour.start)
    for name in EACH:
        # The backup may only be on the one free network.
        assert own[name] > 5 or name == "backup", "the traces must tempt it to move"


@pytest.mark.parametrize("first", [0, 20])
def test_networks_that_also_fall_and_return_add_only_what_they_force(first: int) -> None:
    for seed in range(first, first + 20):
        for name, course in replay(random_trace(seed), NETWORKS, EACH, count_every=600).courses.items():
            bound = EACH[name].most_moves(len(NETWORKS), HOUR)
            assert own_moves(course) <= bound + len(NETWORKS) * forced_moves(course), (name, seed)
            assert_penalties_were_served(course, EACH[name])


@pytest.mark.parametrize("pace", [5.0, 30.0, 90.0, 300.0])
def test_limits_that_are_seen_only_while_a_network_is_used_stay_within_the_bound(pace: float) -> None:
    """A limit goes as it came, when nobody fills the network any more: what is unknown tempts back."""
    for seed in range(10):
        random, at = Random(seed), 0.0
        steps = [*both_up(), TrafficStep(0.0, APP, 5e6)]
        while (at := at + random.expovariate(1 / pace)) < HOUR:
            limit = random.choice((None, 0.2e6, 1e6, 4e6, 20e6))
            steps.append(path(at, random.choice((WIFI, LTE)), limit=limit))
        for name, course in replay(trace(steps, HOUR), NETWORKS, EACH, count_every=600).courses.items():
            assert own_moves(course) <= EACH[name].most_moves(len(NETWORKS), HOUR), (name, seed)
            assert own_moves(course) <= MOST, (name, seed)
            assert_penalties_were_served(course, EACH[name])
            if not {Criterion.THROUGHPUT} & set(EACH[name].leave.given()):
                assert own_moves(course) == 0, "no threshold on it: nothing to leave for"


def test_an_application_is_decided_for_as_if_it_were_alone() -> None:
    """What the tests above rest on."""
    for seed in range(7, 11):
        hour = random_trace(seed)
        together = replay(hour, NETWORKS, EACH, count_every=600).courses
        for name, policy in EACH.items():
            # The traces say what the voice sends, so it is there in any case.
            policies = {APP: EACH[APP], name: policy}
            alone = replay(hour, NETWORKS, policies, count_every=600).courses[name]
            assert (alone.moves, alone.stays) == (together[name].moves, together[name].stays)


def fingerprint() -> str:
    """Of whole replays of every profile: moves, stays, bytes, and every number that was decided by."""
    digest = sha256()
    for name in PROFILES:
        for seed in range(3):
            report = replay(random_trace(seed, 900), NETWORKS, {APP: profile(name)}, count_every=60)
            digest.update(repr(report).encode())
    return digest.hexdigest()


def test_a_replay_is_the_same_bit_for_bit_in_another_process() -> None:
    """Where sets and dictionaries have another order, if anything depended on that."""
    tests = Path(__file__).parents[1]
    words = "from policy.test_oscillation import fingerprint; print(fingerprint())"
    found = {
        subprocess.run(
            (sys.executable, "-c", words),
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{tests}:{tests.parent}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {fingerprint()}


def test_the_stated_bound_in_numbers() -> None:
    voice = profile("voice")
    assert [voice.penalty(leaves) for leaves in range(8)] == [0, 30, 60, 120, 240, 480, 600, 600]
    assert voice.most_returns(29) == 1
    assert voice.most_returns(60) == 2
    assert voice.most_returns(HOUR) == 10
    assert voice.most_moves(0, HOUR) == 0
    assert course_of(voice, [], 10).moves == []
