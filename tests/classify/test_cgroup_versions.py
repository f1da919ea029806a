"""Hosts with cgroup v2 alone, v1 alone, both, and none: pretended by what /proc says on each of them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from upmt_nf.classify.facts import ProcessFacts
from upmt_nf.classify.rules import ApplicationRule, first_match, needs_lookup, netfilter_part
from upmt_nf.daemon.flow_owners import FlowOwners
from upmt_nf.linux.cgroups import hierarchy
from upmt_nf.linux.processes import cgroups_in
from upmt_nf.model.flow import UDP, FlowKey
from upmt_nf.model.identity import ApplicationId

ID = "0123456789abcdef" * 4
UNIT = "/system.slice/web.service"
FLOW = FlowKey(UDP, ip_address("1.2.3.4"), 1, ip_address("86.0.0.1"), 2)


@dataclass(frozen=True)
class Host:
    """`mounts` as in /proc/self/mounts ({place}: a directory that is there), `cgroup` as in /proc/PID/cgroup."""

    mounts: str
    cgroup: str
    has_v2: bool
    knows_units: bool = True


HOSTS = {
    "v2 alone": Host("cgroup2 {place} cgroup2 rw 0 0", f"0::{UNIT}/docker-{ID}.scope\n", has_v2=True),
    "v1 alone": Host(
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0",
        f"4:memory:/docker/{ID}\n1:name=systemd:{UNIT}\n",
        has_v2=False,
    ),
    "both": Host(
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 {place} cgroup2 rw 0 0",
        f"4:memory:/docker/{ID}\n1:name=systemd:{UNIT}\n0::{UNIT}\n",
        has_v2=True,
    ),
    "none": Host("proc /proc proc rw 0 0", "", has_v2=False, knows_units=False),
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_the_hierarchy_is_found_where_there_is_one(host: Host, tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    assert hierarchy(host.mounts.format(place=tmp_path)) == (tmp_path if host.has_v2 else None)


def test_a_hierarchy_that_cannot_be_seen_is_none(tmp_path: Path) -> None:
    assert hierarchy(f"cgroup2 {tmp_path} cgroup2 rw 0 0") is None


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize(
    "condition",
    [
        {"unit": "web.service"},
        {"unit": "system.slice"},
        {"cgroup": "system.slice"},
        {"container": ID},
        {"container": ID[:12]},
    ],
)
def test_the_same_conditions_hold_on_each_of_them(host: Host, condition: dict[str, str]) -> None:
    cgroup, others = cgroups_in(host.cgroup)
    facts = ProcessFacts(7, "web", "/bin/web", ("web",), 0, 0, cgroup, (), 1, others)
    rule = ApplicationRule(ApplicationId(2), **condition)  # type: ignore[arg-type]
    assert (first_match([rule], FLOW, facts) is rule) is host.knows_units
    other = ApplicationRule(ApplicationId(2), unit="other.service")
    assert first_match([other], FLOW, facts) is None


def test_without_v2_netfilter_is_not_asked_about_cgroups() -> None:
    rules = [ApplicationRule(ApplicationId(2), cgroup="system.slice")]
    assert not netfilter_part(rules, lambda _: False)
    assert needs_lookup(rules, lambda _: False)


def test_without_v2_sockets_are_searched_for() -> None:
    owners = FlowOwners()
    try:
        owners.watch(None)
        assert not owners.means["socket_record"]
    finally:
        owners.close()
