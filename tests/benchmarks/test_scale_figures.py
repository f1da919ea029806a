"""How the scale of an anchor is judged: what an association costs in a large crowd, over a small one."""

import pytest

from benchmarks.scale.figures import FIGURES, FLAT, Figure, Kind, growth, table, verdicts

SMALL = {
    "associations": 1000,
    "register_us": 300.0,
    "nothing_percent": 2.0,
    "daemon_kb": 12.0,
    "flows_lost": 0,
}


def figure(name: str) -> Figure:
    return next(each for each in FIGURES if each.name == name)


def test_every_figure_has_a_name_of_its_own() -> None:
    assert len({each.name for each in FIGURES}) == len(FIGURES)


def test_what_one_association_costs_is_compared_as_it_is_and_what_all_cost_is_shared_out() -> None:
    large = {**SMALL, "associations": 100_000, "register_us": 330.0, "nothing_percent": 50.0}
    assert growth(figure("register_us"), large, SMALL) == pytest.approx(1.1)
    assert growth(figure("nothing_percent"), large, SMALL) == pytest.approx(0.25)
    assert growth(figure("flows_lost"), large, SMALL) is None
    assert growth(figure("back_s"), large, SMALL) is None


def test_a_crowd_that_costs_the_same_each_gives_no_verdict() -> None:
    assert verdicts([SMALL, {**SMALL, "associations": 10_000, "nothing_percent": 20.0}]) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("register_us", 300 * FLAT + 1, "times as much with 100,000"),
        ("nothing_percent", 200 * FLAT + 1, "times as much with 100,000"),
        ("daemon_kb", 17.0, "asked 16"),
        ("flows_lost", 1, "asked 0"),
    ],
)
def test_what_grows_or_is_more_than_was_asked_is_said(name: str, value: float, said: str) -> None:
    lines = verdicts([SMALL, {**SMALL, "associations": 100_000, name: value}])
    assert any(said in line and figure(name).title in line for line in lines)


def test_the_table_has_a_line_for_each_figure_and_the_growth_beside_it() -> None:
    lines = table([SMALL, {**SMALL, "associations": 2000, "nothing_percent": 4.4}])
    assert len(lines) == 2 + len(FIGURES)
    (line,) = (line for line in lines if line.startswith(figure("nothing_percent").title))
    assert line.split()[-4:] == ["2.0", "4.4", "x", "1.10"]
    assert any(each.kind is Kind.ALL for each in FIGURES)
