"""The searches for path MTUs of all tunnels: when to make one, and the packets of it (STAMP with padding, RFC 8972).

A path is searched when its tunnel opens, as the interface's MTU is no more than a hope, and when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from random import Random

from upmt_nf.mobility.host_commands import SendTunnelSignal
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.path_mtu import PathMtuSearch
from upmt_nf.model.identity import NetworkName
from upmt_nf.model.names import MEASUREMENT_PORT
from upmt_nf.signaling.stamp import SenderPacket, padded

AT_MOST_EVERY = 600.0
"""Seconds between two searches that nobody asked for: a network that comes and goes must not cost each time."""
_INNER_HEADERS = {4: 28, 6: 48}
"""Bytes of IP and UDP around a measurement packet, by IP version."""


@dataclass(slots=True)
class _Searching:
    search: PathMtuSearch
    headers: int
    asked: dict[int, int] = field(default_factory=dict)
    """Sequence number of a question -> its size."""


class PathSearches:
    """`is_wanted`: also when nobody asks."""

    def __init__(self, tunnels: Mapping[NetworkName, HostTunnel], random: Random, *, is_wanted: bool) -> None:
        self._tunnels = tunnels
        self._random = random
        self._is_wanted = is_wanted
        self._running: dict[NetworkName, _Searching] = {}
        self._found: dict[NetworkName, int | None] = {}
        self._ceilings: dict[NetworkName, int] = {}
        """The size that the last search began with."""
        self._searched_at: dict[NetworkName, float] = {}
        self._finished: list[tuple[NetworkName, int]] = []

    def found(self, network: NetworkName) -> int | None:
        """The largest inner packet that is known to pass both ways, bytes."""
        return self._found.get(network)

    def is_searching(self, network: NetworkName) -> bool:
        """Whether a search is under way."""
        return network in self._running

    def open(self, network: NetworkName, now: float) -> None:
        """A tunnel works."""
        if self._is_wanted and now - self._searched_at.get(network, -inf) >= AT_MOST_EVERY:
            self.ask(network, now)

    def ask(self, network: NetworkName, now: float) -> None:
        """Search a tunnel that works."""
        tunnel = self._tunnels[network]
        if tunnel.is_usable and tunnel.tunnel is not None and network not in self._running:
            self._searched_at[network], self._ceilings[network] = now, tunnel.widest
            search = PathMtuSearch(tunnel.widest, lambda: 2 * tunnel.answer_timeout, now)
            self._running[network] = _Searching(search, _INNER_HEADERS[tunnel.tunnel.owner.version])

    def close(self, network: NetworkName) -> None:
        """A tunnel is gone, and what was known of its path."""
        self._running.pop(network, None)
        for known in (self._found, self._ceilings, self._searched_at):
            known.pop(network, None)

    def capped(self, tunnel: HostTunnel) -> int:
        """What the interface's MTU makes possible (inner packet, bytes), unless the path is known to be narrower."""
        found, widest = self._found.get(tunnel.network), tunnel.widest
        return widest if found is None or widest > self._ceilings[tunnel.network] else min(widest, found)

    def hear(self, network: NetworkName, sequence: int, size: int, now: float) -> None:
        """An answer with so many bytes of payload."""
        running = self._running.get(network)
        if running is not None and running.asked.get(sequence) == size + running.headers:
            running.search.answer(size + running.headers, now)
            self._conclude(network, running)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do (seconds)."""
        times = (running.search.next_timeout() for running in self._running.values())
        return min((time for time in times if time is not None), default=None)

    def handle_timeout(self, now: float) -> list[SendTunnelSignal]:
        """The questions that are due."""
        commands = []
        for network, running in list(self._running.items()):
            size = running.search.handle_timeout(now)
            if size is not None:
                sequence = self._random.getrandbits(32)
                running.asked[sequence] = size
                packet = padded(bytes(SenderPacket(sequence, now)), size - running.headers)
                commands.append(SendTunnelSignal(network, MEASUREMENT_PORT, packet))
            self._conclude(network, running)
        return commands

    def take_finished(self) -> list[tuple[NetworkName, int]]:
        """What was found since the last call: network, largest inner packet."""
        finished, self._finished = self._finished, []
        return finished

    def _conclude(self, network: NetworkName, running: _Searching) -> None:
        if running.search.is_finished and self._running.pop(network, None) is not None:
            self._found[network] = running.search.found
            if running.search.found is not None:
                self._finished.append((network, running.search.found))
