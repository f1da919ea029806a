"""The ports of binding trials and tests: some sockets a network, there only while one runs. Decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from upmt_nf.linux.probe_socket import ProbeSocket
from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.host_commands import SendBindingProbe
from upmt_nf.mobility.host_events import BindingAnswerReceived
from upmt_nf.mobility.traffic import OwnTraffic
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.model.names import outer_mark
from upmt_nf.routing.plan import NetworkRouting

log = logging.getLogger(__name__)


class BindingProbes:
    """`anchor` gives the address of the anchor in use by IP version, `heard` gets what the anchor sends to them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        anchor: Callable[[int], IPAddress],
        routing_of: Callable[[NetworkName], NetworkRouting | None],
        heard: Callable[[BindingAnswerReceived], None],
        own: OwnTraffic,
    ) -> None:
        self._loop = loop
        self._anchor = anchor
        self._routing_of = routing_of
        self._heard = heard
        self._own = own
        self._sockets: dict[tuple[NetworkName, ProbeFlow], ProbeSocket] = {}

    def send(self, probe: SendBindingProbe) -> None:
        """Send to the anchor; what the kernel refuses is as good as lost on the way."""
        socket = self._sockets.get((probe.network, probe.flow)) or self._open(probe.network, probe.flow)
        if socket is None:
            return
        try:
            to = probe.to or Endpoint(self._anchor(socket.version), probe.anchor_port)
        except UpmtError:
            return
        self._own.sent(probe.network, len(probe.data))
        socket.send(probe.data, to, probe.tos, has_checksum=probe.has_checksum)

    def _open(self, network: NetworkName, flow: ProbeFlow) -> ProbeSocket | None:
        routing = self._routing_of(network)
        if routing is None:
            return None
        address = routing.address if flow is not ProbeFlow.IPV6 else routing.ipv6
        if address is None:
            return None
        try:
            socket = ProbeSocket(routing.interface, address.ip, outer_mark(routing.index))
        except UpmtError as reason:
            log.warning("network %s: no port for a binding probe: %s", network, reason)
            return None
        self._sockets[network, flow] = socket
        self._loop.add_reader(socket.fileno(), self._read, network, flow, socket)
        return socket

    def _read(self, network: NetworkName, flow: ProbeFlow, socket: ProbeSocket) -> None:
        for data, tos, source in socket.receive():
            self._own.received(network, len(data))
            # What a NAT sends back to us comes from our own address.
            if flow is ProbeFlow.FILTERS or source.address == self._anchor(socket.version):
                self._heard(BindingAnswerReceived(network, flow, data, source.port, tos))

    def close(self, network: NetworkName, flows: Iterable[ProbeFlow] = ProbeFlow) -> None:
        """Give a network's ports back."""
        for flow in flows:
            if (socket := self._sockets.pop((network, flow), None)) is not None:
                self._loop.remove_reader(socket.fileno())
                socket.close()

    def close_all(self) -> None:
        """Give every port back."""
        for network, _ in list(self._sockets):
            self.close(network)
