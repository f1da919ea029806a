"""The conditions beyond name, user and network: containers, DSCP, ports, names, children, reused pids."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.classify.containers import containers_in, is_in_container
from upmt_nf.classify.facts import Ancestor, ProcessFacts
from upmt_nf.classify.reasons import Mechanism, mechanism_of
from upmt_nf.classify.rules import (
    ApplicationRule,
    first_match,
    is_guess,
    needs_lookup,
    netfilter_lines,
    netfilter_part,
)
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import ICMP, TCP, UDP, FlowKey
from upmt_nf.model.identity import ApplicationId

VOICE, VIDEO = ApplicationId(2), ApplicationId(3)
FLOW = FlowKey(UDP, ip_address("1.2.3.4"), 2000, ip_address("86.0.0.1"), 5060)
ID = "0123456789abcdef" * 4
HELPER = ProcessFacts(
    pid=700,
    command="Web Content",
    executable="/usr/lib/firefox/plugin",
    arguments=("plugin",),
    uid=1000,
    gid=100,
    cgroup="/user.slice/app-firefox.scope",
    ancestors=(Ancestor(600, 60, "firefox", "/usr/lib/firefox/firefox"), Ancestor(1, 1, "systemd")),
    started=70,
)


def matches(
    process: ProcessFacts | None = HELPER, flow: FlowKey = FLOW, dscp: int = 0, **conditions: Any
) -> bool:
    return ApplicationRule(VOICE, **conditions).matches(flow, process, dscp)


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/docker/{ID}", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/kubepods.slice/kubepods-pod7.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods/burstable/pod7/{ID}", ID),
        ("/lxc.payload.web/system.slice", "web"),
        ("/lxc/web", "web"),
        ("/machine.slice/systemd-nspawn@web.service", "web"),
        ("/machine.slice/machine-my\\x2dweb.scope", "my-web"),
    ],
)
def test_engines_name_a_container_in_its_cgroup(path: str, container: str) -> None:
    assert containers_in([path]) == {container}
    assert is_in_container(container, ["/", path])
    assert is_in_container(container[:12], [path])
    assert matches(replace(HELPER, cgroup="/", other_cgroups=(path,)), container=container)


@pytest.mark.parametrize(
    "path", ["/", "", "/user.slice", "/docker", f"/x{ID}", f"/{ID}0", "/docker-abc.scope"]
)
def test_other_cgroups_are_of_no_container(path: str) -> None:
    assert containers_in([path]) == set()


def test_too_few_digits_of_an_id_mean_no_container() -> None:
    assert not is_in_container(ID[:11], [f"/docker/{ID}"])
    assert not is_in_container("", [f"/docker/{ID}"])
    assert not is_in_container("web2", ["/lxc/web"])


@given(st.lists(st.text(st.characters(), max_size=100)), st.text(max_size=70))
def test_any_path_is_looked_at_without_harm(paths: list[str], name: str) -> None:
    assert is_in_container(name, paths) in (True, False)


def test_a_dscp_is_that_of_the_first_packet() -> None:
    assert ApplicationRule(VOICE, dscp=46).matches(FLOW, None, 46)
    assert not ApplicationRule(VOICE, dscp=46).matches(FLOW, None, 0)
    assert first_match([ApplicationRule(VOICE, dscp=0)], FLOW, None) is not None
    assert mechanism_of(ApplicationRule(VOICE, dscp=46)) is Mechanism.DSCP


def test_a_range_of_ports_has_both_its_ends() -> None:
    for port, expected in ((5059, False), (5060, True), (5070, True), (5071, False)):
        assert matches(flow=replace(FLOW, destination_port=port), port=5060, last_port=5070) == expected
    assert not matches(flow=replace(FLOW, protocol=ICMP), port=5060, last_port=5070)


def test_a_name_is_its_addresses_of_now() -> None:
    rule = ApplicationRule(VOICE, destination_name="video.example")
    assert not rule.matches(FLOW, None)
    renewed = replace(rule, addresses=(ip_address("2001:db8::1"), FLOW.destination))
    assert renewed.matches(FLOW, None)
    assert renewed == rule
    assert str(renewed) == "destination_name=video.example"
    assert mechanism_of(rule) is Mechanism.DESTINATION


def test_a_cut_name_is_not_taken_for_another_program_of_that_beginning() -> None:
    long, other = "averylongprogramname", "averylongprogram-not"
    process = replace(HELPER, command=long[:15], executable=f"/bin/{long}", arguments=(f"/bin/{long}",))
    assert matches(process, command=long)
    assert not matches(process, command=other)
    assert matches(replace(process, executable="", arguments=()), command=other)
    script = replace(process, executable="/bin/python3", arguments=("python3", f"/opt/{long}"))
    assert matches(script, command=long)
    assert not matches(script, command=other)
    assert script.names() == (long[:15], "python3", long)


def test_children_are_meant_where_it_is_said() -> None:
    assert not matches(command="firefox")
    assert matches(command="firefox", children=True)
    assert matches(executable="/usr/lib/firefox/firefox", children=True)
    assert not matches(executable="/usr/lib/firefox/firefox")
    assert not matches(command="chrome", children=True)
    assert matches(pid=600)
    assert not matches(pid=600, children=False)
    assert matches(pid=700, children=False)


def test_children_of_nobody_are_refused() -> None:
    with pytest.raises(UsageError, match="name one"):
        ApplicationRule(VOICE, uid=1, children=True)


def test_a_network_and_a_name_are_two_destinations() -> None:
    with pytest.raises(UsageError, match="not both"):
        ApplicationRule(VOICE, destination=ip_network("10.0.0.0/8"), destination_name="a.example")


def test_whoever_gets_a_pid_later_is_somebody_else() -> None:
    assert matches(pid=700, started=70)
    assert not matches(pid=700, started=69)
    assert matches(pid=600, started=60)
    assert not matches(pid=600, started=61)


def test_a_rule_is_written_as_it_was_said() -> None:
    rule = ApplicationRule(
        VOICE,
        command="a b",
        container="web",
        children=True,
        port=80,
        last_port=90,
        dscp=46,
        destination_name="x.y",
    )
    assert str(rule) == "command=a b container=web children=true destination_name=x.y port=80-90 dscp=46"
    assert (
        str(ApplicationRule(VOICE, destination=ip_network("10.0.0.0/8"), port=1))
        == "destination=10.0.0.0/8:1"
    )


MARK = "-m mark --mark 0x0/0x1fff -j MARK --set-xmark 0x2/0x1fff"


def test_the_lines_for_netfilter() -> None:
    rules = [
        ApplicationRule(VOICE, dscp=8, port=80, last_port=90),
        ApplicationRule(
            VOICE, destination_name="x.y", addresses=tuple(map(ip_address, ("10.0.0.1", "10.0.0.2", "::1")))
        ),
        ApplicationRule(VOICE, destination_name="nowhere.y"),
    ]
    assert [" ".join(line.split()) for line in netfilter_lines(rules)] == [
        f"-A UPMT-CLASSIFY -m dscp --dscp 0x08 -p tcp -m tcp --dport 80:90 {MARK}",
        f"-A UPMT-CLASSIFY -m dscp --dscp 0x08 -p udp -m udp --dport 80:90 {MARK}",
        f"-A UPMT-CLASSIFY -d 10.0.0.1/32 {MARK}",
        f"-A UPMT-CLASSIFY -d 10.0.0.2/32 {MARK}",
    ]


def test_what_netfilter_is_not_trusted_with_ends_its_part() -> None:
    foreign, user = ApplicationRule(VOICE, cgroup="/docker"), ApplicationRule(VIDEO, uid=1)

    def is_ours(rule: ApplicationRule) -> bool:
        return rule.cgroup is None

    assert netfilter_part([user, foreign, user], is_ours) == [user]
    assert needs_lookup([user, foreign], is_ours)
    assert not needs_lookup([user, foreign])
    assert not needs_lookup([user], is_ours)
    assert netfilter_part([ApplicationRule(VOICE, container="web"), user]) == []


def test_without_the_process_an_earlier_rule_may_have_been_meant() -> None:
    by_name = ApplicationRule(VOICE, command="x", destination=ip_network("86.0.0.0/8"))
    by_place = ApplicationRule(VIDEO, destination=ip_network("86.0.0.0/8"))
    assert is_guess([by_name, by_place], by_place, FLOW)
    assert is_guess([by_name], None, FLOW)
    assert not is_guess([by_place, by_name], by_place, FLOW)
    assert not is_guess([by_name], None, replace(FLOW, protocol=TCP, destination=ip_address("87.0.0.1")))


def test_a_zero_byte_is_in_no_name() -> None:
    with pytest.raises(UsageError, match="zero byte"):
        ApplicationRule(VOICE, command="a\0b")
