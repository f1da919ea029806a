"""`upmt why`: one flow from the process to the wire, each step with its reason. Looks, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from upmt_nf.classify.facts import ProcessFacts
from upmt_nf.classify.reasons import Decider, Mechanism, Reason, mechanism_of
from upmt_nf.classify.rules import ApplicationRule, first_match
from upmt_nf.daemon.applications import Application
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.linux.sock_diag import SocketFacts
from upmt_nf.mobility.host_status import NetworkStatus
from upmt_nf.mobility.selection import ranked
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import TCP, FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationId, ApplicationName, NetworkName
from upmt_nf.model.names import (
    MARK_MASK,
    MARK_NATIVE,
    PRIORITY_CARE_OF,
    PRIORITY_GUARDED,
    PRIORITY_VIRTUAL,
    network_table,
    outer_mark,
)
from upmt_nf.routing.plan import Kind, Routing

if TYPE_CHECKING:
    from upmt_nf.daemon.host_daemon import HostDaemon

_MOST_FLOWS = 20
"""So many of an application's or a process's flows are explained; the others are counted."""


class Explainer:
    """The handler of `why`."""

    def __init__(self, daemon: HostDaemon) -> None:
        self._daemon = daemon

    async def why(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """Explain an application, a flow or a process. Raises UsageError when there is no such thing."""
        subject = arguments.get("subject")
        if not isinstance(subject, str):
            raise UsageError("why needs an application, a flow or a process's number")
        applications = self._daemon.applications
        if subject in applications.by_name:
            return self._of_application(ApplicationName(subject))
        if subject.isascii() and subject.isdigit():
            return self._of_process(subject)
        if ">" in subject:
            return self._of_flow(FlowKey.parse(subject))
        raise UsageError(
            f"there is no application {subject!r}; there are {', '.join(applications.by_name)}"
            " (or give a flow as `upmt flows` prints it, or a process's number)"
        )

    def _of_application(self, name: ApplicationName) -> dict[str, Any]:
        number = self._daemon.applications.by_name[name].id
        entries = [entry for entry in self._daemon.paft.flows.values() if entry.application_id == number]
        return self._answer("application", name, name, None, entries)

    def _of_process(self, subject: str) -> dict[str, Any]:
        daemon = self._daemon
        facts = daemon.applications.owners.facts_of(int(subject)) if len(subject) < 10 else None
        if facts is None:
            raise UsageError(f"there is no process {subject}")
        daemon.applications.owners.name_processes(daemon.paft.flows.values(), daemon.now())
        entries = [entry for entry in daemon.paft.flows.values() if entry.pid == facts.pid]
        rules = daemon.applications.rules
        anywhere = FlowKey(TCP, ip_address("0.0.0.0"), 0, ip_address("0.0.0.0"), 0)
        rule = first_match(rules, anywhere, facts)
        known = daemon.applications.by_id
        name = known[rule.application].name if rule is not None else DEFAULT_APPLICATION
        if entries:
            name = known[entries[-1].application_id].name
        answer = self._answer("process", subject, name, facts, entries)
        answer["new_flows"] = self._classification(Reason(Decider.AGENT, rule), 0, rules)
        answer["new_flows"]["application"] = (
            known[rule.application].name if rule is not None else DEFAULT_APPLICATION
        )
        if not _is_in_our_namespace(facts.pid):
            answer["notes"].append("the process is in another network namespace: this daemon never sees it")
        return answer

    def _of_flow(self, flow: FlowKey) -> dict[str, Any]:
        daemon = self._daemon
        entry = daemon.paft.flows.get(flow.packed())
        if entry is None:
            for routing in daemon.networks.routings:
                if routing.address.ip == flow.source:
                    raise UsageError(
                        f"{flow} is not UPMT's: its source is the care-of address of {routing.interface}, so it "
                        f"leaves by rule {PRIORITY_CARE_OF}, table {network_table(routing.index)}, untunnelled"
                    )
            raise UsageError(f"there is no flow {flow}: `upmt flows` lists them")
        name = daemon.applications.by_id[entry.application_id].name
        return self._answer("flow", str(flow), name, None, [entry])

    # --- the parts ---

    def _answer(
        self,
        kind: str,
        subject: str,
        name: ApplicationName,
        process: ProcessFacts | None,
        entries: Sequence[FlowEntry],
    ) -> dict[str, Any]:
        daemon = self._daemon
        application = daemon.applications.by_name[name]
        status = daemon.machine.applications[name]
        current = status.network
        if kind == "flow" and (pinned := daemon.machine.carrier_of(entries[0])[0].pinned) is not None:
            current = pinned.network
        # A flow that is known began by a tunnel and stays there; of the rest it is the new flows that count.
        is_left_alone = application.goes_native and kind != "flow"
        current = None if is_left_alone else current
        verdicts = network_verdicts(
            status.policy, current, daemon.machine.networks_of(name), daemon.config.mobile_host.return_after
        )
        for row in verdicts:
            reason = daemon.machine.verdict(name, row["name"], daemon.now())
            if reason is not None and row["state"] in ("up", "suspect") and current == status.network:
                row["why"] = reason
        return {
            "kind": kind,
            "subject": subject,
            "process": process_report(process),
            "application": {
                "name": name,
                "id": application.id,
                "policy": ["native"] if application.is_native else list(status.policy),
                "policy_name": status.policy_name,
                "locked": status.locked,
                "network": status.network,
                "match": application.conditions,
                "is_moving": status.is_moving,
                "anchor": str(status.anchor) if status.anchor is not None else None,
            },
            "flows": [self._flow(entry) for entry in entries[-_MOST_FLOWS:]],
            "flow_count": len(entries),
            "networks": [] if application.is_native and kind != "flow" else verdicts,
            "path": self._left_alone() if is_left_alone else self._path(name, application.id, current),
            "changes": (
                [f"upmt assign --app {name} --to NETWORK: by the tunnels"]
                if application.is_native
                else what_would_change(
                    name,
                    current,
                    verdicts,
                    subject if kind == "flow" else None,
                    is_locked=status.locked is not None,
                )
            ),
            "notes": notes_on(application),
        }

    def _flow(self, entry: FlowEntry) -> dict[str, Any]:
        daemon = self._daemon
        socket, facts = daemon.applications.owners.look(entry.flow)
        rules = daemon.applications.rules
        reason = entry.why if isinstance(entry.why, Reason) else Reason(Decider.AGENT)
        if reason.decider is Decider.NETFILTER:
            reason = Reason(Decider.NETFILTER, self._rule_behind_mark(entry, socket, facts, rules))
        carried, paft = daemon.machine.carrier_of(entry)
        tunnel = paft.tunnel_of(carried)
        return {
            "flow": str(entry.flow),
            "process": process_report(facts) or _remembered(entry),
            "socket": {"inode": socket.inode, "uid": socket.uid} if socket is not None else None,
            "classification": self._classification(reason, entry.mark, rules),
            "application": daemon.applications.by_id[entry.application_id].name,
            "is_pinned": carried.pinned is not None,
            "network": tunnel.network if tunnel is not None else None,
            "tunnel_id": tunnel.id if tunnel is not None else None,
            "packets": carried.packets_in + carried.packets_out,
            "idle_s": round(max(0.0, daemon.now() - entry.last_seen), 1),
        }

    @staticmethod
    def _rule_behind_mark(
        entry: FlowEntry,
        socket: SocketFacts | None,
        facts: ProcessFacts | None,
        rules: Iterable[ApplicationRule],
    ) -> ApplicationRule | None:
        """Netfilter leaves only the application's id: of its rules, the first one that fits what is known now."""
        own = [rule for rule in rules if rule.application == entry.application_id and not rule.needs_process]
        found = first_match(own, entry.flow, facts)
        if found is not None or facts is not None:
            return found
        fitting = [
            rule
            for rule in own
            if (rule.destination is None or entry.flow.destination in rule.destination)
            and (rule.uid is None or socket is None or rule.uid == socket.uid)
        ]
        # The process has ended, and with it what it was: only a single candidate is an answer.
        return fitting[0] if len(fitting) == 1 else None

    def _classification(self, reason: Reason, mark: int, rules: Sequence[ApplicationRule]) -> dict[str, Any]:
        rule = reason.rule
        if rule is not None:
            mechanism = mechanism_of(rule)
        else:
            mechanism = Mechanism.MARK if reason.decider is Decider.NETFILTER else Mechanism.DEFAULT
        return {
            "mechanism": mechanism.value,
            "decided_by": reason.decider.value,
            "found_by": reason.found_by.value if reason.found_by is not None else None,
            "is_guess": reason.is_guess,
            "rule": str(rule) if rule is not None else None,
            "origin": self._daemon.applications.origin_of(rule) if rule is not None else None,
            "place": rules.index(rule) + 1 if rule in rules else None,
            "of": len(rules),
            "mark": f"{mark:#x}/{MARK_MASK:#x}" if mark else None,
        }

    def _left_alone(self) -> dict[str, Any]:
        """The way of what goes as if UPMT were not there."""
        rules = self._daemon.kernel.routing.rules
        rule = next((rule for rule in rules if rule.mark == MARK_NATIVE), None)
        return {
            "is_left_alone": True,
            "application_mark": f"{MARK_NATIVE:#x}/{MARK_MASK:#x}",
            "inner_rule": str(rule) if rule is not None else None,
            "inner_route": None,
            "virtual_interface": None,
            "anchor": None,
            "tunnel": None,
        }

    def _path(
        self, name: ApplicationName, application: ApplicationId, network: NetworkName | None
    ) -> dict[str, Any]:
        """The kernel's part of the way: by the virtual interface to the agent, by the network's table to the wire."""
        daemon = self._daemon
        routing = daemon.kernel.routing
        further = daemon.further.sockets_to(daemon.machine.elsewhere.get(application))
        sockets = further or daemon.sockets
        inner = next(
            (
                rule
                for rule in routing.rules
                if rule.priority in (PRIORITY_GUARDED, PRIORITY_VIRTUAL)
                and rule.version == daemon.config.anchor.address.version
                and rule.mark in (None, application)
            ),
            None,
        )
        path: dict[str, Any] = {
            "is_left_alone": False,
            "application_mark": f"{application:#x}/{MARK_MASK:#x}",
            "inner_rule": str(inner) if inner is not None else None,
            "inner_route": _default_of(routing, inner.table) if inner is not None else None,
            "virtual_interface": daemon.kernel.interface.name,
            "anchor": str(sockets.anchor.address),
            "tunnel": None,
        }
        status = daemon.machine.networks_of(name).get(network) if network is not None else None
        if network is None or status is None:
            return path
        mark = outer_mark(status.index)
        outer = next((rule for rule in routing.rules if rule.mark == mark), None)
        local = sockets.local_of(network)
        path["tunnel"] = {
            "tunnel_id": status.tunnel_id,
            "network": network,
            "interface": status.interface,
            "care_of_address": str(status.care_of_address) if status.care_of_address else None,
            "local": str(local) if local else None,
            "reflexive": str(status.reflexive) if status.reflexive else None,
            "remote": str(sockets.remote_of(network)),
            "outer_mark": f"{mark:#x}/{MARK_MASK:#x}",
            "outer_rule": str(outer) if outer is not None else None,
            "outer_route": _default_of(routing, network_table(status.index)),
            "mtu": status.mtu or None,
        }
        return path


