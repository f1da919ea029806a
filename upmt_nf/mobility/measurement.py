"""What a tunnel's probes tell of its path: delay variation and loss of each direction, from both ends' timestamps.

The clocks need not agree: only differences of delays count. A direction's variation is the mean of |D|, where D is
how much later than its predecessor a packet came than it was sent (RFC 3393; the steady estimator of RFC 3550
section 6.4.1). Loss is told apart by two counters, the sender's and the reflector's (RFC 8762 section 4.3):

    host     1    2    3    4    5    6         6 - 1 = 5 sent
                       x up      |    |
    anchor   1    2         3    4    5         5 - 1 = 4 reflected: one of 5 was lost on the way up
             |    |         x down
    host     1    2              4    5         4 - 1 = 3 heard: one of 4 was lost on the way down

What drifts is seen as variation: clocks that part by 20 ppm add 0.1 ms to each D at one probe in 5 s.
"""

from __future__ import annotations

from collections import OrderedDict

from upmt_nf.signaling.stamp import ReflectorPacket

LOSS_WINDOW = 64
"""Probes, the newest, from which loss is told."""
GAIN = 1 / 16
"""Of the newest |D|, once there were 16 of them; until then all count alike."""
REORDERING = 16
"""A reflector whose counter falls by more than this has begun anew."""

_WRAP = 1 << 32


class DelayVariation:
    """One direction. `value` in seconds; None until two packets were seen."""

    __slots__ = ("_count", "_received_at", "_sent_at", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self._count = 0
        self._sent_at = self._received_at = 0.0

    def take(self, sent_at: float, received_at: float) -> None:
        """A packet, in the order of sending; each time in seconds of its own clock, modulo 2**32."""
        if self._count:
            late = _difference(received_at, self._received_at) - _difference(sent_at, self._sent_at)
            sample, old = abs(late), self.value or 0.0
            self.value = old + max(GAIN, 1 / self._count) * (sample - old)
        self._count += 1
        self._sent_at, self._received_at = sent_at, received_at


class LossWindow:
    """The last probes and the numbers that the reflector gave to its answers, per direction."""

    __slots__ = ("_answers", "_newest")

    def __init__(self) -> None:
        self._answers: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        """The sender's number -> the reflector's, more than one when the network made copies."""
        self._newest: int | None = None

    def send(self, sequence: int) -> None:
        """A probe leaves."""
        self._answers[sequence] = ()
        while len(self._answers) > LOSS_WINDOW:
            self._answers.popitem(last=False)

    def answer(self, sequence: int, number: int) -> bool:
        """An answer came, numbered by the reflector; False when it answers nothing of the window."""
        given = self._answers.get(sequence)
        if given is None or number in given:
            return False
        if self._newest is not None and _order(number, self._newest) < -REORDERING:
            self._start_over(sequence)
            given = ()
        elif self._newest is None or _order(number, self._newest) > 0:
            self._newest = number
        self._answers[sequence] = (*given, number)
        return True

    def losses(self) -> tuple[float | None, float | None]:
        """Lost on the way up and on the way down, from 0 to 1; None as long as nothing can be said."""
        places = [place for place, numbers in enumerate(self._answers.values()) if numbers]
        if len(places) < 2 or self._newest is None:
            return None, None
        numbers = [number for given in self._answers.values() for number in given]
        copies = len(numbers) - len(places)
        reflected = -min(_order(number, self._newest) for number in numbers)
        sent, reached, heard = places[-1] - places[0], reflected - copies, len(numbers) - 1
        return _part_lost(sent, reached), _part_lost(reflected, heard)

    def _start_over(self, sequence: int) -> None:
        """Another counter runs now: what was sent before this probe cannot be told by it."""
        while next(iter(self._answers)) != sequence:
            self._answers.popitem(last=False)
        self._newest = None


class PathMeasurement:
    """One tunnel as its host sees it. `up` is from the host to the anchor."""

    __slots__ = ("_last", "_loss", "down", "up")

    def __init__(self) -> None:
        self.up = DelayVariation()
        self.down = DelayVariation()
        self._loss = LossWindow()
        self._last: int | None = None

    @property
    def losses(self) -> tuple[float | None, float | None]:
        """Lost on the way up and on the way down, from 0 to 1; None as long as nothing can be said."""
        return self._loss.losses()

    def send(self, sequence: int) -> None:
        """A probe with this number leaves."""
        self._loss.send(sequence)

    def take(self, answer: ReflectorPacket, received_at: float) -> None:
        """An answer came at `received_at` (seconds). Overtaken ones count for loss only."""
        if not self._loss.answer(answer.sender_sequence, answer.sequence):
            return
        if self._last is not None and _order(answer.sender_sequence, self._last) <= 0:
            return
        self._last = answer.sender_sequence
        self.up.take(answer.sender_sent_at, answer.received_at)
        self.down.take(answer.sent_at, received_at)


def _part_lost(begun: int, arrived: int) -> float:
    return min(1.0, max(0.0, 1 - arrived / begun)) if begun > 0 else 0.0


def _difference(later: float, earlier: float) -> float:
    found = later - earlier
    return found if abs(found) < _WRAP / 2 else (found + _WRAP / 2) % _WRAP - _WRAP / 2


def _order(one: int, other: int) -> int:
    """Positive when `one` comes after `other` in a counter of 32 bits that wraps around."""
    return (one - other + _WRAP // 2) % _WRAP - _WRAP // 2
