"""`upmt doctor` on the size of packets: do they fit through the tunnels, and would their senders be told?"""

from __future__ import annotations

from collections.abc import Mapping

from upmt_nf.daemon.findings import Finding, State
from upmt_nf.linux.host_facts import HostFacts
from upmt_nf.model.names import VIRTUAL_INTERFACE

_LEAST = 1280
"""RFC 8200 section 5; less than this some servers never send."""
_MOST_OVERHEAD = 60
"""Of a sealed tunnel over IPv4, bytes."""


def mtu_finding(facts: HostFacts, tunnels: Mapping[str, int]) -> Finding:
    """`tunnels`: network -> largest inner packet in bytes, of tunnels that are set up; empty without a daemon."""
    if facts.path_mtu_discovery not in (None, "0"):
        return Finding(
            "mtu",
            State.WARNING,
            f"path MTU discovery is off (ip_no_pmtu_disc is {facts.path_mtu_discovery}): what is told of too large "
            "packets is not heeded",
            "sysctl -w net.ipv4.ip_no_pmtu_disc=0",
        )
    small = {name: size for name, size in tunnels.items() if size < _LEAST}
    if small:
        return Finding(
            "mtu",
            State.WARNING,
            f"inner packets of fewer than {_LEAST} bytes: {_listed(small)}; some servers never send so little at once",
            "raise the MTU of the interface, or take a tunnel format with less overhead (protection)",
        )
    if tunnels:
        own = facts.link_mtus.get(VIRTUAL_INTERFACE)
        said = f"; {VIRTUAL_INTERFACE} has {own}" if own is not None else ""
        return Finding("mtu", State.OK, f"inner packets of up to {_listed(tunnels)} bytes{said}")
    narrow = {name: size for name, size in facts.link_mtus.items() if size < _LEAST + _MOST_OVERHEAD}
    if narrow:
        return Finding(
            "mtu",
            State.WARNING,
            f"interfaces too narrow for a sealed tunnel of {_LEAST} bytes: {_listed(narrow)}",
            f"raise their MTU to {_LEAST + _MOST_OVERHEAD}, or do not use them as an access network",
        )
    return Finding("mtu", State.OK, "every interface is wide enough for any tunnel")


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size} by {name}" for name, size in sizes.items())
