"""By which networks a host speaks with its anchors outside the tunnels: a policy for the signalling itself.

What is said about a tunnel goes inside that tunnel, whatever this says. No time passes here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.selection import ranked
from upmt_nf.mobility.tunnel_states import TunnelState
from upmt_nf.model.identity import NetworkName


def signalling_networks(
    wanted: Sequence[str], tunnels: Iterable[HostTunnel], barred: Collection[NetworkName]
) -> list[NetworkName]:
    """The networks for REGISTER, best first: those with a tunnel that works before the others.

    `wanted` are networks in order of preference, `any` for all others; `barred` those whose budget is spent.
    """
    known = {tunnel.network: tunnel for tunnel in tunnels}
    order = [
        name
        for name in ranked(wanted, tuple(known))
        if known[name].state is not TunnelState.DOWN and name not in barred
    ]
    return sorted(order, key=lambda name: not known[name].is_usable)
