"""`upmt doctor`: facts in, findings out. Judges; what it judges was found by `linux.host_facts` and the daemon."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from upmt_nf.daemon.dns_finding import dns_finding
from upmt_nf.daemon.findings import Finding as Finding
from upmt_nf.daemon.findings import State as State
from upmt_nf.daemon.mtu_finding import mtu_finding
from upmt_nf.daemon.other_software import software_findings
from upmt_nf.linux.host_facts import HostFacts, PolicyRule
from upmt_nf.model.names import (
    CHAIN_PREFIX,
    MARK_MASK,
    PRIORITY_BEYOND,
    PRIORITY_GUARDED,
    PRIORITY_OUTER,
    ROUTE_PROTOCOL,
    VIRTUAL_INTERFACE,
)

_YEAR_2025 = 1735689600.0
_RULE_PROTOCOL_KERNEL = 2
_STRICT = "1"


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """The daemon here. `interfaces`: its access interfaces, or the anchor's; `drift`: what `rules verify` says."""

    role: str
    interfaces: tuple[str, ...]
    drift: tuple[str, ...]
    association: str | None = None
    """Of a mobile host; its state, and why there is none."""
    datapath: str = ""
    """Which one is used, and why."""
    resolver: str | None = None
    """Of a mobile host: the application of the system resolver's look-ups."""
    tunnel_mtus: Mapping[str, int] = field(default_factory=dict)
    """Network -> largest inner packet in bytes, of the tunnels that are set up."""


def diagnose(facts: HostFacts, daemon: DaemonFacts | None) -> list[Finding]:
    """Everything that can be said, in the order in which to read it."""
    return [
        *_kernel(facts),
        *_control_groups(facts),
        _virtual_interface(facts, daemon),
        _daemon(daemon),
        _leftovers(facts, daemon),
        _rules(daemon),
        _reverse_path(facts, daemon),
        _forwarding(facts, daemon),
        _default_route(facts, daemon),
        _foreign_policy_rules(facts.policy_rules),
        _foreign_marks(facts),
        *software_findings(facts),
        _both_netfilters(facts, daemon),
        dns_finding(facts.resolver, daemon.resolver if daemon is not None else None),
        mtu_finding(facts, daemon.tunnel_mtus if daemon is not None else {}),
        _clock(facts),
    ]


_NEEDED = {
    "network_namespace": ("network namespaces", "the lab needs them; the daemons do not", State.WARNING),
    "queue_target": ("NFQUEUE target", "load xt_NFQUEUE (CONFIG_NETFILTER_XT_TARGET_NFQUEUE)", State.ERROR),
    "packet_queue": ("NFQUEUE socket", "load nfnetlink_queue, or end the program that holds it", State.ERROR),
    "mark_target": ("mark match and MARK target", "load xt_mark", State.ERROR),
    "owner_match": ("owner match", "load xt_owner; without it no rule by uid or gid", State.WARNING),
    "cgroup_match": (
        "cgroup path match",
        "load xt_cgroup (and cgroup v2); without it no `upmt run` and no rule by cgroup",
        State.WARNING,
    ),
    "dscp_match": ("DSCP match", "load xt_dscp; without it no rule by dscp", State.WARNING),
    "process_events": (
        "process events",
        "CONFIG_PROC_EVENTS; without them a program is looked at when it sends something, and one that ends at once "
        "may be missed",
        State.WARNING,
    ),
    "socket_record": (
        "record of sockets (cgroup eBPF)",
        "CONFIG_CGROUP_BPF and a cgroup v2 mount; without it sockets are searched for in /proc, which is slower",
        State.WARNING,
    ),
    "notrack_target": ("CT target", "load xt_CT, or take the UPMT-NOTRACK lines out of the rules", State.ERROR),
    "conntrack_match": ("conntrack match", "load xt_conntrack; an anchor needs it", State.WARNING),
    "masquerade_target": (
        "MASQUERADE and iprange", "load xt_MASQUERADE, xt_iprange; an anchor needs them", State.WARNING,
    ),
    "forward_targets": (
        "DNAT and comment", "load xt_nat, xt_comment; without them an anchor has no forwards", State.WARNING,
    ),
    "static_nat_target": ("SNAT", "load xt_nat; without it an anchor has no static NAT", State.WARNING),
    "pool_nat_target": (
        "NETMAP", 'load xt_NETMAP; without it an anchor has no nat = "static"', State.WARNING,
    ),
    "fast_plane": (
        "fast datapath",
        "libbpf1, clang when the package is built, CONFIG_NET_CLS_BPF; the agent datapath works without",
        State.WARNING,
    ),
    "kernel_admission": (
        "first packets let in by the kernel (LWT eBPF)",
        "CONFIG_LWTUNNEL_BPF, CONFIG_DEBUG_INFO_BTF and CAP_PERFMON; without it first packets go through the agent",
        State.WARNING,
    ),
    "checksum_target": (
        "CHECKSUM target", "load xt_CHECKSUM; without it first packets go through the agent", State.WARNING,
    ),
    "policy_routing": ("policy routing", "CONFIG_IP_MULTIPLE_TABLES is needed", State.ERROR),
}  # fmt: skip


