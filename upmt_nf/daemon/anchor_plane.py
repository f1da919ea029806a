"""The anchor's agent plane: packets from two queues, through the forwarder, to the tunnel port's socket and back.

Performs what the forwarder decides; decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.verdict import Outbound, TunnelSignal
from upmt_nf.linux.inject import inject
from upmt_nf.linux.packet_queue import Packet, PacketQueue
from upmt_nf.linux.tunnel_socket import PathLost, PathTooSmall, TunnelSocket
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.names import MEASUREMENT_PORT, QUEUE_INBOUND, QUEUE_OUTBOUND
from upmt_nf.signaling.stamp import stamped

log = logging.getLogger(__name__)


class AnchorPlane:
    """Owns the queues and the socket of the tunnel port.

    `heard` gets each signal from inside a tunnel, `probed` binding probes, which come in none.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: IPAddress,
        tunnel_port: int,
        forwarder: AnchorForwarder,
        *,
        heard: Callable[[TunnelSignal], None],
        probed: Callable[[Endpoint, bytes], None],
    ) -> None:
        self._loop = loop
        self._forwarder = forwarder
        self._heard = heard
        self._probed = probed
        self._socket = TunnelSocket(None, address, tunnel_port, 0, None)
        self._queues = (
            PacketQueue(QUEUE_INBOUND, self._take_uplink),
            PacketQueue(QUEUE_OUTBOUND, self._take_downlink),
        )
        for queue in self._queues:
            loop.add_reader(queue.fileno(), queue.drain)

    @property
    def local(self) -> Endpoint:
        """Our end of every tunnel."""
        return self._socket.local

    def send_signal(self, remote: Endpoint, destination: Endpoint, port: int, payload: bytes) -> None:
        """Send a datagram of our own inside a tunnel, from our inner address and `port` to `destination`."""
        if port == MEASUREMENT_PORT:
            payload = stamped(payload, self._loop.time())
        self._send_to(remote, self._forwarder.signal(remote, destination, port, payload), 0)

    def send_as_is(self, remote: Endpoint, data: bytes) -> None:
        """Send a datagram of our own from the tunnel port, in no tunnel."""
        self._send_to(remote, data, 0)

    def counters(self) -> dict[str, int]:
        """What the kernel did not take or give, by reason."""
        return {
            "queue_overruns": sum(queue.overruns for queue in self._queues),
            "send_failures": self._socket.dropped,
        }

    def stop(self) -> None:
        """Close everything."""
        for queue in self._queues:
            self._loop.remove_reader(queue.fileno())
            queue.close()
        self._socket.close()

    def _take_uplink(self, packet: Packet) -> None:
        verdict = self._forwarder.uplink(packet.payload, self._loop.time())
        if verdict.deliver is not None:
            packet.accept_with(verdict.deliver)
            return
        packet.drop()
        if verdict.signal is not None:
            self._heard(verdict.signal)
        elif verdict.answer is not None:
            self._send(verdict.answer)
        elif verdict.probe is not None:
            self._probed(*verdict.probe)

    def _take_downlink(self, packet: Packet) -> None:
        verdict = self._forwarder.downlink(packet.payload, self._loop.time())
        if verdict.tunnel is None:
            packet.drop()
            if verdict.error is not None:
                inject(verdict.error)
            return
        packet.accept()
        self._send(verdict)

    def _send(self, verdict: Outbound) -> None:
        tunnel = verdict.tunnel
        if tunnel is not None:
            for payload in verdict.payloads:
                self._send_to(tunnel.remote, payload, verdict.tos)

    def _send_to(self, remote: Endpoint, payload: bytes, tos: int) -> None:
        # What gets lost here is counted by the socket; the host's probes find out whether the path is dead.
        with contextlib.suppress(PathTooSmall, PathLost):
            self._socket.send_to(payload, remote, tos)
