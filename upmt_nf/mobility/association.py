"""The mobile host's side of the association (paper section V): a soft state that REGISTER makes and refreshes.

One machine: `TRANSITIONS` is all that can happen; what is not in it came late or twice and changes nothing.
Says on which network to register; knows neither SIP nor tunnels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from random import Random

from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import NetworkName


class AssociationState(Enum):
    """The values are what `status` shows."""

    IDLE = "idle"
    REGISTERING = "registering"
    ASSOCIATED = "associated"
    REFRESHING = "refreshing"
    LOST = "lost"
    LEAVING = "leaving"


class AssociationInput(Enum):
    """What the machine reacts to."""

    NETWORK_APPEARED = auto()
    NETWORKS_GONE = auto()
    RETRY_DUE = auto()
    ACCEPTED = auto()
    FAILED = auto()
    REFRESH_DUE = auto()
    EXPIRED = auto()
    DISOWNED = auto()
    WITHDRAWN = auto()
    STOP_ASKED = auto()
    LEFT = auto()


S, I = AssociationState, AssociationInput  # noqa: E741  (a table is read by its columns)
TRANSITIONS: dict[tuple[AssociationState, AssociationInput], AssociationState] = {
    (S.IDLE, I.NETWORK_APPEARED): S.REGISTERING,
    (S.IDLE, I.STOP_ASKED): S.LEAVING,
    (S.REGISTERING, I.NETWORK_APPEARED): S.REGISTERING,
    (S.REGISTERING, I.NETWORKS_GONE): S.IDLE,
    (S.REGISTERING, I.ACCEPTED): S.ASSOCIATED,
    (S.REGISTERING, I.FAILED): S.LOST,
    (S.REGISTERING, I.WITHDRAWN): S.IDLE,
    (S.REGISTERING, I.STOP_ASKED): S.LEAVING,
    (S.ASSOCIATED, I.ACCEPTED): S.ASSOCIATED,
    (S.ASSOCIATED, I.NETWORK_APPEARED): S.REFRESHING,
    (S.ASSOCIATED, I.REFRESH_DUE): S.REFRESHING,
    (S.ASSOCIATED, I.EXPIRED): S.LOST,
    (S.ASSOCIATED, I.DISOWNED): S.LOST,
    (S.ASSOCIATED, I.WITHDRAWN): S.IDLE,
    (S.ASSOCIATED, I.STOP_ASKED): S.LEAVING,
    (S.REFRESHING, I.NETWORK_APPEARED): S.REFRESHING,
    (S.REFRESHING, I.ACCEPTED): S.ASSOCIATED,
    (S.REFRESHING, I.REFRESH_DUE): S.REFRESHING,
    (S.REFRESHING, I.FAILED): S.LOST,
    (S.REFRESHING, I.EXPIRED): S.LOST,
    (S.REFRESHING, I.DISOWNED): S.LOST,
    (S.REFRESHING, I.WITHDRAWN): S.IDLE,
    (S.REFRESHING, I.STOP_ASKED): S.LEAVING,
    (S.LOST, I.NETWORK_APPEARED): S.REGISTERING,
    (S.LOST, I.RETRY_DUE): S.REGISTERING,
    (S.LOST, I.ACCEPTED): S.ASSOCIATED,
    (S.LOST, I.WITHDRAWN): S.IDLE,
    (S.LOST, I.STOP_ASKED): S.LEAVING,
    (S.LEAVING, I.LEFT): S.IDLE,
}

REFRESH_AFTER = 0.8
"""Part of the lifetime after which a refresh is due (less up to a tenth, so that hosts do not refresh in step)."""
LONGEST_PAUSE = 5.0
"""Seconds between the attempts of one refresh."""
FIRST_RETRY, LONGEST_RETRY = 0.5, 30.0
"""Seconds between attempts to associate again: doubling, with jitter."""


@dataclass(frozen=True, slots=True)
class RegisterOn:
    """Send a REGISTER by this network; `expires` 0 says goodbye."""

    network: NetworkName
    expires: int


@dataclass(frozen=True, slots=True)
class Granted:
    """The anchor gave or confirmed the association. `is_new`: its token changed, so tunnels must be set up again."""

    is_new: bool


@dataclass(frozen=True, slots=True)
class AssociationLost:
    """There is no association now; tunnels of the old one are worth nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class GoodbyeSaid:
    """The anchor knows that we left, or had its chance."""


