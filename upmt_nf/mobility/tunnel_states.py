"""What the tunnel of an access network can be and what makes it so, as data; what its machine asks its owner to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class TunnelState(Enum):
    """The values are what `status` shows."""

    DOWN = "down"
    SETUP = "setup"
    UP = "up"
    SUSPECT = "suspect"
    DEAD = "dead"


class TunnelInput(Enum):
    """What the machine reacts to."""

    APPEARED = auto()
    VANISHED = auto()
    ACCEPTED = auto()
    FAILED = auto()
    ANSWERED = auto()
    UNANSWERED = auto()
    SILENT = auto()
    DISOWNED = auto()


S, I = TunnelState, TunnelInput  # noqa: E741  (a table is read by its columns)
TRANSITIONS: dict[tuple[TunnelState, TunnelInput], TunnelState] = {
    (S.DOWN, I.APPEARED): S.SETUP,
    (S.SETUP, I.APPEARED): S.SETUP,
    (S.SETUP, I.VANISHED): S.DOWN,
    (S.SETUP, I.ACCEPTED): S.UP,
    (S.SETUP, I.FAILED): S.SETUP,
    (S.SETUP, I.DISOWNED): S.SETUP,
    (S.UP, I.APPEARED): S.SETUP,
    (S.UP, I.VANISHED): S.DOWN,
    (S.UP, I.ACCEPTED): S.UP,
    (S.UP, I.ANSWERED): S.UP,
    (S.UP, I.UNANSWERED): S.SUSPECT,
    (S.UP, I.SILENT): S.DEAD,
    (S.UP, I.DISOWNED): S.SETUP,
    (S.SUSPECT, I.APPEARED): S.SETUP,
    (S.SUSPECT, I.VANISHED): S.DOWN,
    (S.SUSPECT, I.ACCEPTED): S.UP,
    (S.SUSPECT, I.ANSWERED): S.UP,
    (S.SUSPECT, I.UNANSWERED): S.SUSPECT,
    (S.SUSPECT, I.SILENT): S.DEAD,
    (S.SUSPECT, I.DISOWNED): S.SETUP,
    (S.DEAD, I.APPEARED): S.SETUP,
    (S.DEAD, I.VANISHED): S.DOWN,
    (S.DEAD, I.ACCEPTED): S.UP,
    (S.DEAD, I.FAILED): S.DEAD,
    (S.DEAD, I.DISOWNED): S.SETUP,
}


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Send a measurement packet with this sequence number in the tunnel."""

    sequence: int


@dataclass(frozen=True, slots=True)
class KeepMapping:
    """Send the smallest packet there is, so that a NAT that soon forgets does not."""


@dataclass(frozen=True, slots=True)
class AskSetup:
    """Send a tunnel setup request, after `rebind` from a new source port."""

    rebind: bool


@dataclass(frozen=True, slots=True)
class StateChanged:
    """One transition, for the log and for the selection."""

    old: TunnelState
    new: TunnelState
    reason: str


@dataclass(frozen=True, slots=True)
class SilenceChanged:
    """Its applications' packets shall go by others as well, as it is silent; or need not any more."""

    is_silent: bool


TunnelAction = SendProbe | KeepMapping | AskSetup | StateChanged | SilenceChanged
