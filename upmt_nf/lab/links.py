"""What can happen to an access network: carrier lost, a black hole. And the NAT of its gateway."""

from __future__ import annotations

import contextlib

from pyroute2 import IPRoute

from upmt_nf.lab import namespaces
from upmt_nf.lab.topology import NETWORKS, TUNNEL_PORT, AccessNetwork, LinkAction
from upmt_nf.model.errors import KernelError, UsageError

_BLACK_HOLE = ("FORWARD", "-m", "comment", "--comment", "black hole", "-j", "DROP")


def network_named(name: str) -> AccessNetwork:
    """The access network of that name. Raises UsageError."""
    if name not in NETWORKS:
        raise UsageError(f"a lab has no network {name!r}; it has {', '.join(NETWORKS)}")
    return NETWORKS[name]


def nat_rules(network: AccessNetwork) -> list[list[str]]:
    """The gateway's NAT: the tunnel's port as in the paper's fig. 6, all else as it comes."""
    start = ["-t", "nat", "-A", "POSTROUTING", "-o", "wan"]
    tunnel = ["-p", "udp", "--sport", str(network.tunnel_port), "--dport", str(TUNNEL_PORT)]
    fixed = ["-j", "MASQUERADE", "--to-ports", f"{network.nat_port}-{network.nat_port}"]
    return [[*start, *tunnel, *fixed], [*start, "-j", "MASQUERADE"]]


def change_link(lab: str, network: AccessNetwork, action: LinkAction) -> None:
    """Do it; twice is the same as once. `down` takes the carrier, `blackhole` drops both ways without a sound."""
    with namespaces.entered(lab, network.gateway):
        match action:
            case LinkAction.UP | LinkAction.DOWN:
                _set_state(action.value)
            case LinkAction.BLACKHOLE:
                if not is_black_hole():
                    namespaces.run("iptables-legacy", "-w", "-I", *_BLACK_HOLE)
            case LinkAction.RESTORE:
                if is_black_hole():
                    namespaces.run("iptables-legacy", "-w", "-D", *_BLACK_HOLE)


def is_black_hole() -> bool:
    """Whether the gateway that this thread is in drops everything."""
    with contextlib.suppress(KernelError):
        namespaces.run("iptables-legacy", "-w", "-C", *_BLACK_HOLE)
        return True
    return False


def has_carrier() -> bool:
    """Whether the gateway that this thread is in has its access side up."""
    with IPRoute() as kernel:
        link = kernel.link("get", ifname="lan")[0]
        return bool(link["flags"] & 1)


def _set_state(state: str) -> None:
    with IPRoute() as kernel:
        index = kernel.link_lookup(ifname="lan")[0]
        kernel.link("set", index=index, state=state)
