"""Application rules: the first that matches wins, each condition counts, netfilter and the look-up agree."""

from __future__ import annotations

import shlex
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upmt_nf.classify.facts import Ancestor, ProcessFacts
from upmt_nf.classify.rules import (
    ApplicationRule,
    first_match,
    needs_lookup,
    netfilter_lines,
    parse_destination,
)
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import ICMP, TCP, UDP, FlowKey
from upmt_nf.model.identity import ApplicationId
from upmt_nf.routing.rule_text import expand

VOICE, VIDEO = ApplicationId(2), ApplicationId(3)
FLOW = FlowKey(UDP, ip_address("1.2.3.4"), 2000, ip_address("86.0.0.1"), 5060)
FLOW6 = FlowKey(TCP, ip_address("2001:db8::4"), 2000, ip_address("2001:db8:86::1"), 443)
PROCESS = ProcessFacts(
    pid=700,
    command="baresip",
    executable="/usr/bin/baresip-4",
    arguments=("/opt/phone/phone", "-v"),
    uid=1000,
    gid=100,
    cgroup="/system.slice/phone.service/calls",
    ancestors=(Ancestor(600, 61), Ancestor(500, 51, "launcher", "/opt/launch"), Ancestor(1)),
    started=71,
)


def matches(flow: FlowKey = FLOW, process: ProcessFacts | None = PROCESS, **conditions: Any) -> bool:
    return ApplicationRule(VOICE, **conditions).matches(flow, process)


@pytest.mark.parametrize(
    ("fits", "does_not"),
    [
        ({"command": "baresip"}, {"command": "bares"}),
        ({"command": "baresip-4"}, {"command": "/usr/bin/baresip-4"}),
        ({"command": "phone"}, {"command": "-v"}),
        ({"command": "bare*"}, {"command": "bare?"}),
        ({"command": "b?res[hi]p"}, {"command": "BARESIP"}),
        ({"executable": "/usr/bin/baresip-4"}, {"executable": "/usr/bin/baresip"}),
        ({"uid": 1000}, {"uid": 0}),
        ({"gid": 100}, {"gid": 0}),
        ({"cgroup": "/system.slice/phone.service"}, {"cgroup": "/system.slice/phone"}),
        ({"cgroup": "system.slice/"}, {"cgroup": "phone.service"}),
        ({"cgroup": "/"}, {"cgroup": "/system.slice/phone.service/calls/7"}),
        ({"unit": "phone.service"}, {"unit": "phone"}),
        ({"pid": 700}, {"pid": 701}),
        ({"pid": 500}, {"pid": 2}),
        ({"destination": ip_network("86.0.0.0/8")}, {"destination": ip_network("86.0.0.2/32")}),
        ({"destination": ip_network("0.0.0.0/0")}, {"destination": ip_network("::/0")}),
        ({"port": 5060}, {"port": 2000}),
    ],
    ids=lambda conditions: str(conditions),
)
def test_each_condition_counts(fits: dict[str, Any], does_not: dict[str, Any]) -> None:
    assert matches(**fits)
    assert not matches(**does_not)


CONDITIONS: dict[str, tuple[Any, Any]] = {
    "command": ("baresip", "film"),
    "executable": ("/usr/bin/baresip-4", "/bin/film"),
    "uid": (1000, 1),
    "gid": (100, 1),
    "cgroup": ("/system.slice", "/user.slice"),
    "unit": ("phone.service", "film.service"),
    "pid": (600, 601),
    "destination": (ip_network("86.0.0.1"), ip_network("86.0.0.2")),
    "port": (5060, 5061),
}


@pytest.mark.parametrize("wrong", CONDITIONS)
def test_all_conditions_must_hold(wrong: str) -> None:
    right = {name: values[0] for name, values in CONDITIONS.items()}
    assert matches(**right)
    assert not matches(**{**right, wrong: CONDITIONS[wrong][1]})


def test_a_rule_without_conditions_matches_everything() -> None:
    assert matches()
    assert matches(process=None)
    assert matches(FLOW6)


def test_without_facts_no_condition_about_the_process_holds() -> None:
    for name, (right, _) in CONDITIONS.items():
        assert matches(process=None, **{name: right}) == (name in ("destination", "port")), name


def test_a_port_is_one_of_tcp_or_udp() -> None:
    assert matches(replace(FLOW, protocol=TCP), port=5060)
    assert not matches(replace(FLOW, protocol=ICMP), port=5060)
    assert matches(replace(FLOW, protocol=ICMP))


