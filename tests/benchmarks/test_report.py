"""Statistics, table, JSON and plot of a run."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from benchmarks.tunnels.figures import median, percentile, ratio, spread
from benchmarks.tunnels.measures import WIRE, measure_of
from benchmarks.tunnels.plot import svg
from benchmarks.tunnels.report import Result, as_json, as_markdown

RESULT = Result(
    command="python -m benchmarks --rounds 3",
    machine={"kernel": "6.1", "cores": "2"},
    load=(0.1, 2.0),
    rounds=3,
    seconds=1,
    set_up={"direct": ("mh: nothing",), "relay": ("an: nat",), "a<b": ("mh: a", "an: b")},
    missing={"wireguard": "this kernel has none"},
    figures={
        "TCP up, 1 stream": {"direct": [12000.0, 13000.0, 11000.0], "relay": [10000.0], "a<b": [5000.0]},
        "memory of daemons": {"a<b": [12.34]},
    },
)


def test_median_percentile_spread_and_ratio() -> None:
    assert median([]) is None
    assert median([3, 1, 2]) == 2
    assert percentile([5.0, 1.0, 2.0, 3.0, 4.0], 0.5) == 3
    assert percentile([1.0], 0.99) == 1
    assert spread([1.0, 2.0, 3.0]) == 1
    assert spread([]) is None
    assert ratio({"a": 3.0, "b": 2.0}, "a", "b") == 1.5
    assert ratio({"a": 3.0, "b": 0.0}, "a", "b") is None
    assert ratio({"a": None, "b": 2.0}, "a", "b") is None


def test_the_table_has_medians_ratios_set_ups_and_who_is_missing() -> None:
    text = as_markdown(RESULT)
    assert "| TCP up, 1 stream, Mbit/s | 12,000 (1.20) | 10,000 (1.00) | 5,000 (0.50) |" in text
    assert "| memory of daemons, MiB | - | - | 12.3 |" in text
    assert "Not here: wireguard: this kernel has none." in text
    assert "    an: nat" in text
    assert RESULT.command in text


def test_json_has_every_figure_and_the_summary() -> None:
    value = json.loads(as_json(RESULT))
    assert value["figures"]["TCP up, 1 stream"]["direct"] == [12000, 13000, 11000]
    assert value["summary"]["TCP up, 1 stream"]["a<b"]["to_relay"] == 0.5
    assert value["summary"]["memory of daemons"]["direct"]["median"] is None


def test_the_plot_is_xml_with_a_bar_a_figure() -> None:
    root = ElementTree.fromstring(svg(RESULT))
    bars = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("fill") != "white"]
    assert len(bars) == 4
    longest = max(float(bar.get("width", "0")) for bar in bars)
    assert longest == pytest.approx(190)


@pytest.mark.parametrize(
    ("name", "unit", "more"),
    [
        ("UDP up, 64 bytes", "kpps", True),
        (f"{WIRE}TCP up, 1 stream", "Mbit/s", True),
        ("latency, p99", "µs", False),
    ],
)
def test_units(name: str, unit: str, more: bool) -> None:
    assert (measure_of(name).unit, measure_of(name).more_is_better) == (unit, more)
