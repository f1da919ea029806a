"""The anchor's answers to hosts that speak the JSON of the authors' later implementation (`authors_json`).

The same leases, tunnels and moves, and the same checks. That dialect has no token, so an endpoint is believed only of a
host that has proved who it is (Digest); an anchor that asks nobody for proof sets no tunnel up for it.
"""

from __future__ import annotations

from collections.abc import Callable

from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.anchor_tunnels import AnchorTunnels
from upmt_nf.mobility.flow_moves import FlowMoves
from upmt_nf.mobility.leases import Lease, LeaseAsked, LeaseRefused, Leases
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TerminalId
from upmt_nf.signaling.authors_json import (
    LIFETIME,
    AnchorList,
    AnchorListRequest,
    Associated,
    AuthorsBody,
    AuthorsSignal,
    Done,
    Refused,
    Unsupported,
)
from upmt_nf.signaling.digest import Ticket
from upmt_nf.signaling.messages import (
    AssociationRequest,
    HandoverRequest,
    TunnelSetupRequest,
    TunnelSetupResponse,
)

CALL_ID = "the authors' dialect"
"""Of all leases asked for in it: there, a new Call-ID does not mean that a host has lost its state."""

OUTSIDE = Refused("an association is asked for outside the tunnels")
INSIDE = Refused("tunnels and flows are asked for inside a tunnel")


class AuthorsAnswers:
    """`associate` gives a lease as a REGISTER does, with all that follows from it."""

    def __init__(
        self,
        settings: AnchorSettings,
        leases: Leases,
        tunnels: AnchorTunnels,
        moves: FlowMoves,
        associate: Callable[[LeaseAsked, Endpoint, float], Lease | LeaseRefused],
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._tunnels = tunnels
        self._moves = moves
        self._associate = associate
        self._order = 0
        """Of arrival: their CSeq numbers tell no order. The server transactions keep repetitions away."""

    def answer(
        self,
        body: AuthorsBody,
        remote: Endpoint,
        inner: Endpoint | None,
        ticket: Ticket | None,
        now: float,
    ) -> list[Done]:
        """One answer a signal. `inner` None: it came outside the tunnels; `ticket` None: nobody proved anything."""
        self._order += 1
        return [self._answer(signal, remote, inner, ticket, now) for signal in body.signals]

    def _answer(
        self,
        signal: AuthorsSignal,
        remote: Endpoint,
        inner: Endpoint | None,
        ticket: Ticket | None,
        now: float,
    ) -> Done:
        if ticket is not None and ticket.identity != signal.identity:
            return Refused("that is another host's identity")
        match signal.asked:
            case Unsupported(reason):
                return Refused(reason)
            case AnchorListRequest():
                return AnchorList((self._settings.address,))
            case AssociationRequest() as asked:
                if inner is not None:
                    return OUTSIDE
                return self._lease(signal.identity, asked, remote, ticket, now)
        if inner is None:
            return INSIDE
        lease = self._leases.by_address.get(inner.address)
        if lease is None or lease.identity != signal.identity:
            return Refused("no such association")
        if isinstance(signal.asked, TunnelSetupRequest):
            return self._set_up(lease, signal.asked, remote, ticket is not None, now)
        tunnel: Tunnel | str | None = self._tunnels.at(remote, lease.address)
        if tunnel is None and ticket is not None and isinstance(signal.asked, HandoverRequest):
            tunnel = self._tunnels.set_up_plain(lease, remote, self._order, now)
        if not isinstance(tunnel, Tunnel):
            return Refused(tunnel or "this message came by no tunnel of yours")
        if isinstance(signal.asked, HandoverRequest):
            return self._moves.apply(lease, signal.asked.pairs, tunnel, self._order, now)[0]
        self._refresh(lease, now)
        return signal.asked

    def _lease(
        self,
        identity: TerminalId,
        asked: AssociationRequest,
        remote: Endpoint,
        ticket: Ticket | None,
        now: float,
    ) -> Associated | Refused:
        wanted = LeaseAsked(
            identity,
            CALL_ID,
            self._order,
            max(asked.expires, self._settings.minimum_lifetime),
            asked.virtual_address,
            proven_at=ticket.made_at if ticket is not None else 0.0,
        )
        given = self._associate(wanted, remote, now)
        if isinstance(given, LeaseRefused):
            return Refused(given.reason)
        return Associated(given.address, self._settings.tunnel_port)

    def _set_up(
        self,
        lease: Lease,
        asked: TunnelSetupRequest,
        remote: Endpoint,
        is_proven: bool,
        now: float,
    ) -> TunnelSetupResponse | Refused:
        if not is_proven:
            return Refused("this anchor asks nobody for proof, and takes such a request only with it")
        if asked.virtual_address != lease.address:
            return Refused("that is not this association's virtual address")
        tunnel = self._tunnels.set_up_plain(lease, remote, self._order, now)
        if isinstance(tunnel, str):
            return Refused(tunnel)
        self._refresh(lease, now)
        return TunnelSetupResponse(tunnel.id, remote.address, remote.port)

    def _refresh(self, lease: Lease, now: float) -> None:
        """Their hosts associate once: what they say in a tunnel keeps the lease."""
        if lease.call_id == CALL_ID:
            expires = max(LIFETIME, self._settings.minimum_lifetime)
            asked = LeaseAsked(lease.identity, CALL_ID, self._order, expires, proven_at=lease.proven_at)
            self._leases.ask(asked, now)
