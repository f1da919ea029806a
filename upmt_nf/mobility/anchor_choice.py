"""Which of several anchors a mobile host asks, and which one it uses: one at a time, in the order of the file.

One machine: `TRANSITIONS` is all that can happen. Anchors are numbers here; it knows neither SIP nor networks. With
one anchor it asks that one and has nothing else to decide.

              0     1.5     3 s
    seeking   |--1st--------------...   the next is asked too after PATIENCE, at once when one sends us on
              |      |--2nd-------...   the first proven answer wins; the others are given up
    doubting: all tunnels are silent    the one in use is asked again, then the others as above
    wavering: another one has answered  the one in use gets GRACE, as flows survive only there

Moving to another anchor breaks flows: nothing but silence or a refusal of the one in use leads to it, and nothing
leads back to a better one while the one in use answers. Anchors that are reserved for others are not asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

PATIENCE = 1.5
"""Seconds that an anchor is waited for before the next one is asked too: two retransmissions."""
GRACE = 1.0
"""Seconds that the anchor in use gets once another one has answered, which proves that the networks carry."""
SETUP_PATIENCE = 1.0
"""Seconds without any tunnel until the anchor in use is doubted; none when all of them were found dead."""
DOUBT_INTERVAL = 5.0
"""Seconds before an anchor that has just answered is doubted again."""
HOLLOW_ANSWERS = 5
"""Answers of the one in use, one a doubt, without any tunnel in between, after which it talks but carries nothing."""


class ChoiceState(Enum):
    """Where the choice stands."""

    RESTING = auto()
    SEEKING = auto()
    SETTLED = auto()
    DOUBTING = auto()
    WAVERING = auto()
    STOPPED = auto()


class ChoiceInput(Enum):
    """What the machine reacts to."""

    NETWORK_APPEARED = auto()
    NETWORKS_GONE = auto()
    GRANTED = auto()
    RIVAL_GRANTED = auto()
    RIVAL_LOST = auto()
    LOST = auto()
    LOST_WITHOUT_NETWORK = auto()
    CUT_OFF = auto()
    RESTORED = auto()
    GRACE_OVER = auto()
    STOP_ASKED = auto()


S, I = ChoiceState, ChoiceInput  # noqa: E741  (a table is read by its columns)
TRANSITIONS: dict[tuple[ChoiceState, ChoiceInput], ChoiceState] = {
    (S.RESTING, I.NETWORK_APPEARED): S.SEEKING,
    (S.RESTING, I.STOP_ASKED): S.STOPPED,
    (S.SEEKING, I.NETWORKS_GONE): S.RESTING,
    (S.SEEKING, I.GRANTED): S.SETTLED,
    (S.SEEKING, I.STOP_ASKED): S.STOPPED,
    (S.SETTLED, I.CUT_OFF): S.DOUBTING,
    (S.SETTLED, I.LOST): S.SEEKING,
    (S.SETTLED, I.LOST_WITHOUT_NETWORK): S.RESTING,
    (S.SETTLED, I.STOP_ASKED): S.STOPPED,
    (S.DOUBTING, I.NETWORKS_GONE): S.SETTLED,
    (S.DOUBTING, I.RIVAL_GRANTED): S.WAVERING,
    (S.DOUBTING, I.LOST): S.SEEKING,
    (S.DOUBTING, I.RESTORED): S.SETTLED,
    (S.DOUBTING, I.STOP_ASKED): S.STOPPED,
    (S.WAVERING, I.NETWORKS_GONE): S.SETTLED,
    (S.WAVERING, I.RIVAL_LOST): S.DOUBTING,
    (S.WAVERING, I.LOST): S.SETTLED,
    (S.WAVERING, I.RESTORED): S.SETTLED,
    (S.WAVERING, I.GRACE_OVER): S.SETTLED,
    (S.WAVERING, I.STOP_ASKED): S.STOPPED,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """Try to associate with this anchor, by every network, until told otherwise."""

    anchor: int


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Ask the anchor in use for a sign of life, by every network."""

    anchor: int


