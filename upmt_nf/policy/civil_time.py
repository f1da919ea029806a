"""Days, months and hours of the clock on the wall, from the monotonic `now` of everything else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

DAY_SECONDS = 86400
_EPOCH = date(1970, 1, 1).toordinal()
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class CivilTime:
    """`day`: days since 1970-01-01; `second` of that day, local time."""

    day: int
    second: float

    @property
    def weekday(self) -> int:
        """0 is Monday."""
        return (self.day + 3) % 7

    @property
    def month(self) -> int:
        """Months since the year 0."""
        then = date.fromordinal(self.day + _EPOCH)
        return 12 * then.year + then.month - 1

    @property
    def iso_date(self) -> str:
        """Such as 2026-11-25."""
        return date.fromordinal(self.day + _EPOCH).isoformat()


@dataclass(frozen=True, slots=True)
class CivilClock:
    """`offset`: what to add to `now` to have seconds since 1970-01-01 00:00 local time."""

    offset: float = 0.0

    def at(self, now: float) -> CivilTime:
        """The time on the wall."""
        day, second = divmod(now + self.offset, DAY_SECONDS)
        return CivilTime(int(day), second)

    def next_day(self, now: float) -> float:
        """`now` of the next midnight."""
        return now + DAY_SECONDS - self.at(now).second


@dataclass(frozen=True, slots=True)
class Hours:
    """From `start` to `end`, seconds of the day, on `days` (0 is Monday); past midnight when the end comes first.

    What begins on one of the days and runs past midnight ends on the next, whatever day that is.
    """

    start: int
    end: int
    days: frozenset[int] = frozenset(range(7))

    def __str__(self) -> str:
        """As people write it: `mon-fri 22:00-06:00`."""
        times = "-".join(f"{edge // 3600:02}:{edge // 60 % 60:02}" for edge in (self.start, self.end))
        if len(self.days) == 7:
            return times
        runs: list[list[int]] = []
        for day in sorted(self.days):
            if runs and day == runs[-1][-1] + 1:
                runs[-1].append(day)
            else:
                runs.append([day])
        ends = (dict.fromkeys((WEEKDAYS[run[0]], WEEKDAYS[run[-1]])) for run in runs)
        return f"{','.join('-'.join(pair) for pair in ends)} {times}"

    def contain(self, time: CivilTime) -> bool:
        """Whether it is within."""
        today = time.weekday in self.days
        if self.start < self.end:
            return today and self.start <= time.second < self.end
        yesterday = (time.weekday - 1) % 7 in self.days
        return (today and time.second >= self.start) or (yesterday and time.second < self.end)

    def next_edge(self, time: CivilTime) -> float:
        """Seconds until it may begin or end, at most until the next midnight."""
        edges = (edge - time.second for edge in (self.start, self.end, DAY_SECONDS))
        return min(wait for wait in edges if wait > 0)
