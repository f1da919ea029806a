"""A pretend world for the machines of `mobility`: a virtual clock, seeded chance, access networks that misbehave.

Anchors, mobile hosts, and between them access networks: each a `Link` with its own delay, jitter (which reorders),
loss, duplication and NAT. What the daemons and forwarders do with the machines' commands is done here in memory.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from math import inf
from random import Random
from typing import Any

from mobility_anchor_site import AnchorSite
from mobility_terminal import ANCHOR, Link, Packet, Terminal
from wire_schema import body_complaints, body_of

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import AnchorCommand, LeaseEnded, LeaseGranted
from upmt_nf.mobility.anchor_events import AnchorEvent, BindingProbeReceived
from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.host_commands import SendBindingProbe
from upmt_nf.mobility.host_events import BindingAnswerReceived
from upmt_nf.mobility.settings import AnchorPeer, AnchorSettings, HostSettings
from upmt_nf.model.flow import Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import (
    DEFAULT_APPLICATION_ID,
    NetworkName,
    TerminalId,
)
from upmt_nf.model.names import SIGNALLING_PORT, TUNNEL_PORT
from upmt_nf.signaling.digest import REALM, DigestServer, secret_hash
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.messages import HandoverRequest, TunnelSetupRequest

OUTER_BYTES = 28
LONGEST_DATAGRAM = 1200
"""Bytes of SIP in one datagram: what fits in a tunnel of the smallest usual MTU."""


class World:
    """The clock, the anchors and the hosts. `host` is the first one; `anchor` and the like are the first anchor's.

    Further anchors are `160.80.100.2` and so on, each with a pool of its own (`10.100.0.1-10.100.0.50`, ...).
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        networks: int = 2,
        anchor: Mapping[str, Any] | None = None,
        pool: str = "10.99.0.1-10.99.0.50",
        is_guarded: bool = False,
        anchors: int = 1,
        **host: Any,
    ) -> None:
        self.now = 1000.0
        self.random = Random(seed)
        self.is_guarded = is_guarded
        """The anchors ask every host for proof."""
        self.packets: list[Packet] = []
        """All that was sent, whatever became of it."""
        self.probe_bytes = 0
        """Of binding trials, both ways, outer headers included."""
        self.watchers: list[Callable[[], None]] = []
        """Called after everything that happens."""
        self.oversized: list[Packet] = []
        """What was too large for its path, and lost."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._spins = 0
        self.terminals: list[Terminal] = []
        pools = [pool, *(f"10.{99 + number}.0.1-10.{99 + number}.0.50" for number in range(1, anchors))]
        self.sites = [
            AnchorSite(self, AnchorSettings(address=ANCHOR + number, pool=_pool(text), **(anchor or {})))
            for number, text in enumerate(pools)
        ]
        self.host = self.add_host("mh@upmt", networks, **host)

    def add_host(self, identity: str, networks: int = 2, **settings: Any) -> Terminal:
        names = tuple(NetworkName(f"net{index}") for index in range(networks))
        if self.is_guarded:
            settings.setdefault("secret", secret_of(identity))
        further = tuple(
            AnchorPeer(site.address, TerminalId(identity), secret=settings.get("secret"))
            for site in self.sites[1:]
        )
        chosen = HostSettings(TerminalId(identity), ANCHOR, names, further_anchors=further, **settings)
        self.terminals.append(Terminal(self, chosen, len(self.terminals)))
        return self.terminals[-1]

    # --- the first anchor ---

    def start_anchor(self, remembered: Mapping[TerminalId, IPAddress] | None = None) -> None:
        """A fresh anchor that knows nothing but what is remembered."""
        self.sites[0].start(remembered)

    def take(self, event: AnchorEvent) -> list[AnchorCommand]:
        """Let something happen to the anchor; what it wants is done, and given."""
        return self.sites[0].take(event)

    @property
    def anchor(self) -> Anchor:
        return self.sites[0].machine

    @property
    def anchor_paft(self) -> Paft:
        return self.sites[0].paft

    @property
    def anchor_has_stopped(self) -> bool:
        return self.sites[0].has_stopped

    @anchor_has_stopped.setter
    def anchor_has_stopped(self, has_stopped: bool) -> None:
        self.sites[0].has_stopped = has_stopped

    @property
    def granted(self) -> list[LeaseGranted]:
        return self.sites[0].granted

    @property
    def ended(self) -> list[LeaseEnded]:
        return self.sites[0].ended

    def site_of(self, terminal: Terminal) -> AnchorSite:
        """The anchor that a host uses."""
        return next(site for site in self.sites if site.address == terminal.anchor)

    def guard(self) -> DigestServer:
        """That of an anchor which has just been started."""

        def hash_of(identity: str) -> str:
            return secret_hash(identity, REALM, secret_of(identity))

        return DigestServer(REALM, self.random.randbytes(32), hash_of, lambda: self.random.randbytes(8))

    # --- networks ---

    def carry(self, packet: Packet) -> None:
        """Give a datagram to its access network."""
        self.packets.append(packet)
        if packet.kind != "data" and packet.port in (0, SIGNALLING_PORT):
            assert len(packet.payload) <= LONGEST_DATAGRAM, len(packet.payload)
            if body := body_of(packet.payload):
                assert body_complaints(body) == [], body
        link = packet.link
        if packet.kind == "sip" and packet.is_up:
            packet = replace(packet, payload=link.rewrites(packet.payload))
        if packet.kind == "signal" and packet.size > link.mtu:
            self.oversized.append(packet)
            return
        if not link.carries(packet) or link.drops(packet):
            return
        for _ in range(2 if self.random.random() < link.duplication else 1):
            if self.random.random() >= link.loss:
                delay = link.delay + self.random.random() * link.jitter
                self.after(delay, lambda: self._deliver(packet))

    def carry_probe(self, link: Link, probe: SendBindingProbe) -> None:
        """A packet of a binding trial to the anchor, by a mapping of its own, and the answers to it."""
        flow, data, anchor_port = probe.flow, probe.data, probe.anchor_port
        self.probe_bytes += len(data) + OUTER_BYTES
        ports = [port for port, (owner, used) in link.probes.items() if owner is flow]
        port = next((port for port in ports if self.now - link.probes[port][1] <= link.binding_time), None)
        if port is None:
            port = 50000 + next(self._order) % 10000
        link.probes[port] = (flow, self.now)
        if not link.is_up or link.is_black_hole or anchor_port in link.blocked:
            return
        if link.drops_odd(probe.tos, has_checksum=probe.has_checksum):
            return
        if self.random.random() < link.loss:
            return
        by = anchor_port if anchor_port != TUNNEL_PORT else 0
        remote = Endpoint(link.public, port)

        def arrive() -> None:
            self.site_of(link.terminal).take(BindingProbeReceived(remote, data, by, probe.tos))

        self.after(link.delay, arrive)

    def answer_probe(self, remote: Endpoint, data: bytes, anchor_port: int, tos: int) -> None:
        self.probe_bytes += len(data) + OUTER_BYTES
        for terminal in self.terminals:
            for link in terminal.links.values():
                if link.public == remote.address and self.random.random() >= link.loss:
                    self.after(
                        link.delay,
                        lambda link=link: self._hear_probe(link, remote.port, data, anchor_port, tos),  # type: ignore[misc]
                    )

    def _hear_probe(self, link: Link, port: int, data: bytes, anchor_port: int, tos: int) -> None:
        flow, used = link.probes.get(port, (ProbeFlow.ASKING, -inf))
        if link.is_up and not link.is_black_hole and self.now - used <= link.binding_time:
            link.probes[port] = (flow, self.now)
            link.terminal.take(BindingAnswerReceived(link.name, flow, data, anchor_port, tos))

    def _deliver(self, packet: Packet) -> None:
        if not packet.is_up:
            if packet.link.carries(packet):
                packet.link.terminal.hear(packet)
        elif packet.link.is_up and not packet.link.is_black_hole:
            next(site for site in self.sites if site.address == packet.anchor).hear(packet)

    def send_down(self, flow: FlowKey) -> None:
        """A packet of the correspondent to the mobile host, by the tunnel that the anchor has for the flow."""
        entry = self.anchor_paft.flows.get(flow.packed())
        tunnel = self.anchor_paft.tunnel_of(entry) if entry is not None else None
        if tunnel is not None:
            tunnel.packets_out += 1
            tunnel.used = self.now
            assert entry is not None
            entry.packets_in += 1
            self.sites[0].send_to(
                tunnel.remote, Endpoint(flow.source, flow.source_port), "data", 0, flow.packed()
            )

    # --- time ---

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), action))

    def step(self, limit: float) -> bool:
        """The next thing that happens, unless it is after `limit`."""
        due: list[tuple[float, Callable[[], object]]] = []
        if self._queue:
            due.append((self._queue[0][0], lambda: heapq.heappop(self._queue)[2]()))
        for site in self.sites:
            if not site.has_stopped and (at := site.machine.next_timeout()) is not None:
                due.append((at, lambda site=site: site.take(TimeoutReached())))  # type: ignore[misc]
        for terminal in self.terminals:
            if not terminal.is_asleep and (at := terminal.machine.next_timeout()) is not None:
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
        anchor_paft = self.site_of(terminal).paft
        wrong = []
        for key, entry in terminal.paft.flows.items():
            ours = terminal.paft.tunnel_of(entry)
            their_entry = anchor_paft.flows.get(key)
            theirs = anchor_paft.tunnel_of(their_entry) if their_entry is not None else None
            if ours is None or theirs is None or ours.id != theirs.id:
                wrong.append(f"{entry.flow}: here {ours}, there {theirs}")
        default = terminal.paft.applications.get(DEFAULT_APPLICATION_ID)
        if terminal.virtual_address is not None and default is not None:
            newcomers = anchor_paft.newcomers.get(terminal.virtual_address.packed)
            if newcomers is None or newcomers.id != default.id:
                wrong.append(f"what others begin: here {default}, there {newcomers}")
        assert not wrong, (len(wrong), wrong[:4], terminal.said[-6:])
        for name, id in terminal.open_tunnels.items():
            if terminal.network_state(name) == "up":
                assert anchor_paft.tunnels[id].remote == terminal.links[name].reflexive


def _pool(text: str) -> AddressPool:
    first, _, last = text.partition("-")
    return AddressPool(ip_address(first), ip_address(last))


def secret_of(identity: str) -> str:
    """What a host shares with a guarded anchor."""
    return f"the secret of {identity}"


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


def with_flows(world: World, count: int = 10) -> list[FlowKey]:
    """Associated, and the anchor knows this many flows of the default application."""
    associated(world)
    flows = [world.host.open_flow() for _ in range(count)]
    world.run(1)
    world.assert_agreement()
    return flows


def networks_of(host: Terminal, flows: list[FlowKey]) -> set[NetworkName | None]:
    return {host.flow_network(flow) for flow in flows}


def network_at_anchor(world: World, flow: FlowKey) -> NetworkName | None:
    entry = world.anchor_paft.flows.get(flow.packed())
    tunnel = world.anchor_paft.tunnel_of(entry) if entry is not None else None
    return tunnel.network if tunnel is not None else None


def flows_in(packet: Packet) -> list[FlowKey]:
    """The flows that a request names, in the order in which they stand there."""
    body = decode(body_of(packet.payload))
    assert isinstance(body, HandoverRequest | TunnelSetupRequest), body
    pairs = body.pairs if isinstance(body, HandoverRequest) else body.handover
    return [flow for pair in pairs if isinstance(pair.match, tuple) for flow in pair.match]


def settle(world: World) -> None:
    """Good weather, until nothing moves any more."""
    misbehave(world)
    world.run(1)
    world.settle()
    world.assert_agreement()
