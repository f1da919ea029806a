"""The mobile host's kernel state: virtual interface, rules, routes, sysctls, cgroups. All journalled, all put back.

Makes what it is told; decides nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from upmt_nf.config.mobile_host import MobileHostConfig
from upmt_nf.daemon.anchor_addresses import AnchorAddresses
from upmt_nf.daemon.left_behind import LeftBehind
from upmt_nf.linux import netfilter, routes, sysctl
from upmt_nf.linux.cgroups import ApplicationCgroups, hierarchy
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.rule_files import read_rules
from upmt_nf.linux.virtual_interface import KINDS, VirtualInterface, interface_kinds
from upmt_nf.model.errors import FacilityError, KernelError, UpmtError
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import ApplicationName
from upmt_nf.model.names import (
    MARK_ADMITTED,
    MARK_MASK,
    MARK_NATIVE,
    MARK_OUTER,
    MARK_TUNNELLED,
    MARK_UNANSWERED,
    MARKS_OF_KNOWN,
    QUEUE_INBOUND,
    QUEUE_OUTBOUND,
    VIRTUAL_INTERFACE,
    judged_mark,
)
from upmt_nf.routing.plan import TUNNEL_ALL, NetworkRouting, Routing, host_routing
from upmt_nf.routing.rule_text import RuleSet

log = logging.getLogger(__name__)

_FIRST_MTU = 1472
"""Of a plain tunnel over Ethernet; the tunnels tell better as soon as they are up."""


def host_rules(
    anchor: Endpoint,
    ports: Mapping[str, tuple[int, int]],
    application_lines: Iterable[str],
    kind: str = KINDS[0],
    judged: int = judged_mark(0),
    virtual_address: IPAddress | None = None,
    *,
    leaves_alone: bool = False,
    admits: bool = False,
    further: Iterable[tuple[str, int, Endpoint]] = (),
) -> RuleSet:
    """The mobile host's rules. `ports` maps an access interface to the local port of its tunnel and the anchor's.

    `kind` is that of the virtual interface, `judged` the conntrack mark of flows that the agent knows; with
    `leaves_alone` something is, or may become, left alone by name; `admits`: the kernel lets flows in by itself;
    `further` are tunnels to other anchors: access interface, local port, the anchor's end.
    """
    by_queue = kind != "tun"
    values = {
        "anchor": str(anchor.address),
        "tunnel_port": str(anchor.port),
        "virtual_interface": VIRTUAL_INTERFACE,
        "queue_outbound": str(QUEUE_OUTBOUND),
        "queue_inbound": str(QUEUE_INBOUND) if by_queue else "",
        "mark_outer": f"{MARK_OUTER:#x}",
        "judged": "" if by_queue else f"{judged:#x}",
        "admitted": f"{MARK_ADMITTED:#x}" if admits else "",
        "unanswered": f"{MARK_UNANSWERED:#x}" if admits else "",
        "unfinished": f"{judged:#x}" if admits and not by_queue else "",
        "marks_of_admitted": f"{MARK_MASK & ~(MARK_ADMITTED ^ MARK_UNANSWERED):#x}",
        "mark_mask": f"{MARK_MASK:#x}",
        "virtual_address": str(virtual_address or ""),
        **_marks_of_left_alone(leaves_alone),
    }
    ends = [(name, port, Endpoint(anchor.address, there)) for name, (port, there) in ports.items()]
    networks = [
        {
            "network_interface": name,
            "network_port": str(port),
            "network_anchor": str(there.address),
            "network_anchor_port": str(there.port),
        }
        for name, port, there in (*ends, *further)
    ]
    return read_rules("mobile-host", values, networks, application_lines)


def host_rules_ipv6(application_lines: Iterable[str], *, leaves_alone: bool = False) -> RuleSet:
    """The mobile host's rules in the IPv6 tables, while its tunnels carry IPv4."""
    values = {
        "virtual_interface": VIRTUAL_INTERFACE,
        "mark_outer": f"{MARK_OUTER:#x}",
        "mark_mask": f"{MARK_MASK:#x}",
        **_marks_of_left_alone(leaves_alone),
    }
    return read_rules("mobile-host-ipv6", values, (), application_lines)


def _marks_of_left_alone(is_used: bool) -> dict[str, str]:
    marks = {"native": MARK_NATIVE, "tunnelled": MARK_TUNNELLED, "marks_of_sockets": MARKS_OF_KNOWN}
    return {name: f"{mark:#x}" if is_used else "" for name, mark in marks.items()}


