"""`upmt doctor` on software that marks packets and routes by rules as well: which is here, and what that means for us.

Recognised by what it puts into netfilter and `ip rule`: each entry has the source of its signs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from upmt_nf.daemon.findings import Finding, State
from upmt_nf.linux.host_facts import HostFacts, PolicyRule

_MOLE = 0x6D6F6C65
_BESIDE_A_VPN = (
    'two that want to carry everything: end one of them, or say default = "native" in [mobile_host] and name what '
    "UPMT is to carry"
)


@dataclass(frozen=True, slots=True)
class Software:
    """`chains`: what its chains' names begin with; `has_rule`: a rule of `ip rule` that is its own.

    `meaning` is what it does beside us; with a `remedy` there is something to do about it.
    """

    check: str
    name: str
    chains: str | None
    has_rule: Callable[[PolicyRule], bool] | None
    meaning: str
    remedy: str | None = None


KNOWN = (
    Software(
        # moby, daemon/libnetwork/iptables
        "software.docker", "Docker", "DOCKER", None,
        "what it forwards for containers is left alone; a FORWARD policy of DROP stops no anchor, which lets its pool "
        "through",
    ),
    Software(
        # pkg/proxy/iptables: masquerade bit 14, drop bit 15
        "software.kubernetes", "Kubernetes", "KUBE-", None,
        "its marks (0x4000, 0x8000) are not ours, and what it forwards for pods is left alone",
    ),
    Software(
        # felix: IptablesMarkMask 0xffff0000
        "software.calico", "Calico", "cali-", None,
        "its marks (the upper 16 bits) are not ours, and what it forwards for pods is left alone",
    ),
    Software(
        # wgengine/router: marks 0x40000 and 0x80000 of 0xff0000, rules 5210 to 5270, table 52
        "software.tailscale", "Tailscale", "ts-", lambda rule: rule.priority == 5270 and rule.table == 52,
        "its rules (5210 to 5270) come after ours, so what goes to the tailnet goes by the tunnels instead",
        "upmt assign --app tailnet --destination 100.64.0.0/10 --to native --save",
    ),
    Software(
        # talpid-core: mark and table are the letters "mole"
        "software.mullvad", "Mullvad", None, lambda rule: rule.mark == rule.table == _MOLE,
        "its VPN takes what is not marked by itself, after our rules: what UPMT carries goes past it",
        _BESIDE_A_VPN,
    ),
    Software(
        # wireguard-tools, wg-quick/linux.bash: table and mark 51820 or the next free one
        "software.wg-quick", "wg-quick", None, lambda rule: rule.mark == rule.table and 51820 <= rule.table < 52820,
        "its VPN takes what is not marked by itself, after our rules: what UPMT carries goes past it",
        _BESIDE_A_VPN,
    ),
)  # fmt: skip


def software_findings(facts: HostFacts) -> Iterator[Finding]:
    """One for each that is here."""
    rules = "\n".join(
        text or ""
        for text in (facts.rules_legacy, facts.rules_nft, facts.rules_legacy_ipv6, facts.rules_nft_ipv6)
    )
    for known in KNOWN:
        has_chain = known.chains is not None and re.search(rf"^:{known.chains}", rules, re.MULTILINE)
        has_rule = known.has_rule is not None and any(map(known.has_rule, facts.policy_rules))
        if has_chain or has_rule:
            state = State.OK if known.remedy is None else State.WARNING
            yield Finding(known.check, state, f"{known.name} is here: {known.meaning}", known.remedy)
