"""One trial of what an access network's filters do to UDP packets that are not quite usual.

    host, one port                                  anchor
    ECHO, as usual           ------------------->   ECHOED        is asked again with every round: it tells what is
    ECHO, no UDP checksum    ------------------->   ECHOED        filtered from what is lost by chance
    ECHO, DSCP EF            ------------------->   ECHOED, "it came as best effort"      bleached on the way up
    ECHO, ECT(0)             ------ x                                                     dropped, one way or the other
    ECHO of 1600 octets, in fragments ---------->   ECHOED of 1600 octets, in fragments   only when somebody asks
    HELLO ---------------------------------------> WELCOME, "I see you at port 40000"
    HAIRPIN to that port, from a port of its own: heard if the NAT sends it back

An answer is as long and as odd as its question. Knows neither tunnels nor sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.signaling.binding_probe import (
    LARGEST_ECHO,
    PROBE_SIZE,
    UNSUMMED,
    BindingProbe,
    ProbeKind,
)

PAUSES = (0.3, 0.6, 1.0, 1.0)
"""Seconds that are waited for answers, after each round of questions; never less than two round trips."""
ROUNDS = len(PAUSES)
ENOUGH = 3
"""Usual questions answered, each in another round: what was never answered meanwhile is dropped and not lost."""
_EF, _ECT0 = 46 << 2, 0b10
_ECN = 0b11
_USUAL = 16
"""Numbers of usual questions follow those of the others."""


class Passing(Enum):
    """What becomes of packets of a kind. The values are what `networks --json` shows."""

    PASSES = "passes"
    BLEACHED = "bleached"
    """They pass, but what marks them is changed on one of the ways."""
    DROPPED = "dropped"


class Oddity(Enum):
    """What is tried. The values are what `networks --json` shows; of DROPPED those that have the same name."""

    ZERO_CHECKSUM = "zero-checksum"
    DSCP = "dscp"
    ECN = "ecn"
    FRAGMENTS = "fragments"
    HAIRPIN = "hairpin"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True)
class FilterResult:
    """What was tried and was clear in the end; the rest nobody knows."""

    found: dict[Oddity, Passing]
    finished_at: float

    @property
    def avoid(self) -> tuple[str, ...]:
        """What neither end of a tunnel should send outside there."""
        return tuple(
            oddity.value
            for oddity in (Oddity.ZERO_CHECKSUM, Oddity.DSCP, Oddity.ECN)
            if self.found.get(oddity) is Passing.DROPPED
        )


class Question(NamedTuple):
    """What to send: to the anchor, or to where it sees another port of ours."""

    flow: ProbeFlow
    data: bytes
    tos: int = 0
    has_checksum: bool = True
    to: Endpoint | None = None


class _Asked(NamedTuple):
    """An ECHO of another kind than usual."""

    tos: int = 0
    has_checksum: bool = True
    size: int = PROBE_SIZE


@dataclass(slots=True)
class FilterTrial:
    """The machine. `number` tells its packets from others; answers that are not proven must not come here.

    `public`: the host's address as the anchor sees it, or None where no NAT is on the way. `large`: octets of UDP
    payload that no packet of the interface takes whole; 0 tries no fragments.
    """

    address: IPAddress
    key: bytes
    number: int
    next_at: float
    patience: Callable[[], float]
    is_ipv4: bool = True
    """Only there UDP may go without a checksum."""
    public: IPAddress | None = None
    large: int = 0
    tries_ipv6: bool = False
    result: FilterResult | None = None
    _found: dict[Oddity, Passing] = field(default_factory=dict)
    _port: int | None = None
    """Where the anchor sees our first port."""
    _usual: set[int] = field(default_factory=set)
    _rounds: int = 0

    def handle_timeout(self, now: float) -> list[Question]:
        """What to send, as is due at `next_at`."""
        if self.result is not None or now < self.next_at:
            return []
        if self._rounds == ROUNDS or (self._usual and not self._open()):
            self._finish(now)
            return []
        self.next_at = now + max(PAUSES[self._rounds], self.patience())
        self._rounds += 1
        questions = [self._echo(_USUAL + self._rounds, _Asked())]
        for place, oddity in enumerate(Oddity):
            if oddity in self._open():
                questions += self._questions(place, oddity)
        return questions

    def _questions(self, place: int, oddity: Oddity) -> list[Question]:
        if oddity is Oddity.IPV6:
            return [Question(ProbeFlow.IPV6, self._said(ProbeKind.HELLO, place))]
        if oddity is not Oddity.HAIRPIN:
            return [self._echo(place, self._wanted()[oddity])]
        if self._port is None or self.public is None:
            return [Question(ProbeFlow.FILTERS, self._said(ProbeKind.HELLO, place))]
        target = Endpoint(self.public, self._port)
        return [Question(ProbeFlow.HAIRPIN, self._said(ProbeKind.HAIRPIN, place), to=target)]

    def _wanted(self) -> dict[Oddity, _Asked]:
        wanted = {Oddity.DSCP: _Asked(tos=_EF), Oddity.ECN: _Asked(tos=_ECT0)}
        if self.is_ipv4:
            wanted[Oddity.ZERO_CHECKSUM] = _Asked(has_checksum=False)
        if PROBE_SIZE < self.large <= LARGEST_ECHO:
            wanted[Oddity.FRAGMENTS] = _Asked(size=self.large)
        return wanted

    def _open(self) -> set[Oddity]:
        """What is to be found out and was not yet."""
        tried = set(self._wanted())
        if self.public is not None:
            tried.add(Oddity.HAIRPIN)
        if self.tries_ipv6:
            tried.add(Oddity.IPV6)
        return tried - set(self._found)

    def _echo(self, place: int, asked: _Asked) -> Question:
        said = asked.tos | (0 if asked.has_checksum else UNSUMMED)
        data = self._said(ProbeKind.ECHO, place, said, asked.size)
        return Question(ProbeFlow.FILTERS, data, asked.tos, asked.has_checksum)

    def _said(self, kind: ProbeKind, place: int, port: int = 0, size: int = PROBE_SIZE) -> bytes:
        number = (self.number + place) % 2**32
        return BindingProbe(kind, number, self.address, port).sealed(self.key, size)

    def hear(self, probe: BindingProbe, flow: ProbeFlow, tos: int, size: int, now: float) -> None:
        """A proven packet came to one of our ports, with this traffic class and so many octets."""
        place = (probe.number - self.number) % 2**32
        if self.result is not None or probe.virtual_address != self.address:
            return
        if probe.kind is ProbeKind.ECHOED and _USUAL < place <= _USUAL + self._rounds:
            self._usual.add(place)
        elif place < len(Oddity):
            self._hear(list(Oddity)[place], probe, flow, tos, size)
        if not self._open() and self._usual:
            self.next_at = min(self.next_at, now)

    def _hear(self, oddity: Oddity, probe: BindingProbe, flow: ProbeFlow, tos: int, size: int) -> None:
        wanted = self._wanted().get(oddity)
        match probe.kind:
            case ProbeKind.ECHOED if wanted is not None and size == wanted.size:
                ways = (probe.port & 0xFF, tos)
                mask = _ECN if oddity is Oddity.ECN else 0xFF & ~_ECN
                kept = all(seen & mask == wanted.tos & mask for seen in ways)
                self._found[oddity] = Passing.PASSES if kept else Passing.BLEACHED
            case ProbeKind.WELCOME if oddity is Oddity.IPV6 and flow is ProbeFlow.IPV6:
                self._found[oddity] = Passing.PASSES
            case ProbeKind.WELCOME if oddity is Oddity.HAIRPIN and flow is ProbeFlow.FILTERS:
                self._port = probe.port
            case ProbeKind.HAIRPIN if oddity is Oddity.HAIRPIN and flow is ProbeFlow.FILTERS:
                self._found[oddity] = Passing.PASSES

    def _finish(self, now: float) -> None:
        if len(self._usual) >= ENOUGH:
            for oddity in self._open():
                if oddity is not Oddity.HAIRPIN or self._port is not None:
                    self._found[oddity] = Passing.DROPPED
        self.result = FilterResult(dict(self._found), now)
