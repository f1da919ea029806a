"""The highest rate that something bears, found by trials. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

ALLOWED_LOSS = 0.001
FLAT_OUT = 0.0
"""The rate to ask for when the sender shall do what it can."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one trial did: packets/s offered and the share of them that was lost."""

    offered: float
    loss: float

    @property
    def is_borne(self) -> bool:
        """Whether no more was lost than is allowed."""
        return self.loss <= ALLOWED_LOSS

    @property
    def received(self) -> float:
        """Packets/s that came."""
        return self.offered * (1 - self.loss)


def highest_rate(attempt: Callable[[float], Trial], guess: float | None = None, trials: int = 6) -> float:
    """Packets/s that came in the best trial within the allowed loss; 0 when not one was.

    `attempt` takes the packets/s to send. The first trial is flat out, or at `guess` if an earlier search gave one;
    then between what was borne and what was not, from one known side outward by fifths. A sender that cannot reach
    what it is asked for ends the search: it is the limit then.
    """
    borne, unborne = 0.0, float("inf")
    asked = FLAT_OUT if guess is None else guess
    for _ in range(trials):
        trial = attempt(asked)
        if trial.is_borne:
            borne = max(borne, trial.received)
            if asked == FLAT_OUT or trial.offered < 0.97 * asked:
                break
        else:
            unborne = min(unborne, trial.offered)
        if unborne < 1.03 * borne:
            break
        if unborne == float("inf"):
            asked = 1.2 * borne
        elif borne:
            asked = (borne + unborne) / 2
        else:
            # What got through is a better start than half of what was asked, when much too much was.
            asked = min(0.8 * unborne, trial.received)
    return borne
