"""Budgets ("200 MB/day on lte") and the ledger of what was spent.

A budget is kept, not regretted: what may still pass until the next count is set aside (`guard`), and a network is
barred as soon as the rest is smaller. A ledger that was saved before a crash counts the guard as spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.civil_time import CivilTime

GIGABYTE = 1e9


class Period(Enum):
    """The values are as in the configuration."""

    DAY = "day"
    MONTH = "month"

    def key(self, time: CivilTime) -> int:
        """A number that changes when a new one begins."""
        return time.day if self is Period.DAY else time.month


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `limit` a period: bytes, or cost with `is_cost`. On one network, or on all together (None)."""

    limit: float
    period: Period
    network: NetworkName | None = None
    is_cost: bool = False

    def __str__(self) -> str:
        amount = f"{self.limit:g} cost" if self.is_cost else _size(self.limit)
        return f"{amount}/{self.period.value}" + (f" on {self.network}" if self.network else "")


def _size(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:g} {unit}"
    return f"{count:g} B"


Key = tuple[ApplicationName, NetworkName]


@dataclass(slots=True)
class Tally:
    """What one application sent and received by one network, bytes, in the running periods."""

    day: int
    month: int
    of_day: float = 0.0
    of_month: float = 0.0

    def add(self, count: float, time: CivilTime) -> None:
        """Count bytes."""
        self.turn(time)
        self.of_day += count
        self.of_month += count

    def turn(self, time: CivilTime) -> None:
        """Begin new periods when it is time. A clock that was set back does not bring a budget back."""
        if time.day > self.day:
            self.day, self.of_day = time.day, 0.0
            if time.month > self.month:
                self.month, self.of_month = time.month, 0.0

    def of(self, period: Period) -> float:
        """Bytes of the running period, as of the last `turn`."""
        return self.of_day if period is Period.DAY else self.of_month


class Ledger:
    """All tallies. `saved` and `recovered` carry it over restarts."""

    def __init__(self) -> None:
        self._tallies: dict[Key, Tally] = {}

    def add(self, application: ApplicationName, network: NetworkName, count: float, time: CivilTime) -> None:
        """Count bytes of both directions."""
        key = (application, network)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally(time.day, time.month)
        tally.add(count, time)

    def spent(
        self,
        budget: Budget,
        application: ApplicationName | None,
        time: CivilTime,
        costs: Mapping[NetworkName, float],
    ) -> float:
        """What counts against a budget, of one application or of all (None), in the budget's unit."""
        total = 0.0
        for (owner, network), tally in self._tallies.items():
            if application is not None and owner != application:
                continue
            if budget.network is not None and network != budget.network:
                continue
            tally.turn(time)
            count = tally.of(budget.period)
            total += count * costs.get(network, 0.0) / GIGABYTE if budget.is_cost else count
        return total

    def saved(self) -> list[list[str | int | float]]:
        """As values that JSON takes: application, network, day, month, bytes of the day, bytes of the month."""
        return [
            [application, network, tally.day, tally.month, tally.of_day, tally.of_month]
            for (application, network), tally in self._tallies.items()
        ]

    @staticmethod
    def recovered(
        rows: Iterable[Iterable[object]],
        applications: Iterable[ApplicationName] = (),
        guards: Mapping[NetworkName, float] | None = None,
        time: CivilTime | None = None,
    ) -> Ledger:
        """A saved ledger. After a crash `guards` (bytes) is what may have passed uncounted. Raises ValueError."""
        ledger = Ledger()
        for row in rows:
            application, network, day, month, of_day, of_month = row
            if not isinstance(application, str) or not isinstance(network, str):
                raise ValueError("a ledger's row begins with an application and a network")
            if not isinstance(day, int) or not isinstance(month, int):
                raise ValueError("a ledger's day and month are whole numbers")
            if not isinstance(of_day, (int, float)) or not isinstance(of_month, (int, float)):
                raise ValueError("a ledger's bytes are numbers")
            key = (ApplicationName(application), NetworkName(network))
            ledger._tallies[key] = Tally(day, month, float(of_day), float(of_month))
        if guards and time is not None:
            for name in applications:
                for place, guard in guards.items():
                    ledger.add(name, place, guard, time)
        return ledger
