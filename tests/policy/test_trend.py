"""A network that is getting worse: the one to go to is warm before it is needed, and none is without need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_course import APP, LTE, NETWORKS, WIFI, becomes, both_up, course_of, path, profile

from upmt_nf.policy.engine import Engine
from upmt_nf.policy.events import Cause, Locked, Measured, NetworkChanged, Placed, PolicySet
from upmt_nf.policy.quality import UNMEASURED, Quality
from upmt_nf.policy.trace import Step
from upmt_nf.policy.trend import AHEAD, MEMORY, Trend


def fading() -> list[Step]:
    """The delay of the Wi-Fi grows by 10 ms a second, from 20 to 320 ms."""
    return [*both_up(), *(path(60 + second, WIFI, delay=0.02 + second / 100) for second in range(31))]


def test_while_the_network_fades_the_next_one_is_probed_before_the_call_moves() -> None:
    course = course_of(profile("voice"), fading(), 100.0)
    away = next(move for move in course.moves if move.decision.cause is Cause.WORSE)
    warm_at, warm = course.warmed[0]
    assert (warm, away.decision.target) == (LTE, LTE)
    # 250 ms would be reached at 83 s, which is seen five seconds before; `bad_for` comes on top.
    assert warm_at == pytest.approx(83 - AHEAD, abs=1)
    assert away.at - warm_at > AHEAD
    # On LTE nothing is at risk.
    assert [network for _, network in course.warmed] == [LTE, None]


def test_a_delay_that_a_call_bears_warms_nothing_however_long_it_lasts() -> None:
    steps = [*both_up(), path(60, WIFI, delay=0.2), *(path(60 + at, WIFI, delay=0.2) for at in range(1, 60))]
    course = course_of(profile("voice"), steps, 130.0)
    # The step looks like a climb until the flat part is all that is remembered.
    assert all(at < 60 + MEMORY + 1 for at, _ in course.warmed)
    assert [move.decision.cause for move in course.moves] == [Cause.FIRST]


def engine() -> Engine:
    found = Engine(NETWORKS)
    found.handle(PolicySet(APP, profile("voice")), 0.0)
    for facts in NETWORKS:
        found.handle(NetworkChanged(facts.name, True), 0.0)
        found.handle(Measured(facts.name, Quality(0.02, 0.002, 0.0)), 0.0)
    found.handle(Placed(APP, WIFI), 1.0)
    return found


def test_a_network_in_doubt_warms_the_next_and_a_lock_or_a_bar_does_not() -> None:
    call = engine()
    assert call.warm(APP, 2.0) is None
    call.handle(NetworkChanged(WIFI, True, True), 2.0)
    assert call.warm(APP, 2.0) == LTE
    call.handle(Locked(APP, WIFI), 3.0)
    assert call.warm(APP, 3.0) is None
    call = engine()
    call.handle(PolicySet(APP, profile("voice", cost_limit=1.0)), 2.0)
    call.handle(NetworkChanged(WIFI, True, True), 2.0)
    assert call.warm(APP, 2.0) is None


def test_what_fell_begins_anew() -> None:
    trend = Trend()
    trend.note(Quality(0.1), 0.0)
    trend.note(Quality(0.2), 5.0)
    assert trend.expected(5.0).delay == pytest.approx(0.3)
    trend.forget()
    assert trend.expected(6.0) == UNMEASURED
    trend.note(Quality(0.2), 7.0)
    assert trend.expected(7.0).delay == 0.2


@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 30),
            st.builds(
                Quality,
                st.none() | st.floats(0, 5),
                st.none() | st.floats(0, 1),
                st.none() | st.floats(0, 1),
                st.none() | st.floats(0, 1e9),
            ),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_nothing_is_expected_to_become_better_and_what_is_unknown_stays_so(
    measured: list[tuple[float, Quality]],
) -> None:
    trend, now = Trend(), 0.0
    for pause, quality in measured:
        now += pause
        trend.note(quality, now)
    latest, expected = measured[-1][1], trend.expected(now)
    for field, is_more in (("delay", True), ("jitter", True), ("loss", True), ("throughput", False)):
        is_, will = getattr(latest, field), getattr(expected, field)
        assert (is_ is None) is (will is None)
        if is_ is not None:
            assert will >= is_ if is_more else 0 <= will <= is_
    assert expected.loss is None or expected.loss <= 1


def test_less_throughput_is_foreseen_too() -> None:
    steps = [*both_up(), *(becomes(60 + at, WIFI, {"throughput": 20e6 - at * 1e6}) for at in range(20))]
    course = course_of(profile("streaming"), steps, 100.0)
    warm_at = course.warmed[0][0]
    # 3 Mbit/s would be left after 17 s.
    assert 70 <= warm_at <= 73
