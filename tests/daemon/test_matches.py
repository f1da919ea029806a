"""Conditions as people write them: understood, or refused with a word about what is wrong."""

from __future__ import annotations

import os
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.classify.rules import ApplicationRule
from upmt_nf.config.application_sections import MatchSection
from upmt_nf.config.match_values import read_dscp, read_host_name, read_ports
from upmt_nf.daemon.matches import conditions_said, rule_of
from upmt_nf.model.errors import UsageError
from upmt_nf.model.identity import ApplicationId

VOICE = ApplicationId(2)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"command": "a b"}, {"command": "a b"}),
        ({"command": "röhre\nzwei"}, {"command": "röhre\nzwei"}),
        ({"uid": "root"}, {"uid": 0}),
        ({"gid": 4294967295}, {"gid": 4294967295}),
        ({"port": 443}, {"port": 443}),
        ({"port": "1-65535"}, {"port": 1, "last_port": 65535}),
        ({"port": "80-80"}, {"port": 80}),
        ({"dscp": "EF"}, {"dscp": 46}),
        ({"dscp": "af41"}, {"dscp": 34}),
        ({"dscp": 0}, {"dscp": 0}),
        ({"destination_name": "Video.Example."}, {"destination_name": "video.example"}),
        ({"destination": "10.0.0.1:53"}, {"destination": ip_network("10.0.0.1"), "port": 53}),
        ({"container": "web"}, {"container": "web"}),
        ({"command": "x", "children": True}, {"command": "x", "children": True}),
    ],
)
def test_what_is_understood(match: dict[str, Any], expected: dict[str, Any]) -> None:
    assert rule_of(VOICE, match) == ApplicationRule(VOICE, **expected)


@pytest.mark.parametrize(
    "match",
    [
        {"uid": "nobody-of-that-name"},
        {"uid": -1},
        {"uid": "4294967296"},
        {"uid": "9" * 5000},
        {"uid": "a\0b"},
        {"pid": "self"},
        {"port": 0},
        {"port": "80-"},
        {"port": "90-80"},
        {"port": "80-90-100"},
        {"port": "٣"},
        {"dscp": 64},
        {"dscp": "AF44"},
        {"dscp": ""},
        {"destination_name": "10.0.0.1"},
        {"destination_name": "a b"},
        {"destination_name": "x" * 64 + ".example"},
        {"destination_name": "1234"},
        {"destination_name": 7},
        {"destination": "10.0.0.1:53", "port": 53},
        {"destination": "10.0.0.1", "destination_name": "a.example"},
        {"command": ""},
        {"command": 7},
        {"command": "x" * 256},
        {"command": "a\0"},
        {"cgroup": "a\nb"},
        {"executable": "/bin/\0"},
        {"children": True},
        {"children": "yes", "command": "a"},
        {"colour": "red"},
    ],
    ids=str,
)
def test_what_is_refused(match: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        rule_of(VOICE, match)


def test_a_pid_is_tied_to_the_process_of_now() -> None:
    assert rule_of(VOICE, {"pid": os.getpid()}, lambda pid: 77).started == 77


def test_conditions_are_said_as_they_are_written() -> None:
    assert (
        conditions_said({"command": "a b", "children": True, "port": "1-2"})
        == "command=a b children=true port=1-2"
    )


@given(
    st.dictionaries(
        st.sampled_from(tuple(MatchSection.model_fields)), st.text() | st.integers() | st.booleans()
    )
)
def test_any_conditions_are_a_rule_or_a_usage_error(match: dict[str, Any]) -> None:
    try:
        rule = rule_of(VOICE, match)
    except UsageError:
        return
    assert str(rule) or not match


@given(st.text() | st.integers() | st.none())
def test_any_value_is_read_or_refused(value: Any) -> None:
    for reader in (read_dscp, read_host_name, read_ports):
        try:
            reader(value)
        except ValueError:
            continue


def test_the_configuration_knows_the_same_words_as_the_rules() -> None:
    words = set(MatchSection.model_fields)
    assert words == {
        "command", "executable", "uid", "gid", "cgroup", "unit", "pid", "children", "container", "destination",
        "destination_name", "port", "dscp",
    }  # fmt: skip
    for word in words - {"children"}:
        assert word in ApplicationRule.__dataclass_fields__
