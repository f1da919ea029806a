"""Traces: read with every line checked, recorded so that they can be read again, replayed and drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from policy_course import APP, LTE, NETWORKS, WIFI, course_of, path, profile, random_trace
from typer.testing import CliRunner
from wire_schema import complaints

from upmt_nf.cli.main import app
from upmt_nf.cli.trace import Recorder
from upmt_nf.model.errors import ConfigError
from upmt_nf.policy.drawing import svg
from upmt_nf.policy.replay import replay
from upmt_nf.policy.trace import EndStep, PathStep, Step, Trace, TrafficStep, read_trace

FIRST = '{"upmt_trace": 1, "start": "2026-11-25T08:00:00"}\n'
DOCS = Path(__file__).parents[2] / "docs"
WALK = DOCS / "traces" / "walk.toml"


def read(text: str) -> Trace:
    return read_trace(FIRST + text, "t.jsonl", ["wifi", "lte"], ["app"])


def test_a_line_says_what_changed() -> None:
    found = read(
        '{"t": 0, "network": "wifi", "up": true, "delay_ms": 20}\n'
        '{"t": 1.5, "application": "app", "rate": 64e3}\n\n'
        '{"t": 2, "network": "wifi", "loss": null, "doubtful": true}\n'
        '{"t": 9, "end": true}\n'
    )
    assert found.duration == 9
    assert found.start == 1764057600 + 365 * 86400
    up, traffic, doubt, end = found.steps
    assert isinstance(up, PathStep)
    assert (up.is_up, up.is_doubtful, up.quality) == (True, None, {"delay": 0.02})
    assert isinstance(traffic, TrafficStep)
    assert traffic.rate == 64000
    assert isinstance(doubt, PathStep)
    assert (doubt.is_up, doubt.is_doubtful, doubt.quality) == (None, True, {"loss": None})
    assert isinstance(end, EndStep)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "t.jsonl:2: is not JSON"),
        ("[1]", "t.jsonl:2: is not a JSON object"),
        ("[" * 100_000, "t.jsonl:2: is not JSON"),
        ('{"network": "wifi"}', "t.jsonl:2: t None is not a number"),
        ('{"t": -1, "network": "wifi"}', "t -1 is not a number"),
        ('{"t": 1}', "says none of"),
        ('{"t": 1, "network": "5g"}', "there is no network '5g'; there are lte, wifi"),
        (
            '{"t": 1, "application": "x", "rate": 1}',
            "there is no application 'x' with a policy; there are app",
        ),
        ('{"t": 1, "application": "app"}', "rate None is not a number"),
        ('{"t": 1, "network": "wifi", "loss": 2}', "loss 2 is not a number from 0 to 1"),
        ('{"t": 1, "network": "wifi", "delay": 2}', "'delay' is no key here"),
        ('{"t": 1, "network": "wifi", "up": 1}', "up is true or false"),
        ('{"t": 1, "network": "wifi", "reason": 1}', "reason is a text"),
        ('{"t": 1, "lock": "app"}', "there is no network None"),
        ('{"t": 5, "end": true}\n{"t": 4, "end": true}', "t.jsonl:3: comes after the end"),
        ('{"t": 5, "crash": 1}\n{"t": 4, "end": true}', "t.jsonl:3: t 4 is before 5"),
        ('{"t": 1, "crash": true}', "crash True is not a number"),
    ],
)
def test_a_wrong_line_is_named(line: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(line)
    assert reason in str(raised.value)


@pytest.mark.parametrize("first", ["", "{}", '{"upmt_trace": 2}', '{"upmt_trace": 1, "start": "noon"}'])
def test_a_trace_begins_with_its_version_and_start(first: str) -> None:
    with pytest.raises(ConfigError, match=r"t\.jsonl:1: "):
        read_trace(first, "t.jsonl", [], [])


def test_a_recorded_trace_may_tell_of_applications_without_a_policy() -> None:
    lines = '{"t": 1, "application": "default", "rate": 5}\n{"t": 2, "application": "app", "rate": 5}\n'
    recorded = FIRST.replace("}", ', "recorded": true}')
    found = read_trace(recorded + lines, "t.jsonl", ["wifi"], ["app"])
    assert [step.at for step in found.steps] == [2]
    assert found.left_out == ("default",)
    with pytest.raises(ConfigError, match="there is no application 'default' with a policy"):
        read(lines)
    with pytest.raises(ConfigError, match="there is no network '5g'"):
        read_trace(recorded + '{"t": 1, "network": "5g"}', "t.jsonl", ["wifi"], ["app"])


def test_what_is_recorded_can_be_replayed() -> None:
    recorder = Recorder()
    row = {"name": "wifi", "state": "up", "rtt_ms": 40.0, "loss": 0.0, "loss_up": 0.02, "loss_down": 0.01}
    variation = {"delay_variation_ms": {"up": 3.0, "down": None}}
    flow = dict.fromkeys(("protocol", "source", "source_port", "destination", "destination_port"), 1)
    lines = [*recorder.networks(0, [{**row, **variation}])]
    assert lines == [
        {
            "t": 0,
            "network": "wifi",
            "up": True,
            "doubtful": False,
            "delay_ms": 20.0,
            "jitter_ms": 3.0,
            "loss": 0.02,
        }
    ]
    assert [*recorder.networks(1, [{**row, **variation}])] == [], "nothing is new"
    assert [*recorder.networks(2, [{**row, **variation, "state": "dead"}])] == [
        {"t": 2, "network": "wifi", "up": False}
    ]
    assert [*recorder.flows(1, [{**flow, "application": "app", "bytes": 500}])] == []
    assert [*recorder.flows(2, [{**flow, "application": "app", "bytes": 1500}])] == [
        {"t": 2, "application": "app", "rate": 8000.0}
    ]
    assert [*recorder.flows(3, [])] == [{"t": 3, "application": "app", "rate": 0.0}]


def test_a_throughput_that_nobody_recorded_is_what_the_file_says() -> None:
    steps: list[Step] = [path(0, LTE, True, delay=0.02), path(0, WIFI, True, delay=0.02)]
    slow = (replace(NETWORKS[0], throughput=1e6), NETWORKS[1])
    assert [stay.network for stay in course_of(profile("streaming"), steps, 60).stays][-1] == WIFI
    course = course_of(profile("streaming"), steps, 60, slow)
    assert [stay.network for stay in course.stays][-1] == LTE
    assert course.out_of_profile < 10
    assert course_of(profile("streaming"), [steps[1]], 60, slow).out_of_profile > 59


def test_a_picture_is_well_formed_and_shows_every_move() -> None:
    report = replay(random_trace(3, 600), NETWORKS, {APP: profile("voice")})
    root = ElementTree.fromstring(svg(report))
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == len(report.courses[APP].moves)
    assert "wifi" in titles[0]


def test_the_walk_of_the_documentation_is_what_the_documentation_shows(tmp_path: Path) -> None:
    drawing = tmp_path / "walk.svg"
    trace = DOCS / "traces" / "walk.jsonl"
    command = ["policy", "replay", "--config", str(WALK), "--trace", str(trace), "--svg", str(drawing)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "87.0 s  wifi -> lte  thresholds left: jitter 60 ms is above 50 ms" in result.output
    assert "call (video-call): 3 handovers, 0 flaps" in result.output
    assert drawing.read_text() == (DOCS / "traces" / "walk.svg").read_text()
    assert complaints("policy-replay", json.loads(CliRunner().invoke(app, [*command, "--json"]).output)) == []


def test_check_names_the_wrong_line_and_says_good_to_a_good_file(tmp_path: Path) -> None:
    config = tmp_path / "mh.toml"
    config.write_text(WALK.read_text())
    result = CliRunner().invoke(app, ["policy", "check", str(config)])
    assert result.exit_code == 0
    assert result.output.endswith("good\n")
    config.write_text(WALK.read_text().replace('"video-call"', '"video"'))
    result = CliRunner().invoke(app, ["policy", "check", str(config)])
    assert isinstance(result.exception, ConfigError)
    assert f"{config}:22: application.0.policy: there is no policy 'video'" in str(result.exception)
