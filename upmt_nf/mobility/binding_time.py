"""The search for a NAT's binding time: which silence to try next, and what the outcomes mean for keepalives.

Longer and longer until one silence was too long, then in between, until both bounds are within a fifth. Knows
neither packets nor time: `binding_trial` makes the trials, on mappings that nothing else uses.

A silence that a mapping survived is believed at once; one that it did not survive, the second time: what is lost on
the way looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

SAFE = 0.8
"""Part of the longest survived silence that is used as keepalive interval."""
GROWTH = 1.6
PRECISION = 1.2
"""The search ends when the shortest fatal silence is at most so many times the longest survived one."""
LEAST_SILENCE = 1.0
"""Seconds; a NAT that forgets sooner is not searched further."""


@dataclass(frozen=True, slots=True)
class BindingTime:
    """What is known of a NAT, in seconds: it keeps a mapping for `survived` at least, and not for `died`."""

    survived: float | None = None
    died: float | None = None


class BindingSearch:
    """One network's. `first` silence to try, `longest` that is of use; `known` from an earlier time, to be checked."""

    def __init__(self, first: float, longest: float, known: BindingTime | None = None) -> None:
        self.known = known or BindingTime()
        self._first = min(first, longest)
        self._longest = longest
        self._doubted: float | None = None
        self._to_check = self.known.survived
        self._is_trusted = False

    def next_silence(self) -> float | None:
        """The silence to try next, seconds; None: it is found."""
        if self._doubted is not None:
            return self._doubted
        if self._to_check is not None:
            return min(self._to_check, self._longest)
        survived, died = self.known.survived, self.known.died
        if survived is None:
            wanted = self._first if died is None else died / 2
            return wanted if wanted >= LEAST_SILENCE else None
        if survived >= self._longest:
            return None
        if died is None:
            return min(survived * GROWTH, self._longest)
        return sqrt(survived * died) if died > survived * PRECISION else None

    def survive(self, silence: float) -> None:
        """A mapping was still there after this silence."""
        self._doubted = self._to_check = None
        self._is_trusted = True
        survived, died = self.known.survived or 0.0, self.known.died
        self.known = BindingTime(max(survived, silence), None if died is None or silence >= died else died)

    def die(self, silence: float) -> bool:
        """A mapping was gone after this silence; True when that is believed now."""
        if self._doubted is None:
            self._doubted = silence
            return False
        self._doubted = self._to_check = None
        survived, died = self.known.survived, self.known.died
        self.known = BindingTime(
            survived if survived is not None and survived < silence else None,
            silence if died is None else min(died, silence),
        )
        return True

    def check_again(self) -> None:
        """NATs are exchanged and configured: try the longest survived silence once more."""
        self._to_check = self.known.survived
        if self._to_check is None:
            self.known = BindingTime()

    def keepalive(self, cautious: float, longest: float) -> float:
        """The interval between two keepalives of an idle tunnel, seconds.

        `cautious` is that of a network of which nothing is known; what is only remembered makes it shorter at most.
        """
        survived, died = self.known.survived, self.known.died
        if survived is not None and self._is_trusted:
            return min(SAFE * survived, longest)
        found = min(cautious, longest)
        if survived is not None:
            found = min(found, SAFE * survived)
        return found if died is None else min(found, died / 2)
