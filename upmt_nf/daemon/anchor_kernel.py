"""The anchor's kernel state: virtual interface, pool route, forwarding, NAT. All journalled, all put back."""

from __future__ import annotations

import logging

from upmt_nf.config.anchor import AnchorSection
from upmt_nf.linux import netfilter, routes, sysctl
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.rule_files import read_rules
from upmt_nf.linux.virtual_interface import VirtualInterface
from upmt_nf.model.names import QUEUE_INBOUND, QUEUE_OUTBOUND, VIRTUAL_INTERFACE
from upmt_nf.routing.plan import anchor_routing
from upmt_nf.routing.rule_text import RuleSet

log = logging.getLogger(__name__)

_LARGEST_MTU = 65535
"""The agent splits or refuses packets itself, tunnel by tunnel, as the errors must come from it."""


def anchor_rules(config: AnchorSection) -> RuleSet:
    """The anchor's rules."""
    values = {
        "anchor": str(config.address),
        "tunnel_port": str(config.tunnel_port),
        "virtual_interface": VIRTUAL_INTERFACE,
        "queue_outbound": str(QUEUE_OUTBOUND),
        "queue_inbound": str(QUEUE_INBOUND),
        "pool": str(config.pool),
        "between_hosts": str(config.pool) if config.between_hosts else "",
        "nat_ports": str(config.nat_ports or ""),
    }
    return read_rules("anchor", values)


class AnchorKernel:
    """One anchor's part of the kernel."""

    def __init__(self, config: AnchorSection) -> None:
        self._config = config
        self.journal = Journal()
        self.interface = VirtualInterface(self.journal)
        self.rules = anchor_rules(config)

    def prepare(self) -> None:
        """Interface, sysctls, routes, rules. What a killed daemon left is taken over where it fits."""
        self.interface.make(_LARGEST_MTU)
        sysctl.loosen_reverse_path([self._config.interface, VIRTUAL_INTERFACE], self.journal)
        sysctl.enable_forwarding(self.journal)
        routes.apply(anchor_routing(self._config.pool.networks()), self.journal)
        netfilter.install(self.rules, self.journal)

    def restore(self) -> None:
        """Put everything back."""
        for said in cleanup(self.journal):
            log.info("put back: %s", said)
