"""The anchor's kernel state: virtual interface, pool route, forwarding, NAT. All journalled, all put back."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from upmt_nf.config.anchor import AnchorSection
from upmt_nf.config.values import matching_blocks
from upmt_nf.linux import netfilter, routes, sysctl
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.rule_files import read_rules, rule_file
from upmt_nf.linux.virtual_interface import KINDS, VirtualInterface, interface_kinds
from upmt_nf.model.errors import ConfigError
from upmt_nf.model.forward import Opening
from upmt_nf.model.names import QUEUE_INBOUND, QUEUE_OUTBOUND, VIRTUAL_INTERFACE
from upmt_nf.routing.openings import incoming_lines, outgoing_lines
from upmt_nf.routing.plan import anchor_routing
from upmt_nf.routing.rule_text import RuleSet, expand

log = logging.getLogger(__name__)

_LARGEST_MTU = 65535
"""The agent splits or refuses packets itself, tunnel by tunnel, as the errors must come from it."""


def anchor_rules(config: AnchorSection, openings: Sequence[Opening] = (), kind: str = KINDS[0]) -> RuleSet:
    """The anchor's rules, with what is open to the world; `kind` is that of the virtual interface.

    Raises ConfigError.
    """
    by_queue = kind != "tun"
    values: dict[str, str | list[str]] = {
        "anchor": str(config.address),
        "tunnel_port": [str(port) for port in config.tunnel_ports],
        "virtual_interface": VIRTUAL_INTERFACE,
        "queue_outbound": str(QUEUE_OUTBOUND) if by_queue else "",
        "queue_inbound": str(QUEUE_INBOUND) if by_queue else "",
        "pool": str(config.pool),
        "between_hosts": str(config.pool) if config.between_hosts else "",
        "nat_ports": str(config.nat_ports or ""),
    }
    external = config.external_pool
    pools = matching_blocks(config.pool, external) if external is not None else ()
    blocks = {"incoming": incoming_lines(openings, pools), "outgoing": outgoing_lines(openings, pools)}
    rules = read_rules("anchor", values, blocks=blocks)
    for name, lines in blocks.items():
        made = expand("\n".join(["*nat", *lines]), name, {}).rules
        if not set(made) <= set(rules.rules):
            raise ConfigError(f"{rule_file('anchor')}:1: there is no line @{name}, so nothing can be opened")
    return rules


class AnchorKernel:
    """One anchor's part of the kernel."""

    def __init__(self, config: AnchorSection) -> None:
        self._config = config
        self.journal = Journal()
        self.interface = VirtualInterface(self.journal)
        self.rules = RuleSet(())
        self.routing = anchor_routing(config.pool.networks())

    def prepare(self) -> None:
        """Interface, sysctls, routes, rules. What a killed daemon left is taken over where it fits."""
        self.interface.make(_LARGEST_MTU, interface_kinds(self._config.virtual_interface))
        self.rules = anchor_rules(self._config, (), self.interface.kind)
        sysctl.loosen_reverse_path([self._config.interface, VIRTUAL_INTERFACE], self.journal)
        sysctl.enable_forwarding(self.journal)
        routes.apply(self.routing, self.journal)
        netfilter.install(self.rules, self.journal)

    def open(self, openings: Sequence[Opening]) -> None:
        """Let in what these say, and nothing else. Raises UpmtError; then all is as before."""
        rules = anchor_rules(self._config, openings, self.interface.kind)
        if rules != self.rules:
            netfilter.install(rules, self.journal)
            self.rules = rules

    def difference(self, openings: Sequence[Opening]) -> list[str]:
        """What `open` would change, rule by rule, in iptables syntax. Changes nothing."""
        wanted, present = anchor_rules(self._config, openings, self.interface.kind).rules, self.rules.rules
        lines = [f"iptables -t {rule.table} {rule}" for rule in wanted if rule not in present]
        gone = [f"-t {rule.table} {rule}" for rule in present if rule not in wanted]
        return lines + ["iptables " + line.replace(" -A ", " -D ", 1) for line in gone]

    def drift(self) -> list[str]:
        """What others changed of rules and routes, rule by rule; empty when nothing differs."""
        routing = [f"missing or not ours: {change}" for change in routes.drift(self.routing)]
        return netfilter.verify(self.rules) + routing

    def repair(self) -> None:
        """Put back what others changed. Raises UpmtError."""
        routes.apply(self.routing, self.journal)
        netfilter.install(self.rules, self.journal)

    def restore(self) -> None:
        """Put everything back."""
        for said in cleanup(self.journal):
            log.info("put back: %s", said)
