"""PAFT, the Per-Application Forwarding Table: flow -> application -> tunnel; a flow may be pinned (design section 4).

The mobile host steers applications and pins single flows. The anchor pins every flow to the tunnel that it learnt
or was told. Bounded, aged; knows neither packets nor signalling.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.outer import EndpointBytes, packed_endpoint
from upmt_nf.model.flow import ICMP, ICMPV6, TCP, UDP, Endpoint, FlowBytes, FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationId, NetworkName, TunnelId

IDLE_SECONDS = {TCP: 7440.0, UDP: 180.0, ICMP: 30.0, ICMPV6: 30.0}
"""How long a silent flow is kept: TCP as RFC 5382 asks of a NAT, UDP and ICMP as conntrack does."""
IDLE_SECONDS_OTHERS = 600.0

SETTLE_SECONDS = 3.0
"""How long packets that were still on the old path cannot pull an explicitly moved flow back."""

_AGED_PER_CALL = 2000
_EVICTION_SAMPLE = 32


class Tunnel:
    """One IP-in-UDP path. `mtu` is the largest inner packet, `heard` when the other end was last heard (seconds)."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "heard",
        "id",
        "mtu",
        "network",
        "owner",
        "owner_packed",
        "packets_in",
        "packets_out",
        "remote",
        "remote_packed",
    )

    def __init__(
        self, id: TunnelId, owner: IPAddress, remote: Endpoint, mtu: int, network: NetworkName, heard: float
    ) -> None:
        self.id = id
        self.owner = owner
        self.owner_packed = owner.packed
        self.remote = remote
        self.remote_packed: EndpointBytes = packed_endpoint(remote)
        self.mtu = mtu
        self.network = network
        self.heard = heard
        self.packets_in = self.bytes_in = self.packets_out = self.bytes_out = 0

    def __repr__(self) -> str:
        return f"Tunnel({self.id}, {self.network}, {self.owner} at {self.remote})"


class FlowEntry:
    """One flow. `pinned` overrides the application's tunnel; `left` is the tunnel it was explicitly moved from."""

    __slots__ = (
        "application_id",
        "bytes_in",
        "bytes_out",
        "command",
        "created",
        "key",
        "last_seen",
        "left",
        "left_until",
        "packets_in",
        "packets_out",
        "pid",
        "pinned",
    )

    def __init__(
        self, key: FlowBytes, application_id: ApplicationId, now: float, pid: int, command: str
    ) -> None:
        self.key = key
        self.application_id = application_id
        self.pinned: Tunnel | None = None
        self.left: Tunnel | None = None
        self.left_until = 0.0
        self.created = self.last_seen = now
        self.pid = pid
        self.command = command
        self.packets_in = self.bytes_in = self.packets_out = self.bytes_out = 0

    @property
    def flow(self) -> FlowKey:
        """The flow as an object."""
        return FlowKey.unpacked(self.key)

    @property
    def idle_limit(self) -> float:
        """Seconds of silence after which the entry is forgotten."""
        return IDLE_SECONDS.get(self.key[0], IDLE_SECONDS_OTHERS)


Group = int | bytes


