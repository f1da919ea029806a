"""Wanted forwards and static NATs + leases -> which are open now (paper, section II: NAT at the anchor).

One whose host holds no lease waits; it follows its host from lease to lease. Knows neither netfilter nor a store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from upmt_nf.config.forwards import MAX_OPENINGS, AnchorSite, objection
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.forward import Forward, Opening, PortSpan, StaticNat
from upmt_nf.model.identity import TerminalId


class OpeningState(Enum):
    """How a forward or static NAT stands."""

    OPEN = "open"
    WAITING = "waiting"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class OpeningView:
    """One of them, to show. `address` is the host's now; `is_configured`: from the file, not by a command."""

    what: Forward | StaticNat
    state: OpeningState
    address: IPAddress | None
    is_configured: bool
    reason: str


class Forwards:
    """The table. `configured` is known to be free of contradictions; commands come on top."""

    def __init__(self, site: AnchorSite, configured: Iterable[Forward | StaticNat]) -> None:
        self._site = site
        self._configured = tuple(configured)
        self._added: list[Forward] = []
        self._refused: dict[Forward, str] = {}
        self._by_identity: dict[TerminalId, IPAddress] = {}
        self._by_address: dict[IPAddress, TerminalId] = {}

    # --- what is wanted ---

    def restore(self, kept: Iterable[Forward]) -> list[str]:
        """Forwards that commands added in an earlier life; gives what is wrong with those that fit no more.

        Those are kept and shown, but lead nowhere: the configuration has changed under them.
        """
        complaints = []
        for forward in kept:
            self._added.append(forward)
            reason = self._objection(forward, self._standing(before=forward))
            if reason is not None:
                self._refused[forward] = reason
                complaints.append(f"{forward}: {reason}")
        return complaints

    def check(self, forward: Forward) -> bool:
        """Whether adding it changes anything. Raises UpmtError when it cannot stand beside what is there."""
        if forward in self._standing():
            return False
        reason = self._objection(forward, self._standing())
        if reason is not None:
            raise UpmtError(f"{forward.outside} cannot be forwarded: {reason}")
        return True

    def add(self, forward: Forward) -> bool:
        """Want it from now on; False when that is so already. Raises as `check`."""
        if not self.check(forward):
            return False
        self._refused.pop(forward, None)
        if forward in self._added:
            self._added.remove(forward)
        self._added.append(forward)
        return True

    def find(self, protocol: int, external: IPAddress, ports: PortSpan) -> Forward | None:
        """The forward of exactly these ports that a command added, or None when none touches them.

        Raises UsageError for a part of one, UpmtError for one of the configuration.
        """
        asked = Forward(protocol, external, ports, external, ports)
        for forward in self._added:
            if forward.overlaps(asked) and forward.ports == ports:
                return forward
        for what in (*self._added, *self._configured):
            if isinstance(what, Forward) and what.overlaps(asked):
                if what.ports != ports:
                    raise UsageError(f"{asked.outside} is a part of {what.outside}: remove that as a whole")
                raise UpmtError(f"{what.outside} is forwarded by the configuration: take it out there")
        return None

    def remove(self, forward: Forward) -> None:
        """Want it no more."""
        self._added.remove(forward)
        self._refused.pop(forward, None)

    # --- who is there ---

    def grant(self, identity: TerminalId, address: IPAddress) -> bool:
        """This host holds this address now; whether that may open or move anything."""
        has_closed = self.end(identity)
        self._by_identity[identity] = address
        self._by_address[address] = identity
        return self._concerns(identity, address) or has_closed

    def end(self, identity: TerminalId) -> bool:
        """This host holds no lease any more; whether that may close anything."""
        address = self._by_identity.pop(identity, None)
        if address is None:
            return False
        if self._by_address.get(address) == identity:
            del self._by_address[address]
        return self._concerns(identity, address)

    def _concerns(self, identity: TerminalId, address: IPAddress) -> bool:
        return any(what.host in (identity, address) for what in self._standing())

    # --- what follows from both ---

    def openings(self) -> tuple[Opening, ...]:
        """What is open now: forwards first, as they win over the static NAT of the same external address."""
        return tuple(
            Opening(view.what, view.address)
            for view in sorted(self.views(), key=lambda view: isinstance(view.what, StaticNat))
            if view.state is OpeningState.OPEN and view.address is not None
        )

    def views(self) -> list[OpeningView]:
        """All of them, the configuration's first."""
        found: list[OpeningView] = []
        translated: dict[IPAddress, IPAddress] = {}
        for what in (*self._configured, *self._added):
            is_configured = what in self._configured
            address = self._address_of(what)
            state, reason = OpeningState.OPEN, ""
            if isinstance(what, Forward) and what in self._refused:
                state, reason = OpeningState.REFUSED, self._refused[what]
            elif address is None:
                state, reason = OpeningState.WAITING, "its host holds no lease"
            elif isinstance(what, StaticNat) and address in translated:
                state, reason = OpeningState.REFUSED, f"{address} has {translated[address]} already"
            elif isinstance(what, StaticNat):
                translated[address] = what.external
            found.append(OpeningView(what, state, address, is_configured, reason))
        return found

    def _address_of(self, what: Forward | StaticNat) -> IPAddress | None:
        if isinstance(what.host, str):
            return self._by_identity.get(what.host)
        return what.host if what.host in self._by_address else None

    def _standing(self, before: Forward | None = None) -> list[Forward | StaticNat]:
        added = self._added if before is None else self._added[: self._added.index(before)]
        return [*self._configured, *(forward for forward in added if forward not in self._refused)]

    def _objection(self, forward: Forward, others: list[Forward | StaticNat]) -> str | None:
        if len(others) >= MAX_OPENINGS:
            return f"there are {MAX_OPENINGS} forwards and static NATs already"
        return objection(forward, others, self._site)
