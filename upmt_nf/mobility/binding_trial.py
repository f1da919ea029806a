"""One trial of a silence: does a NAT still know a mapping that said nothing for so long?

    watched port   HELLO ->      HELLO ->      HELLO ->      ... silence ...           <- POKED?
                   <- WELCOME    <- WELCOME    <- WELCOME                                 |
    asking port    .................................................... POKE -> , <- POKING

Three exchanges within some seconds make the mapping what a tunnel's is: Linux and others keep flows with traffic both
ways for longer once they are 2 s old. Only what comes in after the silence tells: a packet of ours would make a new
mapping, most often with the same port. POKING tells a dead mapping from a dead path.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from upmt_nf.model.flow import IPAddress
from upmt_nf.signaling.binding_probe import BindingProbe, ProbeKind

EXCHANGES = 3
EXCHANGE_PAUSE = 1.2
"""Seconds between two of them: more than 2 s from the first to the last."""
ANSWER_PATIENCE = 1.0
TRIES = 3
"""Of each packet."""


class ProbeFlow(Enum):
    """Ports beside the tunnel's: two of a binding trial, one of a test of the network, those of its filters."""

    WATCHED = "watched"
    ASKING = "asking"
    TESTING = "testing"
    FILTERS = "filters"
    HAIRPIN = "hairpin"
    """Sends to where the anchor sees that of FILTERS."""
    IPV6 = "ipv6"
    """Of the network's IPv6 address, to the anchor's."""


class Outcome(Enum):
    """The end of a trial."""

    SURVIVED = "survived"
    DIED = "died"
    UNCLEAR = "unclear"
    """Something else was wrong: nobody answered."""


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Send this from one of the trial's ports."""

    flow: ProbeFlow
    data: bytes


class BindingTrial:
    """The machine. `number` tells its packets from those of other trials; `key` proves them."""

    def __init__(self, silence: float, address: IPAddress, key: bytes, number: int, now: float) -> None:
        self.silence = silence
        self.outcome: Outcome | None = None
        self.key = key
        self.next_at = now
        self._address = address
        self._number = number
        self._port = 0
        self._welcomes = 0
        self._tries = 0
        self._is_poking = False
        self._was_poked_for_us = False

    def hear(self, flow: ProbeFlow, probe: BindingProbe, now: float) -> None:
        """A proven packet of the anchor came to one of the ports."""
        if self.outcome is not None or probe.virtual_address != self._address:
            return
        match probe.kind, flow:
            case ProbeKind.WELCOME, ProbeFlow.WATCHED if probe.number == self._number + self._welcomes:
                self._port = probe.port
                self._welcomes += 1
                self._tries = 0
                # Counted from the last packet that the NAT saw.
                self._is_poking = self._welcomes == EXCHANGES
                self.next_at = now + (self.silence if self._is_poking else EXCHANGE_PAUSE)
            case ProbeKind.POKED, ProbeFlow.WATCHED if self._is_poking and probe.number == self._number:
                self.outcome = Outcome.SURVIVED
            case ProbeKind.POKING, ProbeFlow.ASKING if probe.number == self._number:
                self._was_poked_for_us = True

    def handle_timeout(self, now: float) -> SendProbe | None:
        """Say or ask the next thing, or give up, as is due at `next_at`."""
        if self.outcome is not None or now < self.next_at:
            return None
        if self._tries == TRIES:
            self.outcome = Outcome.DIED if self._was_poked_for_us else Outcome.UNCLEAR
            return None
        self._tries += 1
        self.next_at = now + ANSWER_PATIENCE
        if self._is_poking:
            poke = BindingProbe(ProbeKind.POKE, self._number, self._address, self._port)
            return SendProbe(ProbeFlow.ASKING, poke.sealed(self.key))
        hello = BindingProbe(ProbeKind.HELLO, self._number + self._welcomes, self._address)
        return SendProbe(ProbeFlow.WATCHED, hello.sealed(self.key))
