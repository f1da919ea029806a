"""The anchor's tunnels: which association has which, by network; made, moved and forgotten here only.

An endpoint is believed only when a setup request with the association's secret came from it, never because of a
data packet. Knows neither SIP nor JSON.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from random import Random

from upmt_nf.datapath.formats import PLAIN
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.protected import Cookie, Sealed
from upmt_nf.mobility.leases import Lease
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.mobility.tunnel_keys import LEAST_MTU, expose, inner_mtu
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName, TunnelId

LEAST_LOOKS, SWEEPS = 1000, 40
"""Tunnels looked at in one sweep: many at once, when they all came at once, would hold packets up."""


@dataclass(slots=True)
class _Kept:
    tunnel: Tunnel
    cseq: int
    """Of the newest setup request: an older one that comes late must not move the endpoint back."""
    key_id: int = 0


class AnchorTunnels:
    """The table beside PAFT, which it keeps up to date."""

    def __init__(self, paft: Paft, settings: AnchorSettings, random: Random) -> None:
        self._paft = paft
        self._settings = settings
        self._random = random
        self._kept: dict[IPAddress, dict[str, _Kept]] = {}
        self._renewed: list[Tunnel] = []
        """Those with keys that wait for their end."""
        self._looks: list[tuple[float, TunnelId]] = []
        """When each tunnel may have been silent too long: each is looked at once a timeout, not at every sweep."""

    def at(self, remote: Endpoint, owner: IPAddress) -> Tunnel | None:
        """The tunnel of a virtual address whose other end is there."""
        return self._paft.tunnel_from(packed_endpoint(remote), owner.packed)

    def of(self, owner: IPAddress) -> list[Tunnel]:
        """The tunnels of a virtual address."""
        return [kept.tunnel for kept in self._kept.get(owner, {}).values()]

    def latest_of(self, owner: IPAddress) -> Tunnel | None:
        """The one that was heard last."""
        return max(self.of(owner), key=lambda tunnel: tunnel.heard, default=None)

    def set_up(
        self, lease: Lease, network: str | None, remote: Endpoint, cseq: int, now: float, by: int = 0
    ) -> Tunnel | str:
        """The tunnel of an association by a network, new or with its end moved to `remote`; or why there is none.

        `by` is which of our ports it comes by (0: the first).
        """
        name = str(remote) if network is None else network
        networks = self._kept.setdefault(lease.address, {})
        kept = networks.get(name)
        if kept is not None and cseq < kept.cseq:
            # Its answer would bring keys that nobody waits for.
            return "this request is older than another one of this network"
        # Another host may have this end as well, when a NAT has given it away again: the owner tells them apart.
        holder = self.at(remote, lease.address)
        if holder is not None and (kept is None or holder is not kept.tunnel):
            self.remove(holder)
            networks = self._kept.setdefault(lease.address, {})
        if kept is None:
            if len(networks) >= self._settings.max_tunnels:
                return f"an association has at most {self._settings.max_tunnels} tunnels"
            tunnel = Tunnel(
                self._new_id(), lease.address, remote, self.mtu_of(remote, PLAIN.name), NetworkName(name), now
            )
            tunnel.port = by
            networks[name] = _Kept(tunnel, cseq)
            self._paft.add_tunnel(tunnel)
            self._look_later(tunnel)
            return tunnel
        kept.cseq = cseq
        kept.tunnel.port = by
        self._paft.hear(kept.tunnel, now)
        if kept.tunnel.remote != remote:
            self._paft.move_endpoint(kept.tunnel, remote)
        return kept.tunnel

    def set_up_plain(
        self, lease: Lease, remote: Endpoint, cseq: int, now: float, by: int = 0
    ) -> Tunnel | str:
        """A tunnel for a request that names neither network nor format: one for each end."""
        if PLAIN.name not in self._settings.formats:
            return f"tunnels here are {' or '.join(self._settings.formats)}"
        tunnel = self.set_up(lease, None, remote, cseq, now, by)
        if isinstance(tunnel, Tunnel):
            tunnel.mtu = self.mtu_of(remote, PLAIN.name)
            expose(tunnel)
        return tunnel

    def mtu_of(self, remote: Endpoint, format: str, told: int = 0) -> int:
        """The largest inner packet of a tunnel: what our own interface takes, or less if its host has told so."""
        own = inner_mtu(self._settings.outer_mtu, remote.address.version, format)
        return min(own, max(told, LEAST_MTU)) if told else own

    def next_key_id(self, tunnel: Tunnel) -> int:
        """The number of a tunnel's next keys, 0 to 255."""
        for kept in self._kept.get(tunnel.owner, {}).values():
            if kept.tunnel is tunnel:
                kept.key_id = (kept.key_id + 1) & 0xFF
                self._renewed.append(tunnel)
                return kept.key_id
        return 0

    def retire_keys(self, now: float) -> None:
        """Forget old keys of the tunnels that got new ones; only those are looked at."""
        self._renewed = [
            tunnel
            for tunnel in self._renewed
            if isinstance(tunnel.format, Cookie | Sealed)
            and tunnel.format.retire(now)
            and tunnel.id in self._paft.tunnels
        ]

    def remove(self, tunnel: Tunnel) -> None:
        """Forget one tunnel; its flows have none until they are moved or learnt again."""
        networks = self._kept.get(tunnel.owner, {})
        for name, kept in list(networks.items()):
            if kept.tunnel is tunnel:
                del networks[name]
        if not networks:
            self._kept.pop(tunnel.owner, None)
        self._paft.remove_tunnel(tunnel.id)

    def remove_all(self, owner: IPAddress) -> None:
        """Forget the tunnels of a virtual address."""
        for tunnel in self.of(owner):
            self.remove(tunnel)

    def expire(self, now: float) -> list[Tunnel]:
        """Forget what was not heard for too long; gives those tunnels. Bounded work: the rest is for the next call."""
        silent = []
        for _ in range(max(LEAST_LOOKS, len(self._looks) // SWEEPS)):
            if not self._looks or self._looks[0][0] >= now:
                break
            _, id = heapq.heappop(self._looks)
            tunnel = self._paft.tunnels.get(id)
            if tunnel is None:
                continue
            if now - tunnel.heard > self._settings.tunnel_timeout:
                self.remove(tunnel)
                silent.append(tunnel)
            else:
                self._look_later(tunnel)
        return silent

    def _look_later(self, tunnel: Tunnel) -> None:
        heapq.heappush(self._looks, (tunnel.heard + self._settings.tunnel_timeout, tunnel.id))

    def _new_id(self) -> TunnelId:
        while True:
            id = TunnelId(self._random.getrandbits(31))  # a signed number of 32 bits for others
            if id and id not in self._paft.tunnels:
                return id
