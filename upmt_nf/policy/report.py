"""A replay as JSON values with stable keys (docs/policies.md)."""

from __future__ import annotations

from typing import Any

from upmt_nf.policy.replay import Course, Move, Report


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
