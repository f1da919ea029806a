"""A trace against policies, with a pretend clock and a pretend executor: what would have happened, and why.

The engine is the one that runs on the host. Planned moves take `MOVE_TIME` and carry traffic meanwhile; urgent ones
do not. Nothing here is random: the same trace gives the same report, bit for bit.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.budget import Ledger
from upmt_nf.policy.civil_time import CivilClock
from upmt_nf.policy.engine import Engine
from upmt_nf.policy.events import (
    FORCED,
    Decision,
    Locked,
    Measured,
    MoveFailed,
    NetworkChanged,
    Placed,
    PolicyEvent,
    PolicySet,
    Released,
    Spent,
    TimePassed,
)
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.quality import UNMEASURED, Quality
from upmt_nf.policy.trace import (
    CrashStep,
    EndStep,
    FailStep,
    LockStep,
    PathStep,
    Step,
    Trace,
    TrafficStep,
)

MOVE_TIME = 0.1
FAILURE_TIME = 1.0
FLAP_WINDOW = 30.0
"""A move of its own will, back to a network that was left less than this before, is a flap."""


@dataclass(frozen=True, slots=True)
class Move:
    """A decision and when it was made; `succeeded` None: the trace ended first, or a newer one took its place."""

    at: float
    decision: Decision
    succeeded: bool | None = None
    is_flap: bool = False


@dataclass(frozen=True, slots=True)
class Stay:
    """An application was on a network (or on none) from `begin` to `end`; bad: its policy's `leave` was violated.

    `copies_on`: where copies of its packets went; then it is bad when both are.
    """

    begin: float
    end: float
    network: NetworkName | None
    is_bad: bool
    copies_on: NetworkName | None = None

    def is_like(self, other: Stay) -> bool:
        """Whether the two, end to end, are one stay."""
        return (self.network, self.is_bad, self.copies_on) == (other.network, other.is_bad, other.copies_on)


@dataclass(slots=True)
class Course:
    """What became of one application. Bytes and cost by network; times in seconds."""

    name: ApplicationName
    policy: Policy
    moves: list[Move] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    bytes: dict[NetworkName, float] = field(default_factory=dict)
    cost: dict[NetworkName, float] = field(default_factory=dict)
    warmed: list[tuple[float, NetworkName | None]] = field(default_factory=list)
    """When another network was kept warm, which, and when none was any more (None)."""

    @property
    def flaps(self) -> int:
        """Moves back and forth of its own will."""
        return sum(move.is_flap for move in self.moves)

    @property
    def out_of_profile(self) -> float:
        """Seconds on a bad network, or on none though it is not blocked."""
        is_blocked = self.policy.kind is Kind.BLOCK
        bad = (stay for stay in self.stays if stay.is_bad or (stay.network is None and not is_blocked))
        return sum(stay.end - stay.begin for stay in bad)


@dataclass(frozen=True, slots=True)
class Report:
    """Of a whole trace. `quality`: what each network was like, at each change."""

    duration: float
    courses: Mapping[ApplicationName, Course]
    quality: Mapping[NetworkName, Sequence[tuple[float, bool, Quality]]]


def replay(
    trace: Trace,
    networks: Sequence[NetworkFacts],
    policies: Mapping[ApplicationName, Policy],
    count_every: float = 1.0,
) -> Report:
    """Run it. `count_every`: seconds between two counts of bytes while anything is sent."""
    return _Replay(trace, networks, policies, count_every).run()


@dataclass(slots=True)
class _Link:
    is_up: bool = False
    is_doubtful: bool = False
    reason: str = "not there"
    quality: Quality = UNMEASURED


@dataclass(slots=True)
class _Traffic:
    """One application as it really is: what the executor did, not what the engine believes."""

    course: Course
    network: NetworkName | None = None
    copies_on: NetworkName | None = None
    rate: float = 0.0
    since: float = 0.0
    uncounted: dict[NetworkName, float] = field(default_factory=dict)
    moving: int | None = None
    left: dict[NetworkName, float] = field(default_factory=dict)


class _Replay:
    def __init__(
        self,
        trace: Trace,
        networks: Sequence[NetworkFacts],
        policies: Mapping[ApplicationName, Policy],
        count_every: float,
    ) -> None:
        self._trace, self._networks, self._policies = trace, networks, policies
        self._count_every = count_every
        self._costs = {facts.name: facts.cost for facts in networks}
        self._links = {facts.name: _Link(quality=Quality(throughput=facts.throughput)) for facts in networks}
        self._quality: dict[NetworkName, list[tuple[float, bool, Quality]]] = {
            facts.name: [] for facts in networks
        }
        self._traffic = {name: _Traffic(Course(name, policy), since=0.0) for name, policy in policies.items()}
        self._is_redundant = any(
            each.is_redundant
            for policy in policies.values()
            for each in (policy, *(other for _, other in policy.by_time))
        )
        self._clock = CivilClock(trace.start)
        self._engine: Engine | None = Engine(networks, self._clock, count_every=count_every)
        self._locks: dict[ApplicationName, NetworkName] = {}
        self._saved = self._engine.spending.ledger.saved()
        self._arrivals: list[tuple[float, int, Decision, int, bool]] = []
        self._serial = 0
        self._fails_until = -inf
        self._back_at = inf
        self._count_at = inf
        self._now = 0.0

    def run(self) -> Report:
        self._introduce()
        for step in self._trace.steps:
            self._pass_until(step.at)
            self._perform(step)
        self._pass_until(self._trace.duration)
        for traffic in self._traffic.values():
            self._account(traffic)
        courses = {name: traffic.course for name, traffic in self._traffic.items()}
        return Report(self._trace.duration, courses, self._quality)

    # --- time ---

    def _pass_until(self, limit: float) -> None:
        spins = 0
        while True:
            wake = self._engine.next_timeout() if self._engine is not None else None
            arrival = self._arrivals[0][0] if self._arrivals else inf
            due = min(inf if wake is None else max(wake, self._now), arrival, self._count_at, self._back_at)
            if due > limit:
                self._now = limit
                return
            spins = spins + 1 if due <= self._now else 0
            if spins > 10_000:
                raise AssertionError(f"time stands still at {self._now}")
            self._now = due
            if due == self._back_at:
                self._restart()
            elif due == arrival:
                self._arrive()
            elif due == self._count_at:
                self._count()
            else:
                self._tell(TimePassed())

    # --- what the trace says ---

    def _perform(self, step: Step) -> None:
        match step:
            case PathStep():
                self._change(step)
            case TrafficStep(_, name, rate):
                traffic = self._traffic[name]
                self._account(traffic)
                traffic.rate = rate
                if rate and self._count_at == inf and self._engine is not None:
                    self._count_at = self._now + self._count_every
            case LockStep(_, name, None):
                self._locks.pop(name, None)
                self._tell(Released(name))
            case LockStep(_, name, str() as network):
                self._locks[name] = network
                self._tell(Locked(name, network))
            case FailStep(_, seconds):
                self._fails_until = self._now + seconds
            case CrashStep(_, seconds):
                self._crash(seconds)
            case EndStep():
                pass

    def _change(self, step: PathStep) -> None:
        link = self._links[step.network]
        for traffic in self._traffic.values():
            if step.network in (traffic.network, traffic.copies_on):
                self._account(traffic)
        before = (link.is_up, link.is_doubtful)
        link.is_up = link.is_up if step.is_up is None else step.is_up
        link.is_doubtful = link.is_doubtful if step.is_doubtful is None else step.is_doubtful
        link.reason = step.reason
        link.quality = replace(link.quality, **dict(step.quality)) if step.quality else link.quality
        self._quality[step.network].append((self._now, link.is_up, link.quality))
        if link.is_up and (step.quality or not before[0]):
            self._tell(Measured(step.network, link.quality))
        if before != (link.is_up, link.is_doubtful):
            self._tell(NetworkChanged(step.network, link.is_up, link.is_doubtful, step.reason))

    # --- the daemon's life ---

    def _introduce(self) -> None:
        for name, policy in self._policies.items():
            self._tell(PolicySet(name, policy))
            if name in self._locks:
                self._tell(Locked(name, self._locks[name]))

    def _crash(self, seconds: float) -> None:
        for traffic in self._traffic.values():
            self._account(traffic)
            traffic.network, traffic.copies_on, traffic.moving = None, None, None
            traffic.uncounted.clear()
        self._arrivals.clear()
        self._engine, self._count_at = None, inf
        self._back_at = self._now + seconds

    def _restart(self) -> None:
        for traffic in self._traffic.values():
            self._account(traffic)
        self._back_at = inf
        fresh = Engine(self._networks, self._clock, count_every=self._count_every)
        ledger = Ledger.recovered(
            self._saved, self._policies, fresh.spending.guards(), self._clock.at(self._now)
        )
        self._engine = Engine(self._networks, self._clock, ledger, self._count_every)
        self._introduce()
        for name, link in self._links.items():
            if link.is_up:
                self._tell(NetworkChanged(name, True, link.is_doubtful))
                self._tell(Measured(name, link.quality))
        if any(traffic.rate for traffic in self._traffic.values()):
            self._count_at = self._now + self._count_every

    # --- traffic ---

    def _account(self, traffic: _Traffic) -> None:
        """Write down what passed since the last change, on the network where it really was."""
        begin, end, network = traffic.since, self._now, traffic.network
        traffic.since = end
        if end <= begin:
            return
        course = traffic.course
        carriers = [name for name in (network, traffic.copies_on) if name is not None]
        policy = course.policy.at(self._clock.at(begin))
        is_bad = bool(carriers) and all(self._is_bad(policy, name) for name in carriers)
        last = course.stays[-1] if course.stays else None
        stay = Stay(begin, end, network, is_bad, traffic.copies_on)
        if last is not None and last.end == begin and last.is_like(stay):
            course.stays[-1] = replace(stay, begin=last.begin)
        else:
            course.stays.append(stay)
        for name in carriers:
            link = self._links[name]
            if not link.is_up or not traffic.rate:
                continue
            offered = link.quality.least_throughput
            rate = traffic.rate if offered is None else min(traffic.rate, offered)
            count = rate * (end - begin) / 8
            course.bytes[name] = course.bytes.get(name, 0.0) + count
            course.cost[name] = course.cost.get(name, 0.0) + count * self._costs[name] / 1e9
            traffic.uncounted[name] = traffic.uncounted.get(name, 0.0) + count

    def _is_bad(self, policy: Policy, network: NetworkName) -> bool:
        link = self._links[network]
        return not link.is_up or policy.leave.violated_by(link.quality) is not None

    def _note_warmed(self) -> None:
        for name, traffic in self._traffic.items():
            known = self._engine is not None and name in self._engine.applications
            warm = self._engine.warm(name, self._now) if known and self._engine is not None else None
            warmed = traffic.course.warmed
            if warm != (warmed[-1][1] if warmed else None):
                warmed.append((self._now, warm))

    def _place_copies(self) -> None:
        """The copies of redundant applications go where the engine says now."""
        for name, traffic in self._traffic.items():
            if self._engine is not None and name in self._engine.applications:
                found = self._engine.copies_on(name, self._now) if traffic.network is not None else []
                other = next((network for network in found if network != traffic.network), None)
                if other != traffic.copies_on:
                    self._account(traffic)
                    traffic.copies_on = other

    def _count(self) -> None:
        self._count_at = inf
        for name, traffic in self._traffic.items():
            self._account(traffic)
            counted, traffic.uncounted = traffic.uncounted, {}
            for network, count in counted.items():
                self._tell(Spent(name, network, count))
        if self._engine is not None:
            self._saved = self._engine.spending.ledger.saved()
            if any(traffic.rate for traffic in self._traffic.values()):
                self._count_at = self._now + self._count_every

    # --- the executor ---

    def _tell(self, event: PolicyEvent) -> None:
        if self._engine is None:
            return
        for decision in self._engine.handle(event, self._now):
            self._execute(decision)
        if self._is_redundant:
            self._place_copies()
        self._note_warmed()

    def _execute(self, decision: Decision) -> None:
        traffic = self._traffic[decision.application]
        self._serial += 1
        left_at = traffic.left.get(decision.target, -inf) if decision.target is not None else -inf
        is_flap = decision.cause not in FORCED and self._now - left_at < FLAP_WINDOW
        traffic.course.moves.append(Move(self._now, decision, None, is_flap))
        traffic.moving = self._serial
        if decision.is_urgent:
            self._put(traffic, None)
        if decision.target is not None:
            will_fail = self._now < self._fails_until
            at = self._now + (FAILURE_TIME if will_fail else MOVE_TIME)
            place = len(traffic.course.moves) - 1
            heapq.heappush(self._arrivals, (at, self._serial, decision, place, will_fail))

    def _arrive(self) -> None:
        _, serial, decision, place, will_fail = heapq.heappop(self._arrivals)
        name, target = decision.application, decision.target
        traffic = self._traffic[name]
        if traffic.moving != serial or target is None:
            return
        traffic.moving = None
        has_failed = will_fail or not self._links[target].is_up
        traffic.course.moves[place] = replace(traffic.course.moves[place], succeeded=not has_failed)
        if has_failed:
            self._tell(MoveFailed(name, target))
            return
        self._put(traffic, target)
        self._tell(Placed(name, target))

    def _put(self, traffic: _Traffic, network: NetworkName | None) -> None:
        self._account(traffic)
        if traffic.network is not None:
            traffic.left[traffic.network] = self._now
        traffic.network = network
        if network in (None, traffic.copies_on):
            traffic.copies_on = None
