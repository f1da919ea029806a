"""The mobile host's decision on each packet: which tunnel out, what to make of what comes in.

The Tunnel Forwarding Agent of the paper (section VI) without its sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from upmt_nf.datapath.admission_layout import Begun
from upmt_nf.datapath.bursts import finished_by_us, let_in, merged, opened, parted
from upmt_nf.datapath.copies import NUMBER_SIZE, FirstCopies, Numbering, is_carried, number_of
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.ecn import decapsulated
from upmt_nf.datapath.fast_layout import ANY_SOCKET
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.formats import PLAIN, decode, is_plain
from upmt_nf.datapath.fragment import Reassembler
from upmt_nf.datapath.icmp import NETWORK_UNREACHABLE, ErrorBudget
from upmt_nf.datapath.offload import Offload, finished
from upmt_nf.datapath.outer import EndpointBytes, packed_endpoint, parse_outer, unpacked_endpoint
from upmt_nf.datapath.packet import (
    build_udp,
    destination_of,
    dscp_of,
    flow_of,
    is_fragment,
    is_icmp_error,
    is_tcp_opening,
    is_to_one_host,
    is_whole,
    parse_udp,
    reverse,
    source_of,
)
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.reordering import Resequencer
from upmt_nf.datapath.sending import Sender
from upmt_nf.datapath.verdict import DROPPED_IN, DROPPED_OUT, Inbound, Outbound, TunnelSignal
from upmt_nf.model.flow import TCP, Endpoint, FlowBytes, IPAddress
from upmt_nf.model.identity import ApplicationId, NetworkName
from upmt_nf.model.names import MARK_MASK, MARK_OUTER, MEASUREMENT_PORT, SIGNALLING_PORT

_SPARE_ENDS = 1024
_TRIALS = 3
"""Packets of a flow that are looked at before the others may pass."""
_STRAY_PACKETS = 4
"""A flow without an answer to so many packets will hardly get one."""


class Classified(NamedTuple):
    """Whose flow it is."""

    application_id: ApplicationId
    pid: int
    command: str
    why: object = None
    """How that was found out, in the classifier's own terms: kept with the flow for whoever asks."""
    socket: int = 0
    """The cookie of its socket, which no other socket has; 0: not asked for."""
    has_ended: bool = False
    """Its socket is closed already: the next packet of this key may be somebody else's."""


class Classifier(Protocol):
    """Says whose a flow is, by its key and the fwmark and DSCP of its packet."""

    def __call__(self, key: FlowBytes, mark: int, dscp: int = 0, /) -> Classified:
        """Never raises."""
        ...


class Elsewhere(Protocol):
    """Where packets go that leave by another anchor (`datapath.other_anchor`)."""

    def outbound(
        self, packet: bytes, entry: FlowEntry, now: float, offload: Offload | None = None, /
    ) -> Outbound:
        """Never raises."""
        ...


class Path(NamedTuple):
    """One access network's way to the anchor, which is there before its tunnel has an id."""

    network: NetworkName
    remote: EndpointBytes


