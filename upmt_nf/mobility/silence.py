"""A tunnel that carries something and goes quiet: when to ask the other end at once, and when to give it up.

A path that applications use must speak within Q: with their packets, which cost nothing, or else with answers to
questions (STAMP probes). T is how long an answer may take, from the measured round trip and its variation.

    last packet    question 1      2   3          dead
    |------ Q ------|------- T ----|T/4|---- T -----|      two-way at 1,000 packets/s, 1 ms: 20 + 45 ms
                                   |-> other networks are asked, too

Nothing is given up unless another network has answered meanwhile: a busy machine or a busy anchor is no dead path,
and with nowhere to go haste helps nobody. A silence that turns out to be a stall is remembered for a while: the next
verdict takes twice as long as that (`PATIENCE`), so a path is given up wrongly only a few times in a row. Knows neither
packets nor sequence numbers; whoever looks late (a busy machine) says so, and nobody is blamed for that.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

SHORTEST, LONGEST = 0.02, 0.12
"""Q, seconds: eight of the usual pauses between two packets, within these bounds."""
PAUSES = 8
AT_RISK = 0.25
"""Seconds after the last packet of an application during which a path is watched."""
LEAST_TIMEOUT = 0.02
"""T, seconds: at least."""
HELD = 0.6
"""Seconds of silence after which a path is given up whose applications lose nothing by waiting: longer than a
round trip jumps where nobody is cut off."""
LONGEST_STALL = 2.0
"""A path that is back after a longer silence was away, and is not said to have stalled."""
PATIENCE = 2.0
"""How many times the longest known stall a silence must last."""
MEMORY = 600.0
"""Seconds after which a stall counts for half."""


class Quiet(Enum):
    """What to do about a tunnel."""

    NOTHING = auto()
    ASK = auto()
    """Send it a question."""
    ASK_ALL = auto()
    """Send it another one, and one to every other tunnel."""
    HOLD = auto()
    """It is as good as given up, and so treated, but may come back."""
    GIVE_UP = auto()


class SilenceWatch:
    """One tunnel's. Times in seconds. `look` as often as `next_look` says, or at least every AT_RISK while idle."""

    __slots__ = (
        "_asked_at",
        "_heard_at",
        "_heard_before",
        "_is_held",
        "_pause",
        "_questions",
        "_stall",
        "_stall_at",
        "_used_at",
    )

    def __init__(self) -> None:
        self._pause = LONGEST / PAUSES
        """Usual, between two packets that arrive; EWMA."""
        self._heard_before = 0
        self._heard_at = self._used_at = self._asked_at = 0.0
        self._questions = 0
        """Asked in this silence."""
        self._is_held = False
        self._stall, self._stall_at = 0.0, 0.0

    def patience(self, now: float) -> float:
        """The silence that the path may keep before it is given up, however many questions it leaves open."""
        return PATIENCE * self._stall * 0.5 ** ((now - self._stall_at) / MEMORY) if self._stall else 0.0

    @property
    def limit(self) -> float:
        """Q: the silence after which it is asked."""
        return min(max(PAUSES * self._pause, SHORTEST), LONGEST)

    @property
    def is_held(self) -> bool:
        """Whether it is silent, and would have been given up if anybody lost by waiting."""
        return self._is_held

    @property
    def asked_at(self) -> float | None:
        """When the first question of this silence was asked; None: none was."""
        return self._asked_at if self._questions else None

    @property
    def silent_since(self) -> float:
        """When the last packet came."""
        return self._heard_at

    def next_look(self, timeout: float, now: float) -> float | None:
        """When `look` has something to do unless packets come; None: not before the path carries something."""
        if self._questions:
            step = self._next_step(timeout, now)
            return max(step, self._heard_at + HELD) if self._is_held else step
        if now - self._used_at >= AT_RISK:
            return None
        return max(self._heard_at + self.limit, self._asked_at + LONGEST)

    def look(
        self,
        heard: int,
        heard_at: float,
        used_at: float,
        timeout: float,
        now: float,
        *,
        is_witnessed: bool = False,
        can_wait: Callable[[], bool] = lambda: False,
    ) -> Quiet:
        """What to do now.

        `heard` counts packets that came out of the tunnel, the last at `heard_at`; `used_at` is when it last carried
        something of an application, either way. `is_witnessed`: another tunnel answered since `asked_at`. `can_wait` is
        asked when it would be given up: whether nobody loses anything by waiting until `HELD`.
        """
        if used_at - self._used_at >= AT_RISK and not self._questions:
            # After a pause a path has as long to speak as one that has just spoken.
            self._heard_at = max(self._heard_at, now)
        self._used_at = max(used_at, self._used_at)
        if heard != self._heard_before:
            self._hear(heard - self._heard_before, max(heard_at, self._heard_at), is_witnessed)
            self._heard_before = heard
        due = self.next_look(timeout, now)
        if due is None or now < due:
            return Quiet.NOTHING
        if self._questions >= 3:
            if not is_witnessed or now < self._next_step(timeout, now):
                return Quiet.NOTHING
            if not self._is_held and now < self._heard_at + HELD and can_wait():
                self._is_held = True
                return Quiet.HOLD
            return Quiet.GIVE_UP
        if not self._questions:
            self._asked_at = now
        self._questions += 1
        return Quiet.ASK_ALL if self._questions > 1 else Quiet.ASK

    def forgive(self, lag: float) -> None:
        """We looked late by so much: what came meanwhile may lie unread."""
        self._heard_at += lag
        if self._questions:
            self._asked_at += lag

    def note_stall(self, now: float) -> bool:
        """It was given up, and is back: whether it had only stalled, or was away."""
        has_stalled = now - self._heard_at <= LONGEST_STALL
        if has_stalled:
            self._remember(now - self._heard_at, now)
        return has_stalled

    def start_over(self, heard: int, now: float) -> None:
        """The tunnel is (again) as if new. What is known of its stalls stays."""
        self._questions, self._asked_at, self._is_held = 0, 0.0, False
        self._heard_before, self._heard_at = heard, now

    def _next_step(self, timeout: float, now: float) -> float:
        match self._questions:
            case 1:
                return self._asked_at + timeout
            case 2:
                return self._asked_at + 1.25 * timeout
            case _:
                return max(self._asked_at + 2.25 * timeout, self._heard_at + self.patience(now))

    def _hear(self, packets: int, at: float, is_witnessed: bool) -> None:
        if self._questions > 1 and is_witnessed:
            self._remember(at - self._heard_at, at)
        elif not self._questions and packets > 0 and at > self._heard_at:
            pause = min((at - self._heard_at) / packets, LONGEST)
            self._pause += 0.25 * (pause - self._pause)
        self._questions, self._is_held = 0, False
        self._heard_at = at

    def _remember(self, stall: float, now: float) -> None:
        self._stall, self._stall_at = max(self.patience(now) / PATIENCE, min(stall, LONGEST_STALL)), now
