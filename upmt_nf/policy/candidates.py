"""Networks and applications as the engine sees them while it decides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.events import Cause, Decision
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import SCORED, Kind, Policy
from upmt_nf.policy.quality import UNMEASURED, Quality, voice_score, weighted_score
from upmt_nf.policy.standing import Standing
from upmt_nf.policy.trend import Trend

LEAST_GUARD = 64e3
"""Bytes that may pass unseen, at least, where nobody said how fast a network is."""
_UNKNOWN_SCORE = 1.0
"""Voice score of a network that was not measured yet."""


@dataclass(slots=True)
class Path:
    """One network: what is known, and how its tunnel is now."""

    facts: NetworkFacts
    is_usable: bool = False
    is_doubtful: bool = False
    reason: str = "not there"
    quality: Quality = UNMEASURED
    """As policies judge it: a throughput that was not measured is what the file says."""
    was_up: bool = False
    """It failed since the start: what comes back must prove itself."""
    peak: float = 0.0
    """The most bytes in one count."""
    trend: Trend = field(default_factory=Trend)
    _measured: Quality = UNMEASURED

    def __post_init__(self) -> None:
        self.measure(self.quality)

    def measure(self, quality: Quality) -> None:
        """It is like this now."""
        self._measured = self.quality = quality
        if quality.throughput is None and self.facts.throughput is not None:
            self.quality = replace(quality, throughput=self.facts.throughput)

    def describe(self, facts: NetworkFacts) -> None:
        """Somebody says other things of it."""
        self.facts = facts
        self.measure(self._measured)

    def note_peak(self, count: float) -> None:
        """So many bytes passed in one count: as many may pass in the next."""
        self.peak = max(self.peak, count)

    def guard(self, every: float) -> float:
        """Bytes that may pass in `every` seconds."""
        if self.facts.throughput is not None:
            return max(self.facts.throughput / 8 * every, self.peak)
        return max(LEAST_GUARD, 2 * self.peak)

    def numbers(self, prefix: str) -> dict[str, float]:
        """What is measured, for receipts."""
        quality = self.quality
        found = {
            f"{prefix}_delay_ms": None if quality.delay is None else round(1000 * quality.delay, 3),
            f"{prefix}_jitter_ms": None if quality.jitter is None else round(1000 * quality.jitter, 3),
            f"{prefix}_loss": None if quality.loss is None else round(quality.loss, 5),
            f"{prefix}_throughput": quality.least_throughput,
        }
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network for one application at one moment. `bar`: why it must not be used."""

    path: Path
    standing: Standing
    bar: str | None

    @property
    def is_open(self) -> bool:
        """May be used, if there is nothing better."""
        return self.bar is None and self.path.is_usable

    @property
    def is_sound(self) -> bool:
        """May be gone to without need."""
        return self.is_open and not self.path.is_doubtful and self.standing.bad_since is None

    def soundness(self, policy: Policy, now: float) -> int:
        """For those in need; more is better."""
        if self.path.is_doubtful:
            return 0
        if self.standing.bad_since is not None:
            return 1
        return 3 if now >= self.standing.proven_at(policy, now, 0.0) else 2


def merit_of(policy: Policy, candidate: Candidate) -> float:
    """What a network is worth to a policy, more is better; equal ones are no reason to move."""
    facts, quality = candidate.path.facts, candidate.path.quality
    match policy.kind:
        case Kind.VOIP_PERFORMANCE:
            score = voice_score(quality)
            return _UNKNOWN_SCORE if score is None else score
        case Kind.BEST_PERFORMANCE:
            return weighted_score(policy.weights, quality, facts.cost, facts.protection / 2)
        case Kind.ANY:
            return 0.0
        case Kind.WIRED_BEFORE_WIRELESS:
            return 1.0 if facts.is_wired else 0.0
    return -float(policy.networks.index(facts.name)) if facts.name in policy.networks else -inf


class Application:
    """One application: its policy, where it is, and what it remembers of each network."""

    __slots__ = (
        "_standings",
        "begun_at",
        "lock",
        "lost",
        "name",
        "network",
        "patience_until",
        "pending",
        "policy",
        "settled_at",
        "written",
    )

    def __init__(self, name: ApplicationName, policy: Policy) -> None:
        self.name = name
        self.written = policy
        """As the administrator wrote it."""
        self.policy = policy
        """What it says at this hour."""
        self.network: NetworkName | None = None
        self.lock: NetworkName | None = None
        self.pending: Decision | None = None
        self.settled_at = -inf
        """`hold` after it came."""
        self.patience_until = -inf
        self.lost: tuple[Cause, str] = (Cause.FIRST, "first network")
        """Why it has no network, while it has none."""
        self.begun_at = inf
        """When it had a network for the first time."""
        self._standings: dict[NetworkName, Standing] = {}

    @property
    def order(self) -> tuple[NetworkName, ...]:
        """The candidates of the policy, best first."""
        return self.policy.networks

    def standing(self, network: NetworkName) -> Standing:
        """What it remembers of a network."""
        found = self._standings.get(network)
        if found is None:
            found = self._standings[network] = Standing()
        return found

    def review(self, path: Path, now: float) -> None:
        """A network's quality, or our thresholds, are others now."""
        if path.is_usable:
            is_late = path.was_up or now - self.begun_at > self.policy.good_for
            self.standing(path.facts.name).review(self.policy, path.quality, now, is_late=is_late)

    def take_up(self, decision: Decision) -> None:
        """A move begins; an urgent one leaves its source at once."""
        self.pending = decision
        if decision.is_urgent:
            if self.network is not None:
                self.lost = (decision.cause, decision.reason)
            self.network = None
            self.pending = decision if decision.target is not None else None

    def place(self, network: NetworkName | None, now: float) -> None:
        """It is there now."""
        pending, source = self.pending, self.network
        self.pending = None
        if network == source:
            return
        if pending is not None and pending.target == network and source is not None:
            is_swing = pending.cause is Cause.BETTER and self.policy.kind in SCORED
            if pending.cause is Cause.WORSE or is_swing:
                self.standing(source).disappoint(self.policy, now)
        self.network = network
        if network is not None:
            self.begun_at = min(self.begun_at, now)
        self.settled_at = now + self.policy.hold if source is not None else -inf
        for standing in self._standings.values():
            standing.better_since = None

    def fail(self, target: NetworkName, patience_until: float, now: float) -> None:
        """A move did not succeed."""
        self.pending = None
        self.patience_until = patience_until
        self.standing(target).disappoint(self.policy, now)
