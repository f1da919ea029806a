"""What networks carried and cost, by day and month."""

from __future__ import annotations

import pytest

from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.civil_time import CivilTime
from upmt_nf.policy.usage import KEPT_DAYS, Usage, UsageBook

LTE, WIFI = NetworkName("lte"), NetworkName("wifi")
DAY = CivilTime(20_000, 0.0)
"""2024-10-04."""


def test_days_add_up_to_months_and_networks_are_kept_apart() -> None:
    book = UsageBook()
    book.add(LTE, 1_000_000, 3_000_000, 4.0, DAY)
    book.add(LTE, 1_000_000, 0, 4.0, CivilTime(DAY.day + 1, 5.0))
    book.add(LTE, 7, 0, 4.0, CivilTime(DAY.day + 40, 5.0))
    book.add(WIFI, 5, 5, 0.0, DAY)
    day, month = book.of_day(LTE, DAY), book.of_month(LTE, DAY)
    assert (day.up, day.down) == (1_000_000, 3_000_000)
    assert day.cost == pytest.approx(0.016)
    assert (month.up, month.down) == (2_000_000, 3_000_000)
    assert month.cost == pytest.approx(0.02)
    assert list(book.months(LTE)) == [DAY.month, DAY.month + 1]
    assert book.of_month(WIFI, DAY) == Usage(5, 5, 0.0)


def test_a_price_that_changes_does_not_change_what_was_spent_before() -> None:
    book = UsageBook()
    book.add(LTE, 10**9, 0, 4.0, DAY)
    book.add(LTE, 10**9, 0, 0.0, DAY)
    assert book.of_day(LTE, DAY).cost == pytest.approx(4.0)


def test_what_is_saved_is_what_changed_and_comes_back() -> None:
    book = UsageBook()
    book.add(LTE, 1, 2, 0.0, DAY)
    saved = book.take_changed()
    assert book.take_changed() == []
    again = UsageBook(saved)
    again.add(LTE, 1, 2, 0.0, DAY)
    assert again.of_day(LTE, DAY) == Usage(2, 4, 0.0)
    assert [each.usage for each in again.take_changed()] == [Usage(2, 4, 0.0)]
    again.add(LTE, 0, 0, 0.0, DAY)
    assert again.take_changed() == [], "nothing passed"


def test_only_so_many_days_are_kept() -> None:
    book = UsageBook()
    for day in range(0, 3 * KEPT_DAYS, 2):
        book.add(LTE, 1, 0, 0.0, CivilTime(DAY.day + day, 0.0))
    days = book.days(LTE)
    assert len(days) <= KEPT_DAYS
    assert days[-1].day - days[0].day < KEPT_DAYS
