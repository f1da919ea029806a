"""What the kernel is told of a process never differs from what the agent would say of one of its flows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.classify.facts import Ancestor, ProcessFacts
from upmt_nf.classify.rules import ApplicationRule, first_match, netfilter_part
from upmt_nf.classify.verdicts import Verdict, verdict_of
from upmt_nf.model.flow import TCP, UDP, FlowKey
from upmt_nf.model.identity import ApplicationId

PROCESS = ProcessFacts(
    pid=700,
    command="talker",
    executable="/usr/bin/talker",
    arguments=("talker",),
    uid=1000,
    gid=100,
    cgroup="/system.slice/talker.service",
    ancestors=(Ancestor(600, 61, "parent"),),
    started=71,
)
CONDITIONS: dict[str, st.SearchStrategy[Any]] = {
    "command": st.sampled_from(["talker", "t*", "other", "parent"]),
    "executable": st.sampled_from(["/usr/bin/talker", "/opt/other"]),
    "uid": st.sampled_from([1000, 0]),
    "gid": st.sampled_from([100, 0]),
    "cgroup": st.sampled_from(["system.slice", "user.slice"]),
    "unit": st.sampled_from(["talker.service", "other.service"]),
    "pid": st.sampled_from([700, 600, 5]),
    "destination": st.sampled_from([ip_network("86.0.0.0/8"), ip_network("10.0.0.0/8")]),
    "port": st.sampled_from([53, 443]),
    "dscp": st.sampled_from([0, 46]),
}
RULES = st.lists(
    st.builds(
        lambda application, given: ApplicationRule(ApplicationId(application), **given),
        st.integers(2, 9),
        st.fixed_dictionaries({}, optional=CONDITIONS),
    ),
    max_size=5,
)
PROCESSES = st.builds(
    replace,
    st.just(PROCESS),
    command=st.sampled_from(["talker", "other"]),
    uid=st.sampled_from([1000, 0]),
    cgroup=st.sampled_from(["/system.slice/talker.service", "/"]),
)
FLOWS = st.builds(
    FlowKey,
    st.sampled_from([TCP, UDP]),
    st.just(ip_address("1.2.3.4")),
    st.just(2000),
    st.sampled_from([ip_address("86.0.0.1"), ip_address("10.0.0.1")]),
    st.sampled_from([53, 443, 99]),
)


@given(RULES, PROCESSES, FLOWS, st.sampled_from([0, 46]))
def test_a_verdict_is_what_the_first_match_says(
    rules: list[ApplicationRule], process: ProcessFacts, flow: FlowKey, dscp: int
) -> None:
    verdict = verdict_of(rules, process)
    assert verdict is None or verdict.rule is first_match(rules, flow, process, dscp)


@given(RULES, PROCESSES, FLOWS, st.sampled_from([0, 46]))
def test_so_it_is_for_what_netfilter_left_unmarked(
    rules: list[ApplicationRule], process: ProcessFacts, flow: FlowKey, dscp: int
) -> None:
    part = netfilter_part(rules)
    found = first_match(rules, flow, process, dscp)
    if any(found is rule for rule in part):
        return
    verdict = verdict_of(rules, process, len(part))
    assert verdict is None or verdict.rule is found


def test_what_depends_on_the_flow_is_no_verdict() -> None:
    by_name = ApplicationRule(ApplicationId(2), command="talker")
    to_the_west = ApplicationRule(ApplicationId(3), command="talker", destination=ip_network("10.0.0.0/8"))
    others = ApplicationRule(ApplicationId(4), command="other", port=53)
    everybody_there = ApplicationRule(ApplicationId(5), destination=ip_network("10.0.0.0/8"))
    assert verdict_of([to_the_west, by_name], PROCESS) is None
    assert verdict_of([by_name, to_the_west], PROCESS) == Verdict(by_name)
    assert verdict_of([others], PROCESS) == Verdict(None)
    assert verdict_of([everybody_there, by_name], PROCESS) is None
    assert verdict_of([everybody_there, by_name], PROCESS, 1) == Verdict(by_name)
