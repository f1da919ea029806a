"""The mobile host's commands on the control socket: arguments checked, the daemon asked, JSON given back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from upmt_nf.config.application_sections import ANY_ANCHOR
from upmt_nf.daemon.adoption import claimed
from upmt_nf.daemon.applications import Application
from upmt_nf.daemon.control_server import Handler
from upmt_nf.daemon.explain import Explainer
from upmt_nf.daemon.matches import conditions_said, rule_of
from upmt_nf.daemon.reports import (
    application_report,
    association_report,
    classification_report,
    flow_report,
    network_report,
    receipt_report,
    tunnel_report,
)
from upmt_nf.mobility.host_events import ApplicationAssigned, ApplicationDefined, FlowsAdopted
from upmt_nf.mobility.selection import ranked
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import (
    DEFAULT_APPLICATION,
    DEFAULT_APPLICATION_ID,
    ApplicationId,
    ApplicationName,
    NetworkName,
)
from upmt_nf.policy.policy import Policy

if TYPE_CHECKING:
    from upmt_nf.daemon.host_daemon import HostDaemon

NATIVE = "native"
"""In place of networks: left alone."""
READING = frozenset(("status", "networks", "tunnels", "apps", "flows", "rules", "why", "assignments"))
"""What any user may ask."""


class HostControl:
    """The handlers. Each takes the request's arguments and the caller's pid."""

    def __init__(self, daemon: HostDaemon) -> None:
        self._daemon = daemon

    def commands(self) -> dict[str, Handler]:
        """Handlers by name."""
        return {
            "status": self.status,
            "networks": self.networks,
            "tunnels": self.tunnels,
            "apps": self.apps,
            "flows": self.flows,
            "rules": self.rules,
            "assignments": self.assignments,
            "why": Explainer(self._daemon).why,
            "join": self.join,
            "assign": self.assign,
            "take_back": self._daemon.declarations.take_back,
            "apply": self._daemon.declarations.apply,
            "reload": self._daemon.declarations.reload,
            "handover": self.handover,
        }

    # --- reading ---

    async def status(self, _: Mapping[str, Any], __: int) -> dict[str, Any]:
        """Association, networks and applications."""
        daemon = self._daemon
        forwarder = daemon.forwarder
        return {
            "role": "mobile-host",
            "datapath": daemon.datapath.name,
            "datapath_reason": daemon.datapath.reason,
            "admission": "kernel" if daemon.kernel.admits else "agent",
            "admission_reason": daemon.kernel.lacks_admission or "the kernel has all it needs",
            "virtual_interface": daemon.kernel.interface.name,
            "association": association_report(daemon.machine.association, self._now()),
            "resolver": daemon.config.mobile_host.resolver,
            "networks": self._network_rows(),
            "applications": self._application_rows(),
            "counters": {
                **(forwarder.counters.as_dict() if forwarder is not None else {}),
                **daemon.plane.counters(),
                **(daemon.datapath.fast.as_counters() if daemon.datapath.fast is not None else {}),
                **daemon.applications.owners.counters,
                **(daemon.admission.counters.as_dict() if daemon.admission is not None else {}),
                "socket_ends_lost": daemon.watch.ends.lost,
                **daemon.paft.counters.as_dict(),
                **daemon.machine.counters,
                **self._further_counters(forwarder.counters.as_dict() if forwarder is not None else {}),
                "rules_repaired": daemon.repairs.done if daemon.repairs is not None else 0,
            },
        }

    async def networks(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """The access networks."""
        return self._network_rows()

    async def apps(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """The applications."""
        return self._application_rows()

    async def tunnels(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """The tunnels that are set up."""
        daemon = self._daemon
        daemon.count()
        rows = []
        for anchor, machine in daemon.machine.machines():
            sockets = daemon.sockets if anchor is None else daemon.further.sockets_to(anchor)
            paft = daemon.paft if anchor is None else daemon.machine.further[anchor].paft
            states = machine.networks
            for tunnel in paft.tunnels.values():
                status = states[tunnel.network]
                local = sockets.local_of(tunnel.network) if sockets is not None else None
                rows.append(tunnel_report(tunnel, local, status.state, status.reflexive, status))
        return rows

    async def flows(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """Every flow."""
        daemon = self._daemon
        daemon.count()
        daemon.applications.owners.name_processes(daemon.paft.flows.values(), self._now())
        return [
            {
                **flow_report(entry, *daemon.machine.carrier_of(entry), self._name_of),
                **classification_report(entry, daemon.applications.mechanism_of(entry)),
            }
            for entry in daemon.paft.flows.values()
        ]

    async def assignments(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """Every rule that names an application, in the order in which they are tried."""
        return self._daemon.applications.assignments()

    async def rules(self, _: Mapping[str, Any], __: int) -> dict[str, Any]:
        """The netfilter rules that are in place, in iptables-save syntax, and the mark of known flows in them."""
        kernel = self._daemon.kernel
        return {
            "rules": str(kernel.rules),
            "rules_ipv6": str(kernel.rules_ipv6),
            "routing": str(kernel.routing).splitlines(),
            "judged": kernel.judged,
            "admits": kernel.admits,
        }

    def _network_rows(self) -> list[dict[str, Any]]:
        statuses = self._daemon.machine.networks
        return [
            {
                **network_report(
                    statuses[NetworkName(section.name)],
                    section.interface,
                    section.cost,
                    self._daemon.lease_portals.said(NetworkName(section.name)),
                ),
                **self._daemon.measurements.report(NetworkName(section.name)),
            }
            for section in self._daemon.config.network
        ]

    def _application_rows(self) -> list[dict[str, Any]]:
        daemon = self._daemon
        flows = Counter(entry.application_id for entry in daemon.paft.flows.values())
        known = daemon.applications.by_name
        return [
            application_report(status, flows[status.id], known[name])
            for name, status in daemon.machine.applications.items()
        ]

    def _further_counters(self, usual: Mapping[str, int]) -> dict[str, int]:
        """Of the forwarders of further associations, together with the usual one's."""
        further = self._daemon.further.counters()
        return {reason: count + usual.get(reason, 0) for reason, count in further.items()}

    def _name_of(self, id: ApplicationId) -> ApplicationName | None:
        application = self._daemon.applications.by_id.get(id)
        return application.name if application is not None else None

    # --- changing ---

    async def join(self, arguments: Mapping[str, Any], pid: int) -> dict[str, Any]:
        """Make the caller a member of an application: its cgroup, before it runs the command."""
        name = arguments.get("application")
        if not isinstance(name, str):
            raise UsageError("join needs the name of an application")
        daemon = self._daemon
        path = daemon.kernel.cgroup_of(ApplicationName(name))
        application = daemon.applications.define(ApplicationName(name))
        daemon.applications.add_cgroup(application, path)
        self._introduce(application, None)
        daemon.update_rules()
        daemon.kernel.join(application.name, pid)
        resolver = None if application.resolver is None else list(application.resolver)
        return {"application": application.name, "cgroup": path, "resolver": resolver}

    async def assign(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """Tie what matches to networks; what runs already comes along."""
        daemon = self._daemon
        networks = arguments.get("networks")
        is_native = networks == [NATIVE]
        policy = None if is_native else self._policy(networks)
        choice = self._on_no_network(arguments.get("on_no_network"), is_native=is_native)
        anchor = self._anchor(arguments.get("anchor"), is_native=is_native)
        name, match = arguments.get("application"), arguments.get("match", {})
        if anchor is not None and name == DEFAULT_APPLICATION:
            raise UsageError("the rest goes by the anchor that the host uses: give another application one")
        if not isinstance(match, dict) or not (name is None or isinstance(name, str)):
            raise UsageError("assign takes the name of an application and its conditions")
        if "destination_name" in match:
            # Refused where it means nothing: a rule for no address would be obeyed in silence.
            await daemon.watch.names.learn(rule_of(DEFAULT_APPLICATION_ID, match).destination_name or "")
        self._check_guard(name, match, policy, choice)
        application, rule = daemon.applications.assign(name, match)
        application.is_native = is_native
        if choice is not None:
            daemon.applications.set_on_no_network(application, choice)
        turned = self._turn_to(application, anchor)
        is_new = self._introduce(application, policy)
        daemon.update_rules()
        failure = None
        if not is_new and policy is not None:
            if not isinstance(policy, Policy) and application not in turned:
                failure = await self._move_to_best(application, policy)
            daemon.take(ApplicationAssigned(application.name, policy))
        if rule is not None and policy is not None:
            moved = claimed(daemon.applications, daemon.paft, rule)
            daemon.take(FlowsAdopted(application.name, tuple(moved)))
        if arguments.get("save"):
            daemon.declarations.save(application, policy, choice, rule, anchor)
        if failure is not None:
            raise UpmtError(f"{application.name} has its new policy now, but {failure}")
        await daemon.settled(application.name)
        return next(row for row in self._application_rows() if row["name"] == application.name)

    def _check_guard(
        self,
        name: str | None,
        match: Mapping[str, Any],
        policy: Policy | tuple[str, ...] | None,
        choice: str | None,
    ) -> None:
        applications = self._daemon.applications
        called = name or conditions_said(match)
        known = applications.by_name.get(ApplicationName(called))
        if known is not None and policy is not None:
            choice = choice or known.on_no_network
        rules = [rule_of(DEFAULT_APPLICATION_ID, match)] if match else []
        if known is not None:
            own = (rule for rule in applications.rules if rule.application == known.id)
            rules += [rule for rule in own if rule not in applications.started]
        self._daemon.declarations.check_guard(called, policy, choice, rules)

    async def handover(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """Move an application or one flow to a network; gives the receipt."""
        subject, target = arguments.get("subject"), arguments.get("to")
        if not isinstance(subject, str) or not isinstance(target, str):
            raise UsageError("handover needs an application or a flow, and a network")
        is_application = subject in self._daemon.applications.by_name
        is_flow = not is_application and ">" in subject
        what = FlowKey.parse(subject) if is_flow else ApplicationName(subject)
        return receipt_report(await self._daemon.asked_handovers.hand_over(what, NetworkName(target)))

    def _introduce(self, application: Application, policy: Policy | tuple[str, ...] | None) -> bool:
        """Tell the machine of an application; False when it knows it."""
        if application.name in self._daemon.machine.applications:
            return False
        anchor = self._daemon.anchor_of(application)
        self._daemon.take(ApplicationDefined(application.name, application.id, policy, anchor))
        return True

    def _turn_to(self, application: Application, anchor: str | None) -> list[Application]:
        """Let it go by another anchor, if one is named; gives whom that moves: what it has open breaks."""
        if anchor is None:
            return []
        daemon, named = self._daemon, anchor if anchor != ANY_ANCHOR else None
        turned = daemon.applications.set_anchor(application, named)
        known = daemon.machine.applications
        for each in turned:
            if each.name in known:
                policy = daemon.machine.policy_of(each.name)
                daemon.take(ApplicationDefined(each.name, each.id, policy, daemon.anchor_of(each)))
        return turned

    def _anchor(self, name: Any, *, is_native: bool) -> str | None:
        config = self._daemon.config
        known = [anchor.called for anchor in config.anchors]
        is_known = name in (None, ANY_ANCHOR) or (
            isinstance(name, str) and config.anchor_called(name) is not None
        )
        if not is_known:
            raise UsageError(f"there is no anchor {name!r}; there are {', '.join(known)}, and {ANY_ANCHOR!r}")
        if name is not None and is_native:
            raise UsageError("what is left alone needs no anchor: say an anchor or native, not both")
        assert name is None or isinstance(name, str)
        return name

    def _policy(self, networks: Any) -> Policy | tuple[str, ...]:
        """A policy's name, or networks in order. Raises UsageError."""
        policies = self._daemon.policies.config.book().policies
        known = [section.name for section in self._daemon.config.network]
        if not isinstance(networks, Sequence) or isinstance(networks, str) or not networks:
            raise UsageError("say where to: a policy, a network, or several in the order of preference")
        if len(networks) == 1 and networks[0] not in known and networks[0] in policies:
            return policies[networks[0]]
        for name in networks:
            if name not in known and name != "any":
                raise UsageError(
                    f"there is no network {name!r}; there are {', '.join(known)}, and 'any'; "
                    f"the policies are {', '.join(policies)}"
                )
        return tuple(networks)

    def _on_no_network(self, choice: Any, *, is_native: bool) -> str | None:
        if choice not in (None, "hold", "reject", "native"):
            raise UsageError(f"on_no_network is hold, reject or native, not {choice!r}")
        if choice is not None and is_native:
            raise UsageError(
                "what is left alone never needs a network of ours: say on_no_network or native, not both"
            )
        assert choice is None or isinstance(choice, str)
        return choice

    async def _move_to_best(self, application: Application, policy: tuple[str, ...]) -> str | None:
        """Move to the best network of a new policy that is up; gives why that failed."""
        machine = self._daemon.machine
        networks = machine.networks_of(application.name)
        current = machine.applications[application.name].network
        best = next((name for name in ranked(policy, list(networks)) if networks[name].state == "up"), None)
        if best is None or current is None or best == current:
            return None
        try:
            await self._daemon.asked_handovers.hand_over(application.name, best)
        except UpmtError as reason:
            return str(reason)
        return None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
