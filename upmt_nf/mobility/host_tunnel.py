"""One access network and the life of its tunnel: setup, probes, suspicion, death, return.

One machine: `TRANSITIONS` is all that can happen. Says when to probe and when to ask for setup; knows neither
SIP nor STAMP, and nothing of applications.

Finding a black hole, with keepalive interval I and answer timeout R = min(max(4 rtt, 0.2 s), 0.9 I):

    last answer           probe unanswered: suspect            dead
    |--------- <= 1.05 I ---|-- R --|..burst, a probe each I/8..|
    |<--------------- never later than min(2 I + R, 3 I - rtt) ---->|     whatever is lost
    five burst probes unanswered for R: dead at once (1.55 I + 2 R), on a path that lost little before

Only answers to what we sent count as life: packets that merely arrive do not prove that ours get out. They do
forbid the early verdict.

A tunnel that carried nothing for a while rests: probes then come only as often as the NAT on the way needs them, or,
where that is very often, single octets in between (RFC 3948 section 4). It is looked at every interval nevertheless,
so that the next packet of a flow brings the probes back at once.
"""

from __future__ import annotations

from math import inf
from random import Random

from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.measurement import PathMeasurement
from upmt_nf.mobility.path_capacity import PathCapacity
from upmt_nf.mobility.path_quality import PathQuality
from upmt_nf.mobility.resting import Resting
from upmt_nf.mobility.silence import LEAST_TIMEOUT as LEAST_QUICK_TIMEOUT
from upmt_nf.mobility.silence import SilenceWatch
from upmt_nf.mobility.tunnel_states import (
    TRANSITIONS,
    AskSetup,
    KeepMapping,
    SendProbe,
    StateChanged,
    TunnelAction,
    TunnelInput,
    TunnelState,
)
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName

EWMA = 0.2
LEAST_TIMEOUT = 0.2
BURST = 5
DOUBTED_PAUSE = 0.5
LOSSY = 0.1
"""Measured loss from which a burst alone proves nothing."""
FIRST_BACKOFF = 0.5
REBIND_EVERY = 3


