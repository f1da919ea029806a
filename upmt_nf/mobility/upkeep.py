"""What keeps the tunnels of a mobile host in order over time: keepalives as their NATs need them, and fresh keys.

Composes the searches for binding times and the rekeying, so that `mobile_host` need not.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.filter_trials import FLOWS, FilterTrials
from upmt_nf.mobility.host_anchors import HostAnchors
from upmt_nf.mobility.host_binding import HostBinding
from upmt_nf.mobility.host_commands import CheckPortal, HostCommand
from upmt_nf.mobility.host_events import BindingAnswerReceived, NetworkAppeared
from upmt_nf.mobility.host_status import NetworkStatus, network_status
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.network_tests import NetworkTests
from upmt_nf.mobility.path_searches import PathSearches
from upmt_nf.mobility.portal_checks import PortalChecks
from upmt_nf.mobility.rekeying import Rekeying
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.mobility.tunnel_states import StateChanged, TunnelState
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.candidates import Path


class Upkeep:
    """For all networks of a host, towards the anchor in use."""

    def __init__(
        self,
        settings: HostSettings,
        random: Random,
        tunnels: Mapping[NetworkName, HostTunnel],
        anchors: HostAnchors,
    ) -> None:
        self._tunnels = tunnels
        self._anchors = anchors
        self.rekeying = Rekeying(settings, random)
        self.binding = HostBinding(
            settings,
            random,
            self._credentials,
            lambda name: tunnels[name].state is TunnelState.UP,
            lambda name: tunnels[name].anchor_port or anchors.used.settings.tunnel_port,
        )
        self.paths = PathSearches(tunnels, random, is_wanted=settings.search_path_mtu)
        self.portals = PortalChecks(is_wanted=settings.checks_portals)
        self._commands: list[HostCommand] = []
        self.filters = FilterTrials(
            random,
            self._credentials,
            tunnels,
            lambda name: tunnels[name].anchor_port or anchors.used.settings.tunnel_port,
            lambda: anchors.used.settings.anchor_ipv6 is not None,
            is_wanted=settings.probe_filters,
        )
        self.tests = NetworkTests(
            random,
            self._credentials,
            lambda: anchors.used.settings.tunnel_ports,
            lambda name: tunnels[name].is_usable,
        )

    def status_of(self, tunnel: HostTunnel, path: Path) -> NetworkStatus:
        """A network now, with all that was found out about it; `path` is what policies know of it."""
        name = tunnel.network
        return network_status(
            tunnel,
            self.binding.binding_time(name),
            self.tests.result(name),
            self.paths.found(name),
            self.portals.found(name),
            self.filters.result(name),
            is_metered=path.facts.is_metered,
            limit=path.quality.limit,
            is_sip_changed=self._anchors.used.signalling.is_changed(name),
        )

    def follow(self, tunnel: HostTunnel, change: StateChanged, now: float) -> None:
        """A network's tunnel is in another state."""
        network, new = tunnel.network, change.new
        if new is TunnelState.DEAD:
            self.tests.doubt(network, now)
        elif new is TunnelState.UP and change.old is not TunnelState.SUSPECT:
            self.paths.open(network, now)
            self.filters.open(network, now)
        is_there = new is not TunnelState.DOWN
        self.portals.follow(network, is_there=is_there, is_usable=tunnel.is_usable, now=now)

    def ask_test(self, network: NetworkName, now: float) -> None:
        """Somebody wants to know what a network lets through."""
        self.tests.ask(network, now)
        self.paths.ask(network, now)
        self.filters.ask(network, now)

    def is_testing(self, network: NetworkName) -> bool:
        """Whether that is being found out."""
        machines = (self.tests.is_testing, self.paths.is_searching, self.filters.is_trying)
        return any(is_busy(network) for is_busy in machines)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do because of the time."""
        machines = (self.binding, self.tests, self.paths, self.portals, self.rekeying, self.filters)
        times = [machine.next_timeout() for machine in machines]
        return min((time for time in times if time is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Make trials, set keepalives, as is due. Tests go on, and keys are renewed, when what was found is heeded."""
        self.binding.handle_timeout(now)
        self.filters.handle_timeout(now)
        self._commands += self.paths.handle_timeout(now)
        self._commands += [CheckPortal(network) for network in self.portals.handle_timeout(now)]
        for tunnel in self._tunnels.values():
            tunnel.resting.keepalive = self.binding.keepalive(tunnel.network)

    def appear(self, event: NetworkAppeared, now: float) -> None:
        """A network is there; its gateway and prefix tell its places apart."""
        place = f"{event.network} {event.gateway} {event.prefix}"
        self.binding.appear(event.network, place, now)
        self.filters.appear(event.network, place)
        self.tests.appear(event.network, now)

    def vanish(self, network: NetworkName) -> None:
        """A network is gone."""
        self.binding.vanish(network)
        self.tests.vanish(network)
        self.paths.close(network)
        self.filters.vanish(network)

    def hear(self, event: BindingAnswerReceived, now: float) -> None:
        """Something came to a port beside the tunnel's."""
        if event.flow is ProbeFlow.TESTING:
            self.tests.hear(event.network, event.anchor_port, event.data, now)
        elif event.flow in FLOWS:
            self.filters.hear(event, now)
        else:
            self.binding.hear(event.network, event.flow, event.data, now)

    def take_commands(self) -> list[HostCommand]:
        """What is to be done; each is given once."""
        commands, self._commands = self._commands, []
        machines = (self.binding, self.tests, self.filters)
        return [*commands, *(command for machine in machines for command in machine.take_commands())]

    def _credentials(self) -> tuple[IPAddress, bytes] | None:
        """The virtual address and what only the anchor knows besides us."""
        association = self._anchors.used.association
        token, address = association.token, association.virtual_address
        if token is None or address is None:
            return None
        return address, self._anchors.used.key or token.encode()