class Paft:
    """The table. Flow keys are the mobile host's: the source is the virtual address.

    `max_flows` bounds the whole table, `max_flows_per_owner` those of one virtual address, so that a host that
    floods evicts only its own flows (pitfall of every learning table).
    """

    def __init__(self, *, max_flows: int = 131072, max_flows_per_owner: int | None = None) -> None:
        self.flows: dict[FlowBytes, FlowEntry] = {}
        self.tunnels: dict[TunnelId, Tunnel] = {}
        self.tunnels_by_remote: dict[EndpointBytes, Tunnel] = {}
        self.applications: dict[int, Tunnel | None] = {}
        self.counters = Counters()
        self._max_flows = max_flows
        self._max_per_owner = max_flows_per_owner
        self._owned: dict[bytes, dict[FlowBytes, FlowEntry]] = {}
        self._to_age: Iterator[FlowBytes] = iter(())

    # --- tunnels ---

    def add_tunnel(self, tunnel: Tunnel) -> None:
        """Make a tunnel known; one with the same id is replaced and its flows and applications follow."""
        if (old := self.tunnels.get(tunnel.id)) is not None:
            self._forget_remote(old)
            self._repoint(old, tunnel)
        self.tunnels[tunnel.id] = tunnel
        self.tunnels_by_remote[tunnel.remote_packed] = tunnel

    def remove_tunnel(self, id: TunnelId) -> None:
        """Forget a tunnel. Its applications and pinned flows have none until they are steered, moved or learnt."""
        if (tunnel := self.tunnels.pop(id, None)) is not None:
            self._forget_remote(tunnel)
            self._repoint(tunnel, None)

    def move_endpoint(self, tunnel: Tunnel, remote: Endpoint) -> None:
        """The other end of a tunnel is now at `remote`."""
        self._forget_remote(tunnel)
        tunnel.remote = remote
        tunnel.remote_packed = packed_endpoint(remote)
        self.tunnels_by_remote[tunnel.remote_packed] = tunnel

    def _forget_remote(self, tunnel: Tunnel) -> None:
        if self.tunnels_by_remote.get(tunnel.remote_packed) is tunnel:
            del self.tunnels_by_remote[tunnel.remote_packed]

    def _repoint(self, old: Tunnel, new: Tunnel | None) -> None:
        for application, tunnel in self.applications.items():
            if tunnel is old:
                self.applications[application] = new
        for entry in self.flows_owned_by(old.owner):
            if entry.pinned is old:
                entry.pinned = new
            if entry.left is old:
                entry.left = new

    # --- applications and single flows ---

    def steer(self, application_id: ApplicationId, tunnel_id: TunnelId | None) -> None:
        """Send an application by a tunnel, or hold it: one write, however many flows it has."""
        self.applications[application_id] = None if tunnel_id is None else self.tunnels[tunnel_id]

    def pin(self, key: FlowBytes, tunnel_id: TunnelId) -> None:
        """Send one flow by a tunnel of its own. Raises KeyError when either is unknown."""
        self.flows[key].pinned = self.tunnels[tunnel_id]

    def unpin(self, key: FlowBytes) -> None:
        """Let a flow follow its application again."""
        self.flows[key].pinned = None

    def tunnel_of(self, entry: FlowEntry) -> Tunnel | None:
        """The tunnel that an entry's packets take now."""
        return entry.pinned or self.applications.get(entry.application_id)

    def flows_of(self, application_id: ApplicationId) -> list[FlowEntry]:
        """All flows of an application, oldest first."""
        return [entry for entry in self.flows.values() if entry.application_id == application_id]

    def flows_owned_by(self, owner: IPAddress) -> list[FlowEntry]:
        """All flows of a virtual address, oldest first."""
        return list(self._owned.get(owner.packed, {}).values())

    # --- entries ---

    def insert(
        self, key: FlowBytes, application_id: ApplicationId, now: float, pid: int = 0, command: str = ""
    ) -> FlowEntry:
        """A new entry; room is made when the table is full."""
        owner = key[1:5] if len(key) == 13 else key[1:17]
        owned = self._owned.setdefault(owner, {})
        if self._max_per_owner is not None and len(owned) >= self._max_per_owner:
            self._evict(owned)
        elif len(self.flows) >= self._max_flows:
            self._evict(self.flows)
        entry = FlowEntry(key, application_id, now, pid, command)
        self.flows[key] = owned[key] = entry
        # `_evict` may have emptied and dropped this very group.
        self._owned[owner] = owned
        return entry

    def learn(self, key: FlowBytes, tunnel: Tunnel, now: float) -> FlowEntry:
        """An uplink packet of this flow came by `tunnel`: answers go the same way (paper section V, data transfer).

        Not back to a tunnel that the flow was moved away from a moment ago: that packet was still on the old path.
        """
        entry = self.flows.get(key)
        if entry is None:
            entry = self.insert(key, ApplicationId(0), now)
            entry.pinned = tunnel
        elif entry.pinned is not tunnel and not (tunnel is entry.left and now < entry.left_until):
            entry.pinned = tunnel
        return entry

    def move(self, key: FlowBytes, tunnel: Tunnel, now: float) -> FlowEntry:
        """An explicit handover of one flow at the anchor; the entry is made when it is not there yet."""
        entry = self.flows.get(key)
        if entry is None:
            entry = self.insert(key, ApplicationId(0), now)
        elif entry.pinned is not tunnel:
            entry.left, entry.left_until = entry.pinned, now + SETTLE_SECONDS
        entry.pinned = tunnel
        return entry

    def forget(self, key: FlowBytes) -> None:
        """Remove one entry, if it is there."""
        if self.flows.pop(key, None) is not None:
            owner = key[1:5] if len(key) == 13 else key[1:17]
            owned = self._owned[owner]
            del owned[key]
            if not owned:
                del self._owned[owner]

    def age(self, now: float) -> int:
        """Forget some of the flows that were silent too long; gives how many. Call it every second or so."""
        keys = list(islice(self._to_age, _AGED_PER_CALL))
        if not keys:
            self._to_age = iter(list(self.flows))
            keys = list(islice(self._to_age, _AGED_PER_CALL))
        aged = 0
        for key in keys:
            entry = self.flows.get(key)
            if entry is not None and now - entry.last_seen > entry.idle_limit:
                self.forget(key)
                aged += 1
        self.counters.add("aged", aged)
        return aged

    def _evict(self, among: dict[FlowBytes, FlowEntry]) -> None:
        """Remove the longest silent of the oldest entries."""
        victim = min(islice(among.values(), _EVICTION_SAMPLE), key=lambda entry: entry.last_seen)
        self.forget(victim.key)
        self.counters.add("evicted")
