"""What a policy can react to, in the past tense, and what it decides. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import Policy
from upmt_nf.policy.quality import Quality


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """A network's tunnel carries packets, or does not. Doubtful: stay if you are there, but do not go there."""

    network: NetworkName
    is_usable: bool
    is_doubtful: bool = False
    reason: str = ""
    is_fault: bool = True
    """With `is_usable` False: the network's own; a lost association is no network's fault."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A network's path is like this now."""

    network: NetworkName
    quality: Quality


@dataclass(frozen=True, slots=True)
class Spent:
    """An application sent and received this many bytes by a network since the last time."""

    application: ApplicationName
    network: NetworkName
    count: float


@dataclass(frozen=True, slots=True)
class PolicySet:
    """An application exists, or has another policy now."""

    application: ApplicationName
    policy: Policy


@dataclass(frozen=True, slots=True)
class Locked:
    """A person wants an application on one network and nowhere else. Budgets and protection still hold."""

    application: ApplicationName
    network: NetworkName


@dataclass(frozen=True, slots=True)
class Released:
    """The policy decides again."""

    application: ApplicationName


@dataclass(frozen=True, slots=True)
class Placed:
    """An application is on a network now, or on none."""

    application: ApplicationName
    network: NetworkName | None


@dataclass(frozen=True, slots=True)
class MoveFailed:
    """A decided move to this network did not succeed."""

    application: ApplicationName
    target: NetworkName


@dataclass(frozen=True, slots=True)
class ClockSet:
    """What to add to `now` to have seconds since 1970-01-01 00:00 local time."""

    offset: float


@dataclass(frozen=True, slots=True)
class MeteredChanged:
    """Somebody pays for a network by the byte, or nobody does any more."""

    network: NetworkName
    is_metered: bool


@dataclass(frozen=True, slots=True)
class NetworksDescribed:
    """Somebody says other things of the networks: what they cost, whom they can be trusted to, their budgets."""

    networks: tuple[NetworkFacts, ...]


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The time that `next_timeout` gave has come."""


PolicyEvent = (
    NetworkChanged
    | Measured
    | Spent
    | MeteredChanged
    | PolicySet
    | Locked
    | Released
    | Placed
    | MoveFailed
    | ClockSet
    | NetworksDescribed
    | TimePassed
)


class Cause(Enum):
    """Why an application moves. The values are what receipts show."""

    FIRST = "first network"
    LOST = "network lost"
    BARRED = "not allowed"
    BUDGET = "budget nearly spent"
    WORSE = "thresholds left"
    BETTER = "a better network"
    LOCKED = "locked"


FORCED = frozenset((Cause.FIRST, Cause.LOST, Cause.BARRED, Cause.BUDGET, Cause.LOCKED))
"""Moves that no policy's patience can put off; the others are of its own will, and bounded."""


@dataclass(frozen=True, slots=True)
class Decision:
    """An application shall go to `target`; None: nowhere, its packets are held back.

    Urgent: do not wait for anybody before the source is left, as it is dead or forbidden.
    """

    application: ApplicationName
    source: NetworkName | None
    target: NetworkName | None
    cause: Cause
    reason: str
    """With the numbers, for people."""
    rule: str
    """The policy's line that asked for it: `voice: leave.delay = 250 ms`."""
    is_urgent: bool
    numbers: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What was measured: `source_delay_ms` and so on."""
