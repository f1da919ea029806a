"""PAFT, the Per-Application Forwarding Table: flow -> application -> tunnel; a flow may be pinned (design section 4).

The mobile host steers applications and pins single flows. The anchor pins every flow to the tunnel that it learnt
or was told, but for those whose application a host has named (`named_applications`). Bounded, aged; knows neither
packets nor signalling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import inf
from typing import Protocol

from upmt_nf.datapath.arrivals import Seen
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.flow_entry import Copied, FlowEntry
from upmt_nf.datapath.formats import PLAIN, TunnelFormat
from upmt_nf.datapath.membership import Membership, Told
from upmt_nf.datapath.outer import EndpointBytes, packed_endpoint
from upmt_nf.datapath.owned_flows import OwnedFlows
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import Endpoint, FlowBytes, FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationId, NetworkName, TunnelId

SETTLE_SECONDS = 3.0
"""How long packets that were still on the old path cannot pull an explicitly moved flow back."""

COPY_SILENCE, COPY_MISSED = 1.0, 8
"""A tunnel that brought none of so many packets of a redundant flow, for so many seconds, gets no copies any more."""

_AGED_PER_CALL = 2000
_EVICTION_TRIES = 8
_DOUBTFUL_AFTER = 0.9
"""Of a flow's idle limit: the other end may forget it a little sooner than we do."""


class Tunnel:
    """One IP-in-UDP path. `mtu` is the largest inner packet, `heard` when the other end was last heard (seconds).

    `network` is the access network at the mobile host and empty at the anchor. Change `remote`, which is there in
    three forms for who needs it fast, by `Paft.move_endpoint` only. `reflected` counts the measurement packets that the
    anchor answered, `used` is when a packet of a flow was last in it (seconds; at the anchor: downlink only). `port` is
    which of the anchor's ports it came by (at the anchor; 0: the first). `tos_mask` is what its outer packets may have
    of DSCP and ECN, `needs_checksums` that they must have UDP checksums: the path drops others.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "format",
        "heard",
        "id",
        "mtu",
        "needs_checksums",
        "network",
        "owner",
        "owner_packed",
        "packets_in",
        "packets_out",
        "port",
        "reflected",
        "remote",
        "remote_name",
        "remote_packed",
        "takes_copies",
        "tos_mask",
        "used",
    )

    def __init__(
        self,
        id: TunnelId,
        owner: IPAddress,
        remote: Endpoint,
        mtu: int,
        network: NetworkName = NetworkName(""),  # noqa: B008 (a NewType of a constant)
        heard: float = 0.0,
        format: TunnelFormat = PLAIN,
    ) -> None:
        self.id = id
        self.owner = owner
        self.owner_packed = owner.packed
        self.remote = remote
        self.remote_packed: EndpointBytes = packed_endpoint(remote)
        self.remote_name = (str(remote.address), remote.port)
        self.mtu = mtu
        self.network = network
        self.heard = heard
        self.format = format
        self.packets_in = self.bytes_in = self.packets_out = self.bytes_out = self.reflected = 0
        self.port = 0
        self.used = 0.0
        self.tos_mask, self.needs_checksums = 0xFF, False
        self.takes_copies = False
        """The other end knows packets that are sent by two tunnels."""

    def __repr__(self) -> str:
        return f"Tunnel({self.id}, {self.network}, {self.owner} at {self.remote})"


class Mirror(Protocol):
    """Keeps a second table like this one: told of each change, after it was made."""

    def flow_changed(self, entry: FlowEntry) -> None:
        """It is new, or goes another way now."""

    def flow_forgotten(self, key: FlowBytes) -> None:
        """It is not in the table any more."""

    def application_changed(self, application_id: int, tunnel: Tunnel | None) -> None:
        """It goes that way now; at the anchor, its `Heading` may be another one."""

    def application_withheld(self, application_id: int) -> None:
        """Its packets are none of the mirror's from now on, until it changes again."""

    def tunnel_changed(self, tunnel: Tunnel) -> None:
        """It is new, or its other end is elsewhere."""

    def tunnel_forgotten(self, tunnel: Tunnel) -> None:
        """It is not in the table any more."""

    def watch(
        self, entries: Sequence[FlowEntry], target: Tunnel | None, old: Tunnel | None, now: float
    ) -> None:
        """They move: look at how packets come (`Arrivals`), from when `old` was heard last. No target: no more."""

    def look_at(self, entry: FlowEntry) -> Seen | None:
        """Bring its counts up to date. None: its packets are not the mirror's."""


