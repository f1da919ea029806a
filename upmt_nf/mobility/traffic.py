"""What a network carries: bytes on its wire, throughput in use, and the most that it was seen to carry lately.

Passive: fed from counters that are kept anyway. Knows neither where they come from nor what a byte costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp

from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.model.identity import NetworkName

SMOOTHING = 3.0
"""Seconds in which a change of throughput is seen by two thirds."""
MEMORY = 600.0
"""Seconds for which the most that passed is remembered, at least half of them."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes on the wire since the last look, outer headers included."""

    up: int
    down: int


class Throughput:
    """One direction, bit/s; None until something was counted."""

    __slots__ = ("_best", "_best_before", "_turn_at", "used")

    def __init__(self) -> None:
        self.used: float | None = None
        self._best = self._best_before = 0.0
        self._turn_at: float | None = None

    @property
    def offered(self) -> float | None:
        """The most that passed lately: the network offers so much at least."""
        return max(self._best, self._best_before) or None

    def take(self, count: int, seconds: float, now: float) -> None:
        """So many bytes passed within the last `seconds`."""
        rate = 8 * count / seconds
        old = self.used or 0.0
        self.used = old + (1 - exp(-seconds / SMOOTHING)) * (rate - old)
        if self.used < 1:
            self.used = 0.0
        if self._turn_at is None or now >= self._turn_at:
            self._best_before, self._best = self._best, 0.0
            self._turn_at = now + MEMORY / 2
        self._best = max(self._best, self.used)


class OwnTraffic:
    """Bytes on the wire of what the daemon says itself outside the counters of tunnels: probes, SIP, keepalives."""

    def __init__(self, outer_version: int) -> None:
        self._first_version = outer_version
        self._versions: dict[NetworkName, int] = {}
        self.up: Counter[NetworkName] = Counter()
        self.down: Counter[NetworkName] = Counter()

    def goes_over(self, network: NetworkName, version: int) -> None:
        """A network's packets have this IP version outside from now on."""
        self._versions[network] = version

    def version_of(self, network: NetworkName) -> int:
        """Of a network's outer packets."""
        return self._versions.get(network, self._first_version)

    def sent(self, network: NetworkName, payload: int) -> None:
        """A UDP payload of so many bytes left."""
        self.up[network] += payload + OVERHEAD[self.version_of(network)]

    def received(self, network: NetworkName, payload: int) -> None:
        """One came that no tunnel counts."""
        self.down[network] += payload + OVERHEAD[self.version_of(network)]


class TrafficMeter:
    """One network's, over all tunnels that it has and had. `total` is what was counted since the start."""

    def __init__(self, network: NetworkName, own: OwnTraffic, now: float) -> None:
        self.up, self.down = Throughput(), Throughput()
        self.total = Carried(0, 0)
        self._network = network
        self._own = own
        self._version = own.version_of(network)
        """Of what the present tunnel's packets are in."""
        self._looked_at = now
        self._tunnels: tuple[Tunnel, ...] = ()
        self._done = Carried(0, 0)
        """By tunnels that are gone."""

    def look(self, tunnels: Iterable[Tunnel], now: float) -> Carried:
        """What passed since the last look; `tunnels` are the network's present ones, one for each anchor in use."""
        present = tuple(tunnels)
        # What a former one carried last is in its counters still.
        self._done = self._with(each for each in self._tunnels if each not in present)
        if present != self._tunnels:
            self._tunnels, self._version = present, self._own.version_of(self._network)
        current, before = self._with(present), self.total
        own = Carried(self._own.up[self._network], self._own.down[self._network])
        self.total = Carried(current.up + own.up, current.down + own.down)
        new = Carried(max(0, self.total.up - before.up), max(0, self.total.down - before.down))
        seconds, self._looked_at = now - self._looked_at, now
        if seconds > 0:
            self.up.take(new.up, seconds, now)
            self.down.take(new.down, seconds, now)
        return new

    def _with(self, tunnels: Iterable[Tunnel]) -> Carried:
        up, down = self._done.up, self._done.down
        for tunnel in tunnels:
            overhead = tunnel.format.overhead(self._version)
            up += tunnel.bytes_out + overhead * tunnel.packets_out
            down += tunnel.bytes_in + overhead * tunnel.packets_in
        return Carried(up, down)