@dataclass(frozen=True, slots=True)
class Use:
    """This anchor's association is the one from now on."""

    anchor: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Give this anchor up, and back what it may have leased."""

    anchor: int


ChoiceCommand = Ask | AskAgain | Use | Withdraw


class AnchorChoice:
    """The machine for `count` anchors, 0 the most preferred. All times in seconds."""

    def __init__(self, count: int) -> None:
        self.state = ChoiceState.RESTING
        self.used = 0
        """The one in use, or the one that was used last."""
        self.asked: set[int] = set()
        """Those that we want or have something of; the one in use is among them."""
        self._count = count
        self._reserved: frozenset[int] = frozenset()
        self._queue: list[int] = []
        """Those still to be asked in this round."""
        self._rival: int | None = None
        self._next_at: float | None = None
        """When the next one is asked, or the grace is over, by state."""
        self._cut_off_since: float | None = None
        self._no_doubt_until = 0.0
        self._hollow = 0
        """How often the one in use has answered since it was cut off."""

    # --- inputs ---

    def appear(self, now: float) -> list[ChoiceCommand]:
        """A network can be used."""
        return self._seek(now) if self._enter(ChoiceInput.NETWORK_APPEARED) else []

    def lose_networks(self) -> list[ChoiceCommand]:
        """No network can be used any more."""
        if not self._enter(ChoiceInput.NETWORKS_GONE):
            return []
        self._cut_off_since = None
        return self._rest() if self.state is ChoiceState.RESTING else self._keep(self.used)

    def grant(self, anchor: int, now: float) -> list[ChoiceCommand]:
        """An anchor has proven itself and given or confirmed an association."""
        if anchor == self.used and self.state in (ChoiceState.DOUBTING, ChoiceState.WAVERING):
            self._hollow += 1
            return [] if self._hollow > HOLLOW_ANSWERS else self._restore(now)
        if self._enter(ChoiceInput.GRANTED):
            return self._settle_on(anchor)
        if anchor != self.used and self._enter(ChoiceInput.RIVAL_GRANTED):
            self._rival, self._next_at = anchor, now + GRACE
            return [AskAgain(self.used)]
        return []

    def fail(
        self, anchor: int, now: float, *, sends_us_on: bool, has_networks: bool = True
    ) -> list[ChoiceCommand]:
        """An anchor has refused, or ended the association: it is asked again by itself, the others now or soon."""
        if anchor == self._rival:
            self._enter(ChoiceInput.RIVAL_LOST)
            self._rival = None
            return self._ask_next(now)
        if anchor == self.used and self._rival is not None:
            rival = self._rival
            self._enter(ChoiceInput.LOST)
            return self._settle_on(rival)
        if anchor == self.used and not has_networks and self._enter(ChoiceInput.LOST_WITHOUT_NETWORK):
            return self._rest()
        if anchor == self.used and self._enter(ChoiceInput.LOST):
            self._cut_off_since = None
            self.asked.add(anchor)
            self._queue = [other for other in range(self._count) if other not in self.asked]
            self._next_at = now + PATIENCE if self._queue else None
        if sends_us_on and self.state in (ChoiceState.SEEKING, ChoiceState.DOUBTING):
            return self._ask_next(now)
        return []

    def pass_over(self, now: float) -> list[ChoiceCommand]:
        """Something at an anchor's address is not that anchor: nobody waits for it, though it may answer yet."""
        if self._rival is None and self.state in (ChoiceState.SEEKING, ChoiceState.DOUBTING):
            return self._ask_next(now)
        return []

    def reserve(self, anchors: frozenset[int], now: float) -> list[ChoiceCommand]:
        """Others have associations with these: from now on we have none with them, unless one is in use already."""
        self._reserved = anchors - {self.used}
        commands: list[ChoiceCommand] = [Withdraw(other) for other in sorted(self.asked & self._reserved)]
        self.asked -= self._reserved
        if self._rival in self._reserved:
            self._enter(ChoiceInput.RIVAL_LOST)
            self._rival = None
            commands += self._ask_next(now)
        return commands

    def watch(self, is_cut_off: bool, now: float, *, is_proven: bool = False) -> list[ChoiceCommand]:
        """Whether networks are there and none of them has a tunnel; `is_proven`: each was found dead, not just new."""
        if not is_cut_off:
            self._cut_off_since, self._hollow = None, 0
            return self._restore(now) if self.state in (ChoiceState.DOUBTING, ChoiceState.WAVERING) else []
        if self._cut_off_since is None:
            self._cut_off_since = now
        if is_proven:
            self._cut_off_since = min(self._cut_off_since, now - SETUP_PATIENCE)
        doubt_at = self._doubt_at()
        if doubt_at is None or now < doubt_at or not self._enter(ChoiceInput.CUT_OFF):
            return []
        self._queue = [other for other in range(self._count) if other != self.used]
        self._next_at = now + PATIENCE
        return [AskAgain(self.used)]

    def stop(self) -> list[ChoiceCommand]:
        """The host leaves: give everything up but the one in use, whose goodbye is the owner's."""
        return self._keep(self.used) if self._enter(ChoiceInput.STOP_ASKED) else []

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `handle_timeout` or `watch` has something to do."""
        return self._doubt_at() if self.state is ChoiceState.SETTLED else self._next_at

    def handle_timeout(self, now: float) -> list[ChoiceCommand]:
        """Ask the next one, or end the grace, as is due."""
        if self._next_at is None or now < self._next_at:
            return []
        if self._rival is not None and self._enter(ChoiceInput.GRACE_OVER):
            return self._settle_on(self._rival)
        return self._ask_next(now)

    # --- inside ---

    def _enter(self, input: ChoiceInput) -> bool:
        target = TRANSITIONS.get((self.state, input))
        if target is None:
            return False
        self.state = target
        return True

    def _seek(self, now: float) -> list[ChoiceCommand]:
        """The one used last comes first: flows survive only there."""
        self._queue = [self.used, *(other for other in range(self._count) if other != self.used)]
        return self._ask_next(now)

    def _ask_next(self, now: float) -> list[ChoiceCommand]:
        commands: list[ChoiceCommand] = []
        while self._queue and not commands:
            anchor = self._queue.pop(0)
            if anchor not in self.asked | self._reserved:
                commands.append(Ask(anchor))
                self.asked.add(anchor)
        self._next_at = now + PATIENCE if self._queue else None
        return commands

    def _settle_on(self, anchor: int) -> list[ChoiceCommand]:
        self.used = anchor
        self._cut_off_since, self._no_doubt_until, self._hollow = None, 0.0, 0
        return [Use(anchor), *self._keep(anchor)]

    def _restore(self, now: float) -> list[ChoiceCommand]:
        self._enter(ChoiceInput.RESTORED)
        self._no_doubt_until = now + DOUBT_INTERVAL
        return self._keep(self.used)

    def _rest(self) -> list[ChoiceCommand]:
        commands = self._keep(self.used)
        self.asked.clear()
        return commands

    def _keep(self, anchor: int) -> list[ChoiceCommand]:
        """Nothing more is wanted of the others."""
        others = sorted(self.asked - {anchor})
        self.asked = {anchor}
        self._queue, self._next_at, self._rival = [], None, None
        return [Withdraw(other) for other in others]

    def _doubt_at(self) -> float | None:
        if self._count - len(self._reserved) == 1 or self._cut_off_since is None:
            return None
        return max(self._cut_off_since + SETUP_PATIENCE, self._no_doubt_until)
