"""A pretend world for the machines of `mobility`: a virtual clock, seeded chance, access networks that misbehave.

One anchor, one or more mobile hosts; each access network is a `Link` with its own delay, jitter (which reorders),
loss, duplication and NAT. What the daemons and forwarders do with the machines' commands is done here in memory.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random
from typing import Any

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import AnchorCommand, LeaseEnded, LeaseGranted
from upmt_nf.mobility.anchor_commands import SendSip as AnchorSendSip
from upmt_nf.mobility.anchor_commands import SendTunnelSignal as AnchorSendTunnelSignal
from upmt_nf.mobility.anchor_events import AnchorEvent
from upmt_nf.mobility.anchor_events import SipDatagramReceived as AnchorSipReceived
from upmt_nf.mobility.anchor_events import TunnelSignalReceived as AnchorSignalReceived
from upmt_nf.mobility.commands import Announce, Stopped
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
    HandoverAsked,
    HostEvent,
    NetworkAppeared,
    NetworkVanished,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.mobile_host import MobileHost
from upmt_nf.mobility.settings import AnchorSettings, HostSettings
from upmt_nf.model.flow import TCP, Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import (
    DEFAULT_APPLICATION,
    ApplicationId,
    ApplicationName,
    NetworkName,
    TerminalId,
)
from upmt_nf.model.names import SIGNALLING_PORT

ANCHOR = ip_address("160.80.100.1")
CORRESPONDENT = ip_address("86.0.0.1")
NET0, NET1, NET2 = NetworkName("net0"), NetworkName("net1"), NetworkName("net2")
VOICE, VOICE_ID = ApplicationName("voice"), ApplicationId(2)
LONGEST_DATAGRAM = 1200
"""Bytes of SIP in one datagram: what fits in a tunnel of the smallest usual MTU."""


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
    port: int = 40000
    """Of the tunnel's mapping in the NAT."""
    dead_ports: set[int] = field(default_factory=set)
    """Mappings that carry nothing any more, though the host's socket does not know."""
    drops: Callable[[Packet], bool] = lambda packet: False
    """Says what else is lost."""

    @property
    def reflexive(self) -> Endpoint:
        """The host's end of the tunnel as the anchor sees it."""
        return Endpoint(self.public, self.port)

    def rebind(self) -> None:
        """Another mapping in the NAT; what comes to the old one is lost."""
        self.port += 1

    def carries(self, packet: Packet) -> bool:
        if not self.is_up or self.is_black_hole:
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
        self.releases = 0
        self.rebinds: list[NetworkName] = []
        self.said: list[tuple[float, str]] = []
        self._tokens = itertools.count(1)
        self._ports = itertools.count(2000)
        self.start()

    def start(self) -> None:
        """A machine without any memory; no network is there yet."""
        self.paft = Paft()
        self.machine = MobileHost(self.settings, self.paft, Random(self.world.random.getrandbits(64)))
        self.virtual_address: IPAddress | None = None
        self.open_tunnels: dict[NetworkName, int] = {}
        self.finished: list[HandoverFinished] = []
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
        tunnel = self.paft.tunnel_of(entry)
        if tunnel is not None:
            self._send_inside(tunnel.network, "data", 0, entry.key)

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
                assert destination == Endpoint(ANCHOR, SIGNALLING_PORT)
                end = Endpoint(self.links[name].public, SIGNALLING_PORT)
                self.world.carry(Packet("sip", True, self.links[name], end, end, 0, data, self.world.now))
            case SendTunnelSignal(name, port, payload):
                self._send_inside(name, "signal", port, payload)
            case ConfigureVirtualAddress(address):
                assert self.virtual_address is None
                self.virtual_address = address
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
            case RebindTunnel(name):
                self.links[name].rebind()
                self.rebinds.append(name)
            case HandoverFinished():
                assert (command.receipt is None) != (command.failure is None)
                self.finished.append(command)
            case Announce(_, text):
                self.said.append((self.world.now, text))
            case Stopped():
                self.has_stopped = True

    def _send_inside(self, name: NetworkName, kind: str, port: int, payload: bytes) -> None:
        if self.virtual_address is not None:
            link = self.links[name]
            inner = Endpoint(self.virtual_address, port)
            self.world.carry(Packet(kind, True, link, link.reflexive, inner, port, payload, self.world.now))

    def hear(self, packet: Packet) -> None:
        """What the forwarder lets through."""
        name = packet.link.name
        if packet.kind == "sip":
            return self.take(SipDatagramReceived(name, packet.payload))
        if packet.inner.address != self.virtual_address:
            return None
        for tunnel in self.paft.tunnels.values():
            if tunnel.network == name:
                tunnel.heard = self.world.now
        if packet.kind == "data":
            return self.arrived.append(packet.payload)
        return self.take(TunnelSignalReceived(name, packet.port, packet.payload))