class HostKernel:
    """One mobile host's part of the kernel."""

    def __init__(self, config: MobileHostConfig) -> None:
        self._config = config
        self.anchor = config.anchor.tunnels
        """The other end of all tunnels, of the anchor in use."""
        self.addresses = AnchorAddresses(config.anchors)
        self.journal = Journal()
        self.interface = VirtualInterface(self.journal)
        self._cgroups: ApplicationCgroups | None = None
        self._cgroup_identities: dict[str, int | None] = {}
        self._mtu = _FIRST_MTU
        self._application_lines: list[str] = []
        self._goes_on = False
        self._socket_marks: dict[str, int] = {}
        self._is_guarding = False
        self.steering = TUNNEL_ALL
        self.rules_ipv6 = RuleSet(())
        self.lacks_ipv6_tables: str | None = None
        """Why IPv6 packets cannot be told apart by cgroup or group."""
        self._generation = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        self.rules = RuleSet(())
        self.routing = Routing()
        self._programs: dict[str, int] = {}
        self.lacks_admission: str | None = None
        """Why the kernel lets no flow in by itself."""

    def admit_by(self, name: str, program: int) -> None:
        """Let this program see what is sent to the virtual interface from now on."""
        self._programs = {name: program}

    @property
    def admits(self) -> bool:
        """Whether flows may be let in by the kernel itself."""
        return bool(self._programs)

    def go_on_with(self, left: LeftBehind, application_lines: Iterable[str]) -> None:
        """Before `prepare`: flows that are known stay known, and routes stay until there are others."""
        self._generation = left.generation
        self._application_lines = list(application_lines)
        self._goes_on = True

    def prepare(self) -> None:
        """Interface and sysctls. What a killed daemon left is taken over where it fits and put right where not."""
        self.interface.make(self._mtu, interface_kinds(self._config.mobile_host.virtual_interface))
        interfaces = [network.interface for network in self._config.network]
        sysctl.loosen_reverse_path([*interfaces, VIRTUAL_INTERFACE], self.journal)
        # Nothing that holds a killed daemon's applications goes before ours is in place, netfilter's part included.
        self.route(None, (), removes=not (self.steering.guards or self._goes_on))

    def set_rules(
        self,
        ports: Mapping[str, tuple[int, int]],
        application_lines: Iterable[str],
        virtual_address: IPAddress | None = None,
        *,
        leaves_alone: bool = False,
        further: tuple[tuple[str, int, Endpoint], ...] = (),
    ) -> None:
        """Bring netfilter into line. When it names applications differently, all flows are looked at once more."""
        lines = list(application_lines)
        if lines != self._application_lines:
            self._application_lines = lines
            self._generation += 1
        try:
            self._install(ports, virtual_address, leaves_alone, further)
        except UpmtError as reason:
            if not self._programs:
                raise
            self._give_up_admission(reason)
            self._install(ports, virtual_address, leaves_alone, further)
        self._is_guarding = True

    def _install(
        self,
        ports: Mapping[str, tuple[int, int]],
        virtual_address: IPAddress | None,
        leaves_alone: bool,
        further: tuple[tuple[str, int, Endpoint], ...],
    ) -> None:
        self.rules = host_rules(
            self.anchor,
            ports,
            self._application_lines,
            self.interface.kind,
            judged_mark(self._generation),
            virtual_address,
            leaves_alone=leaves_alone,
            admits=self.admits,
            further=further,
        )
        netfilter.install(self.rules, self.journal)

    def _give_up_admission(self, reason: UpmtError) -> None:
        self._programs, self.lacks_admission = {}, str(reason)
        log.info("the kernel lets no flow in by itself: %s", reason)

    def set_rules_ipv6(self, application_lines: Iterable[str], *, leaves_alone: bool = False) -> None:
        """Bring the IPv6 tables into line. A kernel without them is said once and remembered."""
        if self.lacks_ipv6_tables is not None or not self._has_other_family:
            return
        lines = list(application_lines)
        if not lines and not self.rules_ipv6.rules:
            # Nothing to tell apart: a host's IPv6 tables stay as unused as they are.
            return
        self.rules_ipv6 = host_rules_ipv6(lines, leaves_alone=leaves_alone)
        try:
            netfilter.install(self.rules_ipv6, self.journal, 6)
        except FacilityError as reason:
            self.lacks_ipv6_tables, self.rules_ipv6 = str(reason), RuleSet(())
            log.warning("IPv6 is told apart by user and destination only: %s", reason)

    @property
    def outer_versions(self) -> list[int]:
        """The IP versions that tunnels may go over, the better one first: netfilter's queue takes IPv4 only."""
        return [
            each
            for each in self.addresses.versions
            if self.interface.kind == "tun" or each == self.anchor.address.version
        ]

    @property
    def _has_other_family(self) -> bool:
        return self.anchor.address.version == 4 and sysctl.read("net/ipv6/conf/all/disable_ipv6") == "0"

    def mark_sockets(self, wanted: Mapping[str, int]) -> bool:
        """Cgroups below the root -> the mark of sockets created in them; False when the kernel cannot."""
        try:
            for path, mark in wanted.items():
                if self._cgroups is not None and self._socket_marks.get(path, 0) != mark:
                    self._cgroups.mark_sockets(path, mark)
                    self._socket_marks[path] = mark
        except FacilityError as reason:
            log.warning("programs of `upmt run` are told apart by netfilter only: %s", reason)
            return False
        return True

    @property
    def judged(self) -> int:
        """The mark for flows that the agent knows; 0 where it reads all packets from netfilter's queue."""
        return judged_mark(self._generation) if self.interface.kind == "tun" else 0

    def route(
        self,
        virtual_address: IPAddress | None,
        networks: Iterable[NetworkRouting],
        *,
        removes: bool = True,
        further_anchors: tuple[IPAddress, ...] = (),
    ) -> None:
        """Bring policy routing into line; without `removes` nothing goes yet."""
        places = list(networks)
        try:
            self._route(virtual_address, places, further_anchors, removes=removes)
        except KernelError as reason:
            if not self._programs or virtual_address is None:
                raise
            self._give_up_admission(reason)
            self._route(virtual_address, places, further_anchors, removes=removes)

    def _route(
        self,
        virtual_address: IPAddress | None,
        networks: list[NetworkRouting],
        further_anchors: tuple[IPAddress, ...],
        *,
        removes: bool,
    ) -> None:
        self.routing = host_routing(
            virtual_address,
            networks,
            self.anchor.address,
            self.steering,
            further=[
                each
                for anchor in (self.anchor.address, *further_anchors)
                for each in self.addresses.on_the_wire(anchor)
                if each != self.anchor.address
            ],
            has_other_family=self._has_other_family,
            program=next(iter(self._programs), ""),
        )
        routes.apply(self.routing, self.journal, removes=removes, programs=self._programs)

    def drift(self) -> list[str]:
        """What others changed of rules and routes, rule by rule; empty when nothing differs."""
        said = netfilter.verify(self.rules)
        if self.rules_ipv6.rules:
            said += [f"IPv6 {each}" for each in netfilter.verify(self.rules_ipv6, 6)]
        return said + [f"missing or not ours: {change}" for change in routes.drift(self.routing)]

    def repair(self) -> None:
        """Put back what others changed. Raises UpmtError."""
        routes.apply(self.routing, self.journal, programs=self._programs)
        netfilter.install(self.rules, self.journal)
        if self.rules_ipv6.rules:
            netfilter.install(self.rules_ipv6, self.journal, 6)

    def set_mtu(self, mtu: int) -> None:
        """Applications may send packets of this size."""
        if mtu != self._mtu:
            self._mtu = mtu
            self.interface.set_mtu(mtu)

    def cgroup_of(self, application: ApplicationName) -> str:
        """The path of an application's cgroup, made when it is new. Raises FacilityError without cgroup v2."""
        cgroups = self._own_cgroups()
        path = cgroups.make(application)
        self._cgroup_identities.setdefault(path, cgroups.identity_of(path))
        return path

    def cgroup_is_settled(self, path: str) -> bool:
        """Whether a cgroup is the directory that was made first: netfilter's rule for it would be dead otherwise."""
        if self._cgroups is None or path not in self._cgroup_identities:
            return False
        return self._cgroups.identity_of(path) == self._cgroup_identities[path]

    def cgroup_hierarchy(self) -> Path | None:
        """Where cgroup v2 is mounted, or None when it cannot be had."""
        try:
            return self._own_cgroups().hierarchy
        except FacilityError:
            return None

    def _own_cgroups(self) -> ApplicationCgroups:
        if self._cgroups is None:
            self._cgroups = ApplicationCgroups(self.journal)
        return self._cgroups

    def cgroups_in_place(self) -> dict[ApplicationName, str]:
        """Cgroups that an earlier daemon left with programs of `upmt run` in them: application -> path."""
        if hierarchy() is None:
            return {}
        cgroups = self._own_cgroups()
        found = cgroups.in_place()
        for path in found.values():
            self._cgroup_identities.setdefault(path, cgroups.identity_of(path))
        return found

    def join(self, application: ApplicationName, pid: int) -> None:
        """Put a process into an application's cgroup."""
        if self._cgroups is None:
            raise FacilityError("no cgroup was made yet")
        self._cgroups.join(application, pid)

    def restore(self) -> None:
        """Put everything back, but for kill switches: those stay until `upmt cleanup` or the next daemon."""
        if self.steering.guards:
            self.route(None, (), removes=self._is_guarding)
            log.warning("the kill switch stays in place; `upmt cleanup` lifts it and puts everything back")
            return
        for said in cleanup(self.journal):
            log.info("put back: %s", said)
