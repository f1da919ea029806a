"""The mobile host's daemon (MMC): the machine of `mobility`, the agent plane and the kernel state put together.

Everything that happens becomes an event of the machine; everything that it wants is performed here, in order.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from pathlib import Path
from random import SystemRandom

from upmt_nf.config.mobile_host import MobileHostConfig
from upmt_nf.daemon.applications import Applications
from upmt_nf.daemon.control_server import ControlServer
from upmt_nf.daemon.destination_names import DestinationNames
from upmt_nf.daemon.flow_ends import FlowEnds
from upmt_nf.daemon.host_control import READING, HostControl
from upmt_nf.daemon.host_kernel import HostKernel
from upmt_nf.daemon.host_networks import HostNetworks
from upmt_nf.daemon.host_plane import HostPlane
from upmt_nf.daemon.wake_up import WakeUp
from upmt_nf.datapath.host_forwarder import HostForwarder
from upmt_nf.datapath.paft import Paft
from upmt_nf.datapath.verdict import TunnelSignal
from upmt_nf.linux.link_monitor import LinkMonitor
from upmt_nf.linux.process_events import ProcessEvents
from upmt_nf.linux.socket_ends import SocketEnds
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.linux.users import read_secret
from upmt_nf.mobility.commands import Announce, Level, Stopped
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.host_commands import (
    CloseTunnel,
    ConfigureVirtualAddress,
    HandoverFinished,
    HostCommand,
    OpenTunnel,
    RebindTunnel,
    Receipt,
    ReleaseVirtualAddress,
    SendSip,
    SendTunnelSignal,
)
from upmt_nf.mobility.host_events import (
    ApplicationDefined,
    FlowsAdopted,
    HandoverAsked,
    HostEvent,
    PathFailed,
    PathNarrowed,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.mobile_host import MobileHost
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.errors import FacilityError, UpmtError, UsageError
from upmt_nf.model.flow import Endpoint, FlowBytes, FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationName, NetworkName, TerminalId
from upmt_nf.model.names import VIRTUAL_INTERFACE

log = logging.getLogger(__name__)

LEVELS = {Level.DEBUG: logging.DEBUG, Level.INFO: logging.INFO, Level.WARNING: logging.WARNING}


class HostDaemon:
    """One mobile host, from `start` to the end of `run` (see `daemon.lifetime`)."""

    machine: MobileHost
    networks: HostNetworks
    plane: HostPlane
    _wake_up: WakeUp
    _monitor: LinkMonitor
    _stopped: asyncio.Event

    def __init__(self, config: MobileHostConfig) -> None:
        if config.mobile_host.datapath == "fast":
            raise FacilityError('the fast datapath is not built yet: say datapath = "auto" or "agent"')
        self.config = config
        self._secret: str | None = None
        self.paft = Paft(max_flows=config.mobile_host.max_flows)
        self.forwarder: HostForwarder | None = None
        self._events: deque[HostEvent] = deque()
        self._is_working = False
        self._tokens = itertools.count(1)
        self._handovers: dict[int, asyncio.Future[Receipt]] = {}
        self._process_events: ProcessEvents | None = None
        self._is_watching = self._is_watching_ends = False
        self._socket_ends: SocketEnds | None = None
        self.ends = FlowEnds(self.paft)
        self._rules_in_place: tuple[dict[str, int], list[str]] | None = None
        self._control = ControlServer(HostControl(self).commands(), READING)

    # --- life ---

    async def start(self) -> None:
        """Take the control socket, put the kernel's state in place, look at the networks."""
        loop = asyncio.get_running_loop()
        self._loop, self._stopped = loop, asyncio.Event()
        self._control.claim()
        secret_file = self.config.mobile_host.secret_file
        self._secret = read_secret(Path(secret_file)) if secret_file is not None else None
        self.kernel = HostKernel(self.config)
        self.applications = Applications(self.config.application, self.kernel.cgroup_is_settled)
        self.names = DestinationNames(
            lambda: self.applications.destination_names, self._take_addresses, self.now
        )
        try:
            self._begin(loop)
        except BaseException:
            self.kernel.restore()
            raise
        await self._control.serve()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self.kernel.prepare()
        anchor = Endpoint(self.config.anchor.address, self.config.anchor.tunnel_port)
        tun = TunDevice(VIRTUAL_INTERFACE) if self.kernel.interface.kind == "tun" else None
        self.plane = HostPlane(
            loop, anchor, tun, heard=self._hear, lost=self._lose_path, narrowed=self._narrow_path
        )
        self.networks = HostNetworks(self.config, self.kernel, self.plane, self._hear_sip)
        self.machine = MobileHost(self._settings(), self.paft, SystemRandom())
        self._wake_up = WakeUp(loop, lambda: self.take(TimeoutReached()))
        for section in self.config.application:
            name = ApplicationName(section.name)
            self.take(ApplicationDefined(name, self.applications.by_name[name].id, section.networks))
        self._monitor = LinkMonitor(self.networks.interfaces)
        self._look_at_networks()
        self.update_rules()
        loop.add_reader(self._monitor.fileno(), self._look_at_networks)
        if self._secret is None:
            log.warning("no secret_file: neither we nor the anchor can prove who we are")
        log.info("mobile host %s, anchor %s", self.config.mobile_host.identity, anchor)

    def _settings(self) -> HostSettings:
        host, anchor = self.config.mobile_host, self.config.anchor
        return HostSettings(
            identity=TerminalId(host.identity),
            anchor=anchor.address,
            networks=tuple(NetworkName(section.name) for section in self.config.network),
            tunnel_port=anchor.tunnel_port,
            signalling_port=anchor.signalling_port,
            keepalive_interval=host.keepalive_interval,
            return_after=host.return_after,
            lifetime=host.lease_time,
            default_policy=self.config.default_networks,
            secret=self._secret,
            protection={NetworkName(section.name): section.protection for section in self.config.network},
        )

    async def run(self) -> None:
        """Work until asked to stop, say goodbye to the anchor, put everything back."""
        try:
            await self._stopped.wait()
        finally:
            self._wake_up.cancel()
            self._loop.remove_reader(self._monitor.fileno())
            self._monitor.close()
            self.names.close()
            for source in (self._process_events, self._socket_ends):
                if source is not None:
                    self._loop.remove_reader(source.fileno())
            self.ends.close()
            self.applications.close()
            self.networks.close()
            self.plane.stop()
            self.kernel.restore()
            await self._control.close()
            log.info("stopped")

    def ask_to_stop(self) -> None:
        """De-associate, then end."""
        self.take(StopAsked())

    def now(self) -> float:
        """The clock that flows and timers go by, seconds."""
        return self._loop.time()

    # --- events in ---

    def take(self, event: HostEvent) -> None:
        """Let something happen. Safe to call while another event is being worked off."""
        self._events.append(event)
        if self._is_working:
            return
        self._is_working = True
        try:
            while self._events:
                for command in self.machine.handle(self._events.popleft(), self._loop.time()):
                    try:
                        self._perform(command)
                    except UpmtError as reason:
                        log.warning("%s: %s", type(command).__name__, reason)
        finally:
            self._is_working = False
        self._wake_up.at(self.machine.next_timeout())

    def _look_at_networks(self) -> None:
        for state in self._monitor.read():
            log.debug("%s", state)
            self.take(self.networks.update(state))
        self.update_rules()

    def _hear(self, signal: TunnelSignal) -> None:
        self.take(TunnelSignalReceived(signal.network, signal.port, signal.payload))

    def _hear_sip(self, network: NetworkName, data: bytes) -> None:
        self.take(SipDatagramReceived(network, data))

    def _lose_path(self, network: NetworkName, reason: str) -> None:
        self.take(PathFailed(network, reason))

    def _narrow_path(self, network: NetworkName, mtu: int) -> None:
        self.take(PathNarrowed(network, mtu))
        self._fit_mtu()

    def _adopt_stray(self, key: FlowBytes) -> None:
        entry = self.paft.flows[key]
        application = self.applications.by_id.get(entry.application_id)
        if application is not None:
            self.take(FlowsAdopted(application.name, (entry.flow,)))

    async def hand_over(self, what: ApplicationName | FlowKey, target: NetworkName) -> Receipt:
        """Move an application or a flow. Raises UsageError or UpmtError with the reason."""
        token = next(self._tokens)
        future: asyncio.Future[Receipt] = self._loop.create_future()
        self._handovers[token] = future
        self.take(HandoverAsked(token, what, target))
        try:
            return await future
        finally:
            self._handovers.pop(token, None)

    # --- commands out ---

    def _perform(self, command: HostCommand) -> None:
        match command:
            case SendTunnelSignal(network, port, payload):
                self.plane.send_signal(network, port, payload)
            case SendSip(network, destination, data):
                self.networks.send_sip(network, destination, data)
            case OpenTunnel(network, tunnel_id, _, _):
                if self.forwarder is not None:
                    self.forwarder.use_tunnel(network, self.paft.tunnels.get(tunnel_id))
                self._fit_mtu()
            case CloseTunnel(network):
                if self.forwarder is not None:
                    self.forwarder.use_tunnel(network, None)
            case RebindTunnel(network):
                self.networks.rebind(network)
                self.update_rules()
            case ConfigureVirtualAddress(address):
                self._configure(address)
            case ReleaseVirtualAddress():
                self._release()
            case HandoverFinished():
                self._finish_handover(command)
            case Announce(level, text):
                log.log(LEVELS[level], "%s", text)
            case Stopped():
                self._stopped.set()

    def _configure(self, address: IPAddress) -> None:
        """Address before routes: a route may name it as source. Both before the first packet can come."""
        self.forwarder = HostForwarder(
            self.paft,
            address,
            self.config.anchor.address,
            self.applications.classify,
            self.config.anchor.signalling_port,
            classify_incoming=self.applications.classify_incoming,
            stray=self._adopt_stray,
        )
        for tunnel in self.paft.tunnels.values():
            self.forwarder.use_tunnel(tunnel.network, tunnel)
        self.plane.use(self.forwarder)
        self.kernel.interface.set_addresses((address,))
        self.networks.virtual_address = address
        self.networks.apply_routing()

    def _release(self) -> None:
        self.networks.virtual_address = None
        self.networks.apply_routing()
        self.kernel.interface.set_addresses(())
        self.plane.use(None)
        self.forwarder = None

    def _finish_handover(self, finished: HandoverFinished) -> None:
        future = self._handovers.get(finished.token) if finished.token is not None else None
        if future is None or future.done():
            return
        if finished.receipt is not None:
            future.set_result(finished.receipt)
            return
        kind = UsageError if finished.is_usage_error else UpmtError
        future.set_exception(kind(finished.failure or "the handover failed"))

    def _fit_mtu(self) -> None:
        """Applications see the smallest of the tunnels that they may be moved to."""
        mtus = [tunnel.mtu for tunnel in self.paft.tunnels.values()]
        if mtus:
            self.kernel.set_mtu(min(mtus))

    def _take_addresses(self, name: str, addresses: tuple[IPAddress, ...]) -> None:
        """A destination's name has other addresses now."""
        if self.applications.set_addresses(name, addresses):
            log.info("%s is %s", name, ", ".join(map(str, addresses)) or "nowhere")
            self.update_rules()

    def _watch_ends(self) -> None:
        """Have the kernel tell of closed sockets, from the first rule on: before it all flows are alike."""
        self._is_watching_ends = True
        ends = self.ends.watch()
        if ends is not None:
            self._loop.add_reader(
                ends.fileno(), lambda: self.ends.take(self.forwarder, self.networks.virtual_address)
            )
            self._socket_ends = ends
            self.applications.owners.cookie_of_ended = self.ends.cookie_of

    def _watch_processes(self) -> None:
        """Have the kernel tell of processes and sockets, from the first rule on that asks for a process."""
        self._is_watching = True
        self._process_events = self.applications.watch_processes(self.kernel.cgroup_hierarchy())
        if self._process_events is not None:
            self._loop.add_reader(self._process_events.fileno(), self.applications.owners.catch_up)

    def update_rules(self) -> None:
        """Bring netfilter into line with the tunnels' ports and the applications. Raises UpmtError."""
        if self.applications.needs_lookup and not self._is_watching:
            self._watch_processes()
        if self.applications.rules and not self._is_watching_ends:
            self._watch_ends()
        self.names.keep_fresh()
        wanted = (self.networks.ports, self.applications.netfilter_lines())
        if wanted != self._rules_in_place:
            self.kernel.set_rules(*wanted)
            self.plane.judged = self.kernel.judged
            self._rules_in_place = wanted
