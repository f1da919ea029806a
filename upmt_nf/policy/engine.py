"""Decides where each application should be (MMOCE): events in, at most one decision per application out.

Everything it knows came by events, and time is an argument: the same events give the same decisions, bit for bit.

             lost, or not allowed any more: at once, to the best that works
    on a ----------------------------------------------------------------------> on another, or on none
    network  bad for `bad_for`: to one that is not bad (and has served its penalty)
       ^     fine, but a better one was good for `good_for`, and `hold` is over
       |_______________________________________________________________________________|
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.budget import Ledger
from upmt_nf.policy.candidates import Application, Candidate, Path, merit_of
from upmt_nf.policy.civil_time import CivilClock
from upmt_nf.policy.events import (
    Cause,
    ClockSet,
    Decision,
    Locked,
    Measured,
    MeteredChanged,
    MoveFailed,
    NetworkChanged,
    NetworksDescribed,
    Placed,
    PolicyEvent,
    PolicySet,
    Released,
    Spent,
    TimePassed,
)
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import SCORED, Policy
from upmt_nf.policy.quality import UNMEASURED, Violation, shown_value
from upmt_nf.policy.spending import Spending
from upmt_nf.policy.trend import is_at_risk

FAILURE_PATIENCE = 5.0
"""Seconds before another try to better oneself after a move failed."""
SETTLING = 5.0
"""Seconds after an application's first network in which the others come up as well. What scores better then is gone to
at once: which of them was first is chance, and waiting may be a minute on the dearest."""


class Engine:
    """`count_every`: the longest time between two `Spent` of an application that sends, seconds."""

    def __init__(
        self,
        networks: Sequence[NetworkFacts],
        clock: CivilClock | None = None,
        ledger: Ledger | None = None,
        count_every: float = 1.0,
    ) -> None:
        self.applications: dict[ApplicationName, Application] = {}
        self.paths = {facts.name: Path(facts) for facts in networks}
        self.spending = Spending(self.paths, clock or CivilClock(), ledger or Ledger(), count_every)
        self._wake_at: dict[ApplicationName, float] = {}

    # --- driving ---

    def handle(self, event: PolicyEvent, now: float) -> list[Decision]:
        """Take one event at time `now` (seconds, never backwards)."""
        decisions: list[Decision] = []
        for application in self._take(event, now):
            decision = self._decide(application, now)
            if decision is not None:
                application.take_up(decision)
                decisions.append(decision)
        return decisions

    def forget(self, name: ApplicationName) -> None:
        """An application has no policy any more. What it spent stays in the ledger."""
        self.applications.pop(name, None)
        self._wake_at.pop(name, None)

    def next_timeout(self) -> float | None:
        """When `TimePassed` should come at the latest, or None."""
        return min((at for at in self._wake_at.values() if at < inf), default=None)

    def awaited(self, name: ApplicationName) -> list[NetworkName]:
        """Networks that an application would rather be on, were they good: worth to be measured."""
        application = self.applications[name]
        if application.network is None or application.lock is not None:
            return []
        policy = application.policy
        here = Candidate(self.paths[application.network], application.standing(application.network), None)
        found = []
        for network in application.order:
            there = Candidate(self.paths[network], application.standing(network), None)
            is_better = merit_of(policy, there) > merit_of(policy, here)
            if is_better and there.path.is_usable and there.standing.good_since is None:
                found.append(network)
        return found

    def warm(self, name: ApplicationName, now: float) -> NetworkName | None:
        """Where an application will go if its network goes on like this: worth to be kept warm and measured now.

        None while its network neither leaves what the policy bears nor is about to, or when there is nowhere to go.
        """
        application = self.applications[name]
        if application.network is None or application.lock is not None:
            return None
        policy, here = application.policy, self.paths[application.network]
        if not (here.is_doubtful or is_at_risk(policy, here.trend.expected(now))):
            return None
        found = [
            Candidate(path, application.standing(network), self._bar(application, path, now))
            for network in application.order
            if (path := self.paths[network]) is not here
        ]
        best = max(
            (candidate for candidate in found if candidate.is_open),
            key=lambda candidate: (candidate.soundness(policy, now), merit_of(policy, candidate)),
            default=None,
        )
        return best.path.facts.name if best is not None else None

    def copies_on(self, name: ApplicationName, now: float, *, is_wanted: bool = False) -> list[NetworkName]:
        """Where copies of a redundant application's packets may go now, best first: never where it must not be.

        Of any application's, if they are wanted.
        A network whose budget is nearly spent, or that is doubtful, is no place for what is not needed.
        """
        application = self.applications[name]
        self._keep_time(application, now)
        policy, here = application.policy, application.network
        if not (policy.is_redundant or is_wanted) or here is None or application.lock is not None:
            return []
        found = [
            Candidate(path, application.standing(network), self._bar(application, path, now))
            for network in application.order
            if network != here and self.spending.near(application, path := self.paths[network], now) is None
        ]
        found = [candidate for candidate in found if candidate.is_open and not candidate.path.is_doubtful]
        found.sort(key=lambda candidate: (-candidate.soundness(policy, now), -merit_of(policy, candidate)))
        return [candidate.path.facts.name for candidate in found]

    def bar(self, name: ApplicationName, network: NetworkName, now: float) -> str | None:
        """Why an application must not be on a network now; None when it may."""
        application = self.applications[name]
        self._keep_time(application, now)
        return self._bar(application, self.paths[network], now)

    # --- events ---

    def _take(self, event: PolicyEvent, now: float) -> Iterable[Application]:
        """Remember an event; gives the applications that it may move."""
        match event:
            case Spent(name, network, count):
                return self._spend(name, network, count, now)
            case NetworkChanged(network):
                self._change(self.paths[network], event, now)
            case Measured(network, quality):
                path = self.paths[network]
                path.measure(quality)
                path.trend.note(path.quality, now)
                for application in self.applications.values():
                    application.review(path, now)
            case MeteredChanged(network, is_metered):
                path = self.paths[network]
                path.describe(replace(path.facts, is_metered=is_metered))
            case PolicySet(name, policy):
                return [self._set_policy(name, policy, now)]
            case Locked(name, network):
                self.applications[name].lock = network
                return [self.applications[name]]
            case Released(name):
                self.applications[name].lock = None
                return [self.applications[name]]
            case Placed(name, network):
                application = self.applications[name]
                application.place(network, now)
                return [application]
            case MoveFailed(name, target):
                application = self.applications[name]
                application.fail(target, now + FAILURE_PATIENCE, now)
                return [application]
            case NetworksDescribed(networks):
                for facts in networks:
                    path = self.paths[facts.name]
                    path.describe(facts)
                    for application in self.applications.values():
                        application.review(path, now)
                self.spending.note_facts()
            case ClockSet(offset):
                self.spending.clock = CivilClock(offset)
            case TimePassed():
                return [
                    application
                    for name, application in self.applications.items()
                    if self._wake_at.get(name, inf) <= now
                ]
        return self.applications.values()

    def _spend(
        self, name: ApplicationName, network: NetworkName, count: float, now: float
    ) -> Iterable[Application]:
        self.spending.add(name, network, count, now)
        if self.spending.has_network_budgets:
            return self.applications.values()
        application = self.applications.get(name)
        return [application] if application is not None and application.policy.budgets else []

    def _change(self, path: Path, event: NetworkChanged, now: float) -> None:
        was_usable = path.is_usable
        path.is_usable, path.is_doubtful, path.reason = event.is_usable, event.is_doubtful, event.reason
        if not event.is_usable:
            path.was_up = (path.was_up or was_usable) and event.is_fault
            if was_usable:
                path.measure(UNMEASURED)
                path.trend.forget()
        for application in self.applications.values():
            if event.is_usable:
                application.review(path, now)
                continue
            standing = application.standing(path.facts.name)
            standing.fall()
            if was_usable and event.is_fault and application.network == path.facts.name:
                standing.disappoint(application.policy, now)

    def _set_policy(self, name: ApplicationName, policy: Policy, now: float) -> Application:
        application = self.applications.get(name)
        if application is None:
            application = self.applications[name] = Application(name, policy)
        application.written = policy
        self._keep_time(application, now, is_new=True)
        return application

    def _keep_time(self, application: Application, now: float, *, is_new: bool = False) -> None:
        """Put the policy of the hour into force."""
        if application.written.by_time or is_new:
            policy = application.written.at(self.spending.clock.at(now))
            if is_new or policy is not application.policy:
                application.policy = policy
                for path in self.paths.values():
                    application.review(path, now)

    # --- decisions ---

    def _decide(self, application: Application, now: float) -> Decision | None:
        self._keep_time(application, now)
        self._wake_at[application.name] = self._edge(application, now)
        candidates = {
            name: Candidate(path, application.standing(name), self._bar(application, path, now))
            for name, path in self.paths.items()
        }
        decision = self._choose(application, candidates, now)
        pending = application.pending
        if pending is None:
            return decision
        if pending.target is None or not candidates[pending.target].is_open:
            application.pending = None
            return self._choose(application, candidates, now)
        # What is under way goes on, unless it can wait no longer.
        is_worse = decision is not None and decision.is_urgent and not pending.is_urgent
        return decision if is_worse else None

    def _choose(
        self, application: Application, candidates: dict[NetworkName, Candidate], now: float
    ) -> Decision | None:
        current = candidates[application.network] if application.network is not None else None
        if application.lock is not None:
            return self._obey(application, candidates[application.lock], current)
        if current is None:
            return self._flee(application, candidates, None, *application.lost, now)
        if current.bar is not None:
            return self._flee(application, candidates, current, Cause.BARRED, current.bar, now)
        if not current.path.is_usable:
            return self._flee(
                application, candidates, current, Cause.LOST, current.path.reason or "is down", now
            )
        if (budget := self.spending.near(application, current.path, now)) is not None:
            return self._escape(
                application, candidates, current, Cause.BUDGET, f"{budget} is nearly spent", now
            )
        standing = current.standing
        if standing.bad_since is not None and standing.violation is not None:
            policy = application.policy
            if now < (due := standing.bad_since + policy.bad_for):
                self._plan(application, due)
                return None
            reason = str(standing.violation)
            return self._escape(
                application, candidates, current, Cause.WORSE, reason, now, standing.violation
            )
        return self._climb(application, candidates, current, now)

    def _obey(
        self, application: Application, wanted: Candidate, current: Candidate | None
    ) -> Decision | None:
        """Locked: there and nowhere else."""
        name = wanted.path.facts.name
        if wanted.is_open:
            if application.network == name:
                return None
            return _decision(
                application, current, wanted, Cause.LOCKED, f"locked to {name}", "lock", is_urgent=False
            )
        if current is None:
            return None
        reason = f"locked to {name}: {wanted.bar or wanted.path.reason or 'is down'}"
        return _decision(application, current, None, Cause.LOCKED, reason, "lock", is_urgent=True)

    def _flee(
        self,
        application: Application,
        candidates: dict[NetworkName, Candidate],
        current: Candidate | None,
        cause: Cause,
        reason: str,
        now: float,
    ) -> Decision | None:
        """The present network is out of the question: to the best of what is left, or nowhere."""
        found = [
            candidate
            for name in application.order
            if (candidate := candidates[name]).is_open and candidate is not current
        ]
        policy = application.policy
        best = max(
            found,
            key=lambda candidate: (candidate.soundness(policy, now), merit_of(policy, candidate)),
            default=None,
        )
        if best is None and current is None:
            return None
        rule = f"{policy.name}: {_rule_of(cause, policy)}"
        return _decision(application, current, best, cause, reason, rule, is_urgent=True)

    def _escape(
        self,
        application: Application,
        candidates: dict[NetworkName, Candidate],
        current: Candidate,
        cause: Cause,
        reason: str,
        now: float,
        violation: Violation | None = None,
    ) -> Decision | None:
        """The present network works but is bad: to one that is not, when there is one."""
        policy = application.policy
        if now < application.patience_until:
            self._plan(application, application.patience_until)
            return None
        found = []
        for name in application.order:
            candidate = candidates[name]
            if (
                candidate is current
                or not candidate.is_sound
                or self.spending.near(application, candidate.path, now)
            ):
                continue
            ready = candidate.standing.proven_at(policy, now, 0.0)
            if now < ready:
                self._plan(application, ready)
            else:
                found.append(candidate)
        if not found:
            return None
        best = max(
            found,
            key=lambda candidate: (candidate.standing.good_since is not None, merit_of(policy, candidate)),
        )
        line = _rule_of(cause, policy) if violation is None else _line_of(violation)
        return _decision(application, current, best, cause, reason, f"{policy.name}: {line}", is_urgent=False)

    def _climb(
        self,
        application: Application,
        candidates: dict[NetworkName, Candidate],
        current: Candidate,
        now: float,
    ) -> Decision | None:
        """The present network will do: only a better one that has proved itself is a reason to move."""
        policy = application.policy
        is_scored = policy.kind in SCORED
        threshold = merit_of(policy, current) + (policy.margin if is_scored else 0.0)
        settled = max(application.settled_at, application.patience_until)
        best: Candidate | None = None
        for name in application.order:
            candidate = candidates[name]
            standing = candidate.standing
            merit = merit_of(policy, candidate)
            if merit <= threshold or candidate is current or not candidate.is_sound:
                standing.better_since = None
                continue
            if standing.better_since is None:
                has_to_last = is_scored and now > application.begun_at + SETTLING
                standing.better_since = now if has_to_last else -inf
            if standing.good_since is None or self.spending.near(application, candidate.path, now):
                continue
            ready = max(
                standing.proven_at(policy, now, policy.good_for),
                standing.better_since + policy.good_for,
                settled,
            )
            if now < ready:
                self._plan(application, ready)
            elif best is None or merit > merit_of(policy, best):
                best = candidate
        if best is None:
            return None
        reason = _comparison(policy, best, current) if is_scored else f"{best.path.facts.name} is better"
        rule = f"{policy.name}: {policy.kind.value}, good_for {policy.good_for:g} s"
        return _decision(application, current, best, Cause.BETTER, reason, rule, is_urgent=False)

    # --- what is allowed ---

    def _bar(self, application: Application, path: Path, now: float) -> str | None:
        if (reason := application.policy.never(path.facts)) is not None:
            return reason
        return self.spending.bar(application, path, now)

    # --- time ---

    def _edge(self, application: Application, now: float) -> float:
        """When the clock on the wall may change something."""
        time = self.spending.clock.at(now)
        waits = [hours.next_edge(time) for hours, _ in application.written.by_time]
        if application.policy.budgets or self.spending.has_network_budgets:
            waits.append(self.spending.clock.next_day(now) - now)
        # A float's last digit must not wake us a moment too early, for ever.
        return now + max(min(waits), 0.001) if waits else inf

    def _plan(self, application: Application, at: float) -> None:
        """Look again then, if nothing is to be looked at sooner."""
        self._wake_at[application.name] = min(at, self._wake_at[application.name])


def _rule_of(cause: Cause, policy: Policy) -> str:
    return policy.kind.value if cause in (Cause.FIRST, Cause.LOST) else cause.value


def _line_of(violation: Violation) -> str:
    limit = shown_value(violation.criterion, violation.limit)
    return f"leave.{violation.criterion.value} = {limit}"


def _comparison(policy: Policy, best: Candidate, current: Candidate) -> str:
    one, other = merit_of(policy, best), merit_of(policy, current)
    return f"{best.path.facts.name} scores {one:.2f}, {current.path.facts.name} {other:.2f}"


def _decision(
    application: Application,
    source: Candidate | None,
    target: Candidate | None,
    cause: Cause,
    reason: str,
    rule: str,
    *,
    is_urgent: bool,
) -> Decision:
    numbers: dict[str, float] = {}
    for prefix, candidate in (("source", source), ("target", target)):
        if candidate is not None:
            numbers |= candidate.path.numbers(prefix)
    return Decision(
        application.name,
        source.path.facts.name if source is not None else None,
        target.path.facts.name if target is not None else None,
        cause,
        reason,
        rule,
        is_urgent,
        numbers,
    )