AssociationAction = RegisterOn | Granted | AssociationLost | GoodbyeSaid


@dataclass(frozen=True, slots=True)
class Grant:
    """What a 200 OK to REGISTER says. `asked_at`: when the request was sent (seconds); `cseq`: its number."""

    virtual_address: IPAddress
    token: str
    expires: int
    asked_at: float
    cseq: int
    key: bytes | None = None
    """The anchor's public key."""


class HostAssociation:
    """The machine. `networks` are those that are there now, the most promising first: the owner keeps it up to date."""

    def __init__(self, lifetime: int, leave_patience: float, random: Random) -> None:
        self.state = AssociationState.IDLE
        self.networks: list[NetworkName] = []
        self.virtual_address: IPAddress | None = None
        self.token: str | None = None
        self.expires_at: float | None = None
        self.failure: str | None = None
        """Why the last attempt failed."""
        self._doubt: str | None = None
        self._lifetime = lifetime
        self._leave_patience = leave_patience
        self._random = random
        self._asked: set[NetworkName] = set()
        self._newest = 0
        self._next_at: float | None = None
        """Refresh, retry or end of patience, by state."""
        self._turn = 0
        self._retry = FIRST_RETRY

    @property
    def lifetime(self) -> int:
        """Seconds of association that are asked for."""
        return self._lifetime

    @property
    def is_held(self) -> bool:
        """Whether the anchor leases us our virtual address now."""
        return self.state in (AssociationState.ASSOCIATED, AssociationState.REFRESHING)

    # --- inputs ---

    def appear(self, network: NetworkName, now: float) -> list[AssociationAction]:
        """A network can be used; all of them register at once, so that a dead first one costs nothing."""
        if not self._enter(AssociationInput.NETWORK_APPEARED):
            return []
        if self.state is AssociationState.REFRESHING:
            # The anchor learns of the new care-of address; should it not answer there, the others are asked.
            due, soon = self._next_at, now + LONGEST_PAUSE
            self._next_at = soon if due is None else min(due, soon)
            return self._register([network])
        self._next_at = None
        return self._register([name for name in self.networks if name not in self._asked])

    def vanish(self, network: NetworkName, now: float) -> list[AssociationAction]:
        """A network cannot be used any more."""
        self._asked.discard(network)
        if not self.networks:
            self._enter(AssociationInput.NETWORKS_GONE)
            if self.state is AssociationState.LEAVING:
                return self._left()
            if self.state is AssociationState.LOST:
                self._next_at = None
        return self._all_failed(f"network {network} went away", now)

    def accept(self, network: NetworkName, grant: Grant, now: float) -> list[AssociationAction]:
        """200 OK to a REGISTER that asked for more than 0 seconds."""
        self._asked.discard(network)
        if grant.cseq < self._newest or not self._enter(AssociationInput.ACCEPTED):
            return []
        self._newest = grant.cseq
        self._asked.clear()
        is_new = (grant.token, grant.virtual_address) != (self.token, self.virtual_address)
        self.virtual_address, self.token = grant.virtual_address, grant.token
        self.expires_at = grant.asked_at + grant.expires
        self._next_at = grant.asked_at + grant.expires * REFRESH_AFTER * self._random.uniform(0.9, 1.0)
        self._turn, self._retry, self.failure, self._doubt = 0, FIRST_RETRY, None, None
        return [Granted(is_new)]

    def accept_goodbye(self) -> list[AssociationAction]:
        """200 OK to a REGISTER that asked for 0 seconds."""
        return self._left() if self.state is AssociationState.LEAVING else []

    def refuse(
        self,
        network: NetworkName,
        reason: str,
        now: float,
        *,
        least_lifetime: int | None = None,
        retry_after: float = 0.0,
    ) -> list[AssociationAction]:
        """The anchor said no: one answer counts for all networks. `least_lifetime` is that of a 423."""
        self._asked.discard(network)
        if self.state is AssociationState.LEAVING:
            return self._left()
        if least_lifetime is not None and least_lifetime > self._lifetime:
            self._lifetime = least_lifetime
            return self._register([network])
        return self._fail(reason, now, retry_after)

    def go_unanswered(self, network: NetworkName, now: float) -> list[AssociationAction]:
        """No answer to a REGISTER by this network, or none that was believed."""
        self._asked.discard(network)
        return self._all_failed(self._doubt or "the anchor does not answer", now)

    def doubt(self) -> str:
        """A success came that proves nothing; gives what it will be called if no other comes."""
        self._doubt = (
            "an answer came that does not prove that it is the anchor's: is that its address and secret?"
        )
        if not self.is_held:
            self.failure = self._doubt
        return self._doubt

    def disown(self, reason: str, now: float, retry_after: float = 0.0) -> list[AssociationAction]:
        """The anchor does not know our association (any more)."""
        if not self._enter(AssociationInput.DISOWNED):
            return []
        return self._lose(reason, now, retry_after)

    def ask_again(self, now: float) -> list[AssociationAction]:
        """Refresh at once, by every network that is there: nobody knows which of them still leads to the anchor."""
        if not self._enter(AssociationInput.REFRESH_DUE):
            return []
        self._next_at = now + LONGEST_PAUSE
        return self._register(self.networks)

    def withdraw(self) -> None:
        """Another anchor is used: nothing is wanted of this one but the same address, if we ever come back."""
        if self._enter(AssociationInput.WITHDRAWN):
            self.token = self.expires_at = self._next_at = None
            self._asked.clear()
            self._turn, self._retry = 0, FIRST_RETRY

    def stop(self, now: float) -> list[AssociationAction]:
        """Leave: say goodbye by every network that is there."""
        had_asked = self.state is not AssociationState.IDLE
        if not self._enter(AssociationInput.STOP_ASKED):
            return []
        if not self.networks or not had_asked:
            return self._left()
        self._next_at = now + self._leave_patience
        return [RegisterOn(network, 0) for network in self.networks]

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        if self.state is AssociationState.REFRESHING and self.expires_at is not None:
            return self.expires_at if self._next_at is None else min(self.expires_at, self._next_at)
        return self._next_at

    def handle_timeout(self, now: float) -> list[AssociationAction]:
        """Refresh, retry, expire or stop waiting, as is due."""
        if self.expires_at is not None and now >= self.expires_at and self._enter(AssociationInput.EXPIRED):
            return self._lose("it expired", now, 0.0)
        if self._next_at is None or now < self._next_at:
            return []
        match self.state:
            case AssociationState.ASSOCIATED | AssociationState.REFRESHING:
                self._enter(AssociationInput.REFRESH_DUE)
                return self._refresh(now)
            case AssociationState.LOST:
                self._enter(AssociationInput.RETRY_DUE)
                self._next_at = None
                return self._register(self.networks)
            case AssociationState.LEAVING:
                return self._left()
            case AssociationState.IDLE | AssociationState.REGISTERING:
                self._next_at = None
        return []

    # --- inside ---

    def _enter(self, input: AssociationInput) -> bool:
        target = TRANSITIONS.get((self.state, input))
        if target is None:
            return False
        self.state = target
        return True

    def _register(self, networks: list[NetworkName]) -> list[AssociationAction]:
        self._asked.update(networks)
        return [RegisterOn(network, self._lifetime) for network in networks]

    def _refresh(self, now: float) -> list[AssociationAction]:
        """One network after the other, those that live first, six times before the association expires."""
        assert self.expires_at is not None
        self._next_at = now + max(0.5, min(LONGEST_PAUSE, (self.expires_at - now) / 6))
        if not self.networks:
            return []
        network = self.networks[self._turn % len(self.networks)]
        self._turn += 1
        return self._register([network])

    def _all_failed(self, reason: str, now: float) -> list[AssociationAction]:
        """Every attempt of this round went unanswered. A refresh has rounds until the association expires."""
        if self._asked or not self.networks or self.state is not AssociationState.REGISTERING:
            return []
        return self._fail(reason, now, 0.0)

    def _fail(self, reason: str, now: float, retry_after: float) -> list[AssociationAction]:
        return self._lose(reason, now, retry_after) if self._enter(AssociationInput.FAILED) else []

    def _lose(self, reason: str, now: float, retry_after: float) -> list[AssociationAction]:
        self.failure = reason
        self._doubt = None
        self.token = None
        self.expires_at = None
        self._asked.clear()
        pause = max(self._retry * self._random.uniform(0.8, 1.2), min(retry_after, LONGEST_RETRY))
        self._next_at = now + pause if self.networks else None
        self._retry = min(2 * self._retry, LONGEST_RETRY)
        return [AssociationLost(reason)]

    def _left(self) -> list[AssociationAction]:
        self._enter(AssociationInput.LEFT)
        self._next_at = self.expires_at = self.token = None
        return [GoodbyeSaid()]