def _kernel(facts: HostFacts) -> Iterator[Finding]:
    for name, (title, remedy, severity) in _NEEDED.items():
        if name not in facts.facilities:
            yield Finding(f"kernel.{name}", State.WARNING, f"{title}: could not be tried", remedy)
        elif (reason := facts.facilities[name]) is None:
            yield Finding(f"kernel.{name}", State.OK, f"{title}: there")
        else:
            yield Finding(f"kernel.{name}", severity, f"{title}: {reason}", remedy)


def _control_groups(facts: HostFacts) -> Iterator[Finding]:
    if facts.cgroup2 is not None:
        yield Finding("kernel.cgroup2", State.OK, f"cgroup v2 is mounted at {facts.cgroup2}")
    elif facts.knows_cgroup2:
        yield Finding(
            "kernel.cgroup2", State.OK, "cgroup v2 is not mounted; the daemon mounts one for itself"
        )
    else:
        yield Finding(
            "kernel.cgroup2",
            State.WARNING,
            "the kernel has no cgroup v2: no `upmt run`, no rule by cgroup",
            "CONFIG_CGROUPS; assign by --command, --uid or --pid meanwhile",
        )


def _virtual_interface(facts: HostFacts, daemon: DaemonFacts | None) -> Finding:
    kinds = ("dummy", "ifb", "tun")
    missing = [kind for kind in kinds if facts.facilities.get(f"interface_{kind}", "not tried") is not None]
    chosen = next((kind for kind in kinds if kind not in missing), None)
    lacking = f"; the kernel lacks {', '.join(missing)}" if missing else ""
    tun = (
        ""
        if facts.has_tun_device or "tun" in missing
        else "; /dev/net/tun is missing, which UPMT does not need"
    )
    if facts.virtual_interface_kind is not None and daemon is not None:
        said = f"{VIRTUAL_INTERFACE} is made of {facts.virtual_interface_kind}"
        return Finding("virtual_interface", State.OK, said + lacking + tun)
    if chosen is None:
        return Finding(
            "virtual_interface",
            State.ERROR,
            f"the kernel has none of {', '.join(kinds)}",
            "load one of the modules dummy, ifb, tun",
        )
    return Finding(
        "virtual_interface", State.OK, f"{VIRTUAL_INTERFACE} would be made of {chosen}{lacking}{tun}"
    )


def _daemon(daemon: DaemonFacts | None) -> Finding:
    if daemon is None:
        return Finding("daemon", State.OK, "no daemon runs in this network namespace")
    if daemon.association not in (None, "associated"):
        return Finding(
            "daemon",
            State.WARNING,
            f"a {daemon.role} runs, {daemon.association}",
            "see `upmt networks`; is UDP 5060 and 1800 of the anchor open?",
        )
    return Finding(
        "daemon",
        State.OK,
        f"a {daemon.role} runs"
        + (", associated" if daemon.association else "")
        + (f"; {daemon.datapath}" if daemon.datapath else ""),
    )


def _leftovers(facts: HostFacts, daemon: DaemonFacts | None) -> Finding:
    if daemon is not None:
        return Finding(
            "leftovers", State.OK, f"{facts.journal_records} changes of the daemon are in the journal"
        )
    left = []
    if facts.journal_records:
        left.append(f"a journal with {facts.journal_records} changes")
    if facts.virtual_interface_kind is not None:
        left.append(f"interface {VIRTUAL_INTERFACE}")
    if any(rule.protocol == ROUTE_PROTOCOL for rule in facts.policy_rules):
        left.append("policy rules")
    if f":{CHAIN_PREFIX}" in (facts.rules_legacy or ""):
        left.append("netfilter chains")
    if f":{CHAIN_PREFIX}" in (facts.rules_legacy_ipv6 or ""):
        left.append("netfilter chains of IPv6")
    if not left:
        return Finding("leftovers", State.OK, "nothing is left of an earlier daemon")
    if any(
        rule.protocol == ROUTE_PROTOCOL and rule.priority == PRIORITY_GUARDED for rule in facts.policy_rules
    ):
        return Finding(
            "leftovers",
            State.WARNING,
            "a kill switch is in place without a daemon: the applications that it is for reach the LAN only",
            "start the daemon, which takes it over; `upmt cleanup` lifts it",
        )
    return Finding(
        "leftovers",
        State.ERROR,
        f"a daemon was killed and left {', '.join(left)}: traffic may end at nobody",
        "upmt cleanup (a new daemon takes it over as well)",
        is_fixable=facts.journal_records > 0,
    )


