"""By which networks a host speaks with its anchors outside the tunnels, and what its words are spent from.

A policy for the signalling itself. What is said about a tunnel goes inside that tunnel, whatever this says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.mobility.advisor import Advisor
from upmt_nf.mobility.host_commands import HostCommand, SendSip, SendTunnelSignal
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.selection import ranked
from upmt_nf.mobility.tunnel_states import TunnelState
from upmt_nf.model.identity import NetworkName


class SignallingNetworks:
    """`wanted` are networks in order of preference, `any` for all others. `tunnels` is shared and read only."""

    def __init__(
        self, wanted: Sequence[str], tunnels: Mapping[NetworkName, HostTunnel], advisor: Advisor
    ) -> None:
        self._wanted = wanted
        self._tunnels = tunnels
        self._advisor = advisor
        self._spent: frozenset[NetworkName] = frozenset()
        self.ranked: list[NetworkName] = []
        """The networks for REGISTER, best first, as of the last `rank`."""

    def rank(self) -> list[NetworkName]:
        """Those that are there and not spent; those with a tunnel that works before the others."""
        there = [
            name
            for name in ranked(self._wanted, tuple(self._tunnels))
            if self._tunnels[name].state is not TunnelState.DOWN and name not in self._spent
        ]
        self.ranked = sorted(there, key=lambda name: not self._tunnels[name].is_usable)
        return self.ranked

    def heed_budgets(self, now: float) -> frozenset[NetworkName] | None:
        """Networks that have a new budget; None when nothing is otherwise than before. `rank` follows."""
        engine = self._advisor.engine
        spending = engine.spending
        spent = spending.spent_networks(now) if spending.has_network_budgets else frozenset[NetworkName]()
        if spent == self._spent:
            return None
        freed, self._spent = self._spent - spent, spent
        return freed

    def charge(self, network: NetworkName, words: bytes, *, is_inside: bool) -> None:
        """The host sent or received this, in a tunnel or outside."""
        tunnel = self._tunnels[network]
        outer = tunnel.care_of_address.version if tunnel.care_of_address is not None else 4
        inner = OVERHEAD[tunnel.tunnel.owner.version if tunnel.tunnel is not None else 4] if is_inside else 0
        self._advisor.note_signalling(network, len(words) + OVERHEAD[outer] + inner)

    def charge_sent(self, commands: Iterable[HostCommand]) -> None:
        """What these commands send."""
        for command in commands:
            match command:
                case SendSip(network, _, words):
                    self.charge(network, words, is_inside=False)
                case SendTunnelSignal(network, _, words):
                    self.charge(network, words, is_inside=True)
