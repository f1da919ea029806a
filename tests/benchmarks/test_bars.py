"""Whether what was promised is kept is computed from medians of one run."""

from __future__ import annotations

import json

import pytest

from benchmarks.tunnels.bars import BARS, Bar, verdicts
from benchmarks.tunnels.contenders import NAMES
from benchmarks.tunnels.measures import BY_DEFAULT, ON_WIRES
from benchmarks.tunnels.report import Result, as_json, as_markdown

RELAY = Bar("fast-plain", "UDP up, 64 bytes", 0.9, ("relay",))
LATENCY = Bar("fast-plain", "latency, p50", 1.15, ("relay",), at_most=True)
PEERS = Bar("agent-plain", "TCP up, 1 stream", 2, ("openvpn-none", "vtun", "wireguard-go"))
ALONE = Bar("agent-plain", "TCP up, 1 stream", 1500)


@pytest.mark.parametrize(
    ("bar", "row", "found", "is_reached"),
    [
        (RELAY, {"fast-plain": 90.0, "relay": 100.0}, 0.9, True),
        (RELAY, {"fast-plain": 89.0, "relay": 100.0}, 0.89, False),
        (RELAY, {"fast-plain": 89.0, "relay": None}, None, None),
        (RELAY, {"fast-plain": 89.0}, None, None),
        (LATENCY, {"fast-plain": 23.0, "relay": 20.0}, 1.15, True),
        (LATENCY, {"fast-plain": 24.0, "relay": 20.0}, 1.2, False),
        # The best of the peers counts, whoever of them is there.
        (PEERS, {"agent-plain": 1200.0, "openvpn-none": 500.0, "vtun": 600.0}, 2.0, True),
        (PEERS, {"agent-plain": 1200.0, "openvpn-none": 700.0, "vtun": None}, 1200 / 700, False),
        (ALONE, {"agent-plain": 1500.0}, 1500.0, True),
        (ALONE, {"agent-plain": 1499.0}, 1499.0, False),
    ],
)
def test_a_verdict(
    bar: Bar, row: dict[str, float | None], found: float | None, is_reached: bool | None
) -> None:
    (verdict,) = verdicts({bar.measure: row}, [bar])
    assert verdict.found == (None if found is None else pytest.approx(found))
    assert verdict.is_reached is is_reached


def test_what_was_not_measured_is_not_judged() -> None:
    assert verdicts({RELAY.measure: {"relay": 100.0}}, [RELAY]) == []
    assert verdicts({}, BARS) == []


def test_every_bar_is_about_something_that_a_whole_run_measures() -> None:
    assert {name for bar in BARS for name in (bar.contender, *bar.than)} <= set(NAMES)
    assert {"tcp-up", "tcp-down", "tcp-up-10", "tcp-down-10", "udp-64", "udp-1400", "latency"} <= set(
        BY_DEFAULT
    )
    assert set(ON_WIRES) == {"tcp-up", "tcp-down"}


def test_the_ratio_is_that_of_the_medians_and_not_the_median_of_the_ratios() -> None:
    rounds = {"relay": [100.0, 200.0, 1000.0], "fast-plain": [300.0, 180.0, 100.0]}
    result = Result(
        command="bench", machine={}, load=(0.0, 0.0), rounds=3, seconds=1,
        set_up={"relay": (), "fast-plain": ()}, figures={"UDP up, 64 bytes": rounds},
    )  # fmt: skip
    assert "| fast-plain: UDP up, 64 bytes | >= 0.9 x relay | 0.90 | yes |" in as_markdown(result)
    assert "| fast-plain: UDP up, 64 bytes | >= 1.1 x relay | 0.90 | **no** |" in as_markdown(result)
    said = json.loads(as_json(result))["bars"]
    assert [
        (each["factor"], each["found"], each["is_reached"]) for each in said if each["than"] == ["relay"]
    ] == [
        (0.9, 0.9, True),
        (1.1, 0.9, False),
    ]
