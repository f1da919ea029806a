"""One test of what an access network lets through: do UDP packets reach the anchor, by which of its ports, through
what kind of NAT?

    host, one port        anchor
    HELLO ------------->  1800 ---- WELCOME, "I see you at port 40000" --->
    HELLO ------------->   443 ---- WELCOME, "I see you at port 40000" --->   the same: no mapping of its own per port
    HELLO ------------->    53      (nothing: it does not pass)

All from one port of the host, so that the answers tell how its NAT maps (RFC 4787 section 4.1, RFC 5780). Bounded: at
most `TRIES` packets of 40 octets to each port. Knows neither tunnels nor sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.signaling.binding_probe import BindingProbe, ProbeKind

PAUSES = (0.25, 0.5, 1.0)
"""Seconds that are waited for answers, after each round of questions."""
TRIES = len(PAUSES)


class Mapping(Enum):
    """How a NAT on the way chooses its own port. The values are what `networks --json` shows."""

    NONE = "none"
    """There is no NAT on the way: the anchor sees the care-of address."""
    KEPT = "endpoint-independent or address-dependent"
    """The same for two ports of one address; a second address would tell the two apart."""
    PER_PORT = "address-and-port-dependent"


@dataclass(frozen=True, slots=True)
class TestResult:
    """`seen`: by which of the anchor's ports, in their order, an answer came, and at which port it saw us."""

    asked: tuple[int, ...]
    seen: tuple[tuple[int, int], ...]
    finished_at: float
    round_trip: float | None = None
    """The shortest, seconds."""

    __test__ = False
    """Not one of pytest's."""

    @property
    def open_ports(self) -> tuple[int, ...]:
        """Those by which UDP passes both ways."""
        return tuple(port for port, _ in self.seen)

    def mapping(self, care_of: IPAddress | None, reflexive: Endpoint | None) -> Mapping | None:
        """What kind of NAT is on the way; None: not enough is known."""
        if reflexive is not None and reflexive.address == care_of:
            return Mapping.NONE
        if len(self.seen) < 2:
            return None
        return Mapping.KEPT if len({port for _, port in self.seen}) == 1 else Mapping.PER_PORT


@dataclass(slots=True)
class NetworkTest:
    """The machine. `number` tells its packets from others; answers that are not proven must not come here."""

    ports: Sequence[int]
    address: IPAddress
    key: bytes
    number: int
    next_at: float
    result: TestResult | None = None
    _sent_at: dict[int, float] = field(default_factory=dict)
    _seen: dict[int, int] = field(default_factory=dict)
    _tries: int = 0
    _round_trip: float | None = None

    __test__ = False

    def handle_timeout(self, now: float) -> list[tuple[int, bytes]]:
        """What to send to which port, as is due at `next_at`."""
        if self.result is not None or now < self.next_at:
            return []
        silent = [port for port in self.ports if port not in self._seen]
        if not silent or self._tries == TRIES:
            self._finish(now)
            return []
        self.next_at = now + PAUSES[self._tries]
        self._tries += 1
        self._sent_at = dict.fromkeys(silent, now)
        hello = BindingProbe(ProbeKind.HELLO, self.number, self.address).sealed(self.key)
        return [(port, hello) for port in silent]

    def hear(self, port: int, probe: BindingProbe, now: float) -> None:
        """A proven packet came from one of the anchor's tunnel ports."""
        is_ours = probe.number == self.number and probe.virtual_address == self.address
        if self.result is not None or not is_ours or probe.kind is not ProbeKind.WELCOME:
            return
        if port not in self.ports or port in self._seen:
            return
        self._seen[port] = probe.port
        if (sent := self._sent_at.get(port)) is not None:
            trip = now - sent
            self._round_trip = trip if self._round_trip is None else min(self._round_trip, trip)
        if len(self._seen) == len(self.ports):
            self.next_at = min(self.next_at, now)

    def _finish(self, now: float) -> None:
        seen = tuple((port, self._seen[port]) for port in self.ports if port in self._seen)
        self.result = TestResult(tuple(self.ports), seen, now, self._round_trip)
