"""Policies and replays as JSON values with stable keys (docs/policies.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from upmt_nf.policy.policy import SCORED, Kind, Policy
from upmt_nf.policy.quality import Thresholds, shown_value
from upmt_nf.policy.replay import Course, Move, Report


def policy_json(name: str, policy: Policy) -> dict[str, Any]:
    """One of `upmt policy show --json`, with every number; `when` holds the whole policy of those hours."""
    return {
        "name": name,
        "kind": policy.kind.value,
        "networks": list(policy.networks),
        "leave": _limits(policy.leave),
        "enter": _limits(policy.enter),
        "weights": asdict(policy.weights) if policy.kind is Kind.BEST_PERFORMANCE else None,
        "margin": policy.margin if policy.kind in SCORED else None,
        "bad_for_s": policy.bad_for,
        "good_for_s": policy.good_for,
        "hold_s": policy.hold,
        "penalty_longest_s": policy.penalty_longest,
        "forgive_s": policy.forgive,
        "protection": policy.protection.label,
        "protection_untrusted": policy.protection_untrusted.label,
        "cost_limit": policy.cost_limit,
        "budgets": [str(budget) for budget in policy.budgets],
        "redundant": policy.is_redundant,
        "reorder_s": policy.reorder,
        "hours": len(policy.by_time),
        "when": [
            {"hours": str(hours), "policy": policy_json(name, other)} for hours, other in policy.by_time
        ],
        "most_moves_per_hour": policy.most_moves(len(policy.networks), 3600.0),
    }


def _limits(thresholds: Thresholds) -> dict[str, str]:
    return {key.value: shown_value(key, limit) for key, limit in thresholds.given().items()}


def report_json(report: Report) -> dict[str, Any]:
    """The answer of `upmt policy replay --json`."""
    return {
        "duration_s": report.duration,
        "applications": [_course_json(course) for course in report.courses.values()],
    }


def _course_json(course: Course) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for stay in course.stays:
        place = stay.network or "none"
        seconds[place] = round(seconds.get(place, 0.0) + stay.end - stay.begin, 3)
    return {
        "name": course.name,
        "policy": course.policy.name,
        "handovers": len(course.moves),
        "flaps": course.flaps,
        "out_of_profile_s": round(course.out_of_profile, 3),
        "seconds": seconds,
        "bytes": {name: round(count) for name, count in course.bytes.items()},
        "cost": {name: round(cost, 6) for name, cost in course.cost.items()},
        "warmed": [{"t": round(at, 3), "network": network} for at, network in course.warmed],
        "moves": [_move_json(move) for move in course.moves],
    }


def _move_json(move: Move) -> dict[str, Any]:
    decision = move.decision
    return {
        "t": round(move.at, 3),
        "from": decision.source,
        "to": decision.target,
        "cause": decision.cause.value,
        "reason": decision.reason,
        "rule": decision.rule,
        "urgent": decision.is_urgent,
        "done": move.succeeded,
        "flap": move.is_flap,
        "numbers": dict(decision.numbers),
    }
