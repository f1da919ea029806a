"""What others have in netfilter that forwarded packets meet: packets that go past netfilter would escape it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from upmt_nf.model.names import CHAIN_PREFIX

HOOKS = {0: "prerouting", 2: "forward", 4: "postrouting"}
"""enum nf_inet_hooks: those that a forwarded packet comes by."""
FAMILIES = {1: "inet", 2: "ip"}
"""nftables' families whose chains see IPv4 packets at these hooks."""
_RULE = re.compile(r"-A (PREROUTING|FORWARD|POSTROUTING) ")
_OURS = re.compile(rf" -[jg] {CHAIN_PREFIX}[\w-]*$")


@dataclass(frozen=True, slots=True)
class BaseChain:
    """A chain of nftables at a hook; family and hook as the kernel numbers them."""

    family: int
    table: str
    name: str
    hook: int


def foreign_rule(saved: str) -> str | None:
    """Of what iptables-save prints, the first rule of others in a built-in chain that forwarded packets come by.

    A built-in chain's policy is nobody's rule: our chains come first and let through what is ours.
    """
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif _RULE.match(line) and not _OURS.search(line.rstrip()):
            return f"iptables -t {table} {line.rstrip()}"
    return None


def foreign_chain(chains: Iterable[BaseChain]) -> str | None:
    """The first chain of nftables that forwarded IPv4 packets come by. UPMT has none there."""
    for chain in chains:
        if chain.family in FAMILIES and chain.hook in HOOKS:
            return f"nftables chain {FAMILIES[chain.family]} {chain.table} {chain.name} (hook {HOOKS[chain.hook]})"
    return None


def foreign_in_the_way(saved: str, chains: Iterable[BaseChain]) -> str | None:
    """What others have in a forwarded packet's way, in words; None for nothing. `saved` is as for `foreign_rule`."""
    return foreign_rule(saved) or foreign_chain(chains)
