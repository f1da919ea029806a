"""Traces written in Python, for the tests of the policy room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.network import NetworkFacts, Protection
from upmt_nf.policy.policy import Policy
from upmt_nf.policy.profiles import PROFILES
from upmt_nf.policy.replay import Course, replay
from upmt_nf.policy.trace import EndStep, PathStep, Step, Trace, TrafficStep

WIFI, LTE, CABLE = NetworkName("wifi"), NetworkName("lte"), NetworkName("cable")
APP = ApplicationName("app")
NETWORKS = (
    NetworkFacts(WIFI, "wifi", throughput=50e6),
    NetworkFacts(LTE, "cellular", cost=4.0, is_metered=True, protection=Protection.SEALED, throughput=20e6),
)
FINE: Mapping[str, float | None] = {"delay": 0.02, "jitter": 0.002, "loss": 0.0, "throughput": 20e6}


def path(at: float, network: NetworkName, up: bool | None = None, **quality: float | None) -> PathStep:
    return PathStep(at, network, up, None, quality, "cut" if up is False else "")


def becomes(
    at: float, network: NetworkName, quality: Mapping[str, float | None], up: bool | None = None
) -> PathStep:
    return PathStep(at, network, up, None, quality, "")


def both_up() -> list[Step]:
    return [becomes(0, WIFI, FINE, True), becomes(0, LTE, FINE, True)]


def trace(steps: list[Step], duration: float, start: float = 0.0) -> Trace:
    """In the order of time."""
    steps = sorted(steps, key=lambda step: step.at)
    return Trace(start, (*steps, EndStep(duration)))


def profile(name: str, **changes: Any) -> Policy:
    changes.setdefault("networks", (WIFI, LTE))
    return replace(PROFILES[name], **changes)


def course_of(
    policy: Policy,
    steps: list[Step],
    duration: float,
    networks: tuple[NetworkFacts, ...] = NETWORKS,
    **more: Any,
) -> Course:
    return replay(trace(steps, duration, **more), networks, {APP: policy}).courses[APP]


def story(course: Course) -> list[tuple[float, str | None, str]]:
    """When, where to and why, for comparisons."""
    return [(round(move.at, 3), move.decision.target, move.decision.cause.value) for move in course.moves]


def random_trace(seed: int, duration: float = 3600.0, *, cuts: bool = True) -> Trace:
    """Two networks whose quality wanders and jumps, also to and fro around thresholds, and that fail at times.

    Each has a pace (seconds between changes) and a mood (how often something is wrong with it) of its own.
    """
    random = Random(seed)
    steps: list[Step] = [*both_up(), TrafficStep(0.0, APP, 1e6)]
    for network in (WIFI, LTE):
        at, is_up = 0.0, True
        pace, mood = random.choice((0.5, 3.0, 20.0, 120.0)), random.choice((0.05, 0.3, 0.7))

        def one_of(fine: float, *worse: float, mood: float = mood) -> float:
            return (random.choice(worse) if random.random() < mood else fine) * random.uniform(0.7, 1.3)

        while (at := at + random.expovariate(1 / pace)) < duration:
            if cuts and random.random() < 0.05:
                is_up = not is_up
                steps.append(path(at, network, is_up))
                continue
            steps.append(
                path(
                    at,
                    network,
                    delay=one_of(0.02, 0.06, 0.12, 0.2, 0.4),
                    jitter=one_of(0.001, 0.01, 0.04, 0.08),
                    loss=one_of(0.0, 0.004, 0.015, 0.04, 0.25),
                    throughput=one_of(20e6, 0.3e6, 1e6, 4e6),
                )
            )
    return trace(steps, duration)
