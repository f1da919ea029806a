"""What a mobile host remembers: written whole, read back, and never in the way."""

import json
from pathlib import Path

import pytest

from upmt_nf.linux.host_state import HostState
from upmt_nf.mobility.binding_time import BindingTime


def test_what_is_kept_is_there_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "state.json"
    HostState(path).keep_binding_time("wifi 192.168.1.1 192.168.1.0/24", BindingTime(56.0, 71.5))
    state = HostState(path)
    state.keep_binding_time("lte None 10.0.0.0/8", BindingTime(None, 2.0))
    assert HostState(path).binding_times() == {
        "wifi 192.168.1.1 192.168.1.0/24": BindingTime(56.0, 71.5),
        "lte None 10.0.0.0/8": BindingTime(None, 2.0),
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "\xff", '{"binding_times": []}', '{"binding_times": {"a": 1}}', "[" * 100_000,
        '{"binding_times": {"a": {"survived_s": "x"}}}', '{"binding_times": {"a": {"survived_s": true}}}',
        '{"binding_times": {"a": {"survived_s": NaN}}}', '{"binding_times": {"a": {"died_s": -1}}}',
        '{"binding_times": {"a": {"died_s": 1e999}}}', '{"binding_times": {"a": {"died_s": 1' + "0" * 400 + "}}}",
    ],
)  # fmt: skip
def test_a_spoilt_file_is_passed_over_and_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text, encoding="latin-1")
    state = HostState(path)
    assert state.binding_times() == {}
    state.keep_binding_time("place", BindingTime(3.0, None))
    assert HostState(path).binding_times() == {"place": BindingTime(3.0, None)}


def test_only_so_many_places_are_kept_the_last_ones(tmp_path: Path) -> None:
    state = HostState(tmp_path / "state.json")
    for number in range(300):
        state.keep_binding_time(str(number), BindingTime(1.0, None))
    assert len(json.loads((tmp_path / "state.json").read_text())["binding_times"]) == 256
    assert "299" in HostState(tmp_path / "state.json").binding_times()
    assert "0" not in HostState(tmp_path / "state.json").binding_times()


def test_a_place_that_cannot_be_written_costs_the_memory_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = HostState(tmp_path / "file" / "state.json")
    state.keep_binding_time("place", BindingTime(1.0, None))
    assert state.binding_times() == {"place": BindingTime(1.0, None)}
