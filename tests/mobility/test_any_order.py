"""Whatever happens in whatever order: the invariants hold at every moment, and afterwards both ends agree again.

`UPMT_EXAMPLES=2000 pytest tests/mobility/test_any_order.py` searches for longer, and with other chances each time.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mobility_terminal import Link, Terminal
from mobility_world import World, misbehave

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.events import StopAsked
from upmt_nf.mobility.host_events import PathFailed
from upmt_nf.model.flow import FlowKey, IPAddress
from upmt_nf.model.identity import DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, NetworkName, TerminalId

KEEPALIVE = 2.0
LIFETIME = 60
HOSTS, NETWORKS = st.integers(0, 1), st.integers(0, 1)
EXAMPLES = int(os.environ.get("UPMT_EXAMPLES", "0"))


class AnyOrder(RuleBasedStateMachine):
    """Two hosts with two networks each, one anchor that remembers leases in a file, all of them proven."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        options: dict[str, Any] = {"keepalive_interval": KEEPALIVE, "return_after": 5.0, "lifetime": LIFETIME}
        self.world = World(seed, is_guarded=True, **options)
        self.world.add_host("second@upmt", **options)
        self.flows: dict[Terminal, list[FlowKey]] = {terminal: [] for terminal in self.world.terminals}
        self.left = dict.fromkeys(self.world.terminals, 0)
        self.owners: dict[IPAddress, TerminalId] = {}
        self.dead_since: dict[Link, float] = {}
        self.jitter = 0.0
        self.world.watchers.append(self.watch)
        for terminal in self.world.terminals:
            terminal.appear(*terminal.links)
        self.world.run(1)

    def link(self, host: int, network: int) -> Link:
        return list(self.world.terminals[host].links.values())[network]

    # --- what happens ---

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.3, 1.0, 3.0, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(host=HOSTS, network=NETWORKS)
    def a_network_comes_or_goes(self, host: int, network: int) -> None:
        link = self.link(host, network)
        if link.is_up:
            link.terminal.vanish(link.name)
        else:
            link.terminal.appear(link.name)

    @rule(host=HOSTS, network=NETWORKS)
    def a_network_swallows_everything_or_ends_that(self, host: int, network: int) -> None:
        link = self.link(host, network)
        link.is_black_hole = not link.is_black_hole

    @rule(host=HOSTS, network=NETWORKS)
    def a_nat_forgets(self, host: int, network: int) -> None:
        link = self.link(host, network)
        link.dead_ports.add(link.port)

    @rule(host=HOSTS, network=NETWORKS, last=st.integers(10, 250))
    def a_care_of_address_changes(self, host: int, network: int, last: int) -> None:
        link = self.link(host, network)
        link.care_of = ip_address(f"192.168.{network}.{last}")
        link.rebind()
        if link.is_up:
            link.terminal.appear(link.name)

    @rule(host=HOSTS, network=NETWORKS)
    def the_kernel_cannot_send(self, host: int, network: int) -> None:
        link = self.link(host, network)
        link.terminal.take(PathFailed(link.name, "network is unreachable"))

    @rule(
        loss=st.sampled_from([0.0, 0.1, 0.3]),
        duplication=st.sampled_from([0.0, 0.3]),
        jitter=st.sampled_from([0.0, 0.1, 1.0]),
    )
    def the_weather_changes(self, loss: float, duplication: float, jitter: float) -> None:
        misbehave(self.world, loss=loss, duplication=duplication, jitter=jitter)
        self.jitter = max(self.jitter, jitter)

    @rule(host=HOSTS)
    def an_application_opens_a_flow(self, host: int) -> None:
        terminal = self.world.terminals[host]
        if terminal.virtual_address is not None and len(self.flows[terminal]) < 8:
            self.flows[terminal].append(terminal.open_flow())

    @rule(host=HOSTS)
    def applications_talk(self, host: int) -> None:
        terminal = self.world.terminals[host]
        for flow in self.flows[terminal]:
            self.send(terminal, flow)

    @rule(host=HOSTS, network=NETWORKS)
    def somebody_hands_an_application_over(self, host: int, network: int) -> None:
        link = self.link(host, network)
        link.terminal.hand_over(DEFAULT_APPLICATION, link.name)

    @precondition(lambda self: any(self.flows.values()))
    @rule(host=HOSTS, network=NETWORKS, which=st.integers(0, 7))
    def somebody_hands_a_flow_over(self, host: int, network: int, which: int) -> None:
        link = self.link(host, network)
        known = [flow for flow in self.flows[link.terminal] if flow.packed() in link.terminal.paft.flows]
        if known:
            link.terminal.hand_over(known[which % len(known)], link.name)

    @rule(host=HOSTS)
    def a_host_is_killed_and_starts_again(self, host: int) -> None:
        self.world.terminals[host].restart()

    @rule(host=HOSTS)
    def a_host_leaves_and_comes_back(self, host: int) -> None:
        terminal = self.world.terminals[host]
        self.left[terminal] += 1
        terminal.take(StopAsked())
        self.world.until(lambda: terminal.has_stopped, 3)
        terminal.restart()

    @rule()
    def the_anchor_is_killed_and_starts_again(self) -> None:
        self.world.start_anchor({owner: address for address, owner in self.owners.items()})

    @rule(away=st.sampled_from([0.5, 10.0, 90.0]))
    def the_anchor_is_gone_for_a_while(self, away: float) -> None:
        self.world.anchor_has_stopped = True
        self.world.run(away)
        self.the_anchor_is_killed_and_starts_again()

    @rule()
    def both_ends_are_killed_and_start_again(self) -> None:
        self.the_anchor_is_killed_and_starts_again()
        for terminal in self.world.terminals:
            terminal.restart()

    @rule(seconds=st.sampled_from([1.0, 20.0, 2.0 * LIFETIME, 7000.0]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.world.now += seconds
        self.dead_since = dict.fromkeys(self.dead_since, self.world.now)

    def send(self, terminal: Terminal, flow: FlowKey) -> None:
        """A packet of an application whose socket outlives the daemon."""
        if flow.packed() not in terminal.paft.flows:
            terminal.paft.insert(flow.packed(), DEFAULT_APPLICATION_ID, self.world.now)
        terminal.send(flow)

    # --- what must hold at every moment ---

    def watch(self) -> None:
        """After everything that happens."""
        for granted in self.world.granted:
            assert self.owners.setdefault(granted.address, granted.identity) == granted.identity
        held = [terminal.virtual_address for terminal in self.world.terminals if terminal.virtual_address]
        assert len(held) == len(set(held)), "one address, one host"
        leased = [association.virtual_address for association in self.world.anchor.associations]
        assert len(leased) == len(set(leased))
        for tunnel in self.world.anchor_paft.tunnels.values():
            assert tunnel.owner in leased, f"a tunnel of nobody: {tunnel}"
        for terminal in self.world.terminals:
            for link in terminal.links.values():
                self.note_death(link)
            for entry in terminal.paft.flows.values():
                self.check_entry(terminal, entry, terminal.paft.tunnel_of(entry))

    def note_death(self, link: Link) -> None:
        is_dead = link.is_black_hole or link.port in link.dead_ports or self.world.anchor_has_stopped
        if is_dead or not link.is_up:
            self.dead_since.setdefault(link, self.world.now)
        else:
            self.dead_since.pop(link, None)

    def check_entry(self, terminal: Terminal, entry: FlowEntry, tunnel: Tunnel | None) -> None:
        if tunnel is None:
            return
        assert tunnel.id in terminal.paft.tunnels, "a tunnel that is not there any more"
        name = NetworkName(tunnel.network)
        state = terminal.network_state(name)
        assert state in ("up", "suspect"), f"{entry.flow} is on {name}, which is {state}"
        since = self.dead_since.get(terminal.links[name])
        interval = terminal.machine._tunnels[name].interval
        if since is not None:
            longest = 3 * interval + 2 * self.jitter + 0.5
            assert self.world.now - since <= longest, f"{entry.flow} stays on {name}, dead since {since}"

    @invariant()
    def no_address_is_taken_away(self) -> None:
        """The anchor remembers, and the pool is large: a host has one address for ever."""
        assert all(terminal.releases <= self.left[terminal] for terminal in self.world.terminals)

    # --- what must hold in the end ---

    def teardown(self) -> None:
        """Good weather: everybody is associated, no flow is lost, nothing is left over, both ends agree."""
        if not hasattr(self, "world"):
            return
        world = self.world
        misbehave(world)
        for terminal in world.terminals:
            for link in terminal.links.values():
                link.is_black_hole = False
                link.dead_ports.clear()
                if not link.is_up:
                    terminal.appear(link.name)
        world.run(60)
        for terminal in world.terminals:
            world.settle(terminal)
            for flow in self.flows[terminal]:
                self.send(terminal, flow)
        world.run(40)
        for terminal in world.terminals:
            self.check_end(terminal)
        assert {tunnel.owner for tunnel in world.anchor_paft.tunnels.values()} == set(self.owners)
        assert len(world.anchor_paft.tunnels) == 4
        assert len(world.anchor.associations) == 2
        assert set(world.anchor._moves._orders) <= set(self.owners)
        assert set(world.anchor._tunnels._kept) == set(self.owners)
        assert len(world.anchor._endpoint._servers) < 20, "transactions end"
        assert world.anchor._endpoint._clients == {}

    def check_end(self, terminal: Terminal) -> None:
        world = self.world
        address = terminal.virtual_address
        assert address is not None
        assert self.owners[address] == terminal.settings.identity
        world.assert_agreement(terminal)
        for flow in self.flows[terminal]:
            assert flow.source == address, "no flow is lost with its address"
            entry = terminal.paft.flows[flow.packed()]
            assert terminal.paft.tunnel_of(entry) is not None
            before = len(terminal.arrived)
            world.send_down(flow)
            world.run(1)
            assert terminal.arrived[before:] == [flow.packed()]
        assert set(terminal.paft.tunnels) == set(terminal.open_tunnels.values())
        assert terminal.machine._signalling._sent == {}
        assert not terminal.machine._placement.running.moving


AnyOrder.TestCase.settings = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=30,
    deadline=None,
    derandomize=not EXAMPLES,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
TestAnyOrder = AnyOrder.TestCase
