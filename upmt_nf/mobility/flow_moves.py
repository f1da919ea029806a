"""Handover requests as the anchor obeys them: pair by pair, only for the asking host's own flows and tunnels.

Requests of one host may overtake each other: each flow, and each named application, follows the newest (by CSeq) that
spoke of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import nlargest

from upmt_nf.datapath.arrivals import Arrivals
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import SETTLE_SECONDS, Paft, Tunnel
from upmt_nf.mobility.anchor_tunnels import AnchorTunnels
from upmt_nf.mobility.leases import Lease
from upmt_nf.mobility.named_applications import NamedApplications
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import (
    FlowBytes,
    FlowKey,
    IPAddress,
    application_meant,
    is_stand_in,
    newcomers_of,
    stands_for_newcomers,
)
from upmt_nf.model.identity import ApplicationId
from upmt_nf.signaling.iptables_match import parse_match
from upmt_nf.signaling.messages import (
    ANY,
    MOST_COUNTED,
    MOST_WEIGHED,
    FlowSelector,
    HandoverPair,
    HandoverResult,
    IptablesMatch,
    TunnelChoice,
)

_SPARE_ORDERS = 1024
_MOST_PACKED_WATCHED = 32
"""Flows in a packed list that are looked at, which may be of several applications."""


class FlowMoves:
    """Moves flows in PAFT and remembers by which request. `may_look_at` limits how many flows one host keeps us at."""

    def __init__(
        self, paft: Paft, tunnels: AnchorTunnels, may_look_at: Callable[[Lease, int, float], bool]
    ) -> None:
        self._paft = paft
        self._tunnels = tunnels
        self._may_look_at = may_look_at
        self._orders: dict[IPAddress, dict[FlowBytes, int]] = {}
        self._named = NamedApplications(paft)

    def apply(
        self, lease: Lease, pairs: Sequence[HandoverPair], came_by: Tunnel, cseq: int, now: float
    ) -> tuple[HandoverResult, ...]:
        """One result a pair. `came_by` is the tunnel that the request came by, or that was just set up."""
        return tuple(self._apply(lease, pair, came_by, cseq, now) for pair in pairs)

    def forget(self, owner: IPAddress) -> None:
        """The association has ended, and its flows with it."""
        self._orders.pop(owner, None)
        self._paft.newcomers.pop(owner.packed, None)
        for entry in self._paft.flows_owned_by(owner):
            self._paft.forget(entry.key)
        self._named.retire()

    def start_over(self, owner: IPAddress) -> None:
        """The host has restarted and counts its requests and applications from the beginning."""
        self._orders.pop(owner, None)
        self._named.forget_names(owner)

    def _apply(
        self, lease: Lease, pair: HandoverPair, came_by: Tunnel, cseq: int, now: float
    ) -> HandoverResult:
        tunnel = self._choose(lease, pair.tunnels, came_by)
        if tunnel is None:
            return HandoverResult(False, reason="none of these tunnels is yours")
        match = pair.match
        looked_at = len(match) if isinstance(match, tuple) else self._paft.number_owned_by(lease.address)
        if not self._may_look_at(lease, looked_at, now):
            return HandoverResult(False, reason="too many flows at once: try again later")
        try:
            keys = self._select(lease, match)
        except PeerError as reason:
            return HandoverResult(False, reason=str(reason)[:200])
        orders = self._orders.setdefault(lease.address, {})
        if pair.application:
            if any(is_stand_in(key) for key in keys):
                return HandoverResult(False, reason="only flows have an application")
            newest = [key for key in keys if orders.get(key, -1) <= cseq]
            if not self._named.name(lease.address, pair.application, newest, tunnel, cseq, now):
                return HandoverResult(False, reason="there is no room for more applications")
            orders.update(dict.fromkeys(newest, cseq))
            self._prune(orders, lease.address)
            return HandoverResult(True, tunnel.id, len(keys))
        moved = 0
        watched: dict[Tunnel | None, list[FlowEntry]] = {}
        # Hosts ask for the counts of a few only, which they name first, or pack with those of others.
        most_watched = _MOST_PACKED_WATCHED if pair.is_packed else MOST_COUNTED
        for place, key in enumerate(keys):
            if number := application_meant(key):
                done = self._named.move(lease.address, number, tunnel, cseq, now)
                moved += done.flows
                if pair.is_packed and done.left is not None:
                    watched.setdefault(done.left, []).extend(self._busiest(done.id, tunnel, done.left))
                continue
            moved += not stands_for_newcomers(key)
            if orders.get(key, -1) <= cseq:
                orders[key] = cseq
                if stands_for_newcomers(key):
                    self._paft.newcomers[lease.address.packed] = tunnel
                    continue
                old = self._move(lease, key, tunnel, now)
                if old is not tunnel and place < most_watched:
                    watched.setdefault(old, []).append(self._paft.flows[key])
        if self._paft.mirror is not None:
            for old, entries in watched.items():
                self._paft.mirror.watch(entries, tunnel, old, now)
        self._prune(orders, lease.address)
        return HandoverResult(True, tunnel.id, moved)

    def _move(self, lease: Lease, key: FlowBytes, tunnel: Tunnel, now: float) -> Tunnel | None:
        """Gives where it was."""
        known = self._paft.flows.get(key)
        old = None if known is None else self._paft.tunnel_of(known)
        entry = self._paft.move(key, tunnel, now)
        if old is not tunnel:
            entry.arrivals = Arrivals(tunnel, now if old is None else old.heard)
        if known is None:
            # Its first packets may still be on their way by any other tunnel.
            others = (other for other in self._tunnels.of(lease.address) if other is not tunnel)
            entry.left = tuple((other, now + SETTLE_SECONDS) for other in others)
            self._paft.changed(entry)
        return old

    def _busiest(self, id: ApplicationId, tunnel: Tunnel, old: Tunnel) -> list[FlowEntry]:
        """Of an application that moved by its name, the flows that its host will ask for the counts of."""
        some = self._paft.membership.some(id, MOST_WEIGHED)
        busiest = nlargest(MOST_COUNTED, some, key=lambda entry: entry.packets_in + entry.packets_out)
        for entry in busiest:
            entry.arrivals = Arrivals(tunnel, old.heard)
        return busiest

    def _choose(self, lease: Lease, choices: Sequence[TunnelChoice], came_by: Tunnel) -> Tunnel | None:
        if not choices:
            return came_by
        own = {tunnel.id: tunnel for tunnel in self._tunnels.of(lease.address)}
        for choice in choices:
            if choice == ANY:
                return came_by
            if choice in own:
                return own[choice]
        return None

    def _select(self, lease: Lease, match: FlowSelector) -> list[FlowBytes]:
        """The flows that a pair means. Raises PeerError."""
        if isinstance(match, tuple):
            for flow in match:
                if flow.source != lease.address:
                    raise PeerError(f"{flow} is not a flow of {lease.address}")
            return [flow.packed() for flow in match]
        newcomers = newcomers_of(lease.address).packed()
        known = [entry.key for entry in self._paft.flows_owned_by(lease.address)]
        if isinstance(match, IptablesMatch):
            parsed = parse_match(match.text)
            return [key for key in known if parsed.matches(FlowKey.unpacked(key))]
        return [*known, newcomers]

    def _prune(self, orders: dict[FlowBytes, int], owner: IPAddress) -> None:
        if len(orders) > 2 * self._paft.number_owned_by(owner) + _SPARE_ORDERS:
            gone = [key for key in orders if key not in self._paft.flows and not stands_for_newcomers(key)]
            for key in gone:
                del orders[key]
