"""The anchor's virtual addresses: who has which, for how long, and who had which (paper section V, association).

In memory; `remembered` at the start and the anchor's LeaseGranted and LeaseEnded commands are all that a store
needs. Knows neither SIP nor tunnels.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from upmt_nf.mobility.contacts import Contacts
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import TerminalId
from upmt_nf.signaling.sip.contacts import NamedContact


@dataclass(slots=True)
class Lease:
    """One association. `call_id` and `cseq` are those of its newest REGISTER; `expires_at` in seconds."""

    identity: TerminalId
    address: IPAddress
    token: str
    call_id: str
    cseq: int
    expires_at: float
    keys: LeaseKeys | None = None
    watch: tuple[float, int] = (0.0, 0)
    """Time and number of its one true entry in the heap of expiries; never after `expires_at`."""
    proven_at: float = 0.0
    """When the challenge was made that its newest REGISTER met (seconds): a later process meets a later challenge."""
    contacts: Contacts = field(default_factory=Contacts)


@dataclass(frozen=True, slots=True)
class LeaseKeys:
    """What the tunnels' keys are made of: the host's public key, ours, and the association's key."""

    theirs: bytes
    ours: bytes
    association: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LeaseAsked:
    """A REGISTER, as the leases see it. `expires` in seconds; `wanted` is its VIpAddr."""

    identity: TerminalId
    call_id: str
    cseq: int
    expires: int
    wanted: IPAddress | None = None
    key: bytes | None = None
    proven_at: float = 0.0
    """When the challenge was made that it meets (seconds); 0 where nobody asks for proof."""
    contacts: tuple[NamedContact, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """No lease: a SIP status, why, and for 423 the least lifetime, for 503 when to try again (seconds)."""

    status: int
    reason: str
    least_lifetime: int | None = None
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class LeaseGiven:
    """The lease. `is_new`: it was not there before; `has_restarted`: the host lost its state, tunnels included.

    `is_inherited`: another host had its address before.
    """

    lease: Lease
    is_new: bool = False
    has_restarted: bool = False
    is_inherited: bool = False


class Leases:
    """The table. `token` gives a new unguessable word a call; at most `max_associations` hosts are remembered too."""

    def __init__(
        self,
        settings: AnchorSettings,
        token: Callable[[], str],
        remembered: Mapping[TerminalId, IPAddress] | None = None,
    ) -> None:
        self._settings = settings
        self._token = token
        self.by_identity: dict[TerminalId, Lease] = {}
        self.by_address: dict[IPAddress, Lease] = {}
        self.by_token: dict[str, Lease] = {}
        self._remembered: dict[TerminalId, IPAddress] = {}
        self._reserved: dict[IPAddress, TerminalId] = {}
        self._idle: OrderedDict[TerminalId, None] = OrderedDict()
        """Those who are remembered but not here: the one that left longest ago first."""
        self._left: OrderedDict[TerminalId, LeaseAsked] = OrderedDict()
        """The goodbyes: a REGISTER that was sent before one and comes after it must not bring the lease back."""
        self._fresh: Iterator[IPAddress] = iter(settings.pool)
        self._returned: list[IPAddress] = []
        """A heap, without the twins that `_in_returned` knows."""
        self._in_returned: set[IPAddress] = set()
        self._given_back: set[IPAddress] = set()
        """Those that somebody had and nobody has, wanted again or not."""
        self._expiries: list[tuple[float, int, TerminalId]] = []
        self._order = 0
        for identity, address in (remembered or {}).items():
            if address in settings.pool:
                self._remember(identity, address)

    def ask(self, asked: LeaseAsked, now: float) -> LeaseGiven | LeaseRefused:
        """Give or refresh a lease. A refresh never changes the address."""
        settings = self._settings
        if asked.expires < settings.minimum_lifetime:
            return LeaseRefused(
                423,
                f"an association lives at least {settings.minimum_lifetime} s",
                least_lifetime=settings.minimum_lifetime,
            )
        if self._is_stale(asked):
            return LeaseRefused(500, "this request is older than the same host's goodbye or restart")
        lifetime = min(asked.expires, settings.lifetime)
        lease = self.by_identity.get(asked.identity)
        if lease is not None:
            if lease.call_id != asked.call_id:
                lease.contacts.clear()
            if lease.call_id != asked.call_id or asked.cseq >= lease.cseq:
                lease.contacts.update(asked.contacts, lifetime, now)
            return self._refresh(lease, asked, now + lifetime)
        if len(self.by_identity) >= settings.max_associations:
            return LeaseRefused(503, "the anchor has all the hosts that it takes", retry_after=30)
        address = self._choose(asked)
        if address is None:
            return LeaseRefused(503, "no virtual address is free", retry_after=30)
        self._left.pop(asked.identity, None)
        is_inherited = self._remember(asked.identity, address)
        lease = Lease(asked.identity, address, self._token(), asked.call_id, asked.cseq, now + lifetime)
        lease.proven_at = asked.proven_at
        self.by_identity[lease.identity] = self.by_address[address] = self.by_token[lease.token] = lease
        del self._idle[lease.identity]
        lease.contacts.update(asked.contacts, lifetime, now)
        self._watch(lease)
        return LeaseGiven(lease, is_new=True, is_inherited=is_inherited)

    def release(self, asked: LeaseAsked) -> Lease | None:
        """The host says goodbye. None: there was no lease, or the goodbye is an old one."""
        if self._is_stale(asked):
            return None
        self._left[asked.identity] = asked
        while len(self._left) > self._settings.max_associations:
            self._left.popitem(last=False)
        lease = self.by_identity.get(asked.identity)
        if lease is None or (lease.call_id == asked.call_id and asked.cseq < lease.cseq):
            return None
        self._end(lease)
        return lease

    def revoke(self, identity: TerminalId) -> Lease | None:
        """End a host's lease, whatever the host wants; it may ask again. None: it has none."""
        lease = self.by_identity.get(identity)
        if lease is not None:
            self._end(lease)
        return lease

    @property
    def remembered(self) -> dict[TerminalId, IPAddress]:
        """Which address is kept for which host, associated or not."""
        return dict(self._remembered)

    def expire(self, now: float) -> list[Lease]:
        """End what was not refreshed in time; gives those leases."""
        ended = []
        while self._expiries and self._expiries[0][0] <= now:
            lease = self._watched(heapq.heappop(self._expiries))
            if lease is None:
                continue
            if lease.expires_at > now:
                self._watch(lease)
            else:
                self._end(lease)
                ended.append(lease)
        return ended

    def next_expiry(self) -> float | None:
        """When `expire` may have something to do (seconds)."""
        return self._expiries[0][0] if self._expiries else None

    # --- inside ---

    def _refresh(self, lease: Lease, asked: LeaseAsked, expires_at: float) -> LeaseGiven:
        has_restarted = lease.call_id != asked.call_id
        if has_restarted:
            del self.by_token[lease.token]
            lease.token = self._token()
            self.by_token[lease.token] = lease
        if has_restarted or asked.cseq >= lease.cseq:
            lease.call_id, lease.cseq, lease.proven_at = asked.call_id, asked.cseq, asked.proven_at
            lease.expires_at = expires_at
            if expires_at < lease.watch[0]:
                self._watch(lease)
        return LeaseGiven(lease, has_restarted=has_restarted)

    def _is_stale(self, asked: LeaseAsked) -> bool:
        """Sent before what we know of its host: another process's by the age of its proof, its own by its number."""
        left = self._left.get(asked.identity)
        if left is not None and asked.call_id == left.call_id and asked.cseq <= left.cseq:
            return True
        known = self.by_identity.get(asked.identity) or left
        return known is not None and asked.call_id != known.call_id and asked.proven_at < known.proven_at

    def _choose(self, asked: LeaseAsked) -> IPAddress | None:
        """The wanted address, the remembered one, the lowest that nobody had, at last the one left longest ago."""
        if asked.wanted is not None and self._is_free(asked.wanted, asked.identity):
            return asked.wanted
        remembered = self._remembered.get(asked.identity)
        if remembered is not None:
            return remembered
        while self._returned:
            address = heapq.heappop(self._returned)
            self._in_returned.discard(address)
            if self._is_free(address, asked.identity):
                return address
        for address in self._fresh:
            if self._is_free(address, asked.identity):
                return address
        gone = next(iter(self._idle), None)
        return None if gone is None else self._remembered[gone]

    def _is_free(self, address: IPAddress, identity: TerminalId) -> bool:
        return (
            address in self._settings.pool
            and address != self._settings.address
            and self._reserved.get(address, identity) == identity
        )

    def _remember(self, identity: TerminalId, address: IPAddress) -> bool:
        """This host has this address, and nobody else; the newest are the last to be forgotten.

        Gives whether another one had it before.
        """
        is_inherited = address in self._given_back or self._reserved.get(address, identity) != identity
        self._given_back.discard(address)
        if (before := self._reserved.pop(address, None)) is not None:
            self._remembered.pop(before, None)
            self._idle.pop(before, None)
        if identity in self._remembered:
            self._give_back(identity)
        self._remembered[identity] = address
        self._reserved[address] = identity
        self._idle[identity] = None
        if len(self._remembered) > 2 * self._settings.max_associations:
            self._give_back(next(iter(self._idle)))
        return is_inherited

    def _give_back(self, identity: TerminalId) -> None:
        """Forget who had an address; anybody may have it now."""
        address = self._remembered.pop(identity)
        self._given_back.add(address)
        self._idle.pop(identity, None)
        del self._reserved[address]
        if address not in self._in_returned:
            self._in_returned.add(address)
            heapq.heappush(self._returned, address)

    def _end(self, lease: Lease) -> None:
        del self.by_identity[lease.identity], self.by_address[lease.address], self.by_token[lease.token]
        self._idle[lease.identity] = None

    def _watch(self, lease: Lease) -> None:
        self._order += 1
        lease.watch = (lease.expires_at, self._order)
        heapq.heappush(self._expiries, (*lease.watch, lease.identity))
        if len(self._expiries) > 2 * len(self.by_identity) + 1024:
            # Hosts that come and go, or change their minds about their lifetime, must not fill the memory.
            self._expiries = [entry for entry in self._expiries if self._watched(entry) is not None]
            heapq.heapify(self._expiries)

    def _watched(self, entry: tuple[float, int, TerminalId]) -> Lease | None:
        """The lease that an entry in the heap stands for; None for one that does not count any more."""
        lease = self.by_identity.get(entry[2])
        return lease if lease is not None and lease.watch == entry[:2] else None
