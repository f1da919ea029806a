"""When rules are looked at and put back: soon, after reloads have settled, and ever more seldom in a fight."""

from __future__ import annotations

from upmt_nf.routing.repair import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LOOK_ANYWAY,
    SETTLE,
    SETTLE_AT_MOST,
    RepairSchedule,
)


def test_without_a_sign_it_looks_now_and_then() -> None:
    schedule = RepairSchedule(100.0)
    assert schedule.next_look() == 100.0 + LOOK_ANYWAY
    schedule.looked(160.0, has_repaired=False)
    assert schedule.next_look() == 160.0 + LOOK_ANYWAY


def test_a_reload_in_many_steps_is_looked_at_once_when_it_has_settled() -> None:
    schedule = RepairSchedule(0.0)
    for step in range(5):
        schedule.disturb(10.0 + step / 10)
    assert schedule.next_look() == 10.4 + SETTLE


def test_a_disturbance_without_end_is_looked_at_all_the_same() -> None:
    schedule = RepairSchedule(0.0)
    for step in range(100):
        schedule.disturb(10.0 + step / 10)
    assert schedule.next_look() == 10.0 + SETTLE_AT_MOST


def test_a_fight_slows_down_and_a_quiet_time_forgets_it() -> None:
    schedule, now, pauses = RepairSchedule(0.0), 10.0, []
    for _ in range(10):
        schedule.disturb(now)
        now = schedule.next_look()
        schedule.looked(now, has_repaired=True)
        pauses.append(schedule.pause)
        now += 0.01
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 64, 64, 64]
    schedule.disturb(now)
    assert schedule.next_look() >= now + LONGEST_PAUSE - 1
    now += 5 * LONGEST_PAUSE
    schedule.disturb(now)
    schedule.looked(now, has_repaired=True)
    assert schedule.pause == FIRST_PAUSE


def test_looks_that_find_nothing_wrong_cost_no_patience() -> None:
    schedule = RepairSchedule(0.0)
    for now in range(10, 100):
        schedule.disturb(float(now))
        schedule.looked(float(now), has_repaired=False)
    schedule.disturb(100.0)
    assert schedule.next_look() == 100.0 + SETTLE
