"""The mobile host's decision on packets of applications that go by another anchor than the rest.

Applications see one virtual address, whatever their anchor leased: packets are translated to that lease before a
`HostForwarder` of the anchor's own has them, and back after it. What comes is let through only for those applications:
no anchor gets into flows of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.offload import Offload
from upmt_nf.datapath.packet import flow_of, reverse
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.readdressing import readdressed, readdressed_key
from upmt_nf.datapath.verdict import DROPPED_IN, Inbound, Outbound
from upmt_nf.model.flow import Endpoint, FlowBytes, IPAddress
from upmt_nf.model.identity import DEFAULT_APPLICATION_ID, ApplicationId, NetworkName
from upmt_nf.model.names import SIGNALLING_PORT


class OtherAnchor:
    """`paft` is that of the association, whose address `leased` is; `seen` has flows as applications see them.

    `classify_incoming`, `stray`, `refusing` and `run` as for `HostForwarder`, with flows as applications see them.
    """

    def __init__(
        self,
        paft: Paft,
        leased: IPAddress,
        anchor: IPAddress,
        seen: Paft,
        classify_incoming: Callable[[FlowBytes], Classified],
        signalling_port: int = SIGNALLING_PORT,
        *,
        stray: Callable[[FlowBytes], None] = lambda key: None,
        refusing: Container[ApplicationId] = frozenset(),
        run: int = 0,
    ) -> None:
        self.visible: bytes | None = None
        """The address that applications see, packed, while there is one. Set by the owner."""
        self.applications: Container[ApplicationId] = frozenset()
        """Those that go by this anchor. Set by the owner."""
        self.leased = leased
        self._leased = leased.packed
        self._paft = paft
        self._seen = seen
        self._classify_unknown = classify_incoming
        self._forwarder = HostForwarder(
            paft,
            leased,
            anchor,
            self._classify,
            signalling_port,
            classify_incoming=self._classify_incoming,
            stray=lambda key: stray(self._as_seen(key)),
            refusing=refusing,
            run=run,
        )

    @property
    def counters(self) -> Counters:
        """What was dropped, by reason."""
        return self._forwarder.counters

    # --- whose is it ---

    def _as_seen(self, key: FlowBytes) -> FlowBytes:
        return readdressed_key(key, self.visible or self._leased)

    def _classify(self, key: FlowBytes, mark: int, dscp: int = 0) -> Classified:
        """Whoever forwards for all applications has found out already."""
        entry = self._seen.flows.get(self._as_seen(key))
        if entry is None:
            return Classified(DEFAULT_APPLICATION_ID, 0, "")
        return Classified(entry.application_id, entry.pid, entry.command, entry.why)

    def _classify_incoming(self, key: FlowBytes) -> Classified:
        as_seen = self._as_seen(key)
        return self._classify(key, 0) if as_seen in self._seen.flows else self._classify_unknown(as_seen)

    # --- out ---

    def outbound(
        self, packet: bytes, entry: FlowEntry, now: float, offload: Offload | None = None
    ) -> Outbound:
        """A packet of one of the applications, with the entry of its flow as it sees it. Never raises.

        The sum of a packet that stands for many is unfinished, that of others not.
        """
        visible = self.visible
        if visible is None:
            return Outbound(None, (), 0)
        other = self._paft.flows.get(readdressed_key(entry.key, self._leased))
        if other is not None and other.application_id != entry.application_id:
            self._paft.assign(other, entry.application_id)
        made = readdressed(packet, visible, self._leased, is_unfinished=offload is not None)
        verdict = self._forwarder.outbound(made, 0, now, offload)
        if verdict.error is not None:
            verdict = verdict._replace(error=readdressed(verdict.error, self._leased, visible))
        return verdict

    def signal(self, network: NetworkName, port: int, payload: bytes) -> bytes:
        """As `HostForwarder.signal`: between the leased address and the anchor."""
        return self._forwarder.signal(network, port, payload)

    # --- in ---

    def inbound(self, outer_packet: bytes, now: float) -> Inbound:
        """As `HostForwarder.inbound`."""
        return self._let_in(self._forwarder.inbound(outer_packet, now), now)

    def arrived(
        self, network: NetworkName, tos: int, data: bytes, size: int, now: float
    ) -> Iterator[Inbound]:
        """As `HostForwarder.arrived`."""
        for verdict in self._forwarder.arrived(network, tos, data, size, now):
            yield self._let_in(verdict, now)

    @property
    def due(self) -> float | None:
        """As `HostForwarder.due`."""
        return self._forwarder.due

    def release(self, now: float) -> list[Inbound]:
        """As `HostForwarder.release`."""
        return [self._let_in(verdict, now) for verdict in self._forwarder.release(now)]

    def _let_in(self, verdict: Inbound, now: float) -> Inbound:
        packet, visible = verdict.deliver, self.visible
        if packet is None:
            return verdict
        key = flow_of(packet)
        entry = self._paft.flows.get(reverse(key)) if key is not None else None
        if entry is None or visible is None or entry.application_id not in self.applications:
            return self._refuse()
        as_seen = self._as_seen(entry.key)
        seen = self._seen.flows.get(as_seen)
        if seen is None:
            seen = self._seen.insert(as_seen, entry.application_id, now, entry.pid, entry.command)
            seen.why = entry.why
        elif seen.application_id not in self.applications:
            return self._refuse()
        seen.packets_in += 1
        seen.bytes_in += len(packet)
        seen.last_seen = now
        made = readdressed(packet, self._leased, visible, is_unfinished=verdict.offload is not None)
        return verdict._replace(deliver=made)

    def _refuse(self) -> Inbound:
        self.counters.add("for_another_anchors_application")
        return DROPPED_IN

    # --- the tunnels ---

    def open_path(self, network: NetworkName, local: Endpoint, anchor: Endpoint) -> None:
        """As `HostForwarder.open_path`."""
        self._forwarder.open_path(network, local, anchor)

    def close_path(self, network: NetworkName) -> None:
        """As `HostForwarder.close_path`."""
        self._forwarder.close_path(network)

    def use_tunnel(self, network: NetworkName, tunnel: Tunnel | None) -> None:
        """As `HostForwarder.use_tunnel`."""
        self._forwarder.use_tunnel(network, tunnel)

    def use_tunnels(self, tunnels: Iterable[Tunnel]) -> None:
        """All that there are."""
        for tunnel in tunnels:
            self._forwarder.use_tunnel(tunnel.network, tunnel)
