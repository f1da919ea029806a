"""A pretend mobile host in `mobility_world` with several associations at a time: daemon and forwarders, in memory.

Each further association is a terminal of its own to the world: other sockets, so other mappings in the same NATs.
"""

from __future__ import annotations

from ipaddress import ip_address
from random import Random
from typing import Any

from mobility_terminal import Terminal
from mobility_world import World

from upmt_nf.datapath.paft import Paft
from upmt_nf.datapath.readdressing import readdressed_key
from upmt_nf.mobility.commands import Announce, Happened, Stopped
from upmt_nf.mobility.host_associations import HostAssociations
from upmt_nf.mobility.host_commands import ByAnchor, HandoverFinished, HostCommand, SendSip, UseAnchor
from upmt_nf.mobility.host_events import (
    ApplicationDefined,
    HeardByAnchor,
    HostEvent,
    SipDatagramReceived,
)
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.mobility.tallies import Counted
from upmt_nf.model.flow import FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName, TerminalId


class _NoClock:
    """In place of a machine: that of the whole host has the time."""

    def next_timeout(self) -> None:
        return None


class Branch(Terminal):
    """A further association's sockets and tunnels."""

    def __init__(self, host: Host, anchor: IPAddress, paft: Paft) -> None:
        self._host, self._of, self._own_paft = host, anchor, paft
        super().__init__(host.world, host.settings, 100 + len(host.world.terminals))
        self.anchor = anchor
        for name, link in self.links.items():
            ours = host.links[name]
            link.is_up, link.is_black_hole, link.delay = ours.is_up, ours.is_black_hole, ours.delay
            link.loss, link.duplication, link.jitter = ours.loss, ours.duplication, ours.jitter

    def start(self) -> None:
        super().start()
        self.paft, self.machine = self._own_paft, _NoClock()  # type: ignore[assignment]

    def take(self, event: HostEvent) -> None:
        if isinstance(event, SipDatagramReceived):
            self._host.take(event)
        else:
            self._host.take(HeardByAnchor(self._of, event))

    def perform(self, command: HostCommand) -> None:
        if isinstance(command, UseAnchor):
            return
        assert not isinstance(command, HandoverFinished | Counted | Happened | Announce)
        self._perform(command)


class Host(Terminal):
    """The host. `flow` and `send` are those of applications, which see one virtual address."""

    machine: HostAssociations  # type: ignore[assignment]

    def __init__(self, world: World, settings: HostSettings, number: int) -> None:
        self.branches: dict[IPAddress, Branch] = {}
        super().__init__(world, settings, number)

    def start(self) -> None:
        super().start()
        for branch in self.branches.values():
            self.world.terminals.remove(branch)
        self.branches = {}
        self.machine = HostAssociations(self.settings, self.paft, Random(self.world.random.getrandbits(64)))

    def _perform(self, command: HostCommand) -> None:
        match command:
            case ByAnchor(anchor, UseAnchor()):
                assert anchor not in self.branches
                branch = Branch(self, anchor, self.machine.further[anchor].paft)
                self.branches[anchor] = branch
                self.world.terminals.append(branch)
            case ByAnchor(anchor, Stopped()):
                self.world.terminals.remove(self.branches.pop(anchor))
            case ByAnchor(anchor, what):
                assert isinstance(what, SendSip) or anchor in self.branches
                self.branches[anchor].perform(what)
            case _:
                super()._perform(command)

    def take(self, event: HostEvent) -> None:
        super().take(event)
        for branch in self.branches.values():
            for name, link in branch.links.items():
                link.is_up = self.links[name].is_up

    def black_hole(self, name: NetworkName, *, is_one: bool = True) -> None:
        """A network takes everything and gives nothing."""
        for terminal in (self, *self.branches.values()):
            terminal.links[name].is_black_hole = is_one

    def name(self, name: ApplicationName, id: ApplicationId, anchor: IPAddress | None, *policy: str) -> None:
        self.take(ApplicationDefined(name, id, policy or None, anchor))

    def send(self, flow: FlowKey) -> None:
        """By the association that its application is in (`datapath.other_anchor`)."""
        entry = self.paft.flows[flow.packed()]
        place = self.machine.elsewhere.get(entry.application_id)
        if place is None:
            return super().send(flow)
        branch = self.branches[place]
        if branch.virtual_address is None:
            return None
        key = readdressed_key(entry.key, branch.virtual_address.packed)
        branch.paft.insert(key, entry.application_id, self.world.now)
        return branch.send(FlowKey.unpacked(key))

    def leased_flow(self, flow: FlowKey) -> FlowKey:
        """A flow as the anchor of its application knows it."""
        entry = self.paft.flows[flow.packed()]
        place = self.machine.elsewhere.get(entry.application_id)
        if place is None:
            return flow
        leased = self.branches[place].virtual_address
        assert leased is not None
        return FlowKey.unpacked(readdressed_key(entry.key, leased.packed))


class SeveralWorld(World):
    """A world whose host may have several associations at a time."""

    host: Host

    def __init__(self, seed: int = 0, *, anchors: int = 2, **host: Any) -> None:
        super().__init__(seed, anchors=anchors, **host)

    def add_host(self, identity: str, networks: int = 2, **settings: Any) -> Terminal:
        made = super().add_host(identity, networks, **settings)
        host = Host(self, made.settings, len(self.terminals) - 1)
        self.terminals[-1] = host
        return host

    def sees(self, number: int, flow: FlowKey) -> bool:
        """Whether an anchor knows a flow of the host."""
        return self.host.leased_flow(flow).packed() in self.sites[number].paft.flows

    def network_at(self, number: int, flow: FlowKey) -> NetworkName | None:
        """Where an anchor sends a flow's packets to."""
        paft = self.sites[number].paft
        entry = paft.flows.get(self.host.leased_flow(flow).packed())
        tunnel = paft.tunnel_of(entry) if entry is not None else None
        if tunnel is None:
            return None
        links = [link for each in self.terminals for link in each.links.values()]
        return next(link.name for link in links if link.public == tunnel.remote.address)

    def holders(self, identity: str = "mh@upmt") -> list[IPAddress]:
        """The anchors that lease something to the host now."""
        return [
            site.address
            for site in self.sites
            if not site.has_stopped
            and any(each.identity == TerminalId(identity) for each in site.machine.associations)
        ]


SECOND, THIRD = ip_address("160.80.100.2"), ip_address("160.80.100.3")
