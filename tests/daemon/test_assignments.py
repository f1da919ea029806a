"""Assignments made at run time: in front of what is declared, and taken back without a trace."""

from __future__ import annotations

from ipaddress import ip_address

from upmt_nf.config.application_sections import ApplicationSection, MatchSection
from upmt_nf.config.applications import without_assignment
from upmt_nf.daemon.applications import Applications
from upmt_nf.model.flow import UDP, FlowKey
from upmt_nf.model.identity import ApplicationName

FLOW = FlowKey(UDP, ip_address("1.2.3.4"), 40000, ip_address("86.0.0.1"), 443)


def section(name: str, *matches: dict[str, object], **more: object) -> ApplicationSection:
    return ApplicationSection.model_validate({"name": name, "match": list(matches), **more})


def owner(known: Applications) -> str:
    return known.by_id[known.classify(FLOW.packed(), 0).application_id].name


def test_what_is_declared_counts_again_after_an_assignment_is_taken_back() -> None:
    known = Applications([section("web", {"port": 443})])
    known.assign("mine", {"destination": "86.0.0.0/8"})
    assert owner(known) == "mine"
    assert [str(rule) for rule in known.take_back(None, {"destination": "86.0.0.0/8"})] == [
        "destination=86.0.0.0/8"
    ]
    assert owner(known) == "web"
    assert known.define(ApplicationName("mine")).conditions == []
    assert known.take_back(None, {"destination": "86.0.0.0/8"}) == []


def test_an_application_gives_back_all_that_was_assigned_to_it_and_its_settings() -> None:
    known = Applications([section("web", {"port": 443}, on_no_network="reject")])
    web, _ = known.assign("web", {"uid": 34})
    known.assign("web", {"port": 443})
    known.assign("other", {"uid": 35})
    web.is_native = True
    known.set_on_no_network(web, None)
    assert {str(rule) for rule in known.take_back("web", {})} == {"uid=34", "port=443"}
    assert web.conditions == ["port=443"]
    assert (web.is_native, web.on_no_network) == (False, "reject")
    assert [str(rule) for rule in known.rules] == ["uid=35", "port=443"]


def test_settings_stay_while_the_application_has_another_assignment() -> None:
    known = Applications([])
    web, _ = known.assign("web", {"uid": 34})
    known.assign("web", {"uid": 35})
    web.is_native = True
    known.take_back(None, {"uid": 35})
    assert web.is_native
    known.take_back(None, {"uid": 34})
    assert not web.is_native


def test_what_was_kept_goes_by_its_conditions_or_with_its_application() -> None:
    sections = (section("a", {"uid": 34}, {"uid": 35}), section("b", {"uid": 34}), section("c"))
    left = without_assignment(sections, None, MatchSection.model_validate({"uid": 34}))
    assert [(each.name, len(each.match)) for each in left] == [("a", 1), ("c", 0)]
    assert [each.name for each in without_assignment(sections, "a", None)] == ["b", "c"]
