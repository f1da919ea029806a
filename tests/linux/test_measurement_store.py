"""What was measured and carried is there after a restart, and never more than is kept."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from upmt_nf.linux.measurement_store import MeasurementStore
from upmt_nf.mobility.history import Measurements, Sample
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.usage import KEPT_DAYS, Usage, UsedDay

LTE = NetworkName("lte")
NOW = 1_800_000_000


def test_what_was_carried_is_there_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "records.sqlite"
    store = MeasurementStore(path)
    store.keep_used([UsedDay(LTE, 20_000, Usage(1, 2, 0.5))])
    store.keep_used([UsedDay(LTE, 20_000, Usage(10, 20, 0.5)), UsedDay(LTE, 20_001, Usage(1, 1, 0.0))])
    store.close()
    again = MeasurementStore(path)
    assert again.used() == [UsedDay(LTE, 20_000, Usage(10, 20, 0.5)), UsedDay(LTE, 20_001, Usage(1, 1, 0.0))]
    again.keep_used([UsedDay(LTE, 20_000 + KEPT_DAYS, Usage(1, 1, 0.0))])
    assert [each.day for each in again.used()] == [20_001, 20_000 + KEPT_DAYS]


def test_a_history_is_told_once_whatever_coarseness_and_what_is_old_goes(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "records.sqlite")
    measured = Measurements(1.0, 0.02, 0.0, None, 1e6, None, -60.0)
    fine = [Sample(NOW - 10 * number, 10, measured) for number in range(1000)]
    coarse = [Sample(NOW // 60 * 60 - 60 * number, 60, measured) for number in range(2000)]
    store.keep_samples(LTE, fine + coarse, NOW)
    found = store.history(LTE, NOW - 7200, NOW)
    assert [each.at for each in found] == sorted(each.at for each in found)
    assert {each.step for each in found if each.at >= NOW - 3600} == {10}
    assert {each.step for each in found if each.at < NOW - 3600} == {60}
    assert found[-1] == fine[0]
    whole = store.history(LTE, 0, NOW)
    assert len([each for each in whole if each.step == 10]) == 361
    assert min(each.at for each in whole) >= NOW - 86400
    assert store.history(NetworkName("wifi"), 0, NOW) == []


def test_a_damaged_file_says_which_and_a_failed_write_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at as if it were one" * 100)
    with pytest.raises(UpmtError, match=r"records\.sqlite"):
        MeasurementStore(path)
    path.unlink()
    store = MeasurementStore(path)
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE used")
        other.execute("DROP TABLE sample")
    store.keep_used([UsedDay(LTE, 20_000, Usage(1, 2, 0.5))])
    with pytest.raises(UpmtError, match="lte"):
        store.history(LTE, 0, NOW)
    with pytest.raises(UpmtError):
        store.used()
