"""The anchor's agent plane: packets from the tunnel port through the forwarder to the virtual interface, and back.

Without a tun interface, netfilter's queues have the packets. Performs what the forwarder decides; decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from upmt_nf.daemon.backlog import Backlog
from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.gathering import Gathering
from upmt_nf.datapath.outer import EndpointBytes
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.verdict import TunnelSignal
from upmt_nf.linux.inject import inject
from upmt_nf.linux.packet_queue import Packet, PacketQueue
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.linux.tunnel_socket import PathLost, PathTooSmall, SocketAddress, TunnelSocket
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.names import MEASUREMENT_PORT, QUEUE_INBOUND, QUEUE_OUTBOUND
from upmt_nf.signaling.stamp import stamped

log = logging.getLogger(__name__)

_BATCH = 64
"""Packets read from one side before the other has its turn."""


class AnchorPlane:
    """Owns the agent's side of the virtual interface, or the queues, and a socket for each tunnel port and address.

    `addresses` are one an IP version; netfilter's queues have packets of the first one's only.
    `heard` gets each signal from inside a tunnel, `probed` binding probes, which come in none, with their traffic
    class; both with the port that it came to (0: the first of `tunnel_ports`). `merges` as for `TunnelSocket`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        addresses: Sequence[IPAddress],
        tunnel_ports: Sequence[int],
        forwarder: AnchorForwarder,
        tun: TunDevice | None,
        *,
        heard: Callable[[TunnelSignal, int], None],
        probed: Callable[[Endpoint, bytes, int, int], None],
        merges: bool = True,
    ) -> None:
        self._loop = loop
        self._forwarder = forwarder
        self._heard = heard
        self._probed = probed
        self._version = addresses[0].version
        self._sockets: dict[tuple[int, int], TunnelSocket] = {
            (address.version, port if place else 0): TunnelSocket(
                None, address, port, 0, None, takes=tun is not None, merges=merges
            )
            for address in (addresses if tun is not None else addresses[:1])
            for place, port in enumerate(tunnel_ports)
        }
        self._gathering = Gathering(self._send_all)
        self._tun = tun
        self._queues: tuple[PacketQueue, ...] = ()
        self.backlog = Backlog()
        self._remote: tuple[SocketAddress, EndpointBytes] = (("", 0), b"")
        if tun is not None:
            for (_, by), made in self._sockets.items():
                loop.add_reader(made.fileno(), self._read_tunnels, tun, by, made)
            loop.add_reader(tun.fileno(), self._read_tun, tun)
            return
        self._queues = (
            PacketQueue(QUEUE_INBOUND, self._take_uplink),
            PacketQueue(QUEUE_OUTBOUND, self._take_downlink),
        )
        for queue in self._queues:
            loop.add_reader(queue.fileno(), queue.drain)

    @property
    def local(self) -> Endpoint:
        """Our end of every tunnel that came by the first port."""
        return self._sockets[self._version, 0].local

    def send_signal(
        self, remote: Endpoint, destination: Endpoint, port: int, payload: bytes, by: int = 0
    ) -> None:
        """Send a datagram of our own inside a tunnel, from our inner address and `port` to `destination`."""
        if port == MEASUREMENT_PORT:
            payload = stamped(payload, self._loop.time())
        packet = self._forwarder.signal(remote, destination, port, payload)
        self._send((str(remote.address), remote.port), packet, 0, 0, by)

    def send_as_is(
        self, remote: Endpoint, data: bytes, by: int = 0, tos: int = 0, *, has_checksum: bool = True
    ) -> None:
        """Send a datagram of our own from a tunnel port, in no tunnel."""
        sender = self._sockets.get((remote.address.version, by))
        if sender is not None:
            sender.send_bare(data, tos, (str(remote.address), remote.port), has_checksum=has_checksum)

    def counters(self) -> dict[str, int]:
        """What the kernel did not take or give, by reason."""
        return {
            "queue_overruns": sum(queue.overruns for queue in self._queues),
            "send_failures": sum(each.dropped for each in self._sockets.values()),
            "delivery_failures": self._tun.dropped if self._tun is not None else 0,
        }

    def stop(self) -> None:
        """Close everything."""
        for queue in self._queues:
            self._loop.remove_reader(queue.fileno())
            queue.close()
        if self._tun is not None:
            self._loop.remove_reader(self._tun.fileno())
            for each in self._sockets.values():
                self._loop.remove_reader(each.fileno())
            self._tun.close()
        for each in self._sockets.values():
            each.close()

    # --- with a tun interface ---

    def _read_tunnels(self, tun: TunDevice, by: int, read: TunnelSocket) -> None:
        """What arrived by the tunnels, on to the world."""
        now = self._loop.time()
        for arrival in read.receive():
            if arrival.remote != self._remote[0]:
                self._remote = arrival.remote, _packed(arrival.remote)
            for verdict in self._forwarder.arrived(
                self._remote[1], arrival.tos, arrival.data, arrival.size, now
            ):
                if verdict.deliver is not None:
                    tun.write(verdict.deliver, verdict.offload)
                elif verdict.signal is not None:
                    self._heard(verdict.signal, by)
                elif verdict.answer is not None:
                    self._gathering.add(verdict.answer)
                elif verdict.probe is not None:
                    self._probed(*verdict.probe, by)
        self._gathering.flush()
        self.backlog.note(read.fileno(), is_drained=read.is_drained)

    def _read_tun(self, tun: TunDevice) -> None:
        """What the world answers, on to the tunnels."""
        now, is_drained = self._loop.time(), False
        for _ in range(_BATCH):
            if (left := tun.read()) is None:
                is_drained = True
                break
            packet, offload = left
            verdict = self._forwarder.downlink(packet, now, offload)
            self._gathering.add(verdict)
            if verdict.error is not None:
                inject(verdict.error)
        self._gathering.flush()
        self.backlog.note(tun.fileno(), is_drained=is_drained)

    # --- without one: netfilter's queues have every packet ---

    def _take_uplink(self, packet: Packet) -> None:
        verdict = self._forwarder.uplink(packet.payload, self._loop.time())
        if verdict.deliver is not None:
            packet.accept_with(verdict.deliver)
            return
        packet.drop()
        if verdict.signal is not None:
            self._heard(verdict.signal, self._port_of(packet.payload))
        elif verdict.answer is not None:
            self._gathering.add(verdict.answer)
            self._gathering.flush()
        elif verdict.probe is not None:
            self._probed(*verdict.probe, self._port_of(packet.payload))

    def _take_downlink(self, packet: Packet) -> None:
        verdict = self._forwarder.downlink(packet.payload, self._loop.time())
        if verdict.tunnel is None:
            packet.drop()
            if verdict.error is not None:
                inject(verdict.error)
            return
        packet.accept()
        self._gathering.add(verdict)
        self._gathering.flush()

    def _send_all(self, tunnel: Tunnel, payloads: bytes, tos: int, size: int) -> None:
        self._send(tunnel.remote_name, payloads, tos, size, tunnel.port)

    def _send(self, remote: SocketAddress, payload: bytes, tos: int, size: int, by: int) -> None:
        # What gets lost here is counted by the socket; the host's probes find out whether the path is dead.
        version = 6 if ":" in remote[0] else 4
        sender = self._sockets.get((version, by)) or self._sockets.get((version, 0))
        if sender is not None:
            with contextlib.suppress(PathTooSmall, PathLost):
                sender.send(payload, tos, size, remote)

    def _port_of(self, outer_packet: bytes) -> int:
        """The tunnel port that a whole outer packet, which the forwarder took, came to."""
        start = (outer_packet[0] & 15) * 4 if outer_packet[0] >> 4 == 4 else 40
        port = int.from_bytes(outer_packet[start + 2 : start + 4], "big")
        return port if (self._version, port) in self._sockets else 0


def _packed(remote: SocketAddress) -> EndpointBytes:
    name, port = remote[0].partition("%")[0], remote[1]
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    return socket.inet_pton(family, name) + port.to_bytes(2, "big")