def notes_on(application: Application) -> list[str]:
    """What an application's policy means beside the networks."""
    if application.is_native:
        return [
            "left alone: its new flows go as if UPMT were not there; those that began by a tunnel stay there"
        ]
    if application.goes_native:
        return ["no allowed network works, so its new flows go as if UPMT were not there (on_no_network)"]
    if application.is_guarded:
        return [
            f"kill switch ({application.on_no_network}): by the tunnels or not at all, also without a daemon"
        ]
    return []


def network_verdicts(
    policy: Sequence[str],
    current: NetworkName | None,
    networks: Mapping[NetworkName, NetworkStatus],
    return_after: float,
) -> list[dict[str, Any]]:
    """Each network, the policy's first, with why an application is there or not. `return_after` in seconds."""
    order = ranked(policy, list(networks))
    found: list[dict[str, Any]] = []
    for place, name in enumerate(order, start=1):
        found.append(
            {
                "name": name,
                "place": place,
                "state": networks[name].state,
                "is_chosen": name == current,
                "why": _verdict(place, name, order, current, networks, return_after),
            }
        )
    for name in networks:
        if name not in order:
            chosen = name == current
            why = "it was moved here alone" if chosen else "the policy does not name it"
            found.append(
                {"name": name, "place": None, "state": networks[name].state, "is_chosen": chosen, "why": why}
            )
    return found


