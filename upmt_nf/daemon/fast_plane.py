"""The fast plane beside the agent: keeps the kernel's maps in line with PAFT, and PAFT with what the kernel counted.

The agent plane goes on as it is: what the programs do not know, or cannot do, comes to it as if they were not there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from upmt_nf.daemon.backlog import Backlog
from upmt_nf.daemon.doomed import Doomed
from upmt_nf.daemon.flow_sweep import FlowSweep
from upmt_nf.daemon.tunnel_counts import TunnelCounts
from upmt_nf.datapath.arrivals import Seen
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.fast_layout import (
    ANY_SOCKET,
    EVENTS,
    MOST_CHANGES,
    NUMBER,
    TUNNEL,
    ApplicationRow,
    FlowRow,
    NamedRow,
    TunnelRow,
    events_of,
    flow_bytes,
    flow_key,
    tunnel_row,
    watch_change,
)
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.linux.fast_programs import FastPrograms
from upmt_nf.linux.libbpf import BpfMap, Hook
from upmt_nf.model.errors import KernelError, UpmtError
from upmt_nf.model.flow import Endpoint, FlowBytes, IPAddress, owner_of
from upmt_nf.model.identity import DEFAULT_APPLICATION_ID, ApplicationId, TunnelId

log = logging.getLogger(__name__)

_TICK = 0.05
"""Seconds between looks at some of the tunnels."""
GRACE = 5.0
"""Seconds that the kernel still knows what PAFT forgot: an end that starts anew is back within that time."""
ADOPTING = 15.0
"""Seconds that what an earlier daemon left goes on by itself, until the association and its tunnels are back."""
LONGEST_ADOPTING = 300.0
"""The tunnels of it at an anchor, as long as hosts go on coming back: each of very many waits for its turn."""
_BEHIND = 0.1
"""Seconds that new flows wait at most for an agent that has packets to hand on."""
_ENDED_PER_TICK, _LOOKED_AT_PER_TICK = 5000, 64


def seconds_slept() -> float:
    """How far the kernel's programs, which know CLOCK_MONOTONIC only, are behind our CLOCK_BOOTTIME: suspended time."""
    ahead = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return round(ahead, 3)


class Near(NamedTuple):
    """Our end of a tunnel: where it is, by which interface outer packets leave, with which mark, to whom first."""

    local: Endpoint
    interface: int
    mark: int
    next_hop: IPAddress | None = None
    """None: as the kernel's routes say, which it asks for each packet."""