def _rules(daemon: DaemonFacts | None) -> Finding:
    if daemon is None:
        return Finding("rules", State.OK, "no daemon, no rules")
    if not daemon.drift:
        return Finding("rules", State.OK, "the kernel has exactly the daemon's rules")
    return Finding(
        "rules",
        State.ERROR,
        f"the kernel differs from the daemon's rules: {_listed(daemon.drift)}",
        f"upmt rules install --role {daemon.role}",
        is_fixable=True,
    )


def _reverse_path(facts: HostFacts, daemon: DaemonFacts | None) -> Finding:
    values = facts.reverse_path
    overall = values.get("all", "0")
    mark = f"src_valid_mark is {facts.src_valid_mark}, which loose checking does not need"
    interfaces = [*daemon.interfaces, VIRTUAL_INTERFACE] if daemon is not None else []
    strict = [name for name in interfaces if name in values and max(overall, values[name]) == _STRICT]
    if strict:
        return Finding(
            "reverse_path",
            State.ERROR,
            f"rp_filter is strict on {', '.join(strict)}: packets out of the tunnels are dropped there",
            "; ".join(f"sysctl -w net.ipv4.conf.{name}.rp_filter=2" for name in strict),
            is_fixable=True,
        )
    if daemon is not None:
        return Finding("reverse_path", State.OK, f"rp_filter is not strict where UPMT works; {mark}")
    some = [name for name in values if values[name] == _STRICT]
    said = f"strict on {_listed(some)}: a daemon loosens it where it works" if some else "strict nowhere"
    return Finding("reverse_path", State.OK, f"rp_filter is {said}; {mark}")


def _forwarding(facts: HostFacts, daemon: DaemonFacts | None) -> Finding:
    if daemon is not None and daemon.role == "anchor" and facts.ip_forward != "1":
        return Finding(
            "forwarding",
            State.ERROR,
            "ip_forward is off: an anchor forwards nothing",
            "sysctl -w net.ipv4.ip_forward=1; find out who turned it off",
        )
    return Finding("forwarding", State.OK, f"ip_forward is {facts.ip_forward}")


def _default_route(facts: HostFacts, daemon: DaemonFacts | None) -> Finding:
    if facts.has_default_route:
        return Finding("default_route", State.OK, "there is a default route")
    return Finding(
        "default_route",
        State.WARNING if daemon is None or daemon.role == "anchor" else State.OK,
        "there is no default route in table main",
        "DHCP, NetworkManager or systemd-networkd should have made one",
    )


def _foreign_policy_rules(rules: Iterable[PolicyRule]) -> Finding:
    foreign = [rule for rule in rules if rule.protocol not in (ROUTE_PROTOCOL, _RULE_PROTOCOL_KERNEL)]
    before = [rule for rule in foreign if 0 < rule.priority < PRIORITY_OUTER]
    among = [rule for rule in foreign if PRIORITY_OUTER <= rule.priority <= PRIORITY_BEYOND]
    on_our_bits = [rule for rule in foreign if rule.mask is not None and rule.mask & MARK_MASK]
    if among or on_our_bits:
        bad = {*among, *on_our_bits}
        return Finding(
            "foreign_policy_rules",
            State.ERROR if on_our_bits else State.WARNING,
            f"rules of other software among ours, or on our mark bits ({MARK_MASK:#x}): "
            + _listed(_said(rule) for rule in sorted(bad, key=lambda rule: rule.priority)),
            f"move them away from priorities {PRIORITY_OUTER} to {PRIORITY_BEYOND} and off these bits",
        )
    if before:
        return Finding(
            "foreign_policy_rules",
            State.WARNING,
            f"rules of other software come before ours: {_listed(_said(rule) for rule in before)}",
            "what they match is never UPMT's: is that meant?",
        )
    return Finding("foreign_policy_rules", State.OK, "no rule of other software stands in the way")