class HostTunnel:
    """The machine of one access network. For setup, its owner calls `handle_timeout` only while associated."""

    def __init__(
        self,
        network: NetworkName,
        index: int,
        interval: float,
        longest_backoff: float,
        random: Random,
        resting: Resting | None = None,
    ) -> None:
        self.network = network
        self.index = index
        self.state = TunnelState.DOWN
        self.reason = "not there"
        self.interface: str | None = None
        self.care_of_address: IPAddress | None = None
        self.gateway: IPAddress | None = None
        self.ipv6: IPAddress | None = None
        """The network's global IPv6 address, which may be another than the care-of address."""
        self.anchor_port = 0
        """Which of the anchor's tunnel ports it goes to; 0: the first."""
        self.mtu = 0
        """Largest inner packet, bytes."""
        self.avoid: tuple[str, ...] = ()
        """What its path drops (`messages.DROPPED`)."""
        self.told: tuple[int, tuple[str, ...]] = (0, ())
        """`mtu` and `avoid` as the last setup request said them to the anchor."""
        self.widest = 0
        """What the interface's own MTU would allow, bytes."""
        self.tunnel: Tunnel | None = None
        self.heard_before: float | None = None
        """When the tunnel that was there before was heard last."""
        self.reflexive: Endpoint | None = None
        self.rtt: float | None = None
        """Round-trip time, seconds, EWMA."""
        self.variation = 0.0
        """Of the round-trip time, seconds, EWMA (RFC 6298 section 2)."""
        self._is_guessed = False
        """The round-trip time is that of a setup, which takes the anchor's work with keys besides."""
        self.silence = SilenceWatch()
        """Finds out, while applications are here, that nothing is heard any more."""
        self.given_up = self.given_up_wrongly = 0
        """How often it was given up for its silence alone, and was back at once."""
        self._is_given_up = False
        self.loss = 0.0
        """Part of the probes that went unanswered, both ways together, EWMA."""
        self.quality = PathQuality()
        """The newest probes, as policies judge them."""
        self.capacity = PathCapacity()
        """What it carries at most, as far as it was full."""
        self._hurry = inf
        """An application here needs a probe this often."""
        self.is_awaited = False
        """An application would rather be here, were it good: it does not rest."""
        self.measured = PathMeasurement()
        """Delay variation and loss of each direction; none of it decides anything here."""
        self.up_since: float | None = None
        self.has_returned = False
        """It was up before, and not since: applications wait before they come back to it."""
        self.resting = resting or Resting(inf, interval, random)
        """What it needs while it carries nothing; without, it never rests."""
        self._wanted_interval = interval
        self._longest_backoff = longest_backoff
        self._random = random
        self._sequence = random.getrandbits(32)
        self._sent: dict[int, float] = {}
        """Probes that were not answered yet: sequence number -> time."""
        self._late: set[int] = set()
        """Those of them that were counted as lost."""
        self._answered_at = 0.0
        self._probe_at: float | None = None
        self._setup_at: float | None = None
        self._suspect_since = 0.0
        self._loss_before = 0.0
        self._burst = 0
        self._is_doubted = False
        """The anchor says that it hears nothing: what arrives here is no excuse then."""
        self._failures = 0

    @property
    def is_usable(self) -> bool:
        """Whether applications may be here."""
        return self.state in (TunnelState.UP, TunnelState.SUSPECT)

    @property
    def interval(self) -> float:
        """Between two probes of a tunnel in use: as configured, but never less than two round trips."""
        return max(min(self._wanted_interval, self.resting.keepalive), 2 * (self.rtt or 0.0))

    @property
    def answer_timeout(self) -> float:
        """How long a probe may take before the tunnel is suspect."""
        return min(max(4 * (self.rtt or 0.0), LEAST_TIMEOUT), 0.9 * self.interval)

    @property
    def quick_timeout(self) -> float:
        """How long an answer may take while an application waits for it."""
        return max(LEAST_QUICK_TIMEOUT, (self.rtt or LEAST_TIMEOUT) + 4 * self.variation)

    @property
    def answered_at(self) -> float:
        """When the anchor last answered something that we sent here."""
        return self._answered_at

    # --- inputs ---

    def appear(self, now: float) -> list[TunnelAction]:
        """The network is there, or there with another address."""
        self._forget_measurements()
        self._plan_setup(now)
        return self._enter(TunnelInput.APPEARED, "the network is there")

    def vanish(self, reason: str) -> list[TunnelAction]:
        """The network is gone."""
        self._probe_at = self._setup_at = None
        self.has_returned = self.has_returned or self.up_since is not None
        self.up_since = None
        return self._enter(TunnelInput.VANISHED, reason)

    def accept(self, now: float, round_trip: float | None) -> list[TunnelAction]:
        """The anchor answered a setup request; `round_trip` (seconds) unless the request was resent."""
        if round_trip is not None and self.rtt is None:
            self.rtt, self._is_guessed = round_trip, True
        actions = self._enter(TunnelInput.ACCEPTED, "the anchor answered")
        if not self.is_usable:
            return []
        self._failures = 0
        self._setup_at = None
        self._note_return(now)
        self._answered_at = now
        self.silence.start_over(0 if self.tunnel is None else self.tunnel.packets_in, now)
        self._is_doubted = False
        self._sent.clear()
        self._late.clear()
        if self.up_since is None:
            self.up_since = now
        self._probe_at = now
        return actions

    def fail_setup(self, now: float) -> list[TunnelAction]:
        """A setup request was refused or not answered."""
        if self.state in (TunnelState.SETUP, TunnelState.DEAD):
            pause = min(FIRST_BACKOFF * 2 ** min(self._failures, 10), self._longest_backoff)
            self._failures += 1
            self._setup_at = now + pause * self._random.uniform(0.8, 1.2)
        return self._enter(TunnelInput.FAILED, "no answer to the setup request")

    def answer(self, sequence: int, now: float) -> list[TunnelAction]:
        """The answer to a probe, perhaps a late one."""
        sent = self._sent.pop(sequence, None)
        if sent is not None and self.state is TunnelState.DEAD:
            self._note_return(now)
        if sent is None or not self.is_usable:
            return []
        sample = now - sent
        if self.rtt is None or self._is_guessed:
            self.rtt, self.variation, self._is_guessed = sample, sample / 2, False
        else:
            self.variation += (abs(self.rtt - sample) - self.variation) / 4
            self.rtt += EWMA * (sample - self.rtt)
        self.quality.answer(sample)
        if self.tunnel is not None:
            self.capacity.note(self.tunnel.bytes_in + self.tunnel.bytes_out, sample, now)
        if sequence not in self._late:
            self.loss -= EWMA * self.loss
        self._late.discard(sequence)
        return self.prove_alive(now)

    @property
    def last_heard(self) -> float | None:
        """When something came out of its tunnel last, also when that is closed by now."""
        return self.tunnel.heard if self.tunnel is not None else self.heard_before

    def prove_alive(self, now: float) -> list[TunnelAction]:
        """The anchor answered something that we sent in this tunnel."""
        if not self.is_usable:
            return []
        self._answered_at = now
        self._is_doubted = False
        was_suspect = self.state is TunnelState.SUSPECT
        actions = self._enter(TunnelInput.ANSWERED, "the anchor answered")
        if was_suspect:
            self._probe_at = now + self._jittered_interval()
        return actions

    def doubt(self, now: float) -> None:
        """The anchor hears nothing of us here: probe at once, unless a probe is on its way."""
        is_asking = any(now - sent < self.answer_timeout for sent in self._sent.values())
        if self.state is TunnelState.UP and not is_asking:
            self._is_doubted = True
            self._probe_at = now

    def question(self, now: float) -> SendProbe:
        """A probe because of a silence: more of them make no other verdict come sooner."""
        self._count_losses(now)
        self.resting.note_probe(now)
        if self.state is TunnelState.UP:
            self._probe_at = now + self._jittered_interval()
        return self._sent_now(now)

    def give_up(self, reason: str, now: float) -> list[TunnelAction]:
        """It is silent, and others are not."""
        actions = self._die(reason, now)
        if actions:
            self.given_up += 1
            self._is_given_up = True
        return actions

    def hasten(self, hurry: float, now: float) -> None:
        """Applications here need a probe this often (seconds; infinite: as configured). Its owner asks for timeouts.

        More probes make no verdict of death come sooner: what is slow for a second is not dead.
        """
        is_sooner = hurry < min(self._hurry, self.interval)
        self._hurry = hurry
        if is_sooner and self.state is TunnelState.UP and self._probe_at is not None:
            self._probe_at = min(self._probe_at, now + hurry)

    def break_path(self, reason: str, now: float) -> list[TunnelAction]:
        """The kernel refuses to send on the path."""
        return self._die(reason, now)

    def disown(self, now: float) -> list[TunnelAction]:
        """The association is gone, and the tunnel with it. Not the network's fault: nobody waits for its return."""
        self.up_since = None
        self.has_returned = False
        self._failures = 0
        self._probe_at = None
        self._plan_setup(now)
        return self._enter(TunnelInput.DISOWNED, "no association")

    def ask_setup_now(self, now: float) -> None:
        """Do not wait for the next attempt."""
        if self.state in (TunnelState.SETUP, TunnelState.DEAD):
            self._plan_setup(now)

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do; setup waits for an association, which the owner knows."""
        match self.state:
            case TunnelState.DOWN:
                return None
            case TunnelState.SETUP | TunnelState.DEAD:
                return self._setup_at
            case TunnelState.UP:
                deadline = self._answer_deadline()
                times = [self._probe_at, deadline, None if deadline is None else self._death()]
            case TunnelState.SUSPECT:
                times = [self._probe_at, self._death()]
        return min(time for time in times if time is not None)

    def handle_timeout(self, now: float) -> list[TunnelAction]:
        """Probe, suspect, declare dead or ask for setup, as is due."""
        due = self.next_timeout()
        if due is None or now < due:
            return []
        if self.state in (TunnelState.SETUP, TunnelState.DEAD):
            self._setup_at = None
            return [
                AskSetup(rebind=self._failures > 0 and self._failures % REBIND_EVERY == 0),
            ]
        self._forgive(now - due)
        actions: list[TunnelAction] = []
        deadline = self._answer_deadline()
        if now >= self._death() and (self.state is TunnelState.SUSPECT or deadline is not None):
            return self._die("no answer from the anchor", now)
        if self.state is TunnelState.UP and deadline is not None and now >= deadline:
            self._loss_before = self.loss
            self._suspect_since = now
            self._burst = 0
            self._probe_at = now
            self._count_losses(now)
            actions += self._enter(TunnelInput.UNANSWERED, "a probe was not answered")
        if self._probe_at is not None and now >= self._probe_at:
            self._count_losses(now)
            if not self._is_idle(now) or (
                now >= self.resting.next_at and not self.resting.is_octet_enough(now)
            ):
                actions.append(self._probe(now))
            else:
                actions += self._rest(now)
        return actions

    def _rest(self, now: float) -> list[TunnelAction]:
        """No probe now; look again in an interval at the latest."""
        actions: list[TunnelAction] = []
        if now >= self.resting.next_at:
            self.resting.note_packet(now)
            actions.append(KeepMapping())
        self._probe_at = min(now + self._jittered_interval(), self.resting.next_at)
        return actions

    def is_used(self, now: float) -> bool:
        """Whether it is there and carried something a moment ago."""
        if self.tunnel is None or self.up_since is None:
            return False
        return not self.resting.is_idle(max(self.tunnel.used, self.up_since), now)

    def _is_idle(self, now: float) -> bool:
        """Nothing was carried for a while, nobody waits for it to be good, and the last probe was answered."""
        if self.state is not TunnelState.UP or self.tunnel is None or self.up_since is None:
            return False
        return not self.is_awaited and not self.is_used(now) and self._answer_deadline() is None

    # --- inside ---

    def _enter(self, input: TunnelInput, reason: str) -> list[TunnelAction]:
        target = TRANSITIONS.get((self.state, input))
        if target is None:
            return []
        old, self.state = self.state, target
        if old is target:
            return []
        self.reason = reason
        return [StateChanged(old, target, reason)]

    def _die(self, reason: str, now: float) -> list[TunnelAction]:
        actions = self._enter(TunnelInput.SILENT, reason)
        if actions:
            self._probe_at = None
            self.up_since = None
            self.has_returned = True
            self._failures = 0
            self._plan_setup(now)
        return actions

    def _plan_setup(self, now: float) -> None:
        self._setup_at = now

    def _forget_measurements(self) -> None:
        self.rtt, self.variation, self.loss, self._is_guessed = None, 0.0, 0.0, False
        self.silence = SilenceWatch()
        self._is_given_up = False
        self.quality, self.capacity = PathQuality(), PathCapacity()
        self.measured = PathMeasurement()
        self.reflexive = None
        self.up_since = None
        self._failures = 0
        self._probe_at = None
        self._sent.clear()
        self._late.clear()

    def _count_losses(self, now: float) -> None:
        for sequence, sent in self._sent.items():
            if sequence not in self._late and now - sent >= self.answer_timeout:
                self._late.add(sequence)
                self.loss += EWMA * (1 - self.loss)

    def _sent_now(self, now: float) -> SendProbe:
        self._sequence = (self._sequence + 1) % 2**32
        self._sent[self._sequence] = now
        self.measured.send(self._sequence)
        while len(self._sent) > 64:
            lost = next(iter(self._sent))
            del self._sent[lost]
            self._late.discard(lost)
        return SendProbe(self._sequence)

    def _note_return(self, now: float) -> None:
        """What was given up for its silence speaks: whether that was wrong depends on how soon."""
        if self._is_given_up:
            self._is_given_up = False
            self.given_up_wrongly += self.silence.note_stall(now)

    def _probe(self, now: float) -> SendProbe:
        if self.state is TunnelState.UP and self.resting.has_rested(self.interval, now):
            # After a rest the verdict counts from this probe: nobody asked before.
            self._answered_at = max(self._answered_at, now - self.interval)
        self.resting.note_probe(now)
        probe = self._sent_now(now)
        if self.state is TunnelState.SUSPECT:
            self._burst += 1
            self._probe_at = now + self._pause()
        else:
            self._probe_at = now + self._jittered_interval()
        return probe

    def _pause(self) -> float:
        """Between the probes of a burst."""
        eighth = self.interval / 8
        return min(eighth, max(self.answer_timeout, DOUBTED_PAUSE)) if self._is_doubted else eighth

    def _jittered_interval(self) -> float:
        return min(self.interval, self._hurry) * self._random.uniform(0.95, 1.05)

    def _answer_deadline(self) -> float | None:
        """When the oldest probe since the last answer is late."""
        waiting = [sent for sent in self._sent.values() if sent >= self._answered_at]
        return min(waiting) + self.answer_timeout if waiting else None

    def _death(self) -> float:
        interval, timeout = self.interval, self.answer_timeout
        latest = self._answered_at + min(2 * interval + timeout, 3 * interval - (self.rtt or 0.0))
        heard = self.tunnel.heard if self.tunnel is not None else 0.0
        if (
            self.state is TunnelState.SUSPECT
            and self._burst >= BURST
            and self._loss_before < LOSSY
            and (heard < self._suspect_since or self._is_doubted)
        ):
            fifth = self._suspect_since + (BURST - 1) * self._pause()
            return min(latest, fifth + timeout)
        return latest

    def _forgive(self, lag: float) -> None:
        """We looked late (a busy machine, a suspended one): answers may lie unread, so nobody is blamed for that."""
        if lag > self.interval / 4:
            self._answered_at += lag
            self._suspect_since += lag
            self._sent = {sequence: sent + lag for sequence, sent in self._sent.items()}