def _verdict(
    place: int,
    name: NetworkName,
    order: Sequence[NetworkName],
    current: NetworkName | None,
    networks: Mapping[NetworkName, NetworkStatus],
    return_after: float,
) -> str:
    status = networks[name]
    is_usable = status.state in ("up", "suspect")
    if name == current:
        if not is_usable:
            return f"it is {status.state} ({status.reason}): being left"
        if place == 1:
            return "first of the policy, and it is up"
        return "the first of the policy that could be used"
    if not is_usable:
        return f"it is {status.state}: {status.reason}"
    if current in order and order.index(current) < place - 1:
        return f"comes after {current}"
    if status.state == "suspect":
        return f"it is suspect: {status.reason}"
    return f"up again, but not for {return_after:g} s yet, or a handover is under way"


def what_would_change(
    name: ApplicationName,
    current: NetworkName | None,
    verdicts: Iterable[Mapping[str, Any]],
    flow: str | None,
    *,
    is_locked: bool = False,
) -> list[str]:
    """Commands, and events, after which it would go another way."""
    if is_locked:
        return [f"upmt release {name}: its policy decides again", f"upmt lock {name} --to NETWORK"]
    rows = list(verdicts)
    said: list[str] = []
    for row in rows:
        if row["is_chosen"] or row["state"] != "up":
            continue
        if flow is not None:
            said.append(f"upmt handover '{flow}' --to {row['name']}")
        if row["place"] is not None:
            said.append(f"upmt handover {name} --to {row['name']}")
        else:
            said.append(f"upmt assign --app {name} --to {row['name']},...")
    better = [row["name"] for row in rows if row["place"] and not row["is_chosen"] and row["state"] != "up"]
    chosen = next((row["place"] for row in rows if row["is_chosen"]), None)
    for row in rows:
        if row["name"] in better and (chosen is None or (row["place"] or 0) < chosen):
            said.append(f"{row['name']} coming up")
    later = [row["name"] for row in rows if row["place"] and chosen and row["place"] > chosen]
    if current is not None and later:
        said.append(f"{current} failing: then {later[0]}")
    if name == DEFAULT_APPLICATION:
        said.append("upmt assign --command NAME --to NETWORK: an application of its own")
    return said


def process_report(facts: ProcessFacts | None) -> dict[str, Any] | None:
    """A process as `why` shows it."""
    if facts is None:
        return None
    return {
        "pid": facts.pid,
        "command": facts.command,
        "executable": facts.executable or None,
        "arguments": list(facts.arguments),
        "uid": facts.uid,
        "gid": facts.gid,
        "cgroup": facts.cgroup,
    }


def _remembered(entry: FlowEntry) -> dict[str, Any] | None:
    """What the flow's entry still knows of a process that has ended."""
    if not entry.pid:
        return None
    gone = dict.fromkeys(("executable", "arguments", "uid", "gid", "cgroup"))
    return {"pid": entry.pid, "command": entry.command or None, **gone}


def _default_of(routing: Routing, table: int) -> str | None:
    return next(
        (
            str(route)
            for route in routing.routes
            if route.table == table and route.destination.prefixlen == 0 and route.kind is Kind.UNICAST
        ),
        None,
    )


def _is_in_our_namespace(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return True
