"""The mobile host's ends of the tunnels to one anchor: a socket per access network, and what comes and goes by them.

Performs what the forwarder decides; decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from upmt_nf.daemon.backlog import Backlog
from upmt_nf.datapath.formats import NAT_KEEPALIVE
from upmt_nf.datapath.verdict import Inbound, TunnelSignal
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.linux.tunnel_socket import PathLost, PathTooSmall, TunnelSocket
from upmt_nf.mobility.traffic import OwnTraffic
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.model.names import MEASUREMENT_PORT, outer_mark
from upmt_nf.signaling.stamp import stamped


class Arriving(Protocol):
    """The part of a forwarder that judges what comes by tunnels (`HostForwarder`)."""

    def open_path(self, network: NetworkName, local: Endpoint, anchor: Endpoint) -> None:
        """Packets from `anchor` to `local` are this network's."""

    def close_path(self, network: NetworkName) -> None:
        """Nothing more is taken from this network."""

    def arrived(
        self, network: NetworkName, tos: int, data: bytes, size: int, now: float
    ) -> Iterator[Inbound]:
        """Payloads that arrived together."""

    def inbound(self, outer_packet: bytes, now: float) -> Inbound:
        """A whole outer packet, from netfilter's queue."""

    def release(self, now: float) -> list[Inbound]:
        """What has waited long enough."""

    def signal(self, network: NetworkName, port: int, payload: bytes) -> bytes:
        """The outer payload of a datagram of our own."""

    @property
    def due(self) -> float | None:
        """When `release` has something to give."""


class TunnelSockets:
    """`heard` is called with each signal from inside a tunnel, `lost` when the kernel cannot send on a network,
    `narrowed` with the outer path MTU when a packet was too large for it. `merges` as for `TunnelSocket`; `own` counts
    what no application sent. `reached`: an anchor's end by the IP version of a care-of address; `backlog` is told
    of what waits to be read. Without `tun` nothing is read here: netfilter's queue takes what arrives.
    """

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
        backlog: Backlog,
        merges: bool = True,
    ) -> None:
        self.anchor = anchor
        self.backlog = backlog
        self._loop = loop
        self._tun = tun
        self._heard = heard
        self._lost = lost
        self._narrowed = narrowed
        self._own = own
        self._reached = reached
        self._merges = merges
        self._sockets: dict[NetworkName, TunnelSocket] = {}
        self._ends: dict[NetworkName, Endpoint] = {}
        """Where each of them sends to."""
        self.forwarder: Arriving | None = None
        self._release: asyncio.TimerHandle | None = None

    def use(self, forwarder: Arriving | None) -> None:
        """Decide by this forwarder from now on; without one every packet is dropped."""
        self.forwarder = forwarder
        if forwarder is not None:
            for network, socket in self._sockets.items():
                forwarder.open_path(network, socket.local, self._ends[network])

    def use_anchor(self, anchor: Endpoint) -> None:
        """Every tunnel ends at this anchor from now on. Packets are dropped until there is a forwarder for it.

        A network that has no way to it now loses its socket, which would send to the old one, until it is opened again.
        """
        self.anchor = anchor
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
        known = Endpoint(self.anchor.address, anchor_port or self.anchor.port)
        anchor = self._reached(known, care_of.version)
        takes = self._tun is not None
        socket = TunnelSocket(
            interface, care_of, port, outer_mark(index), anchor, takes=takes, merges=self._merges
        )
        self._sockets[network], self._ends[network] = socket, anchor
        if takes:
            self._loop.add_reader(socket.fileno(), self._read, network, socket)
        if self.forwarder is not None:
            self.forwarder.open_path(network, socket.local, anchor)
        return socket.local.port

    def close(self, network: NetworkName) -> None:
        """Close a network's tunnel socket, if it has one."""
        self._ends.pop(network, None)
        if (socket := self._sockets.pop(network, None)) is not None:
            self._loop.remove_reader(socket.fileno())
            self.backlog.forget(socket.fileno())
            socket.close()
        if self.forwarder is not None:
            self.forwarder.close_path(network)

    def close_all(self) -> None:
        """Close every socket."""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        for network in list(self._sockets):
            self.close(network)

    def local_of(self, network: NetworkName) -> Endpoint | None:
        """Our end of a network's tunnel."""
        socket = self._sockets.get(network)
        return socket.local if socket is not None else None

    def remote_of(self, network: NetworkName) -> Endpoint:
        """The anchor's end of a network's tunnel."""
        return self._ends.get(network, self.anchor)

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel did not take."""
        return sum(socket.dropped for socket in self._sockets.values())

    # --- out ---

    def send_signal(self, network: NetworkName, port: int, payload: bytes) -> None:
        """Send a datagram of our own inside a network's tunnel, to the anchor's inner address."""
        if self.forwarder is not None:
            if port == MEASUREMENT_PORT:
                payload = stamped(payload, self._loop.time())
            self._send_own(network, self.forwarder.signal(network, port, payload))

    def keep_mapping(self, network: NetworkName) -> None:
        """Send what only the NATs on the way care for."""
        self._send_own(network, NAT_KEEPALIVE)

    def _send_own(self, network: NetworkName, payload: bytes) -> None:
        self._own.sent(network, len(payload))
        self.send(network, payload, 0)

    def send(self, network: NetworkName, payload: bytes, tos: int, size: int = 0) -> None:
        """Send outer payloads, joined: of `size` bytes each, 0 for a single one."""
        socket = self._sockets.get(network)
        if socket is None:
            return
        try:
            socket.send(payload, tos, size)
        except PathTooSmall as reason:
            self._narrowed(network, reason.mtu)
        except PathLost as reason:
            self._lost(network, str(reason))

    # --- in, with a tun interface ---

    def _read(self, network: NetworkName, socket: TunnelSocket) -> None:
        """What arrived by a tunnel, on to the applications."""
        forwarder, tun, now = self.forwarder, self._tun, self._loop.time()
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
        if (descriptor := socket.fileno()) >= 0:
            # A signal may have closed it.
            self.backlog.note(descriptor, is_drained=socket.is_drained)
        self._release_when_due(forwarder)
        if (mtu := socket.narrowed_to) is not None:
            socket.narrowed_to = None
            self._narrowed(network, mtu)

    def _release_when_due(self, forwarder: Arriving) -> None:
        """Packets wait for others that should have come before them."""
        if (due := forwarder.due) is not None and self._release is None:
            self._release = self._loop.call_at(due, self._release_held)

    def _release_held(self) -> None:
        self._release = None
        if (forwarder := self.forwarder) is None or self._tun is None:
            return
        for verdict in forwarder.release(self._loop.time()):
            if verdict.deliver is not None:
                self._tun.write(verdict.deliver, verdict.offload)
        self._release_when_due(forwarder)
