"""When the mobile host asks for new keys of its protected tunnels: by time and by packets, well before any limit.

ChaCha20-Poly1305 has no limit of packets sealed that could be reached with a counter of 64 bits, and one of 2**36
forged packets per key (RFC 9001 section 6.6, appendix B.2); the hour ends a key before that.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import Cookie, Sealed
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.identity import NetworkName

LEAST = 0.5
"""Seconds that keys serve whatever the limits: the other end keeps only so many of them."""
RETRY = 10.0
"""Seconds after a request until the next one, when it brought no keys."""


class Rekeying:
    """The timers of all networks."""

    def __init__(self, settings: HostSettings, random: Random) -> None:
        self._longest = settings.rekey_after
        self._most_packets = settings.rekey_after_packets
        self._random = random
        self.renewed = 0
        """How often a tunnel got keys."""
        self._due_at: dict[NetworkName, float] = {}
        self._not_before: dict[NetworkName, float] = {}

    def begin(self, network: NetworkName, now: float) -> None:
        """A network's tunnel has new keys."""
        self.renewed += 1
        self._due_at[network] = now + self._longest * self._random.uniform(0.9, 1.0)
        self._not_before[network] = now + LEAST

    def next_timeout(self) -> float | None:
        """When `due` has something to say because of the time; packets are counted whenever it is asked."""
        return min(self._due_at.values(), default=None)

    def due(self, tunnels: Iterable[Tunnel], now: float) -> list[NetworkName]:
        """The networks whose keys have served, each again only after a while. Forgets keys that have ended."""
        found: list[NetworkName] = []
        protected: set[NetworkName] = set()
        for tunnel in tunnels:
            format, network = tunnel.format, tunnel.network
            if not isinstance(format, Cookie | Sealed):
                continue
            protected.add(network)
            format.retire(now)
            has_served = now >= self._due_at.get(network, now) or format.used >= self._most_packets
            if has_served and now >= self._not_before.get(network, now):
                found.append(network)
                self._due_at[network] = self._not_before[network] = now + RETRY * self._random.uniform(
                    0.8, 1.2
                )
        for network in list(self._due_at):
            if network not in protected:
                del self._due_at[network]
        return found
