"""What each kind of policy decides, told as traces."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policy_course import (
    APP,
    CABLE,
    FINE,
    LTE,
    NETWORKS,
    WIFI,
    becomes,
    both_up,
    course_of,
    path,
    profile,
    story,
)

from upmt_nf.policy.engine import Engine
from upmt_nf.policy.events import (
    Cause,
    Locked,
    Measured,
    MeteredChanged,
    MoveFailed,
    NetworkChanged,
    Placed,
    PolicySet,
    Released,
    TimePassed,
)
from upmt_nf.policy.network import NetworkFacts, Protection
from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.profiles import PROFILES
from upmt_nf.policy.quality import Quality, Thresholds, Weights, voice_score
from upmt_nf.policy.trace import LockStep, Step

THREE = (*NETWORKS, NetworkFacts(CABLE, "wired"))
FALLEN, BETTER, WORSE, FIRST = "network lost", "a better network", "thresholds left", "first network"


def authors_delay() -> list[Step]:
    """100, 200, 300, 200 ms in steps of 5 s; one way here."""
    steps = [(60, 0.1), (65, 0.2), (70, 0.3), (75, 0.2), (80, 0.02)]
    return [*both_up(), *(path(at, WIFI, delay=delay) for at, delay in steps)]


def authors_loss() -> list[Step]:
    """0.1, 1, 2, 1 % in steps of 15 s."""
    steps = [(60, 0.001), (75, 0.01), (90, 0.02), (105, 0.01), (120, 0.0)]
    return [*both_up(), *(path(at, WIFI, loss=loss) for at, loss in steps)]


# --- the authors' own procedure ---


def test_voice_leaves_at_300_ms_and_returns_when_the_network_was_good_again_long_enough() -> None:
    course = course_of(profile("voice"), authors_delay(), 300)
    assert story(course) == [(0, WIFI, FIRST), (72, LTE, WORSE), (110, WIFI, BETTER)]
    assert course.flaps == 0
    left = course.moves[1].decision
    assert left.reason == "delay 300 ms is above 250 ms"
    assert left.rule == "voice: leave.delay = 250 ms"
    assert left.numbers["source_delay_ms"] == 300
    assert left.numbers["target_delay_ms"] == 20


def test_voice_bears_two_per_cent_of_loss_and_bulk_bears_all_of_it() -> None:
    assert story(course_of(profile("voice"), authors_loss(), 300)) == [(0, WIFI, FIRST)]
    for steps in (authors_delay(), authors_loss()):
        course = course_of(profile("bulk"), steps, 300)
        assert story(course) == [(0, WIFI, FIRST)]
        assert course.flaps == 0


def test_video_leaves_at_the_same_loss_only_if_its_profile_says_so() -> None:
    assert story(course_of(profile("video-call"), authors_loss(), 300)) == [(0, WIFI, FIRST)]
    careful = replace(profile("video-call"), leave=Thresholds(loss=0.015))
    assert story(course_of(careful, authors_loss(), 300))[1] == (92, LTE, WORSE)


def test_a_step_from_0_to_200_to_100_ms_moves_nobody_who_can_bear_it() -> None:
    steps = [*both_up(), path(60, WIFI, delay=0.2), path(80, WIFI, delay=0.1)]
    for name in ("voice", "video-call", "bulk", "backup", "streaming"):
        assert story(course_of(profile(name), steps, 300)) == [(0, WIFI, FIRST)], name
    assert story(course_of(profile("gaming"), steps, 300)) == [(0, WIFI, FIRST), (62, LTE, WORSE)]


def test_a_walk_out_of_the_building_moves_the_video_call_before_the_wifi_dies_and_the_backup_waits() -> None:
    steps = [
        *both_up(),
        path(30, WIFI, loss=0.01),
        path(40, WIFI, loss=0.06, jitter=0.08),
        path(60, WIFI, False),
    ]
    call = course_of(profile("video-call"), steps, 120)
    assert story(call) == [(0, WIFI, FIRST), (42, LTE, WORSE)]
    backup = course_of(profile("backup"), steps, 120)
    assert story(backup) == [(0, WIFI, FIRST), (60, None, FALLEN)]


# --- kinds ---


def course_of_kind(kind: Kind, steps: list[Step], **changes: object) -> list[tuple[float, str | None, str]]:
    networks = tuple(facts.name for facts in THREE)
    policy = replace(Policy("p", kind, networks), **changes)  # type: ignore[arg-type]
    return story(course_of(policy, steps, 300, THREE))


def three_up() -> list[Step]:
    return [*both_up(), becomes(0, CABLE, FINE, True)]


def test_any_stays_where_it_is_until_that_fails() -> None:
    steps = [*three_up(), path(50, WIFI, False), path(60, WIFI, True)]
    assert course_of_kind(Kind.ANY, steps) == [(0, WIFI, FIRST), (50, LTE, FALLEN)]


def test_priority_list_returns_when_the_better_one_has_proved_itself() -> None:
    steps = [*three_up(), path(50, WIFI, False), path(60, WIFI, True)]
    assert course_of_kind(Kind.PRIORITY_LIST, steps) == [
        (0, WIFI, FIRST),
        (50, LTE, FALLEN),
        (90, WIFI, BETTER),
    ]


def test_static_waits_for_its_network() -> None:
    steps = [*three_up(), path(50, LTE, False), path(60, LTE, True)]
    assert course_of_kind(Kind.STATIC, steps, networks=(LTE,)) == [
        (0, LTE, FIRST),
        (50, None, FALLEN),
        (60, LTE, FALLEN),
    ]


def test_block_goes_nowhere() -> None:
    assert course_of_kind(Kind.BLOCK, three_up(), networks=()) == []


def test_wired_goes_before_wireless() -> None:
    steps = [*both_up(), becomes(40, CABLE, FINE, True), path(200, CABLE, False)]
    assert course_of_kind(Kind.WIRED_BEFORE_WIRELESS, steps) == [
        (0, WIFI, FIRST),
        (70, CABLE, BETTER),
        (200, WIFI, FALLEN),
    ]


def test_only_free_never_pays() -> None:
    steps = [*both_up(), path(50, WIFI, False), path(90, WIFI, True)]
    assert course_of_kind(Kind.ONLY_FREE, steps) == [
        (0, WIFI, FIRST),
        (50, None, FALLEN),
        (90, WIFI, FALLEN),
    ]


def test_performance_priority_list_takes_the_first_that_keeps_the_thresholds() -> None:
    steps = [*three_up(), path(50, WIFI, delay=0.5), path(50, LTE, delay=0.4)]
    limits = {"leave": Thresholds(delay=0.3), "enter": Thresholds(delay=0.1)}
    assert course_of_kind(Kind.PERFORMANCE_PRIORITY_LIST, steps, **limits) == [
        (0, WIFI, FIRST),
        (52, CABLE, WORSE),
    ]


def test_when_all_are_bad_it_stays_where_it_is() -> None:
    steps = [*both_up(), path(50, WIFI, delay=0.5), path(50, LTE, delay=0.4)]
    assert story(course_of(profile("voice"), steps, 300)) == [(0, WIFI, FIRST)]


def test_voip_performance_takes_the_best_voice() -> None:
    steps = [*both_up(), path(50, WIFI, loss=0.05)]
    assert course_of_kind(Kind.VOIP_PERFORMANCE, steps, margin=0.2) == [(0, WIFI, FIRST), (80, LTE, BETTER)]
    steps = [*both_up(), path(50, WIFI, loss=0.002)]
    assert course_of_kind(Kind.VOIP_PERFORMANCE, steps, margin=0.2) == [(0, WIFI, FIRST)]


def test_best_performance_weighs_cost_against_delay() -> None:
    steps = [*both_up(), path(50, WIFI, delay=0.3)]
    dear = {"weights": Weights(cost=5, delay=1)}
    assert course_of_kind(Kind.BEST_PERFORMANCE, steps, **dear) == [(0, WIFI, FIRST)]
    fast = {"weights": Weights(cost=0.1, delay=1)}
    assert course_of_kind(Kind.BEST_PERFORMANCE, steps, **fast) == [(0, WIFI, FIRST), (80, LTE, BETTER)]


@pytest.mark.parametrize(("later", "moves_at"), [(0.01, 0.11), (4.0, 4.0), (20.0, 80.0)])
def test_which_network_came_up_first_is_no_reason_to_pay_for_a_minute(later: float, moves_at: float) -> None:
    # The dear one is there at once; what comes while all come up is gone to at once, later ones prove themselves.
    steps: list[Step] = [becomes(0, LTE, FINE, True), becomes(later, WIFI, FINE, True)]
    course = course_of(profile("bulk"), steps, 200)
    assert story(course) == [
        (0, LTE, "first network"),
        (pytest.approx(moves_at, abs=0.1), WIFI, "a better network"),
    ]


def test_the_voice_score_is_that_of_the_recommendation() -> None:
    """Cole and Rosenbluth, fig. 3 and table: no loss, R 94.2 - Id."""
    assert voice_score(Quality(delay=0.0)) == pytest.approx(4.42, abs=0.01)
    assert voice_score(Quality(delay=0.15)) == pytest.approx(4.35, abs=0.03)
    assert voice_score(Quality(delay=0.4)) == pytest.approx(3.07, abs=0.1)
    assert voice_score(Quality(delay=0.05, loss=0.05)) == pytest.approx(3.85, abs=0.1)
    assert voice_score(Quality(delay=5.0)) == 1.0
    assert voice_score(Quality()) is None


# --- what must never be ---


def test_protection_is_required_of_untrusted_networks_even_when_there_is_no_other() -> None:
    networks = (NetworkFacts(WIFI, is_trusted=False, protection=Protection.COOKIE), NetworkFacts(LTE))
    policy = replace(profile("voice"), protection_untrusted=Protection.SEALED)
    steps = [*both_up(), path(50, LTE, False)]
    assert story(course_of(policy, steps, 100, networks)) == [(0, LTE, FIRST), (50, None, FALLEN)]


def test_a_cost_limit_rules_networks_out() -> None:
    policy = replace(profile("voice"), cost_limit=3.0)
    steps = [*both_up(), path(50, WIFI, delay=0.5)]
    assert story(course_of(policy, steps, 100)) == [(0, WIFI, FIRST)]


# --- people ---


def test_a_lock_holds_against_bad_and_dead_and_a_release_lets_the_policy_decide() -> None:
    steps = [
        *both_up(),
        LockStep(10, APP, LTE),
        path(20, LTE, delay=0.9),
        path(30, LTE, False),
        path(40, LTE, True, delay=0.02),
        LockStep(50, APP, None),
    ]
    assert story(course_of(profile("voice"), steps, 100)) == [
        (0, WIFI, FIRST),
        (10, LTE, "locked"),
        (30, None, "locked"),
        (40, LTE, "locked"),
        (50, WIFI, BETTER),
    ]


def test_a_lock_does_not_break_protection() -> None:
    policy = replace(profile("voice"), protection=Protection.SEALED)
    steps = [*both_up(), LockStep(10, APP, WIFI)]
    assert story(course_of(policy, steps, 100)) == [(0, LTE, FIRST), (10, None, "locked")]


# --- the engine event by event ---


def engine_on_wifi() -> Engine:
    engine = Engine(NETWORKS)
    engine.handle(PolicySet(APP, profile("voice")), 0)
    for name in (WIFI, LTE):
        engine.handle(Measured(name, Quality(0.02)), 0)
        engine.handle(NetworkChanged(name, True), 0)
    engine.handle(Placed(APP, WIFI), 0)
    return engine


def test_one_event_gives_at_most_one_decision_an_application_and_none_twice() -> None:
    engine = engine_on_wifi()
    assert engine.handle(Measured(WIFI, Quality(0.4)), 100) == []
    assert engine.next_timeout() == 102
    (decision,) = engine.handle(TimePassed(), 102)
    assert (decision.source, decision.target, decision.cause) == (WIFI, LTE, Cause.WORSE)
    assert engine.handle(Measured(WIFI, Quality(0.5)), 102.1) == [], "it is under way"
    assert engine.handle(Placed(APP, LTE), 102.2) == []


def test_a_network_that_falls_moves_all_its_applications_in_one_go() -> None:
    engine = engine_on_wifi()
    others = [replace(profile(name), name=name) for name in ("interactive", "streaming")]
    for policy in others:
        engine.handle(PolicySet(type(APP)(policy.name), policy), 1)
        engine.handle(Placed(type(APP)(policy.name), WIFI), 1)
    decisions = engine.handle(NetworkChanged(WIFI, False, reason="no carrier"), 50)
    assert [(decision.application, decision.target) for decision in decisions] == [
        (APP, LTE),
        ("interactive", LTE),
        ("streaming", LTE),
    ]
    assert all(decision.is_urgent and decision.reason == "no carrier" for decision in decisions)


def test_a_network_that_an_application_does_not_use_moves_nothing() -> None:
    engine = engine_on_wifi()
    for at in range(10):
        assert engine.handle(NetworkChanged(LTE, at % 2 == 0), 50 + at) == []
        assert engine.handle(Measured(LTE, Quality(0.001 * at, loss=0.1 * at)), 50 + at) == []


def test_while_a_planned_move_is_under_way_its_source_may_die() -> None:
    engine = engine_on_wifi()
    engine.handle(Measured(WIFI, Quality(0.4)), 100)
    engine.handle(TimePassed(), 102)
    (urgent,) = engine.handle(NetworkChanged(WIFI, False), 102.05)
    assert (urgent.target, urgent.is_urgent) == (LTE, True)


def test_when_the_target_dies_on_the_way_there_is_another_decision_and_no_deadlock() -> None:
    engine = engine_on_wifi()
    engine.handle(NetworkChanged(WIFI, False), 100)
    assert engine.handle(NetworkChanged(LTE, False), 100.05) == []
    (decision,) = engine.handle(NetworkChanged(WIFI, True), 101)
    assert decision.target == WIFI


def test_a_failed_move_is_not_insisted_on() -> None:
    engine = engine_on_wifi()
    engine.handle(Measured(WIFI, Quality(0.4)), 100)
    engine.handle(TimePassed(), 102)
    assert engine.handle(MoveFailed(APP, LTE), 103) == []
    assert engine.next_timeout() == 108, "a moment of patience ..."
    assert engine.handle(TimePassed(), 108) == []
    assert engine.next_timeout() == 133, "... and the penalty of a network that disappointed"
    (decision,) = engine.handle(TimePassed(), 133)
    assert decision.target == LTE


def test_a_new_policy_takes_effect_at_once_and_a_released_lock_too() -> None:
    engine = engine_on_wifi()
    (decision,) = engine.handle(PolicySet(APP, profile("voice", networks=(LTE,))), 10)
    assert (decision.target, decision.cause) == (LTE, Cause.BARRED)
    engine.handle(Placed(APP, LTE), 10.1)
    (decision,) = engine.handle(Locked(APP, WIFI), 11)
    assert (decision.target, decision.reason) == (None, "locked to wifi: not in the policy's networks")
    (decision,) = engine.handle(Released(APP), 12)
    assert decision.target == LTE


def test_profiles_hold_what_their_documentation_promises() -> None:
    for name, policy in PROFILES.items():
        assert policy.leave.given(), name
        for criterion, limit in policy.leave.given().items():
            assert criterion in policy.enter.given(), (name, criterion, limit)


def test_a_network_that_turns_out_to_be_metered_is_left_by_who_takes_only_what_is_free() -> None:
    engine = Engine([NetworkFacts(WIFI), NetworkFacts(CABLE, "wired")])
    engine.handle(PolicySet(APP, Policy("free", Kind.ONLY_FREE, networks=(WIFI, CABLE))), 0.0)
    engine.handle(NetworkChanged(WIFI, True, False, "", False), 0.0)
    engine.handle(Placed(APP, WIFI), 0.0)
    engine.handle(NetworkChanged(CABLE, True, False, "", False), 1.0)
    (decision,) = engine.handle(MeteredChanged(WIFI, is_metered=True), 2.0)
    assert (decision.source, decision.target) == (WIFI, CABLE)
    engine.handle(Placed(APP, CABLE), 2.0)
    assert engine.bar(APP, WIFI, 2.0) is not None
    engine.handle(MeteredChanged(WIFI, is_metered=False), 3.0)
    assert engine.bar(APP, WIFI, 3.0) is None
