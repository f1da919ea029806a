"""A network's past: finer where it is near, bounded, and drawn."""

from __future__ import annotations

from datetime import UTC
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.mobility.history import (
    SAMPLE_EVERY,
    STEPS,
    History,
    Measurements,
    Sample,
    mean,
    spans,
    too_old,
)
from upmt_nf.mobility.history_drawing import draw_history

NOON = 1_800_000_000 // 600 * 600
SVG = "{http://www.w3.org/2000/svg}"


def test_coarser_samples_are_the_means_of_what_they_stand_for() -> None:
    history, kept = History(), []
    for number in range(7):
        kept += history.take(Measurements(1.0, round_trip=0.01 * number), NOON + SAMPLE_EVERY * number)
    assert [each.at for each in kept if each.step == 10] == [NOON + 10 * number for number in range(7)]
    (minute,) = [each for each in kept if each.step == 60]
    assert (minute.at, minute.measured.up) == (NOON, 1.0)
    assert minute.measured.round_trip == pytest.approx(0.025)


def test_a_value_that_nobody_measured_stays_unknown() -> None:
    found = mean([Measurements(1.0, loss=0.5), Measurements(0.0)])
    assert found == Measurements(0.5, loss=0.5)


def test_a_clock_that_is_set_loses_no_sample() -> None:
    history = History()
    history.take(Measurements(1.0), NOON)
    kept = history.take(Measurements(1.0), NOON - 7200)
    assert {(each.step, each.at) for each in kept} == {(10, NOON - 7200), (60, NOON), (600, NOON)}


@given(st.floats(1e9, 4e9), st.floats(1, 1e8))
def test_every_moment_is_told_once_and_by_the_finest_that_is_kept(now: float, back: float) -> None:
    told = spans(now, now - back)
    assert told[-1][2] > now
    for (coarse, _, end), (fine, begin, _) in pairwise(told):
        assert end == begin
        assert coarse > fine
    limits = dict(STEPS)
    for step, begin, _ in told:
        assert now - begin <= limits[step] + 1e-3


def test_what_is_kept_is_bounded() -> None:
    assert sum(kept // step for step, kept in STEPS) < 7000
    assert {step for step, _ in too_old(NOON)} == {step for step, _ in STEPS}


def course(count: int) -> list[Sample]:
    def measured(number: int) -> Measurements:
        if 40 <= number < 60:
            return Measurements(0.0)
        return Measurements(1.0, 0.02, 0.01, 0.001, 1e6 + number, 2e6, -60.0)

    return [Sample(NOON + 10 * number, 10, measured(number)) for number in range(count)]


def test_a_picture_has_a_band_for_what_was_measured_and_grey_where_nothing_was() -> None:
    root = ElementTree.fromstring(draw_history("wifi <1>", course(100), UTC))
    texts = [each.text or "" for each in root.iter(f"{SVG}text")]
    assert texts[0] == "wifi <1>"
    assert {"throughput", "round trip", "loss", "signal"} <= set(texts)
    assert "0 - 2 Mbit/s" in texts
    lines = list(root.iter(f"{SVG}polyline"))
    assert len(lines) == 2 * (2 + 2 + 1 + 1), "each curve has a gap while the network was away"
    assert len([each for each in root.iter(f"{SVG}rect") if each.get("fill") == "#ddd"]) == 4 * 20
    places = [float(pair.split(",")[0]) for each in lines for pair in (each.get("points") or "").split()]
    assert min(places) >= 150
    assert max(places) <= 940.1


@pytest.mark.parametrize("samples", [[], [Sample(NOON, 10, Measurements(0.0))]])
def test_a_picture_of_nothing_says_so(samples: list[Sample]) -> None:
    root = ElementTree.fromstring(draw_history("lte", samples, UTC))
    assert "nothing was measured" in [each.text for each in root.iter(f"{SVG}text")]