class World:
    """The clock, the anchor and the hosts. `host` is the first one."""

    def __init__(
        self,
        seed: int = 0,
        *,
        networks: int = 2,
        anchor: Mapping[str, Any] | None = None,
        pool: str = "10.99.0.1-10.99.0.50",
        **host: Any,
    ) -> None:
        self.now = 1000.0
        self.random = Random(seed)
        first, _, last = pool.partition("-")
        addresses = AddressPool(ip_address(first), ip_address(last))
        self.anchor_settings = AnchorSettings(address=ANCHOR, pool=addresses, **(anchor or {}))
        self.packets: list[Packet] = []
        """All that was sent, whatever became of it."""
        self.watchers: list[Callable[[], None]] = []
        """Called after everything that happens."""
        self.granted: list[LeaseGranted] = []
        self.ended: list[LeaseEnded] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._spins = 0
        self.terminals: list[Terminal] = []
        self.start_anchor()
        self.host = self.add_host("mh@upmt", networks, **host)

    def add_host(self, identity: str, networks: int = 2, **settings: Any) -> Terminal:
        names = tuple(NetworkName(f"net{index}") for index in range(networks))
        chosen = HostSettings(TerminalId(identity), ANCHOR, names, **settings)
        self.terminals.append(Terminal(self, chosen, len(self.terminals)))
        return self.terminals[-1]

    def start_anchor(self, remembered: Mapping[TerminalId, IPAddress] | None = None) -> None:
        """A fresh anchor that knows nothing but what is remembered."""
        self.anchor_paft = Paft()
        seed = self.random.getrandbits(64)
        self.anchor = Anchor(self.anchor_settings, self.anchor_paft, Random(seed), remembered)
        self.anchor_has_stopped = False

    # --- networks ---

    def carry(self, packet: Packet) -> None:
        """Give a datagram to its access network."""
        self.packets.append(packet)
        if packet.kind != "data" and packet.port in (0, SIGNALLING_PORT):
            assert len(packet.payload) <= LONGEST_DATAGRAM, len(packet.payload)
        link = packet.link
        if not link.carries(packet) or link.drops(packet):
            return
        for _ in range(2 if self.random.random() < link.duplication else 1):
            if self.random.random() >= link.loss:
                delay = link.delay + self.random.random() * link.jitter
                self.after(delay, lambda: self._deliver(packet))

    def _deliver(self, packet: Packet) -> None:
        if not packet.is_up:
            if packet.link.carries(packet):
                packet.link.terminal.hear(packet)
        elif packet.link.is_up and not packet.link.is_black_hole:
            self._reach_anchor(packet)

    def _reach_anchor(self, packet: Packet) -> None:
        if packet.kind == "sip":
            return self.take(AnchorSipReceived(packet.host, packet.payload))
        tunnel = self.anchor_paft.tunnel_from(packed_endpoint(packet.host), packet.inner.address.packed)
        if tunnel is not None:
            tunnel.heard = self.now
        if packet.kind == "data":
            if tunnel is not None and not self.anchor_has_stopped:
                self.anchor_paft.learn(packet.payload, tunnel, self.now).last_seen = self.now
            return None
        if tunnel is None and packet.port != SIGNALLING_PORT:
            return None
        return self.take(AnchorSignalReceived(tunnel, packet.host, packet.inner, packet.port, packet.payload))

    def send_down(self, flow: FlowKey) -> None:
        """A packet of the correspondent to the mobile host, by the tunnel that the anchor has for the flow."""
        entry = self.anchor_paft.flows.get(flow.packed())
        tunnel = self.anchor_paft.tunnel_of(entry) if entry is not None else None
        if tunnel is not None:
            self._send_to(tunnel.remote, Endpoint(flow.source, flow.source_port), "data", 0, flow.packed())

    def _send_to(self, remote: Endpoint, inner: Endpoint, kind: str, port: int, payload: bytes) -> None:
        for terminal in self.terminals:
            for link in terminal.links.values():
                if link.public == remote.address:
                    self.carry(Packet(kind, False, link, remote, inner, port, payload, self.now))

    # --- the anchor ---

    def take(self, event: AnchorEvent) -> list[AnchorCommand]:
        """Let something happen to the anchor; what it wants is done, and given."""
        if self.anchor_has_stopped:
            return []
        commands = self.anchor.handle(event, self.now)
        for command in commands:
            match command:
                case AnchorSendSip(destination, data):
                    self._send_to(destination, destination, "sip", 0, data)
                case AnchorSendTunnelSignal(remote, destination, port, payload):
                    self._send_to(remote, destination, "signal", port, payload)
                case LeaseGranted():
                    self.granted.append(command)
                case LeaseEnded():
                    self.ended.append(command)
                case Stopped():
                    self.anchor_has_stopped = True
                case Announce():
                    pass
        return commands

    # --- time ---

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), action))

    def step(self, limit: float) -> bool:
        """The next thing that happens, unless it is after `limit`."""
        due: list[tuple[float, Callable[[], object]]] = []
        if self._queue:
            due.append((self._queue[0][0], lambda: heapq.heappop(self._queue)[2]()))
        if not self.anchor_has_stopped and (at := self.anchor.next_timeout()) is not None:
            due.append((at, lambda: self.take(TimeoutReached())))
        for terminal in self.terminals:
            if (at := terminal.machine.next_timeout()) is not None:
                due.append((at, lambda terminal=terminal: terminal.take(TimeoutReached())))  # type: ignore[misc]
        at, action = min(due, key=lambda item: item[0], default=(limit + 1, lambda: None))
        if at > limit:
            self.now = limit
            return False
        self._spins = self._spins + 1 if at <= self.now else 0
        assert self._spins < 20000, f"time stands still at {self.now}: {self.host.said[-3:]}"
        self.now = max(self.now, at)
        action()
        for watcher in self.watchers:
            watcher()
        return True

    def run(self, seconds: float) -> None:
        """Let time pass."""
        limit = self.now + seconds
        while self.step(limit):
            pass

    def until(self, condition: Callable[[], bool], within: float) -> float:
        """Let time pass until a condition holds; gives how long that took (seconds)."""
        start = self.now
        while not condition():
            if not self.step(start + within):
                assert condition(), f"not within {within} s; last: {self.host.said[-5:]}"
        return self.now - start

    def settle(self, terminal: Terminal | None = None, within: float = 120.0) -> float:
        """Wait until nothing moves, and then for what may still be on its way."""
        took = self.until((terminal or self.host).is_settled, within)
        self.run(8.0)
        return took

    def unheard_flows(self) -> list[FlowKey]:
        """Flows of the first host whose packets were all lost so far."""
        return [
            entry.flow for key, entry in self.host.paft.flows.items() if key not in self.anchor_paft.flows
        ]

    # --- what must hold ---

    def assert_agreement(self, terminal: Terminal | None = None) -> None:
        """Both ends send every flow by the same tunnel, and mean the same end by it."""
        terminal = terminal or self.host
        wrong = []
        for key, entry in terminal.paft.flows.items():
            ours = terminal.paft.tunnel_of(entry)
            their_entry = self.anchor_paft.flows.get(key)
            theirs = self.anchor_paft.tunnel_of(their_entry) if their_entry is not None else None
            if ours is None or theirs is None or ours.id != theirs.id:
                wrong.append(f"{entry.flow}: here {ours}, there {theirs}")
        assert not wrong, (len(wrong), wrong[:4], terminal.said[-6:])
        for name, id in terminal.open_tunnels.items():
            if terminal.network_state(name) == "up":
                assert (
                    self.anchor_paft.tunnels[terminal.paft.tunnels[id].id].remote
                    == terminal.links[name].reflexive
                )  # type: ignore[index]


def misbehave(world: World, *, loss: float = 0.0, duplication: float = 0.0, jitter: float = 0.0) -> None:
    """Make all access networks of all hosts lossy, forgetful and disorderly from now on."""
    for terminal in world.terminals:
        for link in terminal.links.values():
            link.loss, link.duplication, link.jitter = loss, duplication, jitter


def associated(world: World) -> World:
    """The world once its first host has a tunnel on each of its networks."""
    world.host.appear(*world.host.links)
    world.settle()
    return world
