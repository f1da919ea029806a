"""The mobile host's associations beside the usual one: sockets, forwarder and probes of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from secrets import randbelow

from upmt_nf.daemon.binding_probes import BindingProbes
from upmt_nf.daemon.host_networks import HostNetworks
from upmt_nf.daemon.host_plane import HostPlane
from upmt_nf.daemon.tunnel_sockets import TunnelSockets
from upmt_nf.datapath.copies import RUNS
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.other_anchor import OtherAnchor
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.mobility.commands import Stopped
from upmt_nf.mobility.host_associations import HostAssociations
from upmt_nf.mobility.host_commands import (
    CloseBindingProbe,
    CloseTunnel,
    ConfigureVirtualAddress,
    HostCommand,
    KeepNatMapping,
    OpenTunnel,
    RebindTunnel,
    ReleaseVirtualAddress,
    SendBindingProbe,
    SendSip,
    SendTunnelSignal,
    UseAnchor,
)
from upmt_nf.mobility.host_events import (
    HeardByAnchor,
    HostEvent,
    PathFailed,
    PathNarrowed,
    TunnelSignalReceived,
)
from upmt_nf.mobility.traffic import OwnTraffic
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint, FlowBytes, IPAddress
from upmt_nf.model.identity import ApplicationId, NetworkName

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Association:
    """What one of them has."""

    paft: Paft
    sockets: TunnelSockets
    probes: BindingProbes
    signalling_port: int
    forwarder: OtherAnchor | None = None


class FurtherAssociations:
    """All of them. `take` tells the machine what happened; `changed` is called when tunnels have other ends or sizes.

    `seen` is the PAFT that has every flow as applications see it; `classify_incoming`, `stray` and `refusing` as for
    `OtherAnchor`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        machine: HostAssociations,
        networks: HostNetworks,
        plane: HostPlane,
        tun: TunDevice | None,
        own: OwnTraffic,
        reached: Callable[[Endpoint, int], Endpoint],
        seen: Paft,
        *,
        take: Callable[[HostEvent], None],
        changed: Callable[[], None],
        classify_incoming: Callable[[FlowBytes], Classified],
        stray: Callable[[FlowBytes], None],
        refusing: Container[ApplicationId],
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._networks = networks
        self._plane = plane
        self._tun = tun
        self._own = own
        self._reached = reached
        self._seen = seen
        self._take = take
        self._changed = changed
        self._classify_incoming = classify_incoming
        self._stray = stray
        self._refusing = refusing
        self._all: dict[IPAddress, _Association] = {}
        self._attached: tuple[object, ...] = ()

    # --- views ---

    def tunnels(self) -> Iterator[Tunnel]:
        """All tunnels to other anchors than the usual one."""
        for each in self._all.values():
            yield from each.paft.tunnels.values()

    def sockets_to(self, anchor: IPAddress | None) -> TunnelSockets | None:
        """Our ends of the tunnels to an anchor other than the usual one."""
        each = self._all.get(anchor) if anchor is not None else None
        return each.sockets if each is not None else None

    def counters(self) -> dict[str, int]:
        """What the forwarders dropped, by reason."""
        total: dict[str, int] = {}
        for each in self._all.values():
            if each.forwarder is not None:
                for reason, count in each.forwarder.counters.as_dict().items():
                    total[reason] = total.get(reason, 0) + count
        return total

    # --- what the machine wants ---

    def perform(self, anchor: IPAddress, command: HostCommand) -> None:
        """One command. Raises UpmtError."""
        if isinstance(command, UseAnchor):
            return self._begin(anchor, command.tunnels, command.signalling.port)
        each = self._all[anchor]
        match command:
            case SendTunnelSignal(network, port, payload):
                each.sockets.send_signal(network, port, payload)
            case SendSip(network, destination, data):
                self._networks.send_sip(network, destination, data)
            case KeepNatMapping(network):
                each.sockets.keep_mapping(network)
            case OpenTunnel(network, tunnel_id):
                if each.forwarder is not None:
                    each.forwarder.use_tunnel(network, each.paft.tunnels.get(tunnel_id))
                self._changed()
            case CloseTunnel(network):
                if each.forwarder is not None:
                    each.forwarder.use_tunnel(network, None)
            case RebindTunnel(network, anchor_port):
                self._rebind(each, network, anchor_port)
            case SendBindingProbe():
                each.probes.send(command)
            case CloseBindingProbe(network, flows):
                each.probes.close(network, flows)
            case ConfigureVirtualAddress(address):
                self._lease(anchor, each, address)
            case ReleaseVirtualAddress():
                each.forwarder = None
                each.sockets.use(None)
            case Stopped():
                self._end(anchor)
            case _:
                raise AssertionError(f"{command} is no command of a further association")
        return None

    def attach(self, forwarder: HostForwarder | None, visible: IPAddress | None) -> None:
        """Let the forwarder of all applications pass those on that are elsewhere; `visible` is what they see.

        To be called after each event; does nothing when nothing has changed.
        """
        elsewhere = self._machine.elsewhere
        ways = {id: each.forwarder if (each := self._all.get(at)) else None for id, at in elsewhere.items()}
        wanted = (forwarder, visible, ways)
        if wanted == self._attached:
            return
        self._attached = wanted
        for anchor, each in self._all.items():
            if each.forwarder is not None:
                each.forwarder.visible = visible.packed if visible is not None else None
                each.forwarder.applications = {id for id, at in elsewhere.items() if at == anchor}
        if forwarder is not None:
            forwarder.elsewhere = ways

    # --- doing it ---

    def _begin(self, anchor: IPAddress, tunnels: Endpoint, signalling_port: int) -> None:
        def hear(event: HostEvent) -> None:
            self._take(HeardByAnchor(anchor, event))

        def narrow(network: NetworkName, mtu: int) -> None:
            hear(PathNarrowed(network, mtu))
            self._changed()

        sockets = TunnelSockets(
            self._loop,
            tunnels,
            self._tun,
            heard=lambda signal: hear(TunnelSignalReceived(signal.network, signal.port, signal.payload)),
            lost=lambda network, reason: hear(PathFailed(network, reason)),
            narrowed=narrow,
            own=self._own,
            reached=self._reached,
            backlog=self._plane.backlog,
        )
        probes = BindingProbes(
            self._loop,
            lambda version: self._reached(tunnels, version).address,
            self._networks.routing_of,
            hear,
            self._own,
        )
        paft = self._machine.further[anchor].paft
        self._all[anchor] = _Association(paft, sockets, probes, signalling_port)
        self._plane.others[anchor] = sockets
        self._networks.add_anchor(sockets)
        self._changed()
        log.info("applications go by anchor %s, too", anchor)

    def _lease(self, anchor: IPAddress, each: _Association, address: IPAddress) -> None:
        each.forwarder = OtherAnchor(
            each.paft,
            address,
            anchor,
            self._seen,
            self._classify_incoming,
            each.signalling_port,
            stray=self._stray,
            refusing=self._refusing,
            run=randbelow(RUNS),
        )
        each.forwarder.use_tunnels(each.paft.tunnels.values())
        each.sockets.use(each.forwarder)

    def _rebind(self, each: _Association, network: NetworkName, anchor_port: int) -> None:
        routing = self._networks.routing_of(network)
        if routing is None:
            return
        address = routing.address.ip
        try:
            each.sockets.open(network, routing.index, routing.interface, address, 0, anchor_port)
        except UpmtError as reason:
            log.warning("network %s, anchor %s: %s", network, each.sockets.anchor.address, reason)
        self._changed()

    def _end(self, anchor: IPAddress) -> None:
        each = self._all.pop(anchor)
        del self._plane.others[anchor]
        each.probes.close_all()
        self._networks.remove_anchor(anchor)
        self._changed()
        log.info("no application goes by anchor %s any more", anchor)

    def close(self) -> None:
        """Close every socket; the machine is not asked."""
        for each in self._all.values():
            each.probes.close_all()
            each.sockets.close_all()