class HostForwarder:
    """Decides for the packets of one virtual address.

    `classify` is asked once a flow, with its key and the packet's fwmark and DSCP, and again when packets of the
    flow begin to carry another application's mark; `classify_incoming` for a flow that a correspondent began. With
    `answer_no_network` the sender of a packet that no network can take is told so; without, a short time without any
    network breaks nothing; `refusing` are applications that are told in any case. `stray` is called once with the key
    of a flow that a correspondent began and we never answer, when it comes by another tunnel than its application's:
    no packet of ours will ever teach the anchor. `run` as in `Numbering`.
    """

    def __init__(
        self,
        paft: Paft,
        virtual_address: IPAddress,
        anchor: IPAddress,
        classify: Classifier,
        signalling_port: int = SIGNALLING_PORT,
        *,
        answer_no_network: bool = False,
        classify_incoming: Callable[[FlowBytes], Classified] | None = None,
        stray: Callable[[FlowBytes], None] = lambda key: None,
        refusing: Container[ApplicationId] = frozenset(),
        run: int = 0,
    ) -> None:
        self._paft = paft
        self._own = virtual_address
        self._anchor = anchor
        self._own_packed = virtual_address.packed
        self._anchor_packed = anchor.packed
        self._classify = classify
        self._signal_ports = frozenset((signalling_port, MEASUREMENT_PORT))
        self._answer_no_network = answer_no_network
        self._classify_incoming = classify_incoming or (lambda key: classify(key, 0))
        self._stray = stray
        self._refusing = refusing
        self._paths: dict[EndpointBytes, Path] = {}
        self._path_of: dict[NetworkName, Path] = {}
        self._tunnels: dict[NetworkName, Tunnel] = {}
        self._over: set[FlowBytes] = set()
        self.catch_up: Callable[[], None] = lambda: None
        """Is called before a flow is taken for unknown: the kernel may have let it in by itself (`begun`)."""
        self.elsewhere: Mapping[ApplicationId, Elsewhere | None] = {}
        """Applications that go by another anchor, and the way there while there is one. Set by the owner."""
        self.counters = Counters()
        self._sender = Sender(virtual_address, self.counters, ErrorBudget())
        self._outgoing = Reassembler(self.counters)
        self._incoming = Reassembler(self.counters)
        self._numbering = Numbering(run)
        self._first_copies = FirstCopies()
        self._in_order = Resequencer()
        self._ready: list[bytes] = []
        """In order again, to be delivered next."""
        self._may_hold = False

    def open_path(self, network: NetworkName, local: Endpoint, anchor: Endpoint) -> None:
        """Packets from `anchor` to `local` are this network's."""
        self.close_path(network)
        path = Path(network, packed_endpoint(anchor))
        self._paths[packed_endpoint(local)] = self._path_of[network] = path

    def close_path(self, network: NetworkName) -> None:
        """Nothing more is taken from this network."""
        self._path_of.pop(network, None)
        for local, path in list(self._paths.items()):
            if path.network == network:
                del self._paths[local]

    def introduce(self, packet: bytes, mark: int, now: float) -> tuple[bool, FlowBytes | None]:
        """A packet that is about to leave by the virtual interface: see to it that its flow is known.

        Gives whether it may go on, and its flow if that is known from now on. `outbound` does the rest when it left.
        """
        if is_fragment(packet):
            return True, None
        key = flow_of(packet)
        entry = self._entry_of(key)
        if entry is not None and key is not None and self._begins_anew(entry, packet):
            self._paft.forget(key)
            entry = None
        elif entry is not None and key is not None and self.is_on_trial(entry) and not is_icmp_error(packet):
            entry = self._look_again(entry, packet, mark, now)
        if entry is None:
            entry = self._first_packet(packet, key, mark, now)[1]
        elif mark and mark & MARK_MASK != entry.mark:
            self._mark_changed(entry, mark)
        is_known = entry is not None and key not in self._over and not self.is_on_trial(entry)
        return entry is not None, key if is_known else None

    def _entry_of(self, key: FlowBytes | None) -> FlowEntry | None:
        if key is None:
            return None
        entry = self._paft.flows.get(key)
        if entry is None:
            self.catch_up()
            entry = self._paft.flows.get(key)
        return entry

    def begun(self, flow: Begun, why: object, now: float) -> None:
        """A flow that the kernel has let in by itself, and its next packets with it."""
        entry, socket = self._paft.flows.get(flow.key), 0 if flow.socket == ANY_SOCKET else flow.socket
        if (
            entry is not None
            and entry.socket == socket
            and (socket or entry.application_id == flow.application)
        ):
            return
        entry = self._paft.take_from_mirror(flow.key, flow.application, now, flow.pid, flow.command)
        entry.mark, entry.dscp, entry.why = flow.mark, flow.dscp, why
        # What of it comes our way is looked at: the kernel tells by the socket when the flow is another one.
        entry.socket, entry.introduced = socket, 0
        self._over.discard(flow.key)

    @staticmethod
    def is_on_trial(entry: FlowEntry) -> bool:
        """Many flows are a question and its answer, and their ports go round: they are looked at, not remembered.

        Only what goes on is let pass by netfilter's queue. TCP says by a SYN when it begins.
        """
        return entry.socket != 0 and entry.introduced < _TRIALS and entry.key[0] != TCP

    @staticmethod
    def is_only_the_kernels(entry: FlowEntry) -> bool:
        """Whether the kernel let it in by itself and no packet of its socket has come our way since."""
        return entry.socket != 0 and not entry.introduced

    def _look_again(self, entry: FlowEntry, packet: bytes, mark: int, now: float) -> FlowEntry:
        """Another packet of a new flow: of the same socket, or of another one that has its port now?"""
        key, introduced = entry.key, entry.introduced
        classified = self._classify(key, mark, dscp_of(packet))
        if classified.socket != entry.socket:
            self._paft.forget(key)
            introduced = 0
            entry = self._insert(key, classified, mark, dscp_of(packet), now)
        entry.introduced = introduced + 1
        return entry

    def end(self, keys: Iterable[FlowBytes]) -> None:
        """The sockets of these flows were closed: what comes next under the same key may be somebody else's."""
        self._over.update(keys)
        if len(self._over) > 2 * len(self._paft.flows) + _SPARE_ENDS:
            self._over.intersection_update(self._paft.flows)

    @property
    def has_ended_flows(self) -> bool:
        """Whether a flow may begin anew: `introduce` finds out."""
        return bool(self._over)

    def _begins_anew(self, entry: FlowEntry, packet: bytes) -> bool:
        """Whether a packet is another flow's than the one that had its key. TCP begins with a SYN, and ends slowly."""
        if is_icmp_error(packet):
            # About an earlier packet.
            return False
        if entry.key[0] == TCP:
            if not is_tcp_opening(packet) or not (
                entry.packets_in or entry.key in self._over or self.is_only_the_kernels(entry)
            ):
                return False
        elif entry.key not in self._over:
            return False
        self._over.discard(entry.key)
        return True

    def outbound(self, packet: bytes, mark: int, now: float, offload: Offload | None = None) -> Outbound:
        """A packet on its way out through the virtual interface. `now` in seconds. Never raises."""
        if offload is not None and not offload.segment:
            packet, offload = finished(packet, offload), None
        key = flow_of(packet)
        entry = self._entry_of(key)
        if entry is None or is_fragment(packet):
            whole, entry = self._first_packet(packet, key, mark, now)
            if entry is None:
                return DROPPED_OUT
            packet = whole
        elif mark and mark & MARK_MASK != entry.mark:
            self._mark_changed(entry, mark)
        size = len(packet)
        if packet[0] == 0x45 and (packet[2] << 8 | packet[3]) != size:
            self.counters.add("cut_short")
            return DROPPED_OUT
        entry.bytes_out += size
        entry.last_seen = now
        if self.elsewhere and (way := self.elsewhere.get(entry.application_id)) is not None:
            entry.packets_out += 1
            return way.outbound(packet, entry, now, offload)
        tunnel = entry.pinned or self._paft.applications.get(entry.application_id)
        if self._paft.doubles and tunnel is not None and entry.pinned is None:
            others = self._paft.doubles.get(entry.application_id)
            if others is not None:
                return self._send_copies(packet, entry, (tunnel, *others), now, offload)
        if tunnel is not None and offload is not None:
            verdict, count = self._sender.send_all(packet, offload, tunnel, now)
            entry.packets_out += count
            return verdict
        entry.packets_out += 1
        if tunnel is None:
            self.counters.add("no_network")
            if entry.application_id in self._refusing:
                return Outbound(None, (), 0, self._sender.turn_away(packet, now))
            if not self._answer_no_network:
                return DROPPED_OUT
            return Outbound(None, (), 0, self._sender.refuse(packet, NETWORK_UNREACHABLE, now))
        return self._sender.send(packet, tunnel, now)

    def _send_copies(
        self,
        packet: bytes,
        entry: FlowEntry,
        tunnels: tuple[Tunnel, ...],
        now: float,
        offload: Offload | None,
    ) -> Outbound:
        verdict, count = self._sender.send_copies(packet, tunnels, self._numbering, now, offload)
        entry.packets_out += count
        for other in tunnels[1:]:
            self._note_copied(entry, other, len(packet))
        return verdict

    def _note_copied(self, entry: FlowEntry, tunnel: Tunnel, size: int) -> None:
        place = entry.application_id, tunnel.network
        self._paft.copied[place] = self._paft.copied.get(place, 0) + size

    def _first_packet(
        self, packet: bytes, key: FlowBytes | None, mark: int, now: float
    ) -> tuple[bytes, FlowEntry | None]:
        """The slow path: what PAFT does not know, and fragments. Without an entry the packet ends here."""
        reason = self._why_refused(packet)
        if reason is None and is_fragment(packet):
            whole = self._outgoing.add(packet, now)
            if whole is None:
                return packet, None
            packet, key = whole, flow_of(whole)
        if reason is None and key is None:
            reason = "cut_short"
        if reason is not None or key is None:
            self.counters.add(reason or "cut_short")
            return packet, None
        entry = self._paft.flows.get(key)
        if entry is None:
            dscp = dscp_of(packet)
            entry = self._insert(key, self._classify(key, mark, dscp), mark, dscp, now)
        return packet, entry

    def _insert(self, key: FlowBytes, found: Classified, mark: int, dscp: int, now: float) -> FlowEntry:
        entry = self._paft.insert(key, found.application_id, now, found.pid, found.command)
        entry.mark, entry.dscp = mark & MARK_MASK, dscp
        entry.why, entry.socket, entry.introduced = found.why, found.socket, 1
        if found.has_ended and key[0] != TCP:
            self._over.add(key)
        return entry

    def _why_refused(self, packet: bytes) -> str | None:
        if not is_whole(packet):
            return "not_ip"
        if source_of(packet) != self._own_packed:
            return "foreign_source"
        if not is_to_one_host(packet):
            return "not_unicast"
        # A tunnel's own packets inside the tunnel: the routing rules should have kept them out.
        return "to_the_anchor" if destination_of(packet) == self._anchor_packed else None

    def _mark_changed(self, entry: FlowEntry, mark: int) -> None:
        """The administrator's rules now name another application. Packets without any of our marks say nothing."""
        field = mark & MARK_MASK
        if field and not field & MARK_OUTER:
            classified = self._classify(entry.key, mark, entry.dscp)
            entry.why, entry.mark = classified.why, field
            self._paft.assign(entry, classified.application_id)

    def inbound(self, outer_packet: bytes, now: float) -> Inbound:
        """A packet that arrived at the port of one of our tunnels. `now` in seconds. Never raises."""
        outer = parse_outer(outer_packet)
        if outer is None:
            return self._drop("malformed_outer")
        path = self._paths.get(outer.local)
        if path is None or path.remote != outer.remote:
            return self._drop("unknown_tunnel")
        # Netfilter's queue wants its answer at once: nothing waits for its turn.
        self._may_hold = False
        return finished_by_us(self._arrived(path, outer.tos, outer.payload, now))

    def arrived(
        self, network: NetworkName, tos: int, data: bytes, size: int, now: float
    ) -> Iterator[Inbound]:
        """Payloads that arrived together by a network's tunnel, joined: of `size` bytes each, the last maybe shorter.

        What has to wait for its turn comes by `release`. Never raises.
        """
        self._may_hold = bool(self._paft.windows)
        for verdict in self._all_arrived(network, tos, data, size, now):
            yield verdict
            if self._ready:
                yield from self._take_ready()

    @property
    def due(self) -> float | None:
        """When `release` has something to give (seconds); None: nothing waits."""
        return self._in_order.due

    def release(self, now: float) -> list[Inbound]:
        """What has waited long enough for packets that should have come before it."""
        self._ready += self._in_order.release(now)
        return self._take_ready()

    def _take_ready(self) -> list[Inbound]:
        ready, self._ready = self._ready, []
        return [Inbound(deliver=packet) for packet in ready]

    def _all_arrived(
        self, network: NetworkName, tos: int, data: bytes, size: int, now: float
    ) -> Iterator[Inbound]:
        path = self._path_of.get(network)
        if path is None:
            yield self._drop("unknown_tunnel")
            return
        tunnel = self._tunnels.get(network)
        if size >= len(data) or tunnel is None or (tunnel.format is not PLAIN and is_plain(data)):
            for payload in parted(data, size):
                yield self._arrived(path, tos, payload, now)
            return
        for run in opened(tunnel, data, size, self.counters):
            if run.packets == 1 and not is_carried(run.first):
                yield self._drop("malformed_inner")
            else:
                verdict = self._accept(path, tunnel, tos, run.first, now, run.packets, len(run.data))
                yield merged(verdict, run)

    def _arrived(self, path: Path, tos: int, payload: bytes, now: float) -> Inbound:
        tunnel = self._tunnels.get(path.network)
        if tunnel is not None and tunnel.format is not PLAIN and is_plain(payload):
            return self._unprotected(payload, path)
        inner = decode(tunnel, payload)
        if inner is None:
            return self._drop("malformed_inner")
        return self._accept(path, tunnel, tos, inner, now, 1, len(inner))

    def _accept(
        self, path: Path, tunnel: Tunnel | None, tos: int, inner: bytes, now: float, packets: int, size: int
    ) -> Inbound:
        """An inner packet, maybe numbered, which may stand for more of its kind: `packets` of `size` bytes in all."""
        if (number := number_of(inner)) is not None:
            inner = inner[NUMBER_SIZE:]
            size = len(inner)
        if tos & 3:
            changed = decapsulated(inner, tos)
            if changed is None:
                return self._drop("congestion_unheard", packets)
            inner = changed
        if destination_of(inner) != self._own_packed:
            return self._drop("foreign_destination", packets)
        if tunnel is not None:
            tunnel.packets_in += packets
            tunnel.bytes_in += size
            tunnel.heard = now
        is_overtaken: bool | None = None
        if number is not None:
            is_first, is_overtaken = self._first_copies.take(number)
            self._account_copy(inner, tunnel, is_first=is_first)
            if not is_first:
                self.counters.add("copies_dropped")
                return DROPPED_IN
        if is_fragment(inner):
            whole = self._incoming.add(inner, now)
            if whole is None:
                if number is not None and self._may_hold:
                    self._ready += self._in_order.take(number, b"", 0.0, now)
                return DROPPED_IN
            inner = whole
        if source_of(inner) == self._anchor_packed and (signal := self._signal_in(inner, path, tunnel)):
            return Inbound(signal=signal)
        if tunnel is not None:
            tunnel.used = now
        key = flow_of(inner)
        entry = self._entry_of(reverse(key)) if key is not None else None
        if entry is None and key is not None and not is_icmp_error(inner):
            entry = self._begun_by_other(reverse(key), now)
        if entry is not None:
            if entry.application_id in self.elsewhere:
                return self._drop("for_another_anchors_application", packets)
            entry.packets_in += packets
            entry.bytes_in += size
            entry.last_seen = now
            if entry.arrivals is not None:
                entry.arrivals.take(tunnel, packets, now, is_overtaken=is_overtaken)
            if (
                number is None
                and entry.packets_in == _STRAY_PACKETS
                and not entry.packets_out
                and tunnel is not None
            ):
                own = self._paft.tunnel_of(entry)
                if own is not None and own is not tunnel:
                    self._stray(entry.key)
        if number is not None and self._may_hold:
            window = self._paft.windows.get(entry.application_id, 0.0) if entry is not None else 0.0
            self._ready += self._in_order.take(number, inner, window, now)
            return DROPPED_IN
        return let_in(inner, tunnel.mtu if tunnel is not None else len(inner))

    def _account_copy(self, inner: bytes, tunnel: Tunnel | None, *, is_first: bool) -> None:
        """What came by another tunnel than the application's own, or came twice, is spent there."""
        key = flow_of(inner) if tunnel is not None else None
        entry = self._paft.flows.get(reverse(key)) if key is not None else None
        if entry is None or tunnel is None:
            return
        own = self._paft.tunnel_of(entry)
        if is_first and own is not tunnel and own is not None:
            self._note_copied(entry, own, -len(inner))
        if not is_first or own is not tunnel:
            self._note_copied(entry, tunnel, len(inner))

    def _begun_by_other(self, key: FlowBytes, now: float) -> FlowEntry:
        """A flow that a correspondent began: it has an application before our first answer, and if there is none."""
        classified = self._classify_incoming(key)
        entry = self._paft.insert(key, classified.application_id, now, classified.pid, classified.command)
        entry.why = classified.why
        return entry

    def _unprotected(self, payload: bytes, path: Path) -> Inbound:
        """A plain packet where a protected format was agreed: SIP, which proves itself, or nothing."""
        inner = decode(None, payload)
        if (
            inner is not None
            and source_of(inner) == self._anchor_packed
            and destination_of(inner) == self._own_packed
        ):
            signal = self._signal_in(inner, path, None)
            if signal is not None and signal.port != MEASUREMENT_PORT:
                return Inbound(signal=signal)
        return self._drop("unprotected")

    def signal(self, network: NetworkName, port: int, payload: bytes) -> bytes:
        """The outer payload of a datagram of ours to the anchor's inner address, from and to `port`.

        Measurement goes in the tunnel's own format. SIP, which proves itself, is always plain: it is what formats
        are agreed by.
        """
        packet = build_udp(self._own, port, self._anchor, port, payload)
        tunnel = self._tunnels.get(network)
        return (
            tunnel.format.encode(tunnel, packet)
            if tunnel is not None and port == MEASUREMENT_PORT
            else packet
        )

    def _signal_in(self, inner: bytes, path: Path, tunnel: Tunnel | None) -> TunnelSignal | None:
        datagram = parse_udp(inner)
        if datagram is None or datagram.destination.port not in self._signal_ports:
            return None
        remote = unpacked_endpoint(path.remote)
        return TunnelSignal(
            path.network, tunnel, remote, datagram.source, datagram.destination.port, datagram.payload
        )

    def use_tunnel(self, network: NetworkName, tunnel: Tunnel | None) -> None:
        """The tunnel that a network's path carries now, for its counters."""
        if tunnel is None:
            self._tunnels.pop(network, None)
        else:
            self._tunnels[network] = tunnel

    def _drop(self, reason: str, packets: int = 1) -> Inbound:
        self.counters.add(reason, packets)
        return DROPPED_IN
