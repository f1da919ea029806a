"""The mobile host's kernel state: virtual interface, rules, routes, sysctls, cgroups. All journalled, all put back.

Makes what it is told; decides nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from upmt_nf.config.mobile_host import MobileHostConfig
from upmt_nf.linux import netfilter, routes, sysctl
from upmt_nf.linux.cgroups import ApplicationCgroups
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.rule_files import read_rules
from upmt_nf.linux.virtual_interface import KINDS, VirtualInterface, interface_kinds
from upmt_nf.model.errors import FacilityError
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import ApplicationName
from upmt_nf.model.names import (
    MARK_MASK,
    MARK_OUTER,
    QUEUE_INBOUND,
    QUEUE_OUTBOUND,
    VIRTUAL_INTERFACE,
    judged_mark,
)
from upmt_nf.routing.plan import NetworkRouting, Routing, host_routing
from upmt_nf.routing.rule_text import RuleSet

log = logging.getLogger(__name__)

_FIRST_MTU = 1472
"""Of a plain tunnel over Ethernet; the tunnels tell better as soon as they are up."""


def host_rules(
    anchor: Endpoint,
    ports: Mapping[str, int],
    application_lines: Iterable[str],
    kind: str = KINDS[0],
    judged: int = judged_mark(0),
) -> RuleSet:
    """The mobile host's rules. `ports` maps an access interface to the local port of its tunnel to `anchor`.

    `kind` is that of the virtual interface, `judged` the conntrack mark of flows that the agent knows.
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
        "mark_mask": f"{MARK_MASK:#x}",
    }
    networks = [{"network_interface": name, "network_port": str(port)} for name, port in ports.items()]
    return read_rules("mobile-host", values, networks, application_lines)


class HostKernel:
    """One mobile host's part of the kernel."""

    def __init__(self, config: MobileHostConfig) -> None:
        self._config = config
        self.anchor = config.anchor.tunnels
        """The other end of all tunnels, of the anchor in use."""
        self.journal = Journal()
        self.interface = VirtualInterface(self.journal)
        self._cgroups: ApplicationCgroups | None = None
        self._cgroup_identities: dict[str, int | None] = {}
        self._mtu = _FIRST_MTU
        self._application_lines: list[str] = []
        self._generation = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        self.rules = RuleSet(())
        self.routing = Routing()

    def prepare(self) -> None:
        """Interface and sysctls. What a killed daemon left is taken over where it fits and put right where not."""
        self.interface.make(self._mtu, interface_kinds(self._config.mobile_host.virtual_interface))
        if self.interface.kind == "tun":
            self.interface.limit_packets()
        interfaces = [network.interface for network in self._config.network]
        sysctl.loosen_reverse_path([*interfaces, VIRTUAL_INTERFACE], self.journal)
        self.route(None, ())

    def set_rules(self, ports: Mapping[str, int], application_lines: Iterable[str]) -> None:
        """Bring netfilter into line. When it names applications differently, all flows are looked at once more."""
        lines = list(application_lines)
        if lines != self._application_lines:
            self._application_lines = lines
            self._generation += 1
        self.rules = host_rules(self.anchor, ports, lines, self.interface.kind, judged_mark(self._generation))
        netfilter.install(self.rules, self.journal)

    @property
    def judged(self) -> int:
        """The mark for flows that the agent knows; 0 where it reads all packets from netfilter's queue."""
        return judged_mark(self._generation) if self.interface.kind == "tun" else 0

    def route(self, virtual_address: IPAddress | None, networks: Iterable[NetworkRouting]) -> None:
        """Bring policy routing into line."""
        self.routing = host_routing(virtual_address, networks, self.anchor.address)
        routes.apply(self.routing, self.journal)

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

    def join(self, application: ApplicationName, pid: int) -> None:
        """Put a process into an application's cgroup."""
        if self._cgroups is None:
            raise FacilityError("no cgroup was made yet")
        self._cgroups.join(application, pid)

    def restore(self) -> None:
        """Put everything back."""
        for said in cleanup(self.journal):
            log.info("put back: %s", said)