class FastPlane:
    """Mirror of a PAFT in the maps of `programs`. `near` tells our end of a tunnel, or None while it has none.

    `virtual_interface` is the index of that interface, `grace` as GRACE. Flows that an earlier daemon left in the maps
    are in PAFT from the start, as those of application `adopted_as(theirs)`. With `permits` (the anchor) only flows
    that the agent has judged are told to the kernel, and those of an earlier daemon only if it permits them now.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        programs: FastPrograms,
        paft: Paft,
        near: Callable[[Tunnel], Near | None],
        virtual_interface: int,
        *,
        grace: float = GRACE,
        adopted_as: Callable[[int], ApplicationId] = ApplicationId,
        permits: Callable[[FlowBytes], bool] | None = None,
        slept: Callable[[], float] = seconds_slept,
    ) -> None:
        self._loop = loop
        self._slept = slept
        self._grace = grace
        self._permits = permits
        self._unwritten: dict[FlowBytes, FlowEntry] = {}
        self._write_by = 0.0
        self._backlog = Backlog()
        self._doomed_flows: Doomed[FlowBytes] = Doomed()
        self._doomed_tunnels: Doomed[TunnelId] = Doomed()
        self._adopting_until = self._tunnels_until = self._tunnels_longest = 0.0
        self._steered: dict[int, int] = {}
        self._held: dict[int, tuple[int, float]] = {}
        self.programs = programs
        self._paft = paft
        self._near = near
        self._virtual_interface = virtual_interface
        maps = programs.maps
        self._flows, self._tunnels, self._ends = maps["flows"], maps["tunnels"], maps["ends"]
        self._applications, self._counts, self._events = (
            maps["applications"],
            maps["tunnel_counts"],
            maps["events"],
        )
        self._names = maps["names"]
        self._named: dict[int, NamedRow] = {}
        self._rows: dict[TunnelId, TunnelRow] = {}
        self._claims: dict[bytes, list[TunnelId]] = {}
        """Whose each end is, the newest last: a NAT may give one to another host before the old tunnel has expired."""
        self._tunnel_counts = TunnelCounts(self._counts, paft.tunnels, paft.hear, self._heard_as, loop.time)
        self._changing: dict[TunnelId, None] = {}
        self._ending: Iterator[None] = iter(())
        self._unattached: dict[str, str] = {}
        self.counters = Counters()
        self._sweep = FlowSweep(
            loop,
            self._flows,
            paft,
            heard_as=self._heard_as,
            told_as=self._told_as,
            is_urgent=lambda: bool(self._doomed_tunnels or self._tunnels_until),
            doomed=self._doomed_flows,
            back=self._take_back,
        )
        if programs.took_over:
            self._adopt(adopted_as)
        paft.mirror = self
        self._timer = loop.call_later(_TICK, self._tick)

    def close(self) -> None:
        """Let go of the maps, which live on as long as they are pinned or used."""
        self._paft.mirror = None
        self._unwritten = {}
        self._timer.cancel()
        self._sweep.close()
        self.programs.close()

    def tell_let_in(self, tell: Callable[[FlowBytes, FlowRow], None]) -> None:
        """Who is told of flows that the kernel has let in by itself and PAFT does not know."""
        self._sweep.let_in = tell

    def write_behind(self, backlog: Backlog) -> None:
        """New flows are written when it is cleared: the packets that the agent has go on before."""
        self._backlog = backlog
        backlog.cleared = self.write_new

    def attach(self, interface: str) -> None:
        """Take tunnel packets off an access interface. One that cannot have a program stays with the agent."""
        try:
            self.programs.attach(interface, Hook.INGRESS)
            self._unattached.pop(interface, None)
        except UpmtError as reason:
            if self._unattached.get(interface) != str(reason):
                self._unattached[interface] = str(reason)
                log.warning("tunnel packets of %s go the agent's way: %s", interface, reason)

    def as_counters(self) -> dict[str, int]:
        """What was left to the agent, by reason."""
        found = {
            f"fast_left_{name}": events_of(self._events.lookup(NUMBER.pack(number)) or b"")
            for number, name in enumerate(EVENTS)
        }
        return {**{name: count for name, count in found.items() if count}, **self.counters.as_dict()}

    # --- PAFT -> kernel (datapath.paft.Mirror) ---

    def flow_changed(self, entry: FlowEntry) -> None:
        """See `Mirror`."""
        is_known = entry.is_mirrored or entry.key in self._doomed_flows
        if self._permits is not None and not entry.is_permitted:
            # Hosts name flows in their handover requests, too.
            self._unwritten.pop(entry.key, None)
            if is_known and (key := flow_key(entry.key)) is not None:
                self._flows.delete(key)
                entry.is_mirrored = False
        elif entry.copies:
            # Each of its packets goes by two tunnels: the agent's.
            self._unwritten.pop(entry.key, None)
            entry.is_mirrored = False
            if (key := flow_key(entry.key)) is not None and (packed := self._flows.lookup(key)) is not None:
                self._sweep.count([(key, packed)])
                self._flows.delete(key)
        elif not is_known:
            if not self._unwritten:
                self._write_by = self._loop.time() + _BEHIND
                self._loop.call_soon(self._write_soon)
            self._unwritten[entry.key] = entry
        elif (key := flow_key(entry.key)) is not None:
            self._write_flow(key, entry)

    def _write_soon(self) -> None:
        if self._unwritten and self._backlog.is_there and self._loop.time() < self._write_by:
            self._loop.call_soon(self._write_soon)
        else:
            self.write_new()

    def write_new(self) -> None:
        """Write the flows that are new, once the agent has handed on what it had of them.

        A later packet that overtook the first in the kernel would be out of order, and might get a connection of its
        own in the anchor's conntrack, with another port of the NAT: one of the two is lost then. So who reads packets
        calls this when it has handed on all that waited, and before first packets go on by the kernel.
        """
        new, self._unwritten = self._unwritten, {}
        for entry in new.values():
            if self._paft.flows.get(entry.key) is entry and (key := flow_key(entry.key)) is not None:
                self._write_new_flow(key, entry)

    def _write_new_flow(self, key: bytes, entry: FlowEntry) -> None:
        """By one call where the kernel does not know it, which is nearly always."""
        try:
            is_written = self._flows.insert(key, self._row_of(entry).packed())
        except KernelError as reason:
            log.debug("%s", reason)
            self.counters.add("fast_write_failures")
            return
        if is_written:
            entry.is_mirrored = True
        else:
            # The kernel has let it in meanwhile, or has no room.
            self._write_flow(key, entry)

    def _row_of(self, entry: FlowEntry) -> FlowRow:
        own = self._paft.own_tunnel_of(entry)
        left, left_too = ([tunnel.id for tunnel, _ in entry.left[-2:]] + [0, 0])[:2] if entry.left else (0, 0)
        return FlowRow(
            entry.application_id,
            own.id if own is not None else 0,
            entry.course & 0xFFFFFFFF,
            left=left,
            left_too=left_too,
            left_until=self._told_as(max(when for _, when in entry.left)) if entry.left else 0,
            last_seen=self._told_as(entry.last_seen),
        ).with_counts(entry.offloaded)

    def _write_flow(self, key: bytes, entry: FlowEntry) -> None:
        entry.is_mirrored = True
        row = self._row_of(entry)
        if (packed := self._flows.lookup(key)) is None:
            self._write(self._flows, key, row.packed())
            return
        known = FlowRow.unpacked(packed)
        if known.socket not in (0, ANY_SOCKET, entry.socket):
            # The kernel's, of another socket that is over: this one begins.
            self._write(self._flows, key, row.packed())
            return
        row = row._replace(watched=known.watched)
        if not row.tunnel and not entry.application_id and self._grace:
            row = row._replace(tunnel=self._tunnel_in_grace(known))
        self._change(key, row)

    def _change(self, key: bytes, row: FlowRow) -> None:
        """In place: no count is lost, and the socket that the kernel knows it by stays."""
        self._change_all(row.as_change(key))

    def _change_all(self, changes: bytes) -> None:
        try:
            self.programs.change_flows(changes)
        except KernelError as reason:
            log.debug("%s", reason)
            self.counters.add("fast_write_failures")

    def watch(
        self, entries: Sequence[FlowEntry], target: Tunnel | None, old: Tunnel | None, now: float
    ) -> None:
        """See `Mirror`."""
        if old is not None:
            self.count_tunnels([old])
        since = self._told_as(now if old is None else old.heard)
        keys = [key for entry in entries if (key := flow_key(entry.key)) is not None]
        changes = [watch_change(key, target.id if target is not None else 0, since) for key in keys]
        for at in range(0, len(changes), MOST_CHANGES):
            self._change_all(b"".join(changes[at : at + MOST_CHANGES]))

    def _told_as(self, seconds: float) -> int:
        """A time of ours as the programs' clock has it."""
        return max(0, int((seconds - self._slept()) * 1e9))

    def _heard_as(self, nanoseconds: int) -> float:
        """A time of the programs' clock as ours."""
        return nanoseconds / 1e9 + self._slept()

    def _tunnel_in_grace(self, known: FlowRow) -> int:
        """At the anchor, of a flow whose tunnel just went: its host may be back at once."""
        before = self._resolved(known)
        return before if before not in self._paft.tunnels else 0

    def _resolved(self, row: FlowRow) -> int:
        """The tunnel that the programs send a flow by."""
        packed = self._applications.lookup(NUMBER.pack(row.application)) if row.application else None
        if packed is None:
            return row.tunnel
        application = ApplicationRow.unpacked(packed)
        is_own = row.tunnel and row.course == application.course
        return row.tunnel if is_own else application.tunnel

    def flow_forgotten(self, key: FlowBytes) -> None:
        """See `Mirror`."""
        if len(self._paft.flows) + len(self._doomed_flows) < self._flows.max_entries and self._grace:
            self._doomed_flows.add(key, owner_of(key), self._loop.time() + self._grace)
        elif (packed := flow_key(key)) is not None:
            self._flows.delete(packed)

    def application_changed(self, application_id: int, tunnel: Tunnel | None) -> None:
        """See `Mirror`: the one write that moves an application."""
        if application_id >= self._applications.max_entries or (tunnel is None and self._adopting_until):
            # While the association is not back it goes on by the tunnel that it had.
            return
        if tunnel is None and application_id in self._held:
            # Told once more; it goes on for what is left of its while.
            return
        if tunnel is None and self._grace and (before := self._steered.pop(application_id, 0)):
            self._held[application_id] = before, self._loop.time() + self._grace
            return
        self._held.pop(application_id, None)
        self._steer(application_id, tunnel.id if tunnel is not None else 0)

    def application_withheld(self, application_id: int) -> None:
        """See `Mirror`: at once, whatever an earlier daemon left."""
        if application_id < self._applications.max_entries:
            self._held.pop(application_id, None)
            self._steer(application_id, 0)

    def _steer(self, application_id: int, id: int) -> None:
        self._steered[application_id] = id
        row = ApplicationRow(tunnel=id)
        if (heading := self._paft.headings.get(application_id)) is not None:
            left = [tunnel.id for tunnel, _ in heading.left[-2:]] + [0, 0]
            row = ApplicationRow(left[0], left[1], self._told_as(heading.settles), id, heading.course)
        self._write(self._applications, NUMBER.pack(application_id), row.packed())

    def name(self, application_id: int, row: NamedRow) -> None:
        """What this number means, for the daemon that comes after this one."""
        if self._named.get(application_id) != row:
            self._named[application_id] = row
            self._write(self._names, NUMBER.pack(application_id), row.packed())

    def settle(self, well: Container[int | None] = ()) -> None:
        """An event is worked off: applications that were taken off a tunnel that is `well` are stopped.

        One whose tunnel is not goes on by it for a while: often its path is, and only the other end's daemon is not.
        """
        now = self._loop.time()
        for application_id, (id, until) in list(self._held.items()):
            if until <= now or id in well:
                del self._held[application_id]
                self._steer(application_id, 0)

    def tunnel_changed(self, tunnel: Tunnel) -> None:
        """See `Mirror`; and whenever its format, keys, size or near end may have changed."""
        near = self._near(tunnel)
        row = None
        if near is not None:
            slot = self._slot(tunnel.id)
            row = tunnel_row(
                tunnel, near.local, near.interface, self._virtual_interface, near.mark, slot, near.next_hop
            )
        before = self._rows.get(tunnel.id)
        if row == before:
            return
        number = NUMBER.pack(tunnel.id)
        if row is None:
            self._forget_row(tunnel.id)
            return
        self._rows[tunnel.id] = row
        self._write(self._tunnels, number, row.value)
        if before is None or before.end != row.end:
            self._claims.setdefault(row.end, []).append(tunnel.id)
        self._write(self._ends, row.end, NUMBER.pack(self._claims[row.end][-1]))
        if before is not None and before.end != row.end:
            self._forget_end(before.end, tunnel.id)
        if row.is_changing:
            self._changing[tunnel.id] = None
        if before is None and self._tunnels_until:
            self._tunnels_until = min(self._loop.time() + ADOPTING, self._tunnels_longest)

    def tunnel_forgotten(self, tunnel: Tunnel) -> None:
        """See `Mirror`."""
        if self._grace:
            self._doomed_tunnels.add(tunnel.id, tunnel.owner_packed, self._loop.time() + self._grace)
        else:
            self._end_tunnel(tunnel.id)

    def forget_owner(self, owner: IPAddress) -> None:
        """Somebody else may get this virtual address: no grace."""
        for key in self._doomed_flows.of(owner.packed):
            self._end_flow(key)
        for id in self._doomed_tunnels.of(owner.packed):
            self._end_tunnel(id)

    def _end_flow(self, key: FlowBytes) -> None:
        self._doomed_flows.discard(key)
        if key not in self._paft.flows and (packed := flow_key(key)) is not None:
            self._flows.delete(packed)

    def _end_tunnel(self, id: TunnelId) -> None:
        self._doomed_tunnels.discard(id)
        if id in self._paft.tunnels:
            return
        self._forget_row(id)
        self._tunnel_counts.give_back(id)

    def refresh(self, tunnels: Iterable[Tunnel]) -> None:
        """Look at these tunnels again."""
        for tunnel in tunnels:
            self.tunnel_changed(tunnel)

    def _forget_row(self, id: TunnelId) -> None:
        if (row := self._rows.pop(id, None)) is not None:
            self._tunnels.delete(NUMBER.pack(id))
            self._forget_end(row.end, id)

    def _forget_end(self, end: bytes, id: TunnelId) -> None:
        claims = self._claims[end]
        claims.remove(id)
        if claims:
            self._write(self._ends, end, NUMBER.pack(claims[-1]))
            return
        del self._claims[end]
        if self._ends.lookup(end) == NUMBER.pack(id):
            self._ends.delete(end)

    def _slot(self, id: TunnelId) -> int:
        slot, is_new = self._tunnel_counts.slot(id)
        if is_new:
            self._write(self._counts, NUMBER.pack(slot), bytes(self._counts.value_size))
        return slot

    def _write(self, table: BpfMap, key: bytes, value: bytes) -> None:
        """What the kernel does not take stays with the agent."""
        try:
            if not table.update(key, value):
                self.counters.add("fast_table_full")
        except KernelError as reason:
            log.debug("%s", reason)
            self.counters.add("fast_write_failures")

    # --- kernel -> PAFT ---

    def count_tunnels(self, tunnels: Iterable[Tunnel]) -> None:
        """Add to these tunnels what passed them in the kernel since the last time."""
        self._tunnel_counts.count(tunnels)

    def count_flows(self) -> None:
        """Bring all flows up to date, whatever it takes: for people who ask."""
        self._sweep.count_all()

    def look_at(self, entry: FlowEntry) -> Seen | None:
        """See `Mirror`."""
        if (key := flow_key(entry.key)) is None or (packed := self._flows.lookup(key)) is None:
            return None
        row = FlowRow.unpacked(packed)
        if row.counts != entry.offloaded:
            self._sweep.take(entry, row)
        carrier = self._rows.get(TunnelId(self._resolved(row)))
        if carrier is None or not carrier.is_kernels:
            return None
        times = (self._heard_as(at) if at else None for at in (row.first_arrival, row.last_elsewhere))
        return Seen(row.late, row.gap / 1e9, *times)

    def _tick(self) -> None:
        """Some of the tunnels each time: whether they were heard decides on their lives."""
        self._timer = self._loop.call_later(_TICK, self._tick)
        for id in list(islice(self._changing, _LOOKED_AT_PER_TICK)):
            del self._changing[id]
            if (tunnel := self._paft.tunnels.get(id)) is not None:
                self.tunnel_changed(tunnel)
                if (row := self._rows.get(id)) is not None and row.is_changing:
                    self._changing[id] = None
        self._tunnel_counts.count_some()
        now = self._loop.time()
        for key in self._doomed_flows.due(now, _ENDED_PER_TICK):
            self._end_flow(key)
        for id in self._doomed_tunnels.due(now, _ENDED_PER_TICK):
            self._end_tunnel(id)
        next(self._ending, None)
        self.settle()
        if self._adopting_until and self._adopting_until <= now:
            self._end_adoption()
        if self._tunnels_until and self._tunnels_until <= now:
            self._tunnels_until = 0.0
            self._ending = self._end_adopted_tunnels()

    # --- what an earlier daemon left ---

    def _adopt(self, adopted_as: Callable[[int], ApplicationId]) -> None:
        flows, renumbered = 0, {}
        for part in self._flows.items():
            for key, packed in part:
                row = FlowRow.unpacked(packed)
                if self._permits is not None and not self._permits(flow_bytes(key)):
                    self._flows.delete(key)
                    continue
                entry = self._paft.insert(
                    flow_bytes(key), adopted_as(row.application), self._heard_as(row.last_seen)
                )
                entry.is_permitted = entry.is_mirrored = True
                if entry.application_id != row.application:
                    renumbered[row.application] = entry.application_id
                    # At the anchor nobody knows any more what was named: its flows go on one by one.
                    own = row.tunnel if entry.application_id else self._resolved(row)
                    self._change(key, row._replace(application=entry.application_id, tunnel=own))
                entry.packets_out, entry.bytes_out, entry.packets_in, entry.bytes_in = row.counts
                entry.offloaded = row.counts
                entry.socket = row.socket if row.socket != ANY_SOCKET else 0
                flows += 1
        # All are read before one is written: numbers may change places.
        ways = {new: self._applications.lookup(NUMBER.pack(old)) for old, new in renumbered.items()}
        for new, way in ways.items():
            if way is not None and new not in (0, DEFAULT_APPLICATION_ID):
                self._write(self._applications, NUMBER.pack(new), way)
        now = self._loop.time()
        self._adopting_until = self._tunnels_until = now + ADOPTING
        # A host is one, and back or not.
        self._tunnels_longest = now + (ADOPTING if self._permits is None else LONGEST_ADOPTING)
        log.info("%d flows of an earlier daemon go on", flows)

    def _end_names(self) -> None:
        """Numbers that mean nothing any more."""
        gone = [key for part in self._names.items() for key, _ in part]
        for key in gone:
            if NUMBER.unpack(key)[0] not in self._named:
                self._names.delete(key)

    def ports_before(self) -> dict[int, int]:
        """The near ends of the tunnels in the maps: index of the interface -> port."""
        rows = [TUNNEL.unpack(value) for part in self._tunnels.items() for _, value in part]
        return {row[5]: int.from_bytes(row[2], "big") for row in rows}

    def _end_adoption(self) -> None:
        """From now on only what PAFT says of applications counts."""
        self._adopting_until = 0.0
        self._end_names()
        for application in self._paft.applications:
            self._paft.tell_mirror(application)

    def _end_adopted_tunnels(self) -> Iterator[None]:
        """Those that have not come back, with what went by them: some thousand each time, as packets wait meanwhile."""
        for table, is_known in ((self._tunnels, self._is_known), (self._ends, self._leads_to_known)):
            for part in table.items():
                for key, _ in [row for row in part if not is_known(*row)]:
                    table.delete(key)
                yield

    def _is_known(self, number: bytes, _: bytes) -> bool:
        id = TunnelId(NUMBER.unpack(number)[0])
        return id in self._rows

    def _leads_to_known(self, _: bytes, number: bytes) -> bool:
        return self._is_known(number, b"")

    def _take_back(self, key: FlowBytes, tunnel: Tunnel, row: FlowRow) -> None:
        """PAFT knows a flow again that the kernel never forgot."""
        self._paft.mirror = None
        try:
            entry = self._paft.learn(key, tunnel, self._heard_as(row.last_seen))
            entry.is_permitted = entry.is_mirrored = True
        finally:
            self._paft.mirror = self
        if row.application and (packed := flow_key(key)) is not None:
            self._write_flow(packed, entry)
