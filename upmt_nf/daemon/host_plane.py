"""The mobile host's agent plane: packets from two queues, through the forwarder, to the tunnels' sockets and back.

Performs what the forwarder decides; decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from upmt_nf.datapath.formats import NAT_KEEPALIVE
from upmt_nf.datapath.host_forwarder import HostForwarder
from upmt_nf.datapath.verdict import Outbound, TunnelSignal
from upmt_nf.linux.inject import inject
from upmt_nf.linux.packet_queue import Packet, PacketQueue
from upmt_nf.linux.tunnel_socket import PathLost, PathTooSmall, TunnelSocket
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.model.names import MEASUREMENT_PORT, QUEUE_INBOUND, QUEUE_OUTBOUND, outer_mark
from upmt_nf.signaling.stamp import stamped

log = logging.getLogger(__name__)


class HostPlane:
    """Owns the queues and one tunnel socket per access network.

    `heard` is called with each signal from inside a tunnel, `lost` when the kernel cannot send on a network,
    `narrowed` with the outer path MTU when a packet was too large for it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        anchor: Endpoint,
        *,
        heard: Callable[[TunnelSignal], None],
        lost: Callable[[NetworkName, str], None],
        narrowed: Callable[[NetworkName, int], None],
    ) -> None:
        self._loop = loop
        self._anchor = anchor
        self._heard = heard
        self._lost = lost
        self._narrowed = narrowed
        self._sockets: dict[NetworkName, TunnelSocket] = {}
        self._forwarder: HostForwarder | None = None
        self._queues = (
            PacketQueue(QUEUE_OUTBOUND, self._take_outbound),
            PacketQueue(QUEUE_INBOUND, self._take_inbound),
        )
        for queue in self._queues:
            loop.add_reader(queue.fileno(), queue.drain)

    def use(self, forwarder: HostForwarder | None) -> None:
        """Decide by this forwarder from now on; without one every packet is dropped."""
        self._forwarder = forwarder
        if forwarder is not None:
            for network, socket in self._sockets.items():
                forwarder.open_path(network, socket.local, self._anchor)

    def open(self, network: NetworkName, index: int, interface: str, care_of: IPAddress, port: int) -> int:
        """Bind a network's tunnel socket; gives its local port. Port 0 lets the kernel choose."""
        self.close(network)
        socket = TunnelSocket(interface, care_of, port, outer_mark(index), self._anchor)
        self._sockets[network] = socket
        if self._forwarder is not None:
            self._forwarder.open_path(network, socket.local, self._anchor)
        return socket.local.port

    def close(self, network: NetworkName) -> None:
        """Close a network's tunnel socket, if it has one."""
        if (socket := self._sockets.pop(network, None)) is not None:
            socket.close()
        if self._forwarder is not None:
            self._forwarder.close_path(network)

    def local_of(self, network: NetworkName) -> Endpoint | None:
        """Our end of a network's tunnel."""
        socket = self._sockets.get(network)
        return socket.local if socket is not None else None

    def send_signal(self, network: NetworkName, port: int, payload: bytes) -> None:
        """Send a datagram of our own inside a network's tunnel, to the anchor's inner address."""
        if self._forwarder is not None:
            if port == MEASUREMENT_PORT:
                payload = stamped(payload, self._loop.time())
            self._send(network, self._forwarder.signal(network, port, payload), 0)

    def keep_mapping(self, network: NetworkName) -> None:
        """Send what only the NATs on the way care for."""
        self._send(network, NAT_KEEPALIVE, 0)

    def counters(self) -> dict[str, int]:
        """What the kernel did not take or give, by reason."""
        return {
            "queue_overruns": sum(queue.overruns for queue in self._queues),
            "send_failures": sum(socket.dropped for socket in self._sockets.values()),
        }

    def stop(self) -> None:
        """Close everything. Packets that still come are dropped by the kernel."""
        for queue in self._queues:
            self._loop.remove_reader(queue.fileno())
            queue.close()
        for network in list(self._sockets):
            self.close(network)

    def _take_outbound(self, packet: Packet) -> None:
        forwarder = self._forwarder
        if forwarder is None:
            packet.drop()
            return
        verdict = forwarder.outbound(packet.payload, packet.mark, self._loop.time())
        if verdict.tunnel is None:
            packet.drop()
            self._hand_back(verdict)
            return
        # The original goes on to the virtual interface, where it ends: so conntrack knows the flow, and the
        # interface counts it. The verdict comes first, or TCP's small queues would hold the sender up.
        packet.accept()
        for payload in verdict.payloads:
            self._send(verdict.tunnel.network, payload, verdict.tos)

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

    def _send(self, network: NetworkName, payload: bytes, tos: int) -> None:
        socket = self._sockets.get(network)
        if socket is None:
            return
        try:
            socket.send(payload, tos)
        except PathTooSmall as reason:
            self._narrowed(network, reason.mtu)
        except PathLost as reason:
            self._lost(network, str(reason))
