"""Topology -> network namespaces, cables, addresses, routes, the gateways' NAT (pyroute2)."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from upmt_nf.lab import namespaces
from upmt_nf.lab.links import nat_rules
from upmt_nf.lab.topology import ALL_HOSTS, CABLES, DEFAULTS, NETWORKS, ROUTERS, Cable, Default
from upmt_nf.model.errors import KernelError

_TABLES = ("raw", "mangle", "nat", "filter", "security")


def build(lab: str, hosts: tuple[str, ...]) -> None:
    """Make all of it. Raises KernelError; what was made until then is left for `remove`."""
    for host in hosts:
        _create(namespaces.namespace(lab, host))
    for number, cable in enumerate(CABLES):
        if {cable.one.host, cable.other.host} <= set(hosts):
            _lay(lab, number, cable)
    for default in DEFAULTS:
        if default.host in hosts:
            _route(lab, default)
    for host in ROUTERS:
        with namespaces.entered(lab, host):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    for network in NETWORKS.values():
        with namespaces.entered(lab, network.gateway):
            for rule in nat_rules(network):
                namespaces.run("iptables-legacy", "-w", *rule)
    for host in {"mh", "an", "an2"} & set(hosts):
        # A kernel lists iptables tables from their first use on, even empty ones: use them all once, so that
        # what is listed before the daemons and after them can be compared.
        with namespaces.entered(lab, host):
            for table in _TABLES:
                namespaces.run("iptables-legacy", "-w", "-t", table, "-S")


def remove(lab: str) -> None:
    """Remove every namespace of the lab; interfaces, routes and rules go with them."""
    for host in ALL_HOSTS:
        with contextlib.suppress(FileNotFoundError):
            netns.remove(namespaces.namespace(lab, host))


def _create(name: str) -> None:
    try:
        netns.create(name)
    except OSError as reason:
        raise KernelError(f"cannot make the network namespace {name}: {reason}") from reason


def _lay(lab: str, number: int, cable: Cable) -> None:
    """A veth pair; made with passing names, as both ends may be called the same."""
    one, other = cable.one, cable.other
    with namespaces.entered(lab, one.host), IPRoute() as here:
        passing = f"cable{number}"
        try:
            here.link(
                "add",
                ifname=one.interface,
                kind="veth",
                peer={"ifname": passing, "net_ns_fd": namespaces.namespace(lab, other.host)},
            )
        except NetlinkError as reason:
            raise KernelError(f"cannot make the cable {one.host}-{other.host}: {reason}") from reason
        _configure(here, one.interface, one.interface, one.address)
    with namespaces.entered(lab, other.host), IPRoute() as there:
        _configure(there, passing, other.interface, other.address)


def _configure(kernel: IPRoute, found_as: str, name: str, address: str) -> None:
    index = kernel.link_lookup(ifname=found_as)[0]
    plain, _, length = address.partition("/")
    kernel.link("set", index=index, ifname=name)
    kernel.addr("add", index=index, address=plain, prefixlen=int(length))
    kernel.link("set", index=index, state="up")
    loopback = kernel.link_lookup(ifname="lo")[0]
    kernel.link("set", index=loopback, state="up")


def _route(lab: str, default: Default) -> None:
    with namespaces.entered(lab, default.host), IPRoute() as kernel:
        index = kernel.link_lookup(ifname=default.interface)[0]
        options = {"priority": default.metric} if default.metric else {}
        kernel.route("add", dst="default", gateway=default.gateway, oif=index, **options)
