"""The mobile host's daemon (MMC): the machine of `mobility`, the agent plane and the kernel state put together.

Everything that happens becomes an event of the machine; everything that it wants is performed here, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from pathlib import Path
from random import SystemRandom

from upmt_nf.config.mobile_host import MobileHostConfig
from upmt_nf.config.system_resolver import declared_applications
from upmt_nf.daemon.admission import Admission
from upmt_nf.daemon.applications import Application, Applications
from upmt_nf.daemon.asked_handovers import AskedHandovers
from upmt_nf.daemon.backlog import Backlog
from upmt_nf.daemon.binding_probes import BindingProbes
from upmt_nf.daemon.control_server import ControlServer
from upmt_nf.daemon.datapath_choice import Choice, choose_with
from upmt_nf.daemon.declarations import Declarations
from upmt_nf.daemon.event_log import EventLog
from upmt_nf.daemon.fast_following import FastFollowing
from upmt_nf.daemon.fast_plane import ADOPTING, FastPlane
from upmt_nf.daemon.fast_start import host_admission, host_fast_plane
from upmt_nf.daemon.further_associations import FurtherAssociations
from upmt_nf.daemon.glancing import Glancing
from upmt_nf.daemon.host_control import READING, HostControl
from upmt_nf.daemon.host_kernel import HostKernel
from upmt_nf.daemon.host_networks import HostNetworks
from upmt_nf.daemon.host_plane import HostPlane
from upmt_nf.daemon.host_policies import HostPolicies
from upmt_nf.daemon.host_settings import host_settings
from upmt_nf.daemon.host_watch import HostWatch
from upmt_nf.daemon.lease_portals import LeasePortals
from upmt_nf.daemon.left_behind import left_behind
from upmt_nf.daemon.measurements import HostMeasurements
from upmt_nf.daemon.metering import Metering
from upmt_nf.daemon.metrics import metrics_text
from upmt_nf.daemon.metrics_server import MetricsServer
from upmt_nf.daemon.network_control import READING as NETWORK_READING
from upmt_nf.daemon.network_control import NetworkControl
from upmt_nf.daemon.policy_control import READING as POLICY_READING
from upmt_nf.daemon.policy_control import PolicyControl
from upmt_nf.daemon.portal_probe import PortalProbes
from upmt_nf.daemon.repairs import Repairs
from upmt_nf.daemon.steering import socket_marks, steering_of
from upmt_nf.daemon.tunnel_sockets import TunnelSockets
from upmt_nf.daemon.usual_association import UsualAssociation
from upmt_nf.daemon.wake_up import WakeUp
from upmt_nf.datapath.host_forwarder import HostForwarder
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.verdict import TunnelSignal
from upmt_nf.linux.host_state import HostState
from upmt_nf.linux.link_monitor import LinkMonitor
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.linux.users import read_secret
from upmt_nf.mobility.commands import Announce, Happened, Level, Stopped
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.host_associations import HostAssociations
from upmt_nf.mobility.host_commands import (
    ByAnchor,
    CheckPortal,
    CloseBindingProbe,
    CloseTunnel,
    ConfigureVirtualAddress,
    HandoverFinished,
    HostCommand,
    KeepNatMapping,
    OpenTunnel,
    RebindTunnel,
    ReleaseVirtualAddress,
    RememberBindingTime,
    SendBindingProbe,
    SendSip,
    SendTunnelSignal,
    UseAnchor,
)
from upmt_nf.mobility.host_events import (
    ApplicationAssigned,
    ApplicationDefined,
    FlowsAdopted,
    HostEvent,
    PathFailed,
    PathNarrowed,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.tallies import Counted
from upmt_nf.mobility.traffic import OwnTraffic
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import FlowBytes, IPAddress
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationName, NetworkName
from upmt_nf.model.names import QUEUE_FIRST, VIRTUAL_INTERFACE
from upmt_nf.policy.policy import Policy

log = logging.getLogger(__name__)

LEVELS = {Level.DEBUG: logging.DEBUG, Level.INFO: logging.INFO, Level.WARNING: logging.WARNING}


class HostDaemon:
    """One mobile host, from `start` to the end of `run` (see `daemon.lifetime`)."""

    admission: Admission | None
    further: FurtherAssociations
    machine: HostAssociations
    networks: HostNetworks
    policies: HostPolicies
    measurements: HostMeasurements
    events: EventLog
    lease_portals: LeasePortals
    plane: HostPlane
    sockets: TunnelSockets
    _wake_up: WakeUp
    _glancing: Glancing
    _monitor: LinkMonitor
    _stopped: asyncio.Event
    _reloading: asyncio.Task[None]
    _asking: asyncio.Task[None]

    def __init__(self, config: MobileHostConfig, file: Path | None = None) -> None:
        self.config = config
        self.declarations = Declarations(self, file)
        self._secrets: list[str | None] = []
        """Shared with each anchor, in the order of the file."""
        self.paft = Paft(max_flows=config.mobile_host.max_flows)
        self.usual = UsualAssociation(self)
        self._events: deque[HostEvent] = deque()
        self._is_working = False
        self._own = OwnTraffic(config.anchor.address.version)
        self.datapath = Choice(None, "not chosen yet")
        self.networks_before: dict[ApplicationName, tuple[str, ...]] = {}
        """Of applications that an earlier daemon had from people: where they may go, best first."""
        self._fast_following = FastFollowing()
        self.asked_handovers = AskedHandovers(self.take)
        self.repairs: Repairs | None = None
        self._rules_in_place: tuple[object, ...] | None = None
        control = HostControl(self)
        handlers = (control, PolicyControl(self), NetworkControl(self))
        commands = {name: each for some in handlers for name, each in some.commands().items()}
        self._metrics = MetricsServer(lambda: self._metrics_text(control))
        self._control = ControlServer(commands, READING | POLICY_READING | NETWORK_READING)

    # --- life ---

    async def start(self) -> None:
        """Take the control socket, put the kernel's state in place, look at the networks."""
        loop = asyncio.get_running_loop()
        self._loop, self._stopped = loop, asyncio.Event()
        self._control.claim()
        files = map(self.config.secret_file_of, self.config.anchors)
        self._secrets = [read_secret(Path(file)) if file is not None else None for file in files]
        self.policies = HostPolicies(self.config)
        self.events = EventLog(self.config.mobile_host.records)
        self.measurements = HostMeasurements(self.config, self._own, self.tunnels, self._count_tunnels)
        self.kernel = HostKernel(self.config)
        self.applications = Applications(
            declared_applications(self.config),
            self.config.mobile_host.default,
            self.kernel.cgroup_is_settled,
        )
        self.declarations.start()
        self.watch = HostWatch(self)
        try:
            self._begin(loop)
        except BaseException:
            self.kernel.restore()
            raise
        await self._control.serve()
        if (where := self.config.mobile_host.metrics) is not None:
            try:
                await self._metrics.serve(where)
            except UpmtError as reason:
                log.warning("%s", reason)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._take_over()
        self.kernel.steering = steering_of(self.applications)
        wants_agent = self.config.mobile_host.datapath == "agent"
        left = None if wants_agent else left_behind(self.kernel.journal)
        if left is not None:
            self.kernel.go_on_with(left, self.applications.netfilter_lines(4, QUEUE_FIRST))
        self.kernel.prepare()
        tun = TunDevice(VIRTUAL_INTERFACE) if self.kernel.interface.kind == "tun" else None
        self.datapath = choose_with(
            self.kernel.journal,
            self.config.mobile_host.datapath,
            self.kernel.interface.kind,
            self.kernel.anchor.address,
            lambda: host_fast_plane(loop, self),
        )
        if tun is not None:
            is_sealed = any(network.protection == "sealed" for network in self.config.network)
            self.kernel.interface.limit_packets(for_agent=is_sealed or self.datapath.fast is None)
        self.admission = host_admission(loop, self)
        self.sockets = TunnelSockets(
            loop,
            self.kernel.anchor,
            tun,
            heard=self._hear,
            lost=self._lose_path,
            narrowed=self._narrow_path,
            own=self._own,
            reached=self.kernel.addresses.at,
            backlog=Backlog(),
            merges=self.datapath.fast is None,
        )
        self.plane = HostPlane(
            loop,
            tun,
            self.sockets,
            heard=self._hear,
            is_left_alone=self.applications.is_left_alone,
        )
        if self.datapath.fast is not None:
            self.plane.introduced = self.datapath.fast.write_new
            self.datapath.fast.write_behind(self.plane.backlog)
        self.networks = HostNetworks(self.config, self.kernel, self.sockets, self._hear_sip, self._own)
        if left is not None and self.datapath.fast is not None:
            self.networks.virtual_address = left.virtual_address
            self.networks.ports_before = self.datapath.fast.ports_before()
            loop.call_later(ADOPTING, self.usual.end_adoption)
        self._state = HostState(Path(self.config.mobile_host.state))
        settings = host_settings(
            self.config,
            self._secrets,
            self._state.binding_times(),
            self.policies.default,
            self.policies.ledger(loop.time()),
        )
        flows = self.config.mobile_host.max_flows
        self.machine = HostAssociations(settings, self.paft, SystemRandom(), lambda: Paft(max_flows=flows))
        self.further = FurtherAssociations(
            loop,
            self.machine,
            self.networks,
            self.plane,
            tun,
            self._own,
            self.kernel.addresses.at,
            self.paft,
            take=self.take,
            changed=self._follow_further,
            classify_incoming=self.applications.classify_incoming,
            stray=self.adopt_stray,
            refusing=self.applications.refusing,
        )
        self._wake_up = WakeUp(loop, lambda: self.take(TimeoutReached()))
        if self.kernel.steering.guards:
            # Netfilter's part of the kill switch first; then what a killed daemon left may go.
            self.update_rules()
            self.networks.apply_routing()
        policies = self.applications.policies
        for name, application in self.applications.by_name.items():
            if name != DEFAULT_APPLICATION or name in policies:
                policy = self.policy_of(name) or self.networks_before.get(name)
                self.take(ApplicationDefined(name, application.id, policy, self.anchor_of(application)))
        self.policies.begin(self.take, lambda: self.machine.ledger)
        self.measurements.begin(self.machine, self.events)
        self._probes = BindingProbes(
            loop,
            lambda version: self.kernel.addresses.at(self.kernel.anchor, version).address,
            self.networks.routing_of,
            self.take,
            self._own,
        )
        url = self.config.mobile_host.portal_check
        self._portals = PortalProbes(url, self.networks.routing_of, self.take, self._own)
        self.lease_portals = LeasePortals(self.config.network, self._index_of)
        self._metering = Metering(self.config.network, self.take)
        self._monitor = LinkMonitor(self.networks.interfaces)
        self._look_at_networks()
        self.update_rules()
        self._glancing = Glancing(loop, self.machine, self._before_glance, self._after_glance)
        loop.add_reader(self._monitor.fileno(), self._hear_of_networks)
        self.repairs = Repairs(loop, self.kernel.drift, self.kernel.repair)
        for anchor, secret in zip(self.config.anchors, self._secrets, strict=True):
            if secret is None:
                log.warning("no secret_file: neither we nor anchor %s can prove who we are", anchor.address)
        known = ", then ".join(str(anchor.address) for anchor in self.config.anchors)
        log.info("mobile host %s, anchor %s", self.config.mobile_host.identity, known)

    def _index_of(self, network: NetworkName) -> int | None:
        place = self.networks.place_of(network)
        return place[0] if place is not None else None

    def _take_over(self) -> None:
        """Programs that `upmt run` started under a daemon that was killed still belong to their applications."""
        for name, path in self.kernel.cgroups_in_place().items():
            self.applications.add_cgroup(self.applications.define(name), path)

    async def run(self) -> None:
        """Work until asked to stop, say goodbye to the anchor, put everything back."""
        try:
            await self._stopped.wait()
        finally:
            self._wake_up.cancel()
            self._glancing.stop()
            self.write_down()
            self._metrics.close()
            if self.repairs is not None:
                self.repairs.close()
            self._loop.remove_reader(self._monitor.fileno())
            self._monitor.close()
            self.watch.close()
            self._probes.close_all()
            self._portals.close()
            self._metering.close()
            self.networks.close()
            self.further.close()
            self.plane.stop()
            if self.admission is not None:
                self.admission.close()
            if self.datapath.fast is not None:
                self.datapath.fast.close()
            self.kernel.restore()
            await self._control.close()
            log.info("stopped")

    def ask_to_stop(self) -> None:
        """De-associate, then end."""
        self.take(StopAsked())

    def write_down(self) -> None:
        """Save what budgets and measurements have counted, and close the stores."""
        self.policies.close(self.machine.ledger)
        self.measurements.close()
        self.events.close()

    async def _metrics_text(self, control: HostControl) -> str:
        status, tunnels = await control.status({}, 0), await control.tunnels({}, 0)
        return metrics_text(status, tunnels, self.policies.counts)

    def policy_of(self, name: ApplicationName) -> Policy | tuple[str, ...] | None:
        """What is declared for an application; None: nothing."""
        section = self.applications.section_of(name)
        return self.policies.config.choice_of(section) if section is not None else None

    def anchor_of(self, application: Application) -> IPAddress | None:
        """Where the anchor is that it names. One that is in no file any more is nobody's: then as the rest."""
        return self.config.anchor_called(application.anchor)

    @property
    def forwarder(self) -> HostForwarder | None:
        """Decides on the packets of all applications, while there is a virtual address."""
        return self.usual.forwarder

    async def settled(self, name: ApplicationName) -> None:
        """Wait until the anchor knows where an application is, but not for ever."""
        for _ in range(100):
            if not self.machine.applications[name].is_moving:
                return
            await asyncio.sleep(0.02)

    def ask_to_reload(self) -> None:
        """Read the configuration again (SIGHUP); what is wrong with it is logged, and all stays as it is."""

        async def reload() -> None:
            try:
                await self.declarations.reload({}, 0)
            except UpmtError as reason:
                log.warning("the configuration is not taken: %s", reason)

        self._reloading = self._loop.create_task(reload())

    def now(self) -> float:
        """The clock that flows and timers go by, seconds."""
        return self._loop.time()

    # --- events in ---

    def take(self, event: HostEvent) -> None:
        """Let something happen. Safe to call while another event is being worked off."""
        if isinstance(event, ApplicationDefined | ApplicationAssigned):
            self._fast_following.applications_changed()
        if isinstance(event, FlowsAdopted):
            # Their entries were changed by whoever found out.
            for flow in event.flows:
                if (entry := self.paft.flows.get(flow.packed())) is not None:
                    self.paft.changed(entry)
        self._events.append(event)
        if self._is_working:
            return
        self._is_working = True
        self._count_tunnels()
        try:
            while self._events:
                self._perform_all(self.machine.handle(self._events.popleft(), self._loop.time()))
        finally:
            self._is_working = False
        self._follow_machine()

    def _before_glance(self) -> None:
        for state in self._monitor.carriers_gone():
            self._glancing.links_changed()
            self.take(self.networks.update(state))
        self._count_tunnels()

    def _after_glance(self, commands: list[HostCommand]) -> None:
        """A tunnel in use is silent: questions to send, and perhaps applications that have moved."""
        self._perform_all(commands)
        if any(not isinstance(command, SendTunnelSignal) for command in commands):
            self._follow_machine()
        else:
            self._wake_up.at(self.machine.next_timeout())

    def _perform_all(self, commands: list[HostCommand]) -> None:
        for command in commands:
            try:
                self._perform(command)
            except UpmtError as reason:
                log.warning("%s: %s", type(command).__name__, reason)

    def _count_tunnels(self) -> None:
        if self.admission is not None:
            self.admission.catch_up()
        if (fast := self.datapath.fast) is not None:
            fast.count_tunnels(self.paft.tunnels.values())

    def _follow_machine(self) -> None:
        self.further.attach(self.forwarder, self.networks.virtual_address)
        self._note_stranded()
        if (fast := self.datapath.fast) is not None:
            self._mind(fast)
        self._wake_up.at(self.machine.next_timeout())

    def _mind(self, fast: FastPlane) -> None:
        """Programs on the interfaces that are there, tunnels as they are now."""
        there = {
            section.interface: place[0]
            for section in self.config.network
            if (place := self.networks.place_of(NetworkName(section.name))) is not None
        }
        self._fast_following.follow(
            fast,
            there,
            self.paft.tunnels.values(),
            self.machine.networks.values(),
            lambda: self.machine.applications,
            lambda name: self.applications.section_of(name) is not None,
        )

    def count(self) -> None:
        """Bring the counters of flows and tunnels up to date."""
        self._count_tunnels()
        if (fast := self.datapath.fast) is not None:
            fast.count_flows()

    def _note_stranded(self) -> None:
        """Applications may be left alone while they have no network: see whether any is, or is not any more."""
        known = self.machine.applications.items()
        stranded = {name for name, application in known if application.network is None}
        if self.applications.note_stranded(stranded) and self._rules_in_place is not None:
            try:
                self.update_rules()
            except UpmtError as reason:
                log.warning("rules: %s", reason)

    def _hear_of_networks(self) -> None:
        self._glancing.links_changed()
        self._look_at_networks()

    def _look_at_networks(self) -> None:
        for state in self._monitor.carriers_lost():
            self.take(self.networks.update(state))
        for state in self._monitor.compare():
            log.debug("%s", state)
            self.take(self.networks.update(state))
        self.update_rules()

    def _hear(self, signal: TunnelSignal) -> None:
        self.take(TunnelSignalReceived(signal.network, signal.port, signal.payload))

    def _hear_sip(self, network: NetworkName, data: bytes, anchor: IPAddress) -> None:
        self.take(SipDatagramReceived(network, data, anchor))

    def _lose_path(self, network: NetworkName, reason: str) -> None:
        self.take(PathFailed(network, reason))

    def _narrow_path(self, network: NetworkName, mtu: int) -> None:
        self.take(PathNarrowed(network, mtu))
        self._fit_mtu()

    def adopt_stray(self, key: FlowBytes) -> None:
        """A flow that nothing of ours will ever teach the anchor is where its application is."""
        entry = self.paft.flows[key]
        application = self.applications.by_id.get(entry.application_id)
        if application is not None:
            self.take(FlowsAdopted(application.name, (entry.flow,)))

    # --- commands out ---

    def _perform(self, command: HostCommand) -> None:
        match command:
            case SendTunnelSignal(network, port, payload):
                self.sockets.send_signal(network, port, payload)
            case SendSip(network, destination, data):
                self.networks.send_sip(network, destination, data)
            case OpenTunnel(network, tunnel_id, _, _):
                if self.forwarder is not None:
                    self.forwarder.use_tunnel(network, self.paft.tunnels.get(tunnel_id))
                self._fit_mtu()
            case CloseTunnel(network):
                if self.forwarder is not None:
                    self.forwarder.use_tunnel(network, None)
            case RebindTunnel(network, anchor_port):
                self.networks.rebind(network, anchor_port)
                self.update_rules()
            case UseAnchor(tunnels, signalling):
                self.usual.use_anchor(tunnels, signalling)
            case ByAnchor(anchor, what):
                self.further.perform(anchor, what)
            case KeepNatMapping(network):
                self.sockets.keep_mapping(network)
            case SendBindingProbe():
                self._probes.send(command)
            case CloseBindingProbe(network, flows):
                self._probes.close(network, flows)
            case CheckPortal(network):
                self._portals.check(network)
                self._asking = self._loop.create_task(self.lease_portals.ask(network))
            case RememberBindingTime(place, known):
                self._state.keep_binding_time(place, known)
            case ConfigureVirtualAddress(address):
                self.usual.configure(address)
            case ReleaseVirtualAddress():
                self.usual.release()
            case HandoverFinished():
                self.events.note_handover(self.policies.note(command))
                self.asked_handovers.finish(command)
            case Counted():
                self.policies.note_counts(command)
            case Happened():
                self.events.note(command)
            case Announce(level, text):
                log.log(LEVELS[level], "%s", text)
            case Stopped():
                self._stopped.set()

    def _fit_mtu(self) -> None:
        """Applications see the smallest of the tunnels that they may be moved to."""
        mtus = [tunnel.mtu for tunnel in self.tunnels()]
        if mtus:
            self.kernel.set_mtu(min(mtus))

    def tunnels(self) -> list[Tunnel]:
        """All tunnels, to whichever anchor."""
        return [*self.paft.tunnels.values(), *self.further.tunnels()]

    def _follow_further(self) -> None:
        self._fit_mtu()
        self.update_rules()

    def update_rules(self) -> None:
        """Bring netfilter and policy routing into line with the tunnels' ports and the applications.

        Raises UpmtError. Routing first: a mark must lead somewhere before a packet carries it.
        """
        self.watch.fit_rules()
        applications = self.applications
        applications.can_mark_sockets &= self.kernel.mark_sockets(socket_marks(applications))
        steering = steering_of(applications)
        if steering != self.kernel.steering:
            self.kernel.steering = steering
            self.networks.apply_routing()
        leaves_alone = applications.is_any_native
        address = self.networks.virtual_address if leaves_alone else None
        lines, lines_ipv6 = applications.netfilter_lines(4, QUEUE_FIRST), applications.netfilter_lines(6)
        ports, further = self.networks.ports, self.networks.further_ports
        wanted = (self.kernel.anchor, ports, further, lines, lines_ipv6, address, leaves_alone)
        if wanted != self._rules_in_place:
            self.kernel.set_rules(ports, lines, address, leaves_alone=leaves_alone, further=further)
            self.kernel.set_rules_ipv6(lines_ipv6, leaves_alone=leaves_alone)
            self.plane.judged = self.kernel.judged
            self._rules_in_place = wanted
            if self.repairs is not None:
                self.repairs.note_own_change()
        if self.admission is not None:
            self.admission.fit_rules()
