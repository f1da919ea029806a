"""Which running flows become another application's when rules or parts change. The sockets stay as they are."""

from __future__ import annotations

from collections.abc import Iterable

from upmt_nf.classify.reasons import Decider, Finder, Reason
from upmt_nf.classify.rules import ApplicationRule, first_match
from upmt_nf.daemon.applications import Applications
from upmt_nf.daemon.flow_owners import UNASKED, Owner
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import ApplicationName


def claimed(applications: Applications, paft: Paft, rule: ApplicationRule) -> list[FlowKey]:
    """Running flows that a new rule claims become its application's; gives them (adopting a program)."""
    moved: list[FlowKey] = []
    for entry in paft.flows.values():
        flow, owner = entry.flow, UNASKED
        if not rule.matches_flow(flow, entry.dscp):
            continue
        if rule.asks_for_process:
            owner = applications.owners.behind(flow)
            if owner.process is None and entry.pid:
                owner = Owner(applications.owners.facts_of(entry.pid), Finder.REMEMBERED)
            if owner.process is not None:
                entry.pid, entry.command = owner.process.pid, owner.process.command
        found = first_match(applications.rules, flow, owner.process, entry.dscp)
        id = applications.flow_policies.part_of(rule.application, flow, entry.dscp)
        if found == rule and entry.application_id != id:
            entry.why = Reason(Decider.AGENT, rule, owner.found_by)
            paft.assign(entry, id)
            moved.append(flow)
    return moved


def released(
    applications: Applications, paft: Paft, gone: Iterable[ApplicationRule]
) -> dict[ApplicationName, list[FlowKey]]:
    """Running flows of applications that lost a rule become whose they are without it; gives those that moved.

    A flow whose socket is not there any more stays as it was.
    """
    touched = {rule.application for rule in gone}
    moved: dict[ApplicationName, list[FlowKey]] = {}
    for entry in paft.flows.values():
        if applications.flow_policies.whole_of(entry.application_id) not in touched:
            continue
        found = applications.look_up(entry.flow, entry.dscp, is_needed=True)
        if not found.has_ended and found.application_id != entry.application_id:
            entry.why, entry.mark = found.why, 0
            paft.assign(entry, found.application_id)
            moved.setdefault(applications.by_id[found.application_id].name, []).append(entry.flow)
    return moved


def parted_again(
    applications: Applications, entries: Iterable[FlowEntry]
) -> dict[ApplicationName, list[FlowKey]]:
    """Running flows whose application has other parts now go by those; gives those that moved."""
    moved: dict[ApplicationName, list[FlowKey]] = {}
    for entry in entries:
        id = applications.flow_policies.part_of(entry.application_id, entry.flow, entry.dscp)
        if id != entry.application_id:
            entry.application_id = id
            moved.setdefault(applications.by_id[id].name, []).append(entry.flow)
    return moved
