"""What each network carried and cost, by day: for people to see. Budgets go by the ledger, which is careful."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.budget import GIGABYTE
from upmt_nf.policy.civil_time import CivilTime

KEPT_DAYS = 400
"""A year and the month before it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on the wire in each direction, and what they cost in the administrator's unit."""

    up: int = 0
    down: int = 0
    cost: float = 0.0

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(self.up + other.up, self.down + other.down, self.cost + other.cost)


@dataclass(frozen=True, slots=True)
class UsedDay:
    """One network's use on one day; `day` and `month` as `CivilTime` counts them."""

    network: NetworkName
    day: int
    usage: Usage

    @property
    def month(self) -> int:
        """Months since the year 0."""
        return CivilTime(self.day, 0.0).month


class UsageBook:
    """All networks, all days that are kept. `take_changed` gives what is to be saved."""

    def __init__(self, saved: Iterable[UsedDay] = ()) -> None:
        self._days = {(each.network, each.day): each for each in saved}
        self._changed: set[tuple[NetworkName, int]] = set()

    def add(self, network: NetworkName, up: int, down: int, cost: float, time: CivilTime) -> None:
        """Count bytes; `cost` is that of a gigabyte now."""
        if not up and not down:
            return
        key = network, time.day
        known = self._days.get(key)
        if known is None:
            self._forget(time.day)
            known = UsedDay(network, time.day, Usage())
        more = Usage(up, down, (up + down) * cost / GIGABYTE)
        self._days[key] = replace(known, usage=known.usage.plus(more))
        self._changed.add(key)

    def days(self, network: NetworkName) -> list[UsedDay]:
        """Those on which it carried something, oldest first."""
        found = [each for each in self._days.values() if each.network == network]
        return sorted(found, key=lambda each: each.day)

    def months(self, network: NetworkName) -> dict[int, Usage]:
        """The same by month."""
        found: dict[int, Usage] = {}
        for each in self.days(network):
            found[each.month] = found.get(each.month, Usage()).plus(each.usage)
        return found

    def of_day(self, network: NetworkName, time: CivilTime) -> Usage:
        """Today's."""
        known = self._days.get((network, time.day))
        return known.usage if known is not None else Usage()

    def of_month(self, network: NetworkName, time: CivilTime) -> Usage:
        """This month's."""
        return self.months(network).get(time.month, Usage())

    def take_changed(self) -> list[UsedDay]:
        """The days that are others than at the last call."""
        changed, self._changed = self._changed, set()
        return [self._days[key] for key in sorted(changed) if key in self._days]

    def _forget(self, today: int) -> None:
        old = [key for key in self._days if key[1] <= today - KEPT_DAYS]
        for key in old:
            del self._days[key]
