"""Where the copies of a redundant application's packets go: to the best other network that it may use."""

from __future__ import annotations

from policy_course import APP, CABLE, FINE, LTE, NETWORKS, WIFI, becomes, both_up, course_of, path, profile

from upmt_nf.policy.budget import Budget, Period
from upmt_nf.policy.engine import Engine
from upmt_nf.policy.events import Locked, Measured, NetworkChanged, Placed, PolicySet, Released, Spent
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import Policy
from upmt_nf.policy.quality import Quality
from upmt_nf.policy.trace import TrafficStep

THREE = (*NETWORKS, NetworkFacts(CABLE, "wired"))


def engine(policy: Policy) -> Engine:
    """All three networks work, and the application is on the first."""
    found = Engine(THREE)
    found.handle(PolicySet(APP, policy), 0.0)
    for facts in THREE:
        found.handle(NetworkChanged(facts.name, True), 0.0)
        found.handle(Measured(facts.name, Quality(0.02, 0.002, 0.0)), 0.0)
    found.handle(Placed(APP, WIFI), 1.0)
    return found


def test_the_best_two_networks_carry_it_and_others_step_in() -> None:
    voice = engine(profile("voice", networks=(WIFI, LTE, CABLE), is_redundant=True))
    assert voice.copies_on(APP, 2.0) == [LTE, CABLE]
    voice.handle(Measured(LTE, Quality(0.5)), 3.0)
    assert voice.copies_on(APP, 3.0) == [CABLE, LTE], "what is bad comes last"
    voice.handle(NetworkChanged(LTE, False), 4.0)
    assert voice.copies_on(APP, 4.0) == [CABLE]
    voice.handle(NetworkChanged(CABLE, True, True), 5.0)
    assert voice.copies_on(APP, 5.0) == [], "what is doubtful takes none"


def test_who_does_not_ask_gets_no_copies_and_a_lock_means_one_network() -> None:
    assert engine(profile("voice")).copies_on(APP, 2.0) == []
    voice = engine(profile("voice", is_redundant=True))
    voice.handle(Locked(APP, WIFI), 2.0)
    assert voice.copies_on(APP, 2.0) == []
    voice.handle(Released(APP), 3.0)
    assert voice.copies_on(APP, 3.0) == [LTE]


def test_copies_never_go_where_the_policy_forbids() -> None:
    assert engine(profile("voice", is_redundant=True, cost_limit=1.0)).copies_on(APP, 2.0) == []


def test_copies_end_while_a_budget_still_has_room_for_a_move() -> None:
    voice = engine(profile("voice", is_redundant=True, budgets=(Budget(20e6, Period.DAY, LTE),)))
    assert voice.copies_on(APP, 2.0) == [LTE]
    for _ in range(6):
        voice.handle(Spent(APP, LTE, 2.2e6), 3.0)
    assert voice.bar(APP, LTE, 3.0) is None
    assert voice.copies_on(APP, 3.0) == []


def test_a_replay_counts_both_copies_and_is_out_of_profile_only_when_both_networks_are() -> None:
    steps = [*both_up(), TrafficStep(0, APP, 8e6), path(100, WIFI, delay=0.4), becomes(101, WIFI, FINE)]
    once, twice = (
        course_of(profile("voice", is_redundant=is_redundant), steps, 200.0) for is_redundant in (False, True)
    )
    # The first tenth of a second is spent on the way to the first network.
    assert (round(once.out_of_profile, 3), round(twice.out_of_profile, 3)) == (1.1, 0.1)
    assert set(once.bytes) == {WIFI}
    assert (round(twice.bytes[WIFI], -6), round(twice.bytes[LTE], -6)) == (200e6, 200e6)
    assert round(twice.cost[LTE], 6) == round(twice.bytes[LTE] * 4 / 1e9, 6)
