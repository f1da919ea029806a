"""What `upmt doctor` must know of this host and network namespace. Looks, changes nothing, judges nothing."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from upmt_nf.linux import facilities, resolver_view, sysctl
from upmt_nf.linux.cgroups import hierarchy
from upmt_nf.linux.facilities import Outcome
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.resolver_view import ResolverFacts
from upmt_nf.model.names import VIRTUAL_INTERFACE

_TIMEX_BYTES = 208
_TIME_ERROR = 5
_IFF_LOOPBACK = 8


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule of `ip rule`. `mark` and `mask` are None without a condition on the mark."""

    priority: int
    version: int
    protocol: int
    mark: int | None
    mask: int | None
    table: int


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One look. `facilities`: what is missing and why, `rules_*`: as the save commands print them, None: no command."""

    facilities: dict[str, Outcome]
    has_tun_device: bool
    cgroup2: str | None
    knows_cgroup2: bool
    policy_rules: tuple[PolicyRule, ...]
    rules_legacy: str | None
    rules_nft: str | None
    nft_tables: tuple[str, ...]
    reverse_path: dict[str, str]
    """Interface -> value, `all` among them."""
    src_valid_mark: str | None
    ip_forward: str | None
    has_default_route: bool
    virtual_interface_kind: str | None
    journal_records: int
    now: float
    """Seconds since 1970."""
    is_clock_synchronised: bool
    resolver: ResolverFacts | None = None
    rules_legacy_ipv6: str | None = None
    rules_nft_ipv6: str | None = None
    path_mtu_discovery: str | None = None
    """net.ipv4.ip_no_pmtu_disc: 0 is on."""
    link_mtus: Mapping[str, int] = field(default_factory=dict)
    """Interface -> bytes, loopback left out."""


def look() -> HostFacts:
    """Look at everything. Needs root. Raises FacilityError when the facilities cannot be tried."""
    with IPRoute() as kernel:
        policy_rules = tuple(
            _policy_rule(message, version)
            for version, family in ((4, 2), (6, 10))
            for message in kernel.get_rules(family=family)
        )
        kind = _kind_of(kernel, VIRTUAL_INTERFACE)
        mtus = {
            str(link.get_attr("IFLA_IFNAME")): int(link.get_attr("IFLA_MTU"))
            for link in kernel.get_links()
            if not link["flags"] & _IFF_LOOPBACK
        }
        has_default = any(
            message["dst_len"] == 0 and (message.get_attr("RTA_TABLE") or message["table"]) == 254
            for message in kernel.get_routes(family=2)
        )
    return HostFacts(
        facilities=facilities.probe(),
        has_tun_device=Path("/dev/net/tun").exists(),
        cgroup2=str(place) if (place := hierarchy()) is not None else None,
        knows_cgroup2="cgroup2" in Path("/proc/filesystems").read_text().split(),
        policy_rules=policy_rules,
        rules_legacy=_output("iptables-legacy-save"),
        rules_nft=_output("iptables-nft-save"),
        nft_tables=_nft_tables(),
        reverse_path={
            directory.name: value
            for directory in sorted(Path("/proc/sys/net/ipv4/conf").iterdir())
            if (value := sysctl.read(f"net/ipv4/conf/{directory.name}/rp_filter")) is not None
        },
        src_valid_mark=sysctl.read("net/ipv4/conf/all/src_valid_mark"),
        ip_forward=sysctl.read("net/ipv4/ip_forward"),
        has_default_route=has_default,
        virtual_interface_kind=kind,
        journal_records=len(list(Journal().records())),
        now=time.time(),
        is_clock_synchronised=_is_synchronised(),
        resolver=resolver_view.look(),
        rules_legacy_ipv6=_output("ip6tables-legacy-save"),
        rules_nft_ipv6=_output("ip6tables-nft-save"),
        path_mtu_discovery=sysctl.read("net/ipv4/ip_no_pmtu_disc"),
        link_mtus=mtus,
    )


def _policy_rule(message: Any, version: int) -> PolicyRule:
    mark, mask = message.get_attr("FRA_FWMARK"), message.get_attr("FRA_FWMASK")
    return PolicyRule(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        version=version,
        protocol=message.get_attr("FRA_PROTOCOL") or 0,
        mark=mark if mask else None,
        mask=mask or None,
        table=message.get_attr("FRA_TABLE") or message["table"],
    )


def _kind_of(kernel: IPRoute, name: str) -> str | None:
    for index in kernel.link_lookup(ifname=name):
        info = kernel.link("get", index=index)[0].get_attr("IFLA_LINKINFO")
        return str(info.get_attr("IFLA_INFO_KIND")) if info else "unknown"
    return None


def saved_rules() -> str | None:
    """All IPv4 rules as iptables-legacy-save prints them; None where it is not installed, fails or takes too long."""
    try:
        done = _run("iptables-legacy-save")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done is not None and done.returncode == 0 else None


def _output(command: str) -> str | None:
    """What a command prints; None when it is not installed."""
    done = _run(command)
    return done.stdout if done is not None else None


def _run(command: str) -> subprocess.CompletedProcess[str] | None:
    path = shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        return None
    return subprocess.run([path], capture_output=True, text=True, timeout=20, check=False)


def _nft_tables() -> tuple[str, ...]:
    """Tables of nftables, as `family name`; none without the `nft` command."""
    path = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        return ()
    done = subprocess.run(
        [path, "-j", "list", "tables"], capture_output=True, text=True, timeout=20, check=False
    )
    try:
        listed = json.loads(done.stdout)["nftables"]
        return tuple(f"{row['table']['family']} {row['table']['name']}" for row in listed if "table" in row)
    except (ValueError, KeyError, TypeError):
        return ()


def _is_synchronised() -> bool:
    """Whether the kernel's clock is disciplined (adjtimex)."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) not in (-1, _TIME_ERROR)
