"""One pretend mobile host and its access networks in `mobility_world`: daemon and forwarder, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from math import inf
from random import Random
from typing import TYPE_CHECKING

from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.binding_time import BindingTime
from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.commands import Announce, Happened, Stopped
from upmt_nf.mobility.events import StopAsked
from upmt_nf.mobility.host_commands import (
    CheckPortal,
    CloseBindingProbe,
    CloseTunnel,
    ConfigureVirtualAddress,
    HandoverFinished,
    HostCommand,
    KeepNatMapping,
    OpenTunnel,
    RebindTunnel,
    Receipt,
    ReleaseVirtualAddress,
    RememberBindingTime,
    SendBindingProbe,
    SendSip,
    SendTunnelSignal,
    UseAnchor,
)
from upmt_nf.mobility.host_events import (
    ApplicationDefined,
    HandoverAsked,
    HostEvent,
    NetworkAppeared,
    NetworkVanished,
    PathNarrowed,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.mobile_host import MobileHost
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.mobility.tallies import Counted
from upmt_nf.model.flow import TCP, Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationId, ApplicationName, NetworkName, TunnelId
from upmt_nf.model.names import SIGNALLING_PORT, TUNNEL_PORT

if TYPE_CHECKING:
    from mobility_world import World

ANCHOR = ip_address("160.80.100.1")
CORRESPONDENT = ip_address("86.0.0.1")
NET0, NET1, NET2 = NetworkName("net0"), NetworkName("net1"), NetworkName("net2")
VOICE, VOICE_ID = ApplicationName("voice"), ApplicationId(2)


@dataclass(frozen=True, slots=True)
class Packet:
    """One datagram. `host`: the host's outer end after NAT; `inner`: the host's inner end (not for SIP outside)."""

    kind: str
    """`sip` outside the tunnels, `signal` inside, `data`: a packet of the flow whose key is the payload."""
    is_up: bool
    link: Link
    host: Endpoint
    inner: Endpoint
    port: int
    payload: bytes
    sent_at: float
    anchor: IPAddress = ANCHOR
    """The anchor's end."""

    @property
    def size(self) -> int:
        """Bytes of the outer packet of a signal."""
        return len(self.payload) + OVERHEAD[self.inner.address.version] + OVERHEAD[self.host.address.version]


@dataclass(eq=False, slots=True)
class Link:
    """One access network between a host and the anchor. Times in seconds, chances from 0 to 1, both ways alike."""

    name: NetworkName
    terminal: Terminal
    care_of: IPAddress
    public: IPAddress
    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    is_up: bool = False
    is_black_hole: bool = False
    mtu: int = 1500
    """Largest outer packet, bytes."""
    port: int = 40000
    """Of the tunnel's mapping in the NAT."""
    anchor_port: int = TUNNEL_PORT
    """Of the anchor's tunnel ports, that which the tunnel goes to."""
    sip_port: int = SIGNALLING_PORT
    """Of the anchor, where SIP went last outside the tunnel."""
    dropped: set[str] = field(default_factory=set)
    """What its filters drop of binding probes: `zero-checksum`, `dscp`, `ecn`."""
    blocked: set[int] = field(default_factory=set)
    """Those of the anchor's ports to which UDP does not pass."""
    dead_ports: set[int] = field(default_factory=set)
    """Mappings that carry nothing any more, though the host's socket does not know."""
    binding_time: float = inf
    """How long the NAT keeps a mapping that says nothing (seconds)."""
    used_at: float = 0.0
    """When the tunnel's mapping was last used."""
    forgotten: int = 0
    """How often it was forgotten."""
    probes: dict[int, tuple[ProbeFlow, float]] = field(default_factory=dict)
    """Mappings of a binding trial, by port: whose they are and when they were last used."""
    rewrites: Callable[[bytes], bytes] = lambda data: data
    """What a gateway makes of SIP on the way up."""
    drops: Callable[[Packet], bool] = lambda packet: False
    """Says what else is lost."""

    @property
    def reflexive(self) -> Endpoint:
        """The host's end of the tunnel as the anchor sees it."""
        return Endpoint(self.public, self.port)

    def rebind(self) -> None:
        """Another mapping in the NAT; what comes to the old one is lost."""
        self.port += 1

    def use(self, now: float) -> None:
        """An uplink packet of the tunnel: it makes a mapping, or keeps the one that there is."""
        if self.is_forgotten(now):
            self.forgotten += 1
            self.rebind()
        self.used_at = now

    def is_forgotten(self, now: float) -> bool:
        """Whether the tunnel has no mapping now."""
        return self.used_at > 0 and now - self.used_at > self.binding_time

    def drops_odd(self, tos: int, *, has_checksum: bool) -> bool:
        """Whether its filters drop a binding probe of this kind."""
        kinds = {"zero-checksum": not has_checksum, "dscp": tos > 3, "ecn": tos & 3 > 0}
        return any(kinds[kind] for kind in self.dropped)

    def carries(self, packet: Packet) -> bool:
        if not self.is_up or self.is_black_hole:
            return False
        if not packet.is_up and packet.kind != "sip" and self.is_forgotten(self.terminal.world.now):
            return False
        if (self.sip_port if packet.kind == "sip" else self.anchor_port) in self.blocked:
            return False
        return packet.kind == "sip" or (packet.host == self.reflexive and self.port not in self.dead_ports)