class Heading:
    """At the anchor: how a named application came to its tunnel.

    `course` counts its moves: what a flow learnt before the last one counts no more. `left` as that of a flow;
    until `settles` (seconds) no flow goes back to what it had learnt before the move.
    """

    __slots__ = ("course", "left", "settles")

    def __init__(self) -> None:
        self.course = 0
        self.left: tuple[tuple[Tunnel, float], ...] = ()
        self.settles = 0.0


class Paft:
    """The table. Flow keys are the mobile host's: the source is the virtual address.

    `max_flows` bounds the whole table, `max_flows_per_owner` those of one virtual address: a host that floods
    evicts only its own flows, also when the whole table is full. `settle` as SETTLE_SECONDS.
    """

    def __init__(
        self,
        *,
        max_flows: int = 131072,
        max_flows_per_owner: int | None = None,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self.flows: dict[FlowBytes, FlowEntry] = {}
        self.tunnels: dict[TunnelId, Tunnel] = {}
        self.tunnels_by_remote: dict[EndpointBytes, list[Tunnel]] = {}
        self.applications: dict[int, Tunnel | None] = {}
        self.headings: dict[int, Heading] = {}
        """Anchor: of the named applications, which have numbers of our own there."""
        self.doubles: dict[int, tuple[Tunnel, ...]] = {}
        """Applications whose packets are numbered, and where copies of them go: to one tunnel, or to none now."""
        self.windows: dict[int, float] = {}
        """Host: applications whose packets are put in order again, and how long one may wait for that (seconds)."""
        self.copied: dict[tuple[int, NetworkName], int] = {}
        """Host: bytes of copies by application and network, beyond what the flows' own counts and tunnels say."""
        self.newcomers: dict[bytes, Tunnel] = {}
        """Anchor: where a virtual address (packed) wants the flows that correspondents begin."""
        self.counters = Counters()
        self._heard: list[Tunnel] = []
        self._hearing_since = -inf
        self.mirror: Mirror | None = None
        self.left: Callable[[FlowEntry], None] | None = None
        """Is told of each entry that is forgotten, with its counts."""
        self._settle = settle
        self.owned = OwnedFlows(max_flows, max_flows_per_owner or max_flows)
        self.membership = Membership()
        self._steered_by: dict[TunnelId, set[int]] = {}
        self._to_age: Iterator[FlowBytes] = iter(())

    # --- tunnels ---

    def add_tunnel(self, tunnel: Tunnel) -> None:
        """Make a tunnel known; one with the same id is replaced, and its flows and applications follow.

        Tunnels may share a remote endpoint: at the mobile host all lead to the anchor, and at the anchor a NAT
        may give an endpoint to another host before the old tunnel has expired. The owner tells them apart.
        """
        if (old := self.tunnels.get(tunnel.id)) is not None:
            self._leave_remote(old)
            if old is not tunnel:
                self._repoint(old, tunnel if tunnel.owner == old.owner else None)
        self.tunnels[tunnel.id] = tunnel
        self._enter_remote(tunnel)
        if self.mirror is not None:
            self.mirror.tunnel_changed(tunnel)

    def remove_tunnel(self, id: TunnelId) -> None:
        """Forget a tunnel. Its applications and pinned flows have none until they are steered, moved or learnt."""
        if (tunnel := self.tunnels.pop(id, None)) is not None:
            self._leave_remote(tunnel)
            self._repoint(tunnel, None)
            if self.mirror is not None:
                self.mirror.tunnel_forgotten(tunnel)

    def move_endpoint(self, tunnel: Tunnel, remote: Endpoint) -> None:
        """The other end of a tunnel is now at `remote`."""
        self._leave_remote(tunnel)
        tunnel.remote = remote
        tunnel.remote_packed = packed_endpoint(remote)
        tunnel.remote_name = (str(remote.address), remote.port)
        self._enter_remote(tunnel)
        if self.mirror is not None:
            self.mirror.tunnel_changed(tunnel)

    def hear(self, tunnel: Tunnel, when: float) -> None:
        """Anchor: something came out of a tunnel at `when` (seconds)."""
        if tunnel.heard < self._hearing_since:
            self._heard.append(tunnel)
        if when > tunnel.heard:
            tunnel.heard = when

    def heard_lately(self, now: float) -> list[Tunnel]:
        """Anchor: the tunnels that were heard since the last such question, at the first one none; some are over.

        So nobody needs to look at all tunnels for those few that something came out of.
        """
        found, self._heard, self._hearing_since = self._heard, [], now
        return found

    def tunnel_from(self, remote: EndpointBytes, owner: bytes) -> Tunnel | None:
        """The newest tunnel of a packed virtual address that leads to an endpoint."""
        for tunnel in self.tunnels_by_remote.get(remote, ()):
            if tunnel.owner_packed == owner:
                return tunnel
        return None

    def _enter_remote(self, tunnel: Tunnel) -> None:
        self.tunnels_by_remote.setdefault(tunnel.remote_packed, []).insert(0, tunnel)

    def _leave_remote(self, tunnel: Tunnel) -> None:
        others = [
            other for other in self.tunnels_by_remote.get(tunnel.remote_packed, ()) if other is not tunnel
        ]
        if others:
            self.tunnels_by_remote[tunnel.remote_packed] = others
        else:
            self.tunnels_by_remote.pop(tunnel.remote_packed, None)

    def _repoint(self, old: Tunnel, new: Tunnel | None) -> None:
        for application in sorted(self._steered_by.get(old.id, ())):
            self._steer(application, new)
        if self.newcomers.get(old.owner_packed) is old:
            if new is None:
                del self.newcomers[old.owner_packed]
            else:
                self.newcomers[old.owner_packed] = new
        for application, others in list(self.doubles.items()):
            if old in others:
                self.doubles[application] = () if new is None else (new,)
        for entry in self.owned.of(old.owner_packed):
            if entry.copies is not None and old in entry.copies:
                copied = entry.copies.pop(old)
                if new is not None:
                    entry.copies[new] = copied
            if entry.pinned is old:
                entry.pinned = new
                self.changed(entry)
            if entry.previous is old:
                entry.previous = new
            if entry.left:
                left = [(new if tunnel is old else tunnel, until) for tunnel, until in entry.left]
                entry.left = tuple((tunnel, until) for tunnel, until in left if tunnel is not None)

    # --- applications and single flows ---

    def steer(self, application_id: ApplicationId, tunnel_id: TunnelId | None) -> None:
        """Send an application by a tunnel, or hold it: one write, however many flows it has.

        Raises KeyError when there is no such tunnel.
        """
        self._steer(application_id, None if tunnel_id is None else self.tunnels[tunnel_id])

    def _steer(self, application_id: int, tunnel: Tunnel | None) -> None:
        if (before := self.applications.get(application_id)) is not None:
            self._steered_by[before.id].discard(application_id)
            if not self._steered_by[before.id]:
                del self._steered_by[before.id]
        self.applications[application_id] = tunnel
        if tunnel is not None:
            self._steered_by.setdefault(tunnel.id, set()).add(application_id)
        self.tell_mirror(application_id)

    def double(self, application_id: ApplicationId, to: TunnelId | None, *, is_numbered: bool = True) -> None:
        """Send each packet of an application by this tunnel as well; None: by no other one for now.

        Raises KeyError when there is no such tunnel.
        """
        before = self.doubles.get(application_id)
        others = (self.tunnels[to],) if to is not None else ()
        if is_numbered:
            self.doubles[application_id] = others
        else:
            self.doubles.pop(application_id, None)
        if is_numbered is (before is None):
            self.tell_mirror(application_id)

    def tell_mirror(self, application_id: int) -> None:
        """A mirror knows no numbers: an application whose packets have them is not its own."""
        if self.mirror is None:
            return
        if application_id in self.doubles:
            self.mirror.application_withheld(application_id)
        else:
            self.mirror.application_changed(application_id, self.applications.get(application_id))

    def changed(self, entry: FlowEntry) -> None:
        """Whoever changes an entry by itself says so here."""
        if self.mirror is not None:
            self.mirror.flow_changed(entry)

    def pin(self, key: FlowBytes, tunnel_id: TunnelId) -> None:
        """Send one flow by a tunnel of its own. Raises KeyError when either is unknown."""
        entry = self.flows[key]
        entry.pinned = self.tunnels[tunnel_id]
        self.changed(entry)

    def unpin(self, key: FlowBytes) -> None:
        """Let a flow follow its application again. Raises KeyError when it is unknown."""
        entry = self.flows[key]
        entry.pinned = None
        self.changed(entry)

    def tunnel_of(self, entry: FlowEntry) -> Tunnel | None:
        """The tunnel that an entry's packets take now."""
        return self.own_tunnel_of(entry) or self.applications.get(entry.application_id)

    def own_tunnel_of(self, entry: FlowEntry) -> Tunnel | None:
        """The tunnel that a flow has for itself; None: it goes with its application, if it has one."""
        if entry.pinned is None or not self.headings:
            return entry.pinned
        heading = self.headings.get(entry.application_id)
        return entry.pinned if heading is None or heading.course == entry.course else None

    def flows_of(self, application_id: ApplicationId) -> list[FlowEntry]:
        """All flows of an application, oldest member first."""
        return self.membership.of(application_id)

    def assign(self, entry: FlowEntry, application_id: ApplicationId) -> None:
        """A flow is another application's from now on."""
        if entry.application_id != application_id:
            self.membership.move(entry, application_id)
        self.changed(entry)

    def flows_owned_by(self, owner: IPAddress) -> list[FlowEntry]:
        """All flows of a virtual address, oldest first."""
        return sorted(self.owned.of(owner.packed), key=lambda entry: entry.created)

    def number_owned_by(self, owner: IPAddress) -> int:
        """How many flows a virtual address has."""
        return self.owned.number_of(owner.packed)

    # --- entries ---

    def insert(
        self, key: FlowBytes, application_id: ApplicationId, now: float, pid: int = 0, command: str = ""
    ) -> FlowEntry:
        """The entry of a flow, made if need be, as one of `application_id`; room is made when the table is full."""
        entry = self.flows.get(key)
        if entry is not None:
            entry.pid, entry.command = pid, command
            self.assign(entry, application_id)
        else:
            entry = self._add(key, application_id, now, pid, command)
            self.changed(entry)
        return entry

    def take_from_mirror(
        self, key: FlowBytes, application_id: ApplicationId, now: float, pid: int = 0, command: str = ""
    ) -> FlowEntry:
        """The mirror has a new flow, ahead of us: an entry for it, in place of one that is over."""
        self._remove(key)
        entry = self._add(key, application_id, now, pid, command)
        entry.is_mirrored = True
        return entry

    def _add(
        self, key: FlowBytes, application_id: ApplicationId, now: float, pid: int, command: str
    ) -> FlowEntry:
        entry = FlowEntry(key, application_id, now, pid, command)
        self._make_room(entry.owner, now)
        self.flows[key] = entry
        self.owned.enter(entry)
        self.membership.join(entry)
        return entry

    def _make_room(self, owner: bytes, now: float) -> None:
        """For one more flow of an owner. What goes is silent in the mirror, too, if any of the first few is."""
        for tries_left in reversed(range(_EVICTION_TRIES)):
            if (leaving := self.owned.in_the_way(owner, now)) is None:
                return
            if not (tries_left and self._is_heard_by_mirror(leaving)):
                self.forget(leaving.key)
                self.counters.add("evicted")
                return

    def _is_heard_by_mirror(self, entry: FlowEntry) -> bool:
        """Whether a mirror had a packet of it that we have not heard of yet: now we have."""
        if self.mirror is None or not entry.is_mirrored:
            return False
        seen = entry.last_seen
        self.mirror.look_at(entry)
        return entry.last_seen != seen

    def learn(self, key: FlowBytes, tunnel: Tunnel, now: float) -> FlowEntry:
        """An uplink packet of this flow came by `tunnel`: answers go the same way (paper section V, data transfer).

        Not back to a tunnel that the flow was moved away from a moment ago: that packet was still on the old path.
        """
        entry = self.flows.get(key)
        if entry is None:
            entry = self._add(key, ApplicationId(0), now, 0, "")
            entry.pinned = tunnel
            self.changed(entry)
            return entry
        if entry.copies is not None:
            # The host does not send it twice any more.
            entry.copies = None
            self.changed(entry)
        if entry.application_id in self.headings:
            self._learn_apart(entry, self.headings[entry.application_id], tunnel, now)
        elif entry.pinned is not tunnel and (entry.pinned is None or not entry.has_left(tunnel, now)):
            entry.previous, entry.pinned = entry.pinned, tunnel
            self.changed(entry)
        return entry

    def _learn_apart(self, entry: FlowEntry, heading: Heading, tunnel: Tunnel, now: float) -> None:
        """Learning where a named application says the way: a flow goes apart from it, until the next move."""
        own, common = self.own_tunnel_of(entry), self.applications.get(entry.application_id)
        present = own or common
        if present is tunnel:
            return
        if present is not None and now < heading.settles:
            is_stale = entry.pinned is tunnel and own is None
            if is_stale or any(tunnel is left and now < until for left, until in heading.left):
                return
        entry.pinned, entry.course = None if tunnel is common else tunnel, heading.course
        self.changed(entry)

    # --- the anchor's named applications ---

    def name(self, key: FlowBytes, application_id: ApplicationId, now: float) -> FlowEntry:
        """A flow goes with a named application from now on; the entry is made when it is not there yet."""
        entry = self.flows.get(key)
        if entry is None:
            return self.insert(key, application_id, now)
        entry.pinned = entry.previous = None
        entry.left = ()
        self.assign(entry, application_id)
        return entry

    def move_application(self, application_id: ApplicationId, tunnel: Tunnel, now: float) -> None:
        """An explicit handover of a named application, which is made when it is not there yet: one write."""
        heading = self.headings.get(application_id)
        if heading is None:
            heading = self.headings[application_id] = Heading()
        else:
            leaving = self.applications.get(application_id)
            left = [(old, until) for old, until in heading.left if old is not tunnel and now < until]
            if leaving is not None and leaving is not tunnel:
                left = [(old, until) for old, until in left if old is not leaving]
                left.append((leaving, now + self._settle))
            heading.left, heading.settles = tuple(left), now + self._settle
            heading.course += 1
        self._steer(application_id, tunnel)

    def forget_application(self, application_id: ApplicationId) -> None:
        """A named application has no flows any more."""
        self._steer(application_id, None)
        del self.applications[application_id], self.headings[application_id]

    def learn_copy(self, key: FlowBytes, tunnel: Tunnel, now: float) -> FlowEntry:
        """The same of a packet that the host sent by two tunnels: answers go by both, as long as both bring packets."""
        entry = self.flows.get(key) or self.insert(key, ApplicationId(0), now)
        copies, is_changed = entry.copies, False
        if copies is None:
            copies, is_changed = {}, True
            entry.copies = copies
        for other, copied in list(copies.items()):
            copied.missed += other is not tunnel
            is_silent = copied.missed > COPY_MISSED and now - copied.heard > COPY_SILENCE
            if is_silent or (tunnel not in copies and len(copies) > 1 and copied is _oldest(copies)):
                del copies[other]
                is_changed = True
        if (known := copies.get(tunnel)) is None:
            copies[tunnel] = Copied(now)
            is_changed = True
        else:
            known.heard, known.missed = now, 0
        if entry.pinned not in copies:
            entry.previous, entry.pinned, is_changed = entry.pinned, tunnel, True
            if (heading := self.headings.get(entry.application_id)) is not None:
                entry.course = heading.course
        if is_changed:
            self.changed(entry)
        return entry

    def move(self, key: FlowBytes, tunnel: Tunnel, now: float) -> FlowEntry:
        """An explicit handover of one flow at the anchor; the entry is made when it is not there yet.

        Raises UsageError when the flow is not of the tunnel's owner.
        """
        entry = self.flows.get(key)
        if (entry or FlowEntry(key, ApplicationId(0), now, 0, "")).owner != tunnel.owner_packed:
            raise UsageError(f"{FlowKey.unpacked(key)} is not a flow of {tunnel.owner}")
        entry = entry or self.insert(key, ApplicationId(0), now)
        # Data may have come by the new tunnel ahead of the signalling: then it is the tunnel before that was left.
        present, before, already = self.tunnel_of(entry), entry.previous, entry.left
        if (heading := self.headings.get(entry.application_id)) is not None:
            before, already = self.applications.get(entry.application_id), heading.left
            self.membership.move(entry, ApplicationId(0))
            entry.course = 0
        leaving = present if present is not tunnel else before
        left = [(old, until) for old, until in already if old is not tunnel and now < until]
        if leaving is not None and leaving is not tunnel:
            left = [(old, until) for old, until in left if old is not leaving]
            left.append((leaving, now + self._settle))
        entry.left = tuple(left)
        entry.pinned, entry.previous = tunnel, None
        self.changed(entry)
        return entry

    def forget(self, key: FlowBytes) -> None:
        """Remove one entry, if it is there."""
        if self._remove(key) and self.mirror is not None:
            self.mirror.flow_forgotten(key)

    def _remove(self, key: FlowBytes) -> bool:
        entry = self.flows.pop(key, None)
        if entry is None:
            return False
        self.membership.forget(entry)
        self.owned.leave(entry)
        if self.left is not None:
            self.left(entry)
        return True

    def age(self, now: float) -> int:
        """Forget flows that were silent too long; gives how many. Call it every second or so.

        Looks at no more than some 2,000 flows a call, in turn, so that it never holds packets up.
        """
        keys = list(islice(self._to_age, _AGED_PER_CALL))
        if not keys:
            self._to_age = iter(list(self.flows))
            keys = list(islice(self._to_age, _AGED_PER_CALL))
        aged = 0
        for key in keys:
            entry = self.flows.get(key)
            if entry is not None and entry.is_idle(now) and not self._is_heard_by_mirror(entry):
                self.forget(key)
                aged += 1
            elif entry is not None and entry.told is Told.YES and entry.is_idle(now, _DOUBTFUL_AFTER):
                self.membership.doubt(entry)
        if aged:
            self.counters.add("aged", aged)
        return aged


def _oldest(copies: dict[Tunnel, Copied]) -> Copied:
    return min(copies.values(), key=lambda copied: copied.heard)
