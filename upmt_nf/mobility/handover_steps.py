"""When each step of a handover came, for its receipt. Times in seconds of the host's clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum


class StepKind(Enum):
    """What came, by the word that receipts have for it."""

    HEARD = "old-heard"
    """The last packet out of the old tunnel, before it was decided."""
    DECIDED = "decided"
    ASKED = "asked"
    """The first request to the anchor left."""
    STEERED = "steered"
    """Our table was written: what we send goes by the new tunnel."""
    ANCHOR_STEERED = "anchor-steered"
    """The anchor's table was written: some time between request and answer."""
    ANSWERED = "answered"
    """The anchor's last answer."""
    FIRST_PACKET = "first-packet"
    """The first packet came by the new tunnel."""
    OLD_DRAINED = "old-drained"
    """The last packet came by the old tunnel."""
    COUNTED = "counted"
    """Both ends have compared what they sent and got."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step, at `at`, give or take `within`."""

    kind: StepKind
    at: float
    within: float = 0.0


def steps_of_signalling(
    heard: float | None, decided: float, asked: float | None, steered: float | None, answered: float
) -> tuple[Step, ...]:
    """Until both tables are written, in their order. What is None did not happen."""
    found = [Step(StepKind.DECIDED, decided)]
    if heard is not None and heard <= decided:
        found.insert(0, Step(StepKind.HEARD, heard))
    if asked is not None:
        found.append(Step(StepKind.ASKED, asked))
        if answered >= asked:
            within = (answered - asked) / 2
            found.append(Step(StepKind.ANCHOR_STEERED, asked + within, within))
            found.append(Step(StepKind.ANSWERED, answered))
    if steered is not None:
        found.append(Step(StepKind.STEERED, steered))
    return in_order(found)


def steps_of_packets(firsts: Sequence[float], lasts: Sequence[float], counted: float) -> tuple[Step, ...]:
    """What came down: the first packets of several flows by the new tunnel, their last ones by the old."""
    found = [Step(StepKind.COUNTED, counted)]
    if firsts:
        found.append(Step(StepKind.FIRST_PACKET, min(firsts)))
    if lasts:
        found.append(Step(StepKind.OLD_DRAINED, max(lasts)))
    return in_order(found)


def in_order(steps: Iterable[Step]) -> tuple[Step, ...]:
    """By time; those of one moment stay as they are."""
    return tuple(sorted(steps, key=lambda step: step.at))
