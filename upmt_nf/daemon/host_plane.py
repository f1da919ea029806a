"""The mobile host's agent plane: packets from the virtual interface through the forwarder to the tunnels, and back.

With a tun interface netfilter's queue gives the first packets of a flow only. Without one it gives every packet, both
ways. Performs what the forwarder decides; decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from upmt_nf.datapath.formats import NAT_KEEPALIVE
from upmt_nf.datapath.gathering import Gathering
from upmt_nf.datapath.host_forwarder import HostForwarder
from upmt_nf.datapath.packet import dscp_of, flow_of
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.verdict import Outbound, TunnelSignal
from upmt_nf.linux.inject import inject
from upmt_nf.linux.packet_queue import Packet, PacketQueue
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.linux.tunnel_socket import PathLost, PathTooSmall, TunnelSocket
from upmt_nf.mobility.traffic import OwnTraffic
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint, FlowBytes, IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.model.names import (
    MARK_MASK,
    MARK_NATIVE,
    MEASUREMENT_PORT,
    QUEUE_FIRST,
    QUEUE_INBOUND,
    QUEUE_OUTBOUND,
    outer_mark,
)
from upmt_nf.signaling.stamp import stamped

log = logging.getLogger(__name__)

_BATCH = 64
"""Packets read from one side before the other has its turn."""


class HostPlane:
    """Owns the queues, the agent's side of the virtual interface, and one tunnel socket per access network.

    `heard` is called with each signal from inside a tunnel, `lost` when the kernel cannot send on a network,
    `narrowed` with the outer path MTU when a packet was too large for it. `is_left_alone` tells from a flow's key,
    mark and DSCP whether it is to go on as if UPMT were not there. `judged` is the mark that a flow gets once
    it is known, 0 for none: then netfilter's queue goes on giving all of its packets. `introduced` is called when flows
    have become known, before their packets go on. `merges` as for `TunnelSocket`; `own` counts what no application
    sent. `reached`: an anchor's end by the IP version of a care-of address.
    """

    judged = 0

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        anchor: Endpoint,
        tun: TunDevice | None,
        *,
        heard: Callable[[TunnelSignal], None],
        lost: Callable[[NetworkName, str], None],
        narrowed: Callable[[NetworkName, int], None],
        own: OwnTraffic,
        reached: Callable[[Endpoint, int], Endpoint],
        merges: bool = True,
        is_left_alone: Callable[[FlowBytes, int, int], bool] = lambda key, mark, dscp: False,
    ) -> None:
        self._loop = loop
        self._own = own
        self._reached = reached
        self._merges = merges
        self._anchor = anchor
        self._heard = heard
        self._lost = lost
        self._narrowed = narrowed
        self._is_left_alone = is_left_alone
        self.introduced: Callable[[], None] = lambda: None
        self._sockets: dict[NetworkName, TunnelSocket] = {}
        self._ends: dict[NetworkName, Endpoint] = {}
        """Where each of them sends to."""
        self._forwarder: HostForwarder | None = None
        self._gathering = Gathering(self._send_all)
        self._tun = tun
        self._release: asyncio.TimerHandle | None = None
        self._waiting: list[Packet] = []
        self._untold = PacketQueue(QUEUE_FIRST, self._tell)
        loop.add_reader(self._untold.fileno(), self._untold.drain)
        if tun is not None:
            self._first_packets = PacketQueue(QUEUE_OUTBOUND, self._keep)
            self._queues: tuple[PacketQueue, ...] = (self._untold, self._first_packets)
            loop.add_reader(self._first_packets.fileno(), self._introduce)
            loop.add_reader(tun.fileno(), self._read_tun, tun)
            return
        self._queues = (
            self._untold,
            PacketQueue(QUEUE_OUTBOUND, self._take_outbound),
            PacketQueue(QUEUE_INBOUND, self._take_inbound),
        )
        for queue in self._queues[1:]:
            loop.add_reader(queue.fileno(), queue.drain)

    def use(self, forwarder: HostForwarder | None) -> None:
        """Decide by this forwarder from now on; without one every packet is dropped."""
        self._forwarder = forwarder
        if forwarder is not None:
            for network, socket in self._sockets.items():
                forwarder.open_path(network, socket.local, self._ends[network])

    def use_anchor(self, anchor: Endpoint) -> None:
        """Every tunnel ends at this anchor from now on. Packets are dropped until there is a forwarder for it.

        A network that has no way to it now loses its socket, which would send to the old one, until it is opened again.
        """
        self._anchor = anchor
        self.use(None)
        for network, socket in list(self._sockets.items()):
            try:
                end = self._reached(anchor, socket.local.address.version)
                socket.turn_to(end)
                self._ends[network] = end
            except UpmtError as reason:
                self.close(network)
                self._lost(network, str(reason))

    def open(
        self,
        network: NetworkName,
        index: int,
        interface: str,
        care_of: IPAddress,
        port: int,
        anchor_port: int = 0,
    ) -> int:
        """Bind a network's tunnel socket; gives its local port. Port 0 lets the kernel choose.

        `anchor_port`: which of the anchor's tunnel ports it sends to; 0: the first.
        """
        self.close(network)
        known = Endpoint(self._anchor.address, anchor_port or self._anchor.port)
        anchor = self._reached(known, care_of.version)
        takes = self._tun is not None
        socket = TunnelSocket(
            interface, care_of, port, outer_mark(index), anchor, takes=takes, merges=self._merges
        )
        self._sockets[network], self._ends[network] = socket, anchor
        if takes:
            self._loop.add_reader(socket.fileno(), self._read_tunnel, network, socket)
        if self._forwarder is not None:
            self._forwarder.open_path(network, socket.local, anchor)
        return socket.local.port

    def close(self, network: NetworkName) -> None:
        """Close a network's tunnel socket, if it has one."""
        self._ends.pop(network, None)
        if (socket := self._sockets.pop(network, None)) is not None:
            self._loop.remove_reader(socket.fileno())
            socket.close()
        if self._forwarder is not None:
            self._forwarder.close_path(network)

    def local_of(self, network: NetworkName) -> Endpoint | None:
        """Our end of a network's tunnel."""
        socket = self._sockets.get(network)
        return socket.local if socket is not None else None

    def remote_of(self, network: NetworkName) -> Endpoint:
        """The anchor's end of a network's tunnel."""
        return self._ends.get(network, self._anchor)

    def send_signal(self, network: NetworkName, port: int, payload: bytes) -> None:
        """Send a datagram of our own inside a network's tunnel, to the anchor's inner address."""
        if self._forwarder is not None:
            if port == MEASUREMENT_PORT:
                payload = stamped(payload, self._loop.time())
            self._send_own(network, self._forwarder.signal(network, port, payload))

    def keep_mapping(self, network: NetworkName) -> None:
        """Send what only the NATs on the way care for."""
        self._send_own(network, NAT_KEEPALIVE)

    def counters(self) -> dict[str, int]:
        """What the kernel did not take or give, by reason."""
        return {
            "queue_overruns": sum(queue.overruns for queue in self._queues),
            "queue_dropped": sum(queue.dropped for queue in self._queues),
            "send_failures": sum(socket.dropped for socket in self._sockets.values()),
            "delivery_failures": self._tun.dropped if self._tun is not None else 0,
        }

    def stop(self) -> None:
        """Close everything. Packets that still come are dropped by the kernel."""
        for queue in self._queues:
            self._loop.remove_reader(queue.fileno())
            queue.close()
        if self._release is not None:
            self._release.cancel()
        if self._tun is not None:
            self._loop.remove_reader(self._tun.fileno())
            self._tun.close()
        for network in list(self._sockets):
            self.close(network)

    def _tell(self, packet: Packet) -> None:
        """A first packet before it is routed for good: whether its flow is left alone shows in its process only."""
        key = flow_of(packet.payload)
        if key is not None and self._is_left_alone(key, packet.mark, dscp_of(packet.payload)):
            packet.repeat_with(packet.mark & ~MARK_MASK | MARK_NATIVE)
        else:
            packet.accept()

    # --- with a tun interface ---

    def _read_tun(self, tun: TunDevice) -> None:
        """What left by the virtual interface, on to the tunnels."""
        forwarder, now = self._forwarder, self._loop.time()
        for _ in range(_BATCH):
            if (left := tun.read()) is None:
                break
            if forwarder is not None:
                packet, offload = left
                verdict = forwarder.outbound(packet, 0, now, offload)
                self._gathering.add(verdict)
                self._hand_back(verdict)
        self._gathering.flush()

    def _read_tunnel(self, network: NetworkName, socket: TunnelSocket) -> None:
        """What arrived by a tunnel, on to the applications."""
        forwarder, tun, now = self._forwarder, self._tun, self._loop.time()
        if forwarder is None or tun is None:
            for _ in socket.receive():
                pass
            return
        for arrival in socket.receive():
            for verdict in forwarder.arrived(network, arrival.tos, arrival.data, arrival.size, now):
                if verdict.deliver is not None:
                    tun.write(verdict.deliver, verdict.offload)
                elif verdict.signal is not None:
                    self._heard(verdict.signal)
        self._release_when_due(forwarder)
        if (mtu := socket.narrowed_to) is not None:
            socket.narrowed_to = None
            self._narrowed(network, mtu)

    def _release_when_due(self, forwarder: HostForwarder) -> None:
        """Packets wait for others that should have come before them."""
        if (due := forwarder.due) is not None and self._release is None:
            self._release = self._loop.call_at(due, self._release_held)

    def _release_held(self) -> None:
        self._release = None
        if (forwarder := self._forwarder) is None or self._tun is None:
            return
        for verdict in forwarder.release(self._loop.time()):
            if verdict.deliver is not None:
                self._tun.write(verdict.deliver, verdict.offload)
        self._release_when_due(forwarder)

    def _introduce(self) -> None:
        """Packets of flows that the agent may not know yet, on to the tun interface.

        A flow's later packets pass the queue by from its mark on: it gets it with the last packet that waits here,
        so that none overtakes another.
        """
        self._first_packets.drain()
        waiting, self._waiting = self._waiting, []
        forwarder, now = self._forwarder, self._loop.time()
        judged: list[tuple[Packet, bool, FlowBytes | None]] = []
        last: dict[FlowBytes, Packet] = {}
        for packet in waiting:
            may_go_on, key = (
                # Not associated yet: an earlier daemon's flows go on in the kernel, all else ends at the tun device.
                (True, None) if forwarder is None else forwarder.introduce(packet.payload, packet.mark, now)
            )
            judged.append((packet, may_go_on, key))
            if key is not None:
                last[key] = packet
        self.introduced()
        known: dict[int, list[Packet]] = {}
        for packet, may_go_on, key in judged:
            if not may_go_on:
                packet.drop()
            elif (
                key is not None
                and last[key] is packet
                and self.judged
                # Marked and here again: the rules in place are not ours.
                and packet.mark & MARK_MASK != self.judged
            ):
                known.setdefault(packet.mark & ~MARK_MASK | self.judged, []).append(packet)
            else:
                packet.accept()
        # One message judges all that still wait: those of the mark that most get, when the others have theirs.
        by_number = sorted(known.items(), key=lambda each: len(each[1]))
        for mark, packets in by_number[:-1]:
            for packet in packets:
                packet.repeat_with(mark)
        for mark, packets in by_number[-1:]:
            self._first_packets.repeat_all_with(mark, packets[-1])

    def _keep(self, packet: Packet) -> None:
        packet.hold()
        self._waiting.append(packet)

    # --- without one: netfilter's queues have every packet ---

    def _take_outbound(self, packet: Packet) -> None:
        forwarder = self._forwarder
        if forwarder is None:
            packet.drop()
            return
        if forwarder.has_ended_flows:
            forwarder.introduce(packet.payload, packet.mark, self._loop.time())
        verdict = forwarder.outbound(packet.payload, packet.mark, self._loop.time())
        if verdict.tunnel is None:
            packet.drop()
            self._hand_back(verdict)
            return
        # The original goes on to the virtual interface, where it ends: so conntrack knows the flow, and the
        # interface counts it. The verdict comes first, or TCP's small queues would hold the sender up.
        packet.accept()
        self._gathering.add(verdict)
        self._gathering.flush()

    def _take_inbound(self, packet: Packet) -> None:
        forwarder = self._forwarder
        if forwarder is None:
            packet.drop()
            return
        verdict = forwarder.inbound(packet.payload, self._loop.time())
        if verdict.deliver is not None:
            packet.accept_with(verdict.deliver)
            return
        packet.drop()
        if verdict.signal is not None:
            self._heard(verdict.signal)

    def _hand_back(self, verdict: Outbound) -> None:
        if verdict.error is not None:
            inject(verdict.error)

    def _send_all(self, tunnel: Tunnel, payloads: bytes, tos: int, size: int) -> None:
        self._send(tunnel.network, payloads, tos, size)

    def _send_own(self, network: NetworkName, payload: bytes) -> None:
        self._own.sent(network, len(payload))
        self._send(network, payload, 0)

    def _send(self, network: NetworkName, payload: bytes, tos: int, size: int = 0) -> None:
        socket = self._sockets.get(network)
        if socket is None:
            return
        try:
            socket.send(payload, tos, size)
        except PathTooSmall as reason:
            self._narrowed(network, reason.mtu)
        except PathLost as reason:
            self._lost(network, str(reason))
