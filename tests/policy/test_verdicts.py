"""`upmt why` says of each network what the application's policy makes of it."""

from __future__ import annotations

from dataclasses import replace

from policy_course import APP, LTE, NETWORKS, WIFI, profile

from upmt_nf.policy.budget import Budget, Period
from upmt_nf.policy.engine import Engine
from upmt_nf.policy.events import Locked, Measured, NetworkChanged, Placed, PolicySet, Spent
from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.quality import Quality
from upmt_nf.policy.verdicts import verdict

FINE = Quality(0.02, 0.001, 0.0)


def engine_with(policy: Policy) -> Engine:
    engine = Engine(NETWORKS)
    for network in (WIFI, LTE):
        engine.handle(Measured(network, FINE), 0.0)
        engine.handle(NetworkChanged(network, is_usable=True), 0.0)
    engine.handle(PolicySet(APP, policy), 0.0)
    engine.handle(Placed(APP, WIFI), 0.0)
    return engine


def both(engine: Engine, now: float) -> tuple[str, str]:
    return verdict(engine, APP, WIFI, now), verdict(engine, APP, LTE, now)


def test_a_call_that_left_a_bad_network_says_why_and_when_it_returns() -> None:
    engine = engine_with(profile("voice"))
    assert both(engine, 1.0) == (
        "PerformancePriorityList: the best that is allowed and good",
        "no better than wifi",
    )
    engine.handle(Measured(WIFI, replace(FINE, delay=0.4)), 100.0)
    engine.handle(Placed(APP, LTE), 103.0)
    assert verdict(engine, APP, WIFI, 104.0) == "bad: delay 400 ms is above 250 ms"
    engine.handle(Measured(WIFI, replace(FINE, delay=0.2)), 110.0)
    assert verdict(engine, APP, WIFI, 110.0) == "not good enough to go to: delay 200 ms is above 150 ms"
    engine.handle(Measured(WIFI, FINE), 120.0)
    assert verdict(engine, APP, WIFI, 130.0) == "better, and to be gone to in 20 s (good_for, hold, penalty)"


def test_scores_doubts_bars_and_locks_are_said() -> None:
    engine = engine_with(replace(profile("bulk"), budgets=(Budget(1e9, Period.DAY, LTE),)))
    assert verdict(engine, APP, LTE, 1.0).startswith("scores 0.")
    engine.handle(NetworkChanged(LTE, is_usable=True, is_doubtful=True, reason="2 probes lost"), 2.0)
    assert verdict(engine, APP, LTE, 2.0) == "in doubt: 2 probes lost"
    engine.handle(Spent(APP, LTE, 1e9), 3.0)
    assert verdict(engine, APP, LTE, 3.0) == "not allowed: 1 GB/day on lte is spent"
    engine.handle(Locked(APP, WIFI), 4.0)
    assert both(engine, 4.0) == ("it is locked to wifi", "not allowed: it is locked to wifi")
    free = engine_with(Policy("free", Kind.ONLY_FREE, (WIFI, LTE)))
    assert verdict(free, APP, LTE, 1.0) == "not allowed: not free"
