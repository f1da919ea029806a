"""An application's memory of one network: good or bad since when, and how often it disappointed."""

from __future__ import annotations

from math import inf

from upmt_nf.policy.policy import Policy
from upmt_nf.policy.quality import Quality, Violation


class Standing:
    """Times in seconds of the caller's clock."""

    __slots__ = ("_is_known", "bad_since", "better_since", "good_since", "leaves", "left_at", "violation")

    def __init__(self) -> None:
        self.good_since: float | None = None
        """It keeps the policy's `enter` since."""
        self.bad_since: float | None = None
        """It violates the policy's `leave` since ..."""
        self.violation: Violation | None = None
        """... like this."""
        self.better_since: float | None = None
        """Its score beats that of the application's network since."""
        self.leaves = 0
        self.left_at = -inf
        self._is_known = False

    def review(self, policy: Policy, quality: Quality, now: float, *, is_late: bool) -> None:
        """Compare a network that carries packets with the thresholds. Late: it must prove itself from now on."""
        is_late, self._is_known = is_late or self._is_known, True
        self.violation = policy.leave.violated_by(quality)
        if self.violation is not None:
            self.bad_since = now if self.bad_since is None else self.bad_since
            self.good_since = None
            return
        self.bad_since = None
        if policy.enter.violated_by(quality) is not None:
            self.good_since = None
        elif self.good_since is None:
            self.good_since = now if is_late else -inf

    def fall(self) -> None:
        """The network carries nothing."""
        self.good_since = self.bad_since = self.better_since = self.violation = None

    def disappoint(self, policy: Policy, now: float) -> None:
        """The application left it because it was bad or dead, or did not get there."""
        self.leaves = self._remembered(policy, now) + 1
        self.left_at = now

    def proven_at(self, policy: Policy, now: float, patience: float) -> float:
        """When it will have been good for `patience` and for its penalty; while it is only fair, its penalty alone."""
        penalty = policy.penalty(self._remembered(policy, now))
        since = self.left_at if self.good_since is None else max(self.good_since, self.left_at)
        if self.good_since is None:
            return inf if penalty else since
        return max(self.good_since + patience, since + penalty)

    def _remembered(self, policy: Policy, now: float) -> int:
        return self.leaves if now - self.left_at <= policy.forgive else 0
