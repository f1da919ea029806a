"""One application's policy as a value. All of it is checked when it is read (`config/policies.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.budget import Budget
from upmt_nf.policy.civil_time import CivilTime, Hours
from upmt_nf.policy.network import NetworkFacts, Protection
from upmt_nf.policy.quality import BALANCED, NO_LIMITS, Thresholds, Weights


class Kind(Enum):
    """How networks are ranked: the policies of UPMT's authors, by their names."""

    PRIORITY_LIST = "PriorityList"
    """The first of the list that works."""
    STATIC = "Static"
    """One network and no other."""
    ANY = "Any"
    """Whichever works; stays until it fails."""
    BLOCK = "Block"
    """None."""
    PERFORMANCE_PRIORITY_LIST = "PerformancePriorityList"
    """The first of the list that keeps the thresholds."""
    VOIP_PERFORMANCE = "VoipPerformance"
    """The best voice score."""
    BEST_PERFORMANCE = "BestPerformance"
    """The best weighted score."""
    WIRED_BEFORE_WIRELESS = "WiredBeforeWireless"
    """Cables first."""
    ONLY_FREE = "OnlyFree"
    """Only networks that nobody pays for by the byte."""


SCORED = frozenset((Kind.VOIP_PERFORMANCE, Kind.BEST_PERFORMANCE))


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds.

    A network is *bad* while it violates `leave`, and *good* while it keeps `enter`, which is stricter.
    """

    name: str
    kind: Kind = Kind.PRIORITY_LIST
    networks: tuple[NetworkName, ...] = ()
    """The candidates, best first, each spelled out."""
    leave: Thresholds = NO_LIMITS
    enter: Thresholds = NO_LIMITS
    weights: Weights = BALANCED
    margin: float = 0.1
    """How much better a score must be to move for it."""
    bad_for: float = 2.0
    """A network is left when it was bad this long."""
    good_for: float = 30.0
    """A better network is gone to when it was good this long."""
    hold: float = 10.0
    """Nothing is left for something better earlier than this after coming."""
    penalty_longest: float = 600.0
    """Each time a network disappoints, twice as long must it be good; never longer than this."""
    forgive: float = 3600.0
    """A network that was not left for this long is trusted again."""
    protection: Protection = Protection.PLAIN
    """The least that a network's tunnel must have."""
    protection_untrusted: Protection = Protection.PLAIN
    """The same on networks that are not trusted."""
    cost_limit: float | None = None
    """Of a gigabyte."""
    budgets: tuple[Budget, ...] = ()
    is_redundant: bool = False
    """Each packet goes by the two best networks at once."""
    reorder: float = 0.0
    """How long a packet that arrives may wait for those that were sent before it."""
    by_time: tuple[tuple[Hours, Policy], ...] = field(default=())
    """Other policies at certain hours; the first that fits."""

    def at(self, time: CivilTime) -> Policy:
        """The policy in force at a time."""
        for hours, policy in self.by_time:
            if hours.contain(time):
                return policy
        return self

    def never(self, network: NetworkFacts) -> str | None:
        """Why a network is out of the question, whatever is measured and spent; None when it is not."""
        if self.kind is Kind.BLOCK:
            return "the policy blocks"
        if network.name not in self.networks:
            return "not in the policy's networks"
        if self.kind is Kind.ONLY_FREE and not network.is_free:
            return "not free"
        if self.cost_limit is not None and network.cost > self.cost_limit:
            return f"costs {network.cost:g}, more than {self.cost_limit:g}"
        least = self.protection
        if not network.is_trusted:
            least = max(least, self.protection_untrusted)
        if network.protection < least:
            return f"its protection is {network.protection.label}, {least.label} is required"
        return None

    def penalty(self, leaves: int) -> float:
        """How long a network must be good to be gone back to, after this many disappointments."""
        return min(self.good_for * 2 ** min(leaves - 1, 30), self.penalty_longest) if leaves else 0.0

    def most_returns(self, window: float) -> int:
        """The bound on coming back to one network by its own will, in any `window` (seconds, at most `forgive`)."""
        returns, used = 1, 0.0
        while (used := used + max(self.penalty(returns), 1e-9)) <= window and returns < 1_000_000:
            returns += 1
        return returns

    def most_moves(self, networks: int, window: float) -> int:
        """The bound on moves by its own will in any `window`: none is forced by a fall, a bar or a person.

        Each network disappoints at most `most_returns` + 1 times; between two disappointments an application climbs
        at most `networks` - 1 steps.
        """
        disappointments = networks * (self.most_returns(window) + 1)
        return max(0, disappointments + (networks - 1) * (disappointments + 1))