class Terminal:
    """A mobile host in the world: its machine, its PAFT, and what was done of what it wanted."""

    def __init__(self, world: World, settings: HostSettings, number: int) -> None:
        self.world = world
        self.settings = settings
        self.links = {
            name: Link(name, self, ip_address(f"192.168.{index}.7"), ip_address(f"203.0.{number}.{index}"))
            for index, name in enumerate(settings.networks)
        }
        self.binding_times: dict[str, BindingTime] = dict(settings.binding_times)
        self.releases = 0
        self.rebinds: list[NetworkName] = []
        self.portal_checks: list[NetworkName] = []
        self.happened: list[Happened] = []
        self.configured: list[tuple[IPAddress, IPAddress]] = []
        """Each virtual address that applications got, and the anchor that it is of."""
        self.said: list[tuple[float, str]] = []
        self._tokens = itertools.count(1)
        self._ports = itertools.count(2000)
        self.start()

    def start(self) -> None:
        """A machine without any memory; no network is there yet."""
        self.paft = Paft()
        self.settings = replace(self.settings, binding_times=self.binding_times)
        self.machine = MobileHost(self.settings, self.paft, Random(self.world.random.getrandbits(64)))
        self.virtual_address: IPAddress | None = None
        self.anchor = self.settings.anchor
        """The one in use."""
        self.is_asleep = False
        self.open_tunnels: dict[NetworkName, TunnelId] = {}
        self.finished: list[HandoverFinished] = []
        self.counted: list[Counted] = []
        self.arrived: list[bytes] = []
        self.has_stopped = False

    def restart(self) -> None:
        """Crash, and start again on the networks that are there."""
        there = [link.name for link in self.links.values() if link.is_up]
        self.start()
        for name in there:
            self.links[name].rebind()
            self.appear(name)

    # --- what happens to it ---

    def appear(self, *names: NetworkName) -> None:
        for name in names:
            link = self.links[name]
            link.is_up = True
            self.take(NetworkAppeared(name, f"if-{name}", link.care_of, None, 1500))

    def vanish(self, name: NetworkName) -> None:
        self.links[name].is_up = False
        self.take(NetworkVanished(name, "the cable was pulled"))

    def narrow(self, name: NetworkName, mtu: int) -> None:
        """Its path takes outer packets of this size only, and the kernel has found out."""
        self.links[name].mtu = mtu
        self.take(PathNarrowed(name, mtu))

    def define(self, name: ApplicationName, id: ApplicationId, *policy: str) -> None:
        self.take(ApplicationDefined(name, id, policy or None))

    def hand_over(self, what: ApplicationName | FlowKey, target: NetworkName) -> int:
        token = next(self._tokens)
        self.take(HandoverAsked(token, what, target))
        return token

    def open_flow(self, application: ApplicationName = DEFAULT_APPLICATION) -> FlowKey:
        """A new flow; its first packet leaves at once."""
        assert self.virtual_address is not None
        flow = FlowKey(TCP, self.virtual_address, next(self._ports), CORRESPONDENT, 3000)
        self.paft.insert(flow.packed(), self.machine.applications[application].id, self.world.now)
        self.send(flow)
        return flow

    def send(self, flow: FlowKey) -> None:
        """An uplink packet of a flow, by the tunnel that it takes now, if any."""
        entry = self.paft.flows[flow.packed()]
        entry.last_seen = self.world.now
        entry.packets_out += 1
        tunnel = self.paft.tunnel_of(entry)
        if tunnel is not None:
            tunnel.used = self.world.now
            self._send_inside(tunnel.network, "data", 0, entry.key)

    def sleep(self) -> None:
        """Suspend: nothing is heard and no timer runs, but the clock goes on."""
        self.is_asleep = True

    def wake(self) -> None:
        """Go on where it was."""
        self.is_asleep = False

    def stop(self) -> None:
        self.take(StopAsked())

    # --- looking ---

    @property
    def state(self) -> str:
        return self.machine.association.state

    def network_state(self, name: NetworkName) -> str:
        return self.machine.networks[name].state

    def network_of(self, application: ApplicationName = DEFAULT_APPLICATION) -> NetworkName | None:
        return self.machine.applications[application].network

    def flow_network(self, flow: FlowKey) -> NetworkName | None:
        tunnel = self.paft.tunnel_of(self.paft.flows[flow.packed()])
        return None if tunnel is None else tunnel.network

    def is_settled(self) -> bool:
        """Associated, each network that is there has a tunnel, each application is somewhere and nothing moves."""
        there = [name for name, link in self.links.items() if link.is_up]
        return (
            self.state == "associated"
            and all(self.network_state(name) == "up" for name in there)
            and all(
                shown.network is not None and not shown.is_moving
                for shown in self.machine.applications.values()
            )
        )

    def outcome(self, token: int) -> HandoverFinished | None:
        """The answer to `hand_over`; there is never a second one."""
        answers = [finished for finished in self.finished if finished.token == token]
        assert len(answers) <= 1, answers
        return answers[0] if answers else None

    def receipt(self, token: int) -> Receipt:
        """What an asked handover did; waits for it."""
        self.world.until(lambda: self.outcome(token) is not None, 60)
        answer = self.outcome(token)
        assert answer is not None
        assert answer.receipt is not None, answer.failure
        return answer.receipt

    # --- driving ---

    def take(self, event: HostEvent) -> None:
        for command in self.machine.handle(event, self.world.now):
            self._perform(command)

    def _perform(self, command: HostCommand) -> None:
        assert not self.has_stopped, f"{command} after Stopped"
        match command:
            case SendSip(name, destination, data):
                assert destination.port in (SIGNALLING_PORT, *self.settings.further_tunnel_ports)
                self.links[name].sip_port = destination.port
                link, end = self.links[name], Endpoint(self.links[name].public, SIGNALLING_PORT)
                packet = Packet("sip", True, link, end, end, 0, data, self.world.now, destination.address)
                self.world.carry(packet)
            case SendTunnelSignal(name, port, payload):
                self._send_inside(name, "signal", port, payload)
            case KeepNatMapping(name):
                self.links[name].use(self.world.now)
                self.world.probe_bytes += 29
            case SendBindingProbe(name):
                self.world.carry_probe(self.links[name], command)
            case CloseBindingProbe(name, flows):
                probes = self.links[name].probes
                for port in [port for port, (flow, _) in probes.items() if flow in flows]:
                    del probes[port]
            case CheckPortal(name):
                self.portal_checks.append(name)
            case RememberBindingTime(place, known):
                self.binding_times[place] = known
            case ConfigureVirtualAddress(address):
                self.releases += self.virtual_address not in (None, address)
                self.virtual_address = address
                self.configured.append((self.anchor, address))
            case UseAnchor(tunnels):
                assert not self.open_tunnels, "tunnels to the anchor before"
                assert tunnels.address != self.anchor
                self.anchor = tunnels.address
            case ReleaseVirtualAddress(address):
                assert self.virtual_address == address
                self.virtual_address = None
                self.releases += 1
            case OpenTunnel(name, id, reflexive, _):
                assert id in self.paft.tunnels
                assert reflexive.address == self.links[name].public
                self.open_tunnels[name] = id
            case CloseTunnel(name):
                assert self.open_tunnels.pop(name) not in self.paft.tunnels
            case RebindTunnel(name, port):
                self.links[name].anchor_port = port
                self.links[name].rebind()
                self.rebinds.append(name)
            case HandoverFinished():
                assert (command.receipt is None) != (command.failure is None)
                self.finished.append(command)
            case Counted():
                self.counted.append(command)
            case Happened():
                self.happened.append(command)
            case Announce(_, text):
                self.said.append((self.world.now, text))
            case Stopped():
                self.has_stopped = True

    def _send_inside(self, name: NetworkName, kind: str, port: int, payload: bytes) -> None:
        if self.virtual_address is not None:
            link = self.links[name]
            link.use(self.world.now)
            inner = Endpoint(self.virtual_address, port)
            packet = Packet(
                kind, True, link, link.reflexive, inner, port, payload, self.world.now, self.anchor
            )
            self.world.carry(packet)

    def _count_in(self, packet: Packet) -> None:
        if (entry := self.paft.flows.get(packet.payload)) is not None:
            entry.packets_in += 1
            if entry.arrivals is not None:
                id = self.open_tunnels.get(packet.link.name)
                tunnel = self.paft.tunnels[id] if id is not None else None
                entry.arrivals.take(tunnel, 1, self.world.now)

    def hear(self, packet: Packet) -> None:
        """What the forwarder lets through."""
        name = packet.link.name
        if self.is_asleep:
            return None
        if packet.kind == "sip":
            return self.take(SipDatagramReceived(name, packet.payload, packet.anchor))
        if packet.inner.address != self.virtual_address or packet.anchor != self.anchor:
            return None
        for tunnel in self.paft.tunnels.values():
            if tunnel.network == name:
                tunnel.heard = self.world.now
                tunnel.used = self.world.now if packet.kind == "data" else tunnel.used
        if packet.kind == "data":
            self._count_in(packet)
            return self.arrived.append(packet.payload)
        return self.take(TunnelSignalReceived(name, packet.port, packet.payload))