def test_an_ipv6_destination_is_looked_for_among_ipv6_flows() -> None:
    assert matches(FLOW6, destination=ip_network("2001:db8:86::/48"), port=443)
    assert not matches(FLOW6, destination=ip_network("0.0.0.0/0"))


def test_a_long_name_is_found_by_the_15_bytes_that_the_kernel_keeps() -> None:
    cut = replace(PROCESS, command="gnome-terminal-", executable="", arguments=())
    assert matches(process=cut, command="gnome-terminal-server")
    assert matches(process=cut, command="gnome-terminal-")
    assert not matches(process=cut, command="gnome-terminal")
    assert not matches(process=replace(cut, command="gnome-terminal"), command="gnome-terminal-server")
    umlauts = replace(cut, command="ääääääää".encode()[:15].decode("utf-8", "surrogateescape"))
    assert matches(process=umlauts, command="ääääääää-player")


def test_a_name_with_pattern_characters_is_found_as_it_is() -> None:
    assert matches(process=replace(PROCESS, command="[kworker]"), command="[kworker]")


@pytest.mark.parametrize("command", ["", "x" * 256, "ä" * 128])
def test_a_name_of_no_or_too_many_bytes_is_refused(command: str) -> None:
    with pytest.raises(UsageError, match="1 to 255 bytes"):
        ApplicationRule(VOICE, command=command)


def test_the_first_rule_that_matches_wins() -> None:
    never = ApplicationRule(ApplicationId(9), uid=4)
    voice, video = ApplicationRule(VOICE, command="baresip"), ApplicationRule(VIDEO, uid=1000)
    assert first_match([never, voice, video], FLOW, PROCESS) is voice
    assert first_match([never, video, voice], FLOW, PROCESS) is video
    assert first_match([never], FLOW, PROCESS) is None
    assert first_match([], FLOW, PROCESS) is None


@pytest.mark.parametrize("name", CONDITIONS)
def test_only_what_netfilter_cannot_see_needs_a_look_at_the_process(name: str) -> None:
    expected = name in ("command", "executable", "unit", "pid")
    rule = ApplicationRule(VOICE, **{name: CONDITIONS[name][0]})
    assert rule.needs_process == expected
    assert needs_lookup([ApplicationRule(VIDEO, uid=1), rule]) == expected
    assert not needs_lookup([])


MARK = "-m mark --mark 0x0/0x1fff -j MARK --set-xmark"


def test_the_lines_for_netfilter() -> None:
    rules = [
        ApplicationRule(VOICE, uid=1000, destination=ip_network("86.0.0.0/8"), port=5060),
        ApplicationRule(VIDEO, gid=7),
        ApplicationRule(ApplicationId(4095), cgroup='/upmt/1a/a "b"\\c/'),
        ApplicationRule(VOICE),
    ]
    assert [" ".join(line.split()) for line in netfilter_lines(rules)] == [
        "-A UPMT-CLASSIFY -d 86.0.0.0/8 -m owner --uid-owner 1000"
        f" -p tcp -m tcp --dport 5060 {MARK} 0x2/0x1fff",
        "-A UPMT-CLASSIFY -d 86.0.0.0/8 -m owner --uid-owner 1000"
        f" -p udp -m udp --dport 5060 {MARK} 0x2/0x1fff",
        f"-A UPMT-CLASSIFY -m owner --gid-owner 7 {MARK} 0x3/0x1fff",
        rf'-A UPMT-CLASSIFY -m cgroup --path "upmt/1a/a \"b\"\\c" {MARK} 0xfff/0x1fff',
        f"-A UPMT-CLASSIFY {MARK} 0x2/0x1fff",
    ]


def test_netfilter_decides_nothing_behind_a_rule_that_needs_the_process() -> None:
    by_user, by_name = ApplicationRule(VIDEO, uid=1000), ApplicationRule(VOICE, command="baresip")
    assert netfilter_lines([by_name, by_user]) == []
    assert len(netfilter_lines([by_user, by_name, by_user])) == 1


def test_an_ipv6_destination_is_no_line_of_the_ipv4_tables() -> None:
    rules = [ApplicationRule(VOICE, destination=ip_network("2001:db8::/32")), ApplicationRule(VIDEO, uid=1)]
    assert [line.split()[-1] for line in netfilter_lines(rules)] == ["0x3/0x1fff"]


