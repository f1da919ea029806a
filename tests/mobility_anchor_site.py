"""One pretend anchor in `mobility_world`: daemon and forwarder, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING

from mobility_terminal import Packet

from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import (
    AnchorCommand,
    LeaseEnded,
    LeaseGranted,
    SendBindingAnswer,
    SendSip,
    SendTunnelSignal,
)
from upmt_nf.mobility.anchor_events import AnchorEvent, SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.commands import Announce, Stopped
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import TerminalId
from upmt_nf.model.names import SIGNALLING_PORT, TUNNEL_PORT
from upmt_nf.signaling.digest import REALM, DigestServer, secret_hash

if TYPE_CHECKING:
    from mobility_world import World


class AnchorSite:
    """An anchor and what was done of what it wanted. `users`: secrets by identity; without, nobody proves anything."""

    def __init__(
        self, world: World, settings: AnchorSettings, users: Mapping[TerminalId, str] | None = None
    ) -> None:
        self.world = world
        self.settings = settings
        self.users = users
        self.is_cut_off = False
        """Alive, but nothing gets to it or from it."""
        self.granted: list[LeaseGranted] = []
        self.ended: list[LeaseEnded] = []
        self.start()

    @property
    def address(self) -> IPAddress:
        return self.settings.address

    def start(self, remembered: Mapping[TerminalId, IPAddress] | None = None) -> None:
        """A fresh anchor that knows nothing but what is remembered."""
        self.paft = Paft()
        random = Random(self.world.random.getrandbits(64))
        guard = self.world.guard() if self.world.is_guarded else None
        if self.users is not None:
            users = self.users
            guard = DigestServer(
                REALM,
                random.randbytes(32),
                lambda name: (
                    secret_hash(name, REALM, users[TerminalId(name)]) if TerminalId(name) in users else None
                ),
                lambda: random.randbytes(8),
            )
        self.machine = Anchor(self.settings, self.paft, random, remembered, guard)
        self.has_stopped = False

    def restart(self) -> None:
        """Crash, and start again with what the store on disk knows."""
        self.start({granted.identity: granted.address for granted in self.granted})

    def hear(self, packet: Packet) -> None:
        """What the forwarder lets through."""
        if self.is_cut_off:
            return
        if packet.kind == "sip":
            by = packet.link.sip_port if packet.link.sip_port != SIGNALLING_PORT else 0
            self.take(SipDatagramReceived(packet.host, packet.payload, by))
            return
        tunnel = self.paft.tunnel_from(packed_endpoint(packet.host), packet.inner.address.packed)
        if tunnel is not None:
            self.paft.hear(tunnel, self.world.now)
        if packet.kind == "data":
            if tunnel is not None and not self.has_stopped:
                entry = self.paft.learn(packet.payload, tunnel, self.world.now)
                entry.last_seen = self.world.now
                entry.packets_out += 1
                if entry.arrivals is not None:
                    entry.arrivals.take(tunnel, 1, self.world.now)
            return
        if tunnel is None and packet.port != SIGNALLING_PORT:
            return
        by = packet.link.anchor_port if packet.link.anchor_port != TUNNEL_PORT else 0
        self.take(TunnelSignalReceived(tunnel, packet.host, packet.inner, packet.port, packet.payload, by))

    def send_to(self, remote: Endpoint, inner: Endpoint, kind: str, port: int, payload: bytes) -> None:
        """A datagram to whoever has that public address."""
        if self.is_cut_off:
            return
        for terminal in self.world.terminals:
            for link in terminal.links.values():
                if link.public == remote.address:
                    packet = Packet(
                        kind, False, link, remote, inner, port, payload, self.world.now, self.address
                    )
                    self.world.carry(packet)

    def take(self, event: AnchorEvent) -> list[AnchorCommand]:
        """Let something happen to the anchor; what it wants is done, and given."""
        if self.has_stopped:
            return []
        commands = self.machine.handle(event, self.world.now)
        for command in commands:
            match command:
                case SendSip(destination, data):
                    self.send_to(destination, destination, "sip", 0, data)
                case SendTunnelSignal(remote, destination, port, payload):
                    self.send_to(remote, destination, "signal", port, payload)
                case SendBindingAnswer(remote, data, by, tos):
                    self.world.answer_probe(remote, data, by or TUNNEL_PORT, tos)
                case LeaseGranted():
                    self.granted.append(command)
                case LeaseEnded():
                    self.ended.append(command)
                case Stopped():
                    self.has_stopped = True
                case Announce():
                    pass
        return commands
