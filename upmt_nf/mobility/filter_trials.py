"""Every network's trial of its filters: when to make one, and what was found; by `filter_trial`.

A short one (about 0.5 kB both ways) when a tunnel opens at a place that was not tried lately; all of it (some 4 kB)
when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.filter_trial import FilterResult, FilterTrial
from upmt_nf.mobility.host_binding import Credentials
from upmt_nf.mobility.host_commands import CloseBindingProbe, SendBindingProbe
from upmt_nf.mobility.host_events import BindingAnswerReceived
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.model.errors import PeerError
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.binding_probe import is_proven, parse_probe, probe_key

FLOWS = (ProbeFlow.FILTERS, ProbeFlow.HAIRPIN, ProbeFlow.IPV6)
FRESH = 6 * 3600.0
"""Seconds for which what was found at a place is believed without asking again."""
_BEYOND = 128
"""Octets by which a large packet is larger than any inner one: the interface has to split it."""


@dataclass(slots=True)
class _Tried:
    """A network that is there."""

    place: str
    running: FilterTrial | None = None
    result: FilterResult | None = None


class FilterTrials:
    """All networks of a host. `is_wanted`: also when nobody asks. `port` gives the anchor's for a network's tunnel.

    `reaches_ipv6`: whether the anchor in use has an IPv6 address.
    """

    def __init__(
        self,
        random: Random,
        credentials: Credentials,
        tunnels: Mapping[NetworkName, HostTunnel],
        port: Callable[[NetworkName], int],
        reaches_ipv6: Callable[[], bool],
        *,
        is_wanted: bool,
    ) -> None:
        self._random = random
        self._credentials = credentials
        self._tunnels = tunnels
        self._port = port
        self._reaches_ipv6 = reaches_ipv6
        self._is_wanted = is_wanted
        self._networks: dict[NetworkName, _Tried] = {}
        self._remembered: dict[str, FilterResult] = {}
        self._finished: list[tuple[NetworkName, FilterResult]] = []
        self._commands: list[SendBindingProbe | CloseBindingProbe] = []

    def result(self, network: NetworkName) -> FilterResult | None:
        """What is known of a network that is there."""
        tried = self._networks.get(network)
        return tried.result if tried is not None else None

    def is_trying(self, network: NetworkName) -> bool:
        """Whether a trial is under way."""
        tried = self._networks.get(network)
        return tried is not None and tried.running is not None

    def take_finished(self) -> list[tuple[NetworkName, FilterResult]]:
        """What was found, or remembered of a place, since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def take_commands(self) -> list[SendBindingProbe | CloseBindingProbe]:
        """What it wants done; each is given once."""
        commands, self._commands = self._commands, []
        return commands

    # --- what happens ---

    def appear(self, network: NetworkName, place: str) -> None:
        """A network is there, perhaps at another place."""
        self.vanish(network)
        self._networks[network] = _Tried(place)

    def vanish(self, network: NetworkName) -> None:
        """A network is gone."""
        tried = self._networks.pop(network, None)
        if tried is not None and tried.running is not None:
            self._close(network)

    def open(self, network: NetworkName, now: float) -> None:
        """A network's tunnel works."""
        if (tried := self._networks.get(network)) is None or not self._is_wanted:
            return
        known = self._remembered.get(tried.place)
        if known is not None and now - known.finished_at < FRESH:
            tried.result = known
            self._finished.append((network, known))
        else:
            self._begin(network, tried, now, is_thorough=False)

    def ask(self, network: NetworkName, now: float) -> None:
        """Somebody wants to know all of it; there must be a tunnel that works."""
        tunnel = self._tunnels[network]
        if (tried := self._networks.get(network)) is not None and tunnel.is_usable:
            self._begin(network, tried, now, is_thorough=True)

    def _begin(self, network: NetworkName, tried: _Tried, now: float, *, is_thorough: bool) -> None:
        tunnel, credentials = self._tunnels[network], self._credentials()
        if credentials is None or tunnel.care_of_address is None:
            return
        if tried.running is not None:
            if not is_thorough:
                return
            self._close(network)
        address, secret = credentials
        care_of, seen = tunnel.care_of_address, tunnel.reflexive
        is_translated = seen is not None and seen.address != care_of
        tried.running = FilterTrial(
            address,
            probe_key(secret),
            self._random.getrandbits(32),
            now,
            lambda: 2 * (tunnel.rtt or 0.0),
            is_ipv4=care_of.version == 4,
            public=seen.address if seen is not None and is_translated and is_thorough else None,
            large=tunnel.widest + _BEYOND if is_thorough else 0,
            tries_ipv6=(
                is_thorough and care_of.version == 4 and tunnel.ipv6 is not None and self._reaches_ipv6()
            ),
        )

    def hear(self, event: BindingAnswerReceived, now: float) -> None:
        """Something came to a port of a trial; anybody may have sent it."""
        tried = self._networks.get(event.network)
        if tried is None or (running := tried.running) is None:
            return
        try:
            probe = parse_probe(event.data)
        except PeerError:
            return
        if is_proven(event.data, running.key):
            running.hear(probe, event.flow, event.tos, len(event.data), now)
            self._go_on(event.network, tried, running, now)

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        running = [tried.running for tried in self._networks.values()]
        return min((trial.next_at for trial in running if trial is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Go on with or end trials, as is due."""
        for network, tried in self._networks.items():
            if tried.running is not None and now >= tried.running.next_at:
                self._go_on(network, tried, tried.running, now)

    def _go_on(self, network: NetworkName, tried: _Tried, running: FilterTrial, now: float) -> None:
        for flow, data, tos, has_checksum, to in running.handle_timeout(now):
            self._commands.append(
                SendBindingProbe(network, flow, data, self._port(network), tos, has_checksum, to)
            )
        if (result := running.result) is None:
            return
        self._close(network)
        tried.running = None
        if tried.result is not None:
            # A short trial says nothing of what only a long one tries.
            result = FilterResult(tried.result.found | result.found, result.finished_at)
        tried.result = result
        if result.found:
            self._remembered[tried.place] = result
        self._finished.append((network, result))

    def _close(self, network: NetworkName) -> None:
        self._commands.append(CloseBindingProbe(network, FLOWS))
