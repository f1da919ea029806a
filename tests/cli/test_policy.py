"""`upmt policy show`: what can be looked up before anything is configured, and all of it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner
from wire_schema import complaints

from upmt_nf.cli import policy as policy_commands
from upmt_nf.cli.main import app
from upmt_nf.policy.civil_time import Hours
from upmt_nf.policy.policy import Policy
from upmt_nf.policy.profiles import BARE_KINDS, PROFILES

WALK = Path(__file__).parents[2] / "docs" / "traces" / "walk.toml"
NIGHTLY = """
[[policy]]
name = "careful"
extends = "voice"
budgets = "2 GB/month on lte"
protection = "plain"
[[policy.when]]
hours = "sun,mon-wed,fri 22:00-06:00"
networks = "lte"
"""


def said(*words: str) -> str:
    result = CliRunner().invoke(app, ["policy", "show", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_ready_made_policies_are_shown_where_nothing_is_configured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(policy_commands, "DEFAULT_CONFIG", tmp_path / "missing.toml")
    names = [row["name"] for row in json.loads(said("--json"))]
    assert names == [*BARE_KINDS, *PROFILES]
    assert "networks        all that there are" in said("voice")
    missing = CliRunner().invoke(app, ["policy", "show", "--config", str(tmp_path / "missing.toml")])
    assert missing.exit_code != 0, "a file that was asked for must be there"


def test_one_policy_is_shown_with_every_number_and_what_holds_at_night(tmp_path: Path) -> None:
    config = tmp_path / "mh.toml"
    config.write_text(WALK.read_text() + NIGHTLY)
    text = said("careful", "--config", str(config))
    for line in (
        "careful: PerformancePriorityList",
        "leave beyond    delay 250 ms, jitter 50 ms, loss 3 %",
        "hold            10 s after a move",
        "budgets         2 GB/month on lte",
        "of its own will at most 45 moves an hour",
        "at mon-wed,fri,sun 22:00-06:00: PerformancePriorityList",
        "  networks        lte",
    ):
        assert line in text
    assert complaints("policy-show", json.loads(said("careful", "--json", "--config", str(config)))) == []
    assert "weights         cost 3, throughput 2, loss 1" in said("bulk", "--config", str(config))


def test_no_number_of_a_policy_is_left_out_of_the_json() -> None:
    (row,) = json.loads(said("bulk", "--json", "--config", str(WALK)))
    names = {"is_redundant": "redundant", "reorder": "reorder_s", "by_time": "when"}
    for field in fields(Policy):
        name = names.get(field.name, field.name)
        assert name in row or f"{name}_s" in row, field.name


@pytest.mark.parametrize(
    ("hours", "said_so"),
    [
        (Hours(0, 86400), "00:00-24:00"),
        (Hours(8 * 3600, 9 * 3600 + 1800, frozenset((5, 6))), "sat-sun 08:00-09:30"),
        (Hours(0, 60, frozenset((0, 2))), "mon,wed 00:00-00:01"),
    ],
)
def test_hours_are_said_as_people_write_them(hours: Hours, said_so: str) -> None:
    assert str(hours) == said_so
