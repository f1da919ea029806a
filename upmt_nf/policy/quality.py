"""What is measured of a network's path, limits on it, and scores made of it.

Delay is one way, half the round trip: clocks need not agree. Of jitter and loss it is the worse direction. What is
not known (None) is held against nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from math import log
from operator import attrgetter


@dataclass(frozen=True, slots=True)
class Quality:
    """`delay`, `jitter` in seconds, `loss` from 0 to 1, `throughput` offered in bit/s.

    `limit` is what the network was seen to carry at most when it was full, bit/s: thresholds go by it where it is
    known, scores do not, as it is never known of a network that carries little.
    """

    delay: float | None = None
    jitter: float | None = None
    loss: float | None = None
    throughput: float | None = None
    limit: float | None = None

    @property
    def least_throughput(self) -> float | None:
        """What is known of it at the worst."""
        return self.throughput if self.limit is None else self.limit


UNMEASURED = Quality()


class Criterion(Enum):
    """What a threshold can be set on; the values are the keys of the configuration."""

    DELAY = "delay"
    JITTER = "jitter"
    LOSS = "loss"
    THROUGHPUT = "throughput"
    VOICE_SCORE = "voice_score"


MORE_IS_BETTER = frozenset((Criterion.THROUGHPUT, Criterion.VOICE_SCORE))

BEST_VOICE_SCORE = 4.42
"""What no delay and no loss give."""


@dataclass(frozen=True, slots=True)
class Violation:
    """`value` is beyond `limit`."""

    criterion: Criterion
    value: float
    limit: float

    def __str__(self) -> str:
        way = "below" if self.criterion in MORE_IS_BETTER else "above"
        shown, limit = shown_value(self.criterion, self.value), shown_value(self.criterion, self.limit)
        return f"{self.criterion.value} {shown} is {way} {limit}"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits in the units of `Quality`; `voice_score` from 1 to 4.42; None is no limit."""

    delay: float | None = None
    jitter: float | None = None
    loss: float | None = None
    throughput: float | None = None
    voice_score: float | None = None

    def violated_by(self, quality: Quality) -> Violation | None:
        """The first limit that the quality is beyond; None when it keeps all of them."""
        for criterion, limit_of, value_of, is_more_better in _TRIALS:
            limit = limit_of(self)
            if limit is None:
                continue
            value = value_of(quality)
            if value is None:
                continue
            if value < limit if is_more_better else value > limit:
                return Violation(criterion, value, limit)
        return None

    def given(self) -> dict[Criterion, float]:
        """The limits that are set."""
        values = {Criterion(field.name): getattr(self, field.name) for field in fields(self)}
        return {criterion: limit for criterion, limit in values.items() if limit is not None}

    def over(self, other: Thresholds) -> Thresholds:
        """These limits, and those of `other` where these say nothing."""
        given = {criterion.value: limit for criterion, limit in (other.given() | self.given()).items()}
        return Thresholds(**given)


NO_LIMITS = Thresholds()


def voice_score(quality: Quality) -> float | None:
    """How a call sounds, from 1 to 4.42 (MOS): ITU-T G.107 for G.711 in the simple form of Cole and Rosenbluth (2001).

    A jitter buffer of twice the jitter counts as delay. None without a delay.
    """
    if quality.delay is None:
        return None
    milliseconds = 1000 * (quality.delay + 2 * (quality.jitter or 0.0))
    rating = 94.2 - 0.024 * milliseconds - 30 * log(1 + 15 * (quality.loss or 0.0))
    if milliseconds > 177.3:
        rating -= 0.11 * (milliseconds - 177.3)
    if rating <= 0:
        return 1.0
    return 1 + 0.035 * rating + 7e-6 * rating * (rating - 60) * (100 - rating)


_VALUES: dict[Criterion, Callable[[Quality], float | None]] = {
    Criterion.VOICE_SCORE: voice_score,
    Criterion.THROUGHPUT: attrgetter("least_throughput"),
}
_TRIALS: tuple[
    tuple[Criterion, Callable[[Thresholds], float | None], Callable[[Quality], float | None], bool], ...
] = tuple(
    (
        criterion,
        attrgetter(criterion.value),
        _VALUES.get(criterion) or attrgetter(criterion.value),
        criterion in MORE_IS_BETTER,
    )
    for criterion in Criterion
)
"""Each criterion in turn: its limit, its value, whether more is better. Asked for with each change of each path."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each criterion of the paper counts in the score of `BestPerformance`; 0 is not at all."""

    cost: float = 0.0
    throughput: float = 0.0
    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    security: float = 0.0

    @property
    def total(self) -> float:
        """Of all; the score is divided by it."""
        return self.cost + self.throughput + self.loss + self.delay + self.jitter + self.security


BALANCED = Weights(throughput=1, loss=1, delay=1, jitter=1)

HALF_DELAY, HALF_JITTER, HALF_LOSS, HALF_THROUGHPUT, HALF_COST = 0.1, 0.03, 0.01, 10e6, 1.0
"""Where a criterion is worth one half: 100 ms, 30 ms, 1 %, 10 Mbit/s, a cost of 1 for a gigabyte."""


def weighted_score(weights: Weights, quality: Quality, cost: float, security: float) -> float:
    """From 0 to 1, more is better: the weighted mean of half / (half + value), of throughput value / (half + value).

    `security` is 0 for none, 0.5 against forgers, 1 for encrypted. An unknown criterion counts one half.
    """
    total = weights.cost * HALF_COST / (HALF_COST + cost) + weights.security * security
    total += weights.delay * _falling(quality.delay, HALF_DELAY)
    total += weights.jitter * _falling(quality.jitter, HALF_JITTER)
    total += weights.loss * _falling(quality.loss, HALF_LOSS)
    total += weights.throughput * (1 - _falling(quality.throughput, HALF_THROUGHPUT))
    return total / weights.total


def _falling(value: float | None, half: float) -> float:
    return 0.5 if value is None else half / (half + value)


def shown_value(criterion: Criterion, value: float) -> str:
    """As people read it: 250 ms, 3 %, 1.5 Mbit/s, 3.6."""
    match criterion:
        case Criterion.DELAY | Criterion.JITTER:
            return f"{1000 * value:.4g} ms"
        case Criterion.LOSS:
            return f"{100 * value:.3g} %"
        case Criterion.THROUGHPUT:
            return f"{value / 1e6:.4g} Mbit/s"
        case Criterion.VOICE_SCORE:
            return f"{value:.2f}"


def rate_said(bits: float) -> str:
    """Bit/s with a unit and three digits: 2500000 is `2.5 Mbit/s`."""
    for unit, factor in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= factor:
            return f"{bits / factor:.3g} {unit}"
    return f"{bits:.0f} bit/s"