@pytest.mark.parametrize(
    ("text", "network", "port"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", None),
        ("10.1.2.3/8", "10.0.0.0/8", None),
        ("86.0.0.1", "86.0.0.1/32", None),
        ("10.0.0.1:443", "10.0.0.1/32", 443),
        ("10.0.0.0/8:65535", "10.0.0.0/8", 65535),
        (" 86.0.0.1:1 ", "86.0.0.1/32", 1),
        ("2001:db8::/32", "2001:db8::/32", None),
        ("[2001:db8::]/32", "2001:db8::/32", None),
        ("[2001:db8::1]:53", "2001:db8::1/128", 53),
        ("[2001:db8::]/32:53", "2001:db8::/32", 53),
    ],
)
def test_destinations_as_people_write_them(text: str, network: str, port: int | None) -> None:
    assert parse_destination(text) == (ip_network(network), port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "10.0.0.0/33",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:http",
        "10.0.0.1:-1",
        "::1]:5",
        "[::1]x",
    ],
)
def test_what_is_no_destination_is_named(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_destination(text)
    assert str(caught.value).startswith(f"{text!r} is not a destination such as")


@given(st.text(st.characters()) | st.from_regex(r"\[?[0-9a-f.:/]{0,20}\]?[:/]?[0-9]{0,6}", fullmatch=True))
def test_any_text_is_a_destination_or_a_usage_error(text: str) -> None:
    try:
        network, port = parse_destination(text)
    except UsageError:
        return
    assert network.version in (4, 6)
    assert port is None or 0 < port < 65536


@example("\ud800", b"")
@given(st.text(st.characters(), max_size=300), st.binary(max_size=15))
def test_any_command_is_matched_or_a_usage_error(command: str, name: bytes) -> None:
    try:
        rule = ApplicationRule(VOICE, command=command)
    except UsageError:
        return
    kernels_name = name.decode("utf-8", "surrogateescape")
    assert rule.matches(FLOW, replace(PROCESS, command=kernels_name)) in (True, False)
    assert rule.matches(FLOW, replace(PROCESS, command=command))


@example("/")
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_any_cgroup_gets_into_netfilter_as_one_word(cgroup: str) -> None:
    lines = netfilter_lines([ApplicationRule(VOICE, cgroup=cgroup)])
    assert shlex.split(lines[0])[5] == (cgroup.strip("/") or "/")
    (rule,) = expand("*mangle\n@applications\n", "my.rules", {}, (), lines).rules
    assert rule.words[3] == (cgroup.strip("/") or "/")


USERS, GROUPS = st.sampled_from([None, 1000, 1]), st.sampled_from([None, 100, 1])
RULES = st.lists(
    st.builds(
        ApplicationRule,
        st.integers(1, 4095).map(ApplicationId),
        command=st.sampled_from([None, None, "baresip"]),
        uid=USERS,
        gid=GROUPS,
        destination=st.sampled_from([None, ip_network("86.0.0.0/8"), ip_network("87.0.0.0/8")]),
        port=st.sampled_from([None, 5060, 80]),
    ),
    max_size=5,
)


def marked_by_netfilter(lines: list[str], flow: FlowKey, process: ProcessFacts) -> int:
    """What the kernel would make of the lines: the first one whose matches all hold writes the mark."""
    for line in lines:
        words = line.split()
        option = dict(pairwise(words))
        if (
            ("-d" not in option or flow.destination in ip_network(option["-d"]))
            and option.get("--uid-owner", str(process.uid)) == str(process.uid)
            and option.get("--gid-owner", str(process.gid)) == str(process.gid)
            and option.get("-p", flow.protocol_name) == flow.protocol_name
            and option.get("--dport", str(flow.destination_port)) == str(flow.destination_port)
        ):
            return int(option["--set-xmark"].partition("/")[0], 16)
    return 0


@given(RULES, st.sampled_from([FLOW, replace(FLOW, protocol=TCP), replace(FLOW, protocol=ICMP)]))
def test_netfilter_and_the_look_up_give_the_same_answer(rules: list[ApplicationRule], flow: FlowKey) -> None:
    mark = marked_by_netfilter(netfilter_lines(rules), flow, PROCESS)
    if mark:
        found = first_match(rules, flow, PROCESS)
        assert found is not None
        assert found.application == mark
    elif not needs_lookup(rules):
        assert first_match(rules, flow, PROCESS) is None
