"""Flows of an application that go by a policy of their own: told apart, moved by themselves, and taken back."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from upmt_nf.config.application_sections import ApplicationSection, with_parts
from upmt_nf.daemon.adoption import claimed, parted_again
from upmt_nf.daemon.applications import Applications, Source
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import ICMP, TCP, UDP, Endpoint, FlowKey
from upmt_nf.model.identity import ApplicationName, TunnelId

MEDIA = {"name": "media", "port": "5004-5005", "protocol": "udp", "policy": "voice"}
URGENT = {"dscp": "EF", "networks": "lte"}


def section(*flows: Any, **more: Any) -> ApplicationSection:
    return ApplicationSection.model_validate(
        {"name": "call", "networks": "wifi", "match": [{"port": "5000-5100"}], "flow": list(flows), **more}
    )


def flow(port: int, protocol: int = UDP) -> FlowKey:
    return FlowKey(protocol, ip_address("1.2.3.4"), 40000, ip_address("86.0.0.1"), port)


def owner(known: Applications, port: int, protocol: int = UDP, mark: int = 0, dscp: int = 0) -> str:
    return known.by_id[known.classify(flow(port, protocol).packed(), mark, dscp).application_id].name


def test_a_flow_is_of_the_first_part_that_it_fits_or_of_the_whole() -> None:
    known = Applications([section(MEDIA, URGENT)])
    assert owner(known, 5004) == "call/media"
    assert owner(known, 5004, TCP) == "call"
    assert owner(known, 5060) == "call"
    assert owner(known, 5060, dscp=46) == "call/2"
    assert owner(known, 5004, dscp=46) == "call/media"
    assert owner(known, 80, dscp=46) == "default", "only flows of the application are asked"


def test_parts_hold_for_what_netfilter_marked_and_for_what_correspondents_begin() -> None:
    known = Applications([section(MEDIA, match=[{"uid": 34}])])
    mark = known.by_name[ApplicationName("call")].id
    assert owner(known, 5004, mark=mark) == "call/media"
    assert owner(known, 5060, mark=mark) == "call"
    incoming = Applications([section(MEDIA)]).classify_incoming(flow(5004).packed())
    assert incoming.application_id == known.by_name[ApplicationName("call/media")].id


def test_each_part_has_its_own_policy_and_the_kill_switch_of_the_whole() -> None:
    known = Applications([section(MEDIA, URGENT, on_no_network="reject")])
    assert known.policies == {"call": ("wifi",), "call/media": ("any",), "call/2": ("lte",)}
    part = known.section_of(ApplicationName("call/media"))
    assert part is not None
    assert (part.policy, "networks" in part.model_fields_set) == ("voice", False)
    assert {known.by_id[id].name for id in known.refusing} == {"call", "call/media", "call/2"}
    assert known.by_name[ApplicationName("call/2")].conditions == ["of call: dscp=EF"]


def test_running_flows_follow_when_the_parts_change() -> None:
    known, paft = Applications([section(MEDIA)]), Paft()
    paft.add_tunnel(Tunnel(TunnelId(1), ip_address("1.2.3.4"), Endpoint(ip_address("45.0.0.1"), 1800), 1400))
    for port in (5004, 5060):
        found = known.classify(flow(port).packed(), 0)
        paft.insert(flow(port).packed(), found.application_id, 0.0)
    changed = known.declare(Source.CONFIGURATION, (section({**MEDIA, "port": 5060}),))
    assert changed == {}, "the policies are the same"
    assert parted_again(known, paft.flows.values()) == {"call": [flow(5004)], "call/media": [flow(5060)]}
    assert set(known.declare(Source.CONFIGURATION, (section(),))) == {"call/media"}
    assert parted_again(known, paft.flows.values()) == {"call": [flow(5060)]}
    assert parted_again(known, paft.flows.values()) == {}


def test_a_flow_that_another_application_gets_at_run_time_is_no_part_any_more() -> None:
    known, paft = Applications([section(MEDIA)]), Paft()
    paft.insert(flow(5004).packed(), known.classify(flow(5004).packed(), 0).application_id, 0.0)
    _, rule = known.assign("other", {"port": 5004})
    assert rule is not None
    assert claimed(known, paft, rule) == [flow(5004)]
    (entry,) = paft.flows.values()
    assert known.by_id[entry.application_id].name == "other"


def test_a_condition_that_nobody_understands_changes_nothing() -> None:
    known = Applications([section(MEDIA)])
    with pytest.raises(UsageError, match="is not a destination"):
        known.declare(Source.CONFIGURATION, (section({"destination": "somewhere"}),))
    assert owner(known, 5004) == "call/media"


def test_a_part_has_no_match_of_its_own() -> None:
    whole, part = with_parts((section({"protocol": "icmp"}),))
    assert (whole.name, part.name, part.match, part.flow) == ("call", "call/1", (), ())
    assert (
        owner(Applications([section({"protocol": "icmp"}, match=[{"destination": "86.0.0.0/8"}])]), 0, ICMP)
        == "call/1"
    )
