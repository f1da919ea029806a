"""What both ends want done alike. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from upmt_nf.model.identity import ApplicationName, NetworkName


class Level(Enum):
    """How loud a line is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Announce:
    """One line about a change that a human cares about."""

    level: Level
    text: str


class EventKind(Enum):
    """What a change is of. The values are what `upmt events` shows."""

    NETWORK = "network"
    """From and to a state of its tunnel."""
    PORT = "port"
    """The port of the anchor that its tunnel goes to."""
    PATH_MTU = "path-mtu"
    PORTAL = "portal"
    METERED = "metered"
    ASSOCIATION = "association"
    """From and to a state; the reason names the anchor and the virtual address, or why there is none."""
    HANDOVER = "handover"
    HANDOVER_FAILED = "handover-failed"
    POLICY = "policy"
    LOCK = "lock"
    BUDGET = "budget"
    """An application is barred from a network, or not any more."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A change of state, for programs that follow them: of what, what it was and what it is now."""

    kind: EventKind
    reason: str
    network: NetworkName | None = None
    application: ApplicationName | None = None
    old: str | None = None
    new: str | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing more will be said; end."""
