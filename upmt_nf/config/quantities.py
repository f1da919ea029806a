"""Numbers with units as people write them: 150 ms, 2 %, 64 kbit/s, 200 MB/day on lte, mon-fri 22:00-06:00.

A number without its unit is refused: nobody can tell 150 ms from 150 s by looking at 150.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import PlainValidator

from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.budget import Budget, Period
from upmt_nf.policy.civil_time import WEEKDAYS, Hours

_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_RATES = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}
_SIZES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_COST = "cost"
_NUMBER = r"(\d{1,12}(?:\.\d{1,9})?)"


def read_time(value: Any) -> float:
    """Seconds of `150 ms`, `10 s`, `5 min`. Raises ValueError."""
    return _measured(value, _TIMES, "a time", "150 ms or 10 s")


def read_rate(value: Any) -> float:
    """Bit/s of `64 kbit/s`. Raises ValueError."""
    return _measured(value, _RATES, "a throughput", "64 kbit/s or 20 Mbit/s")


def read_share(value: Any) -> float:
    """From 0 to 1, of `2 %`. Raises ValueError."""
    share = _measured(value, {"%": 0.01}, "a loss", "2 %")
    if share > 1:
        raise ValueError(f"{value!r}: no more than 100 % can be lost")
    return share


def _measured(value: Any, units: dict[str, float], what: str, example: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"{what} needs a unit: {value} is not such as {example!r}")
    if not isinstance(value, str):
        raise ValueError(f"{what} is written such as {example!r}")
    matched = re.fullmatch(_NUMBER + r"\s*([A-Za-z/%]*)", value.strip())
    if matched is None:
        raise ValueError(f"{value!r} is not {what}, such as {example!r}")
    if not matched[2]:
        raise ValueError(f"{what} needs a unit: {value!r} is not such as {example!r}")
    if matched[2] not in units:
        raise ValueError(f"{matched[2]!r} is no unit of {what}: {', '.join(units)}")
    return float(matched[1]) * units[matched[2]]


_BUDGET = re.compile(_NUMBER + r"\s*([A-Za-z]*)\s*/\s*([A-Za-z]+)(?:\s+on\s+(\S+))?")


def read_budget(value: Any) -> Budget:
    """`200 MB/day on lte`, `2 GB/month`, `5 cost/month`. Raises ValueError."""
    if isinstance(value, Budget):
        return value
    matched = _BUDGET.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None:
        raise ValueError(
            f"{value!r} is not a budget such as '200 MB/day on lte', '2 GB/month' or '5 cost/month'"
        )
    number, unit, period, network = matched.groups()
    if not unit:
        raise ValueError(f"{value!r}: a budget needs a unit: {', '.join(_SIZES)} or {_COST}")
    if unit != _COST and unit not in _SIZES:
        raise ValueError(f"{unit!r} is no unit of a budget: {', '.join(_SIZES)} or {_COST}")
    if period not in {known.value for known in Period}:
        raise ValueError(f"{period!r} is no period of a budget: day or month")
    limit = float(number) * _SIZES.get(unit, 1.0)
    if not limit:
        raise ValueError(f"{value!r}: a budget of nothing; leave the network out of the policy's networks")
    return Budget(limit, Period(period), NetworkName(network) if network else None, unit == _COST)


_HOURS = re.compile(r"(?:([a-z\-,]+)\s+)?(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")


def read_hours(value: Any) -> Hours:
    """`22:00-06:00`, `mon-fri 09:00-17:00`, `sat,sun 00:00-24:00`. Raises ValueError."""
    if isinstance(value, Hours):
        return value
    matched = _HOURS.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if matched is None:
        raise ValueError(f"{value!r} is not hours such as '22:00-06:00' or 'mon-fri 09:00-17:00'")
    start = _second_of(matched[2], matched[3], value)
    end = _second_of(matched[4], matched[5], value)
    if start == end:
        raise ValueError(f"{value!r} is no time at all; the whole day is 00:00-24:00")
    if start == 86400:
        raise ValueError(f"{value!r} begins when the day is over")
    return Hours(start, end, _days(matched[1], value) if matched[1] else frozenset(range(7)))


def _second_of(hour: str, minute: str, value: str) -> int:
    second = 3600 * int(hour) + 60 * int(minute)
    if int(minute) > 59 or second > 86400:
        raise ValueError(f"{value!r}: there is no {hour}:{minute}; hours are 00:00 to 24:00")
    return second


def _days(text: str, value: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        for day in (first, last or first):
            if day not in WEEKDAYS:
                raise ValueError(f"{value!r}: {day!r} is no day; days are {', '.join(WEEKDAYS)}")
        begin, end = WEEKDAYS.index(first), WEEKDAYS.index(last or first)
        found |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return frozenset(found)


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than nothing")
    return value


Time = Annotated[float, PlainValidator(read_time)]
SomeTime = Annotated[float, PlainValidator(lambda value: _positive(read_time(value)))]
Rate = Annotated[float, PlainValidator(lambda value: _positive(read_rate(value)))]
Share = Annotated[float, PlainValidator(read_share)]
WrittenBudget = Annotated[Budget, PlainValidator(read_budget)]
WrittenHours = Annotated[Hours, PlainValidator(read_hours)]