def _foreign_marks(facts: HostFacts) -> Finding:
    """Rules that write or read our bits of the mark, outside of our chains."""
    found = [
        *foreign_marks(facts.rules_legacy or ""),
        *(f"{line} (nft)" for line in foreign_marks(facts.rules_nft or "")),
        *(f"{line} (IPv6)" for line in foreign_marks(facts.rules_legacy_ipv6 or "")),
        *(f"{line} (IPv6, nft)" for line in foreign_marks(facts.rules_nft_ipv6 or "")),
    ]
    if not found:
        return Finding("foreign_marks", State.OK, f"nobody else uses our mark bits ({MARK_MASK:#x})")
    return Finding(
        "foreign_marks",
        State.ERROR,
        f"rules of other software use our mark bits ({MARK_MASK:#x}): {_listed(found)}",
        "give them a mask outside of these bits, such as 0xff0000",
    )


_MARK_OPTION = re.compile(
    r"--(?:set-xmark|set-mark|or-mark|and-mark|xor-mark|mark) (0x[0-9a-fA-F]+|\d+)(?:/(0x[0-9a-fA-F]+|\d+))?"
)
_CONNMARK_MASK = re.compile(r"--(?:restore|save)-mark(?:.*?--(?:nf|ct)?mask (0x[0-9a-fA-F]+|\d+))?")


def foreign_marks(saved: str) -> list[str]:
    """Of what iptables-save prints, the rules outside of our chains that touch our bits of the packet's mark."""
    found = []
    for line in saved.splitlines():
        if not line.startswith("-A ") or line.startswith(f"-A {CHAIN_PREFIX}"):
            continue
        # `-m connmark --mark` reads the connection's mark, not the packet's.
        text = re.sub(r"-m connmark (! )?--mark \S+", "", line)
        # Without a mask an option is about all bits.
        if any(_bits_of(match) & MARK_MASK for match in _MARK_OPTION.finditer(text)) or any(
            int(match[1] or "0xffffffff", 0) & MARK_MASK for match in _CONNMARK_MASK.finditer(text)
        ):
            found.append(line)
    return found


def _bits_of(option: re.Match[str]) -> int:
    """Which bits an option is about; the value of `--set-xmark` turns over bits outside of the mask."""
    return int(option[2] or "0xffffffff", 0) | (int(option[1], 0) if "xmark" in option[0] else 0)


def _both_netfilters(facts: HostFacts, daemon: DaemonFacts | None) -> Finding:
    nft = [table for table in facts.nft_tables if table]
    both_nft = (facts.rules_nft, facts.rules_nft_ipv6)
    if not nft and any(line.startswith("-A ") for saved in both_nft for line in (saved or "").splitlines()):
        nft = ["those of iptables-nft"]
    legacy = [
        line
        for saved in (facts.rules_legacy, facts.rules_legacy_ipv6)
        for line in (saved or "").splitlines()
        if line.startswith("-A ") and CHAIN_PREFIX not in line
    ]
    if facts.rules_legacy is None:
        return Finding(
            "netfilter",
            State.WARNING,
            "iptables-legacy is not installed: rules of others cannot be looked at",
            "apt install iptables",
        )
    if nft and (legacy or daemon is not None):
        return Finding(
            "netfilter",
            State.WARNING,
            f"nftables ({_listed(nft)}) and legacy iptables both have rules: both apply, and a drop in either wins",
            "look at both (`nft list ruleset`, `iptables-legacy-save`) when packets vanish",
        )
    return Finding(
        "netfilter", State.OK, "one kind of netfilter rules" if nft or legacy else "no rules of others"
    )


def _clock(facts: HostFacts) -> Finding:
    if facts.now < _YEAR_2025:
        return Finding("clock", State.ERROR, "the clock is years behind", "set it, or run an NTP client")
    if not facts.is_clock_synchronised:
        return Finding(
            "clock",
            State.WARNING,
            "the clock is not synchronised (UPMT's own timers do not depend on it; logs of two hosts do)",
            "run an NTP client such as chrony or systemd-timesyncd",
        )
    return Finding("clock", State.OK, "the clock is synchronised")


def _said(rule: PolicyRule) -> str:
    mark = f" fwmark {rule.mark or 0:#x}/{rule.mask:#x}" if rule.mask is not None else ""
    return f"{'-6 ' if rule.version == 6 else ''}{rule.priority}:{mark} lookup {rule.table}"


def _listed(items: Iterable[str], most: int = 5) -> str:
    rows: Sequence[str] = list(items)
    return "; ".join(rows[:most]) + (f"; and {len(rows) - most} more" if len(rows) > most else "")
