"""Which correspondents the hosts of an anchor may talk with, in either direction: `allow`, `deny` and the defaults.

Asked once a flow. Knows neither packets nor tunnels.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from upmt_nf.model.flow import PORTED, IPAddress

IPNetwork = IPv4Network | IPv6Network

NEVER_FORWARDED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::/127",
        "::ffff:0:0/96",
        "fe80::/10",
        "ff00::/8",
    )
)
PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_REMEMBERED = 65536
_UNKNOWN = "?"


class PeerRule(NamedTuple):
    """Correspondents: a network, there one port or all, of one protocol (by number) or all."""

    network: IPNetwork
    port: int | None = None
    protocol: int | None = None


class Reach:
    """The rules. What is special is never reached; then `deny` wins over `allow`, and `allow` over the defaults.

    `pool` are the hosts themselves, `own` the anchor's addresses.
    """

    def __init__(
        self,
        pool: Iterable[IPNetwork] = (),
        *,
        own: Iterable[IPAddress] = (),
        allow: Iterable[PeerRule] = (),
        deny: Iterable[PeerRule] = (),
        between_hosts: bool = False,
        refuse_private: bool = True,
        refuse_public: bool = False,
    ) -> None:
        self._never = _masked(NEVER_FORWARDED)
        self._pool = _masked(pool)
        self._private = _masked(PRIVATE_NETWORKS)
        self._own = frozenset(address.packed for address in own)
        self._allow = [(_masked((rule.network,))[0], rule.port, rule.protocol) for rule in allow]
        self._deny = [(_masked((rule.network,))[0], rule.port, rule.protocol) for rule in deny]
        self._between_hosts = between_hosts
        self._refuse_private = refuse_private
        self._refuse_public = refuse_public
        self._judged: dict[tuple[bytes, int, int], str | None] = {}

    def refusal(self, address: bytes, protocol: int, port: int) -> str | None:
        """Why a flow with this correspondent is refused, in a word; None: it is not. `address` is packed."""
        key = (address, protocol, port)
        verdict = self._judged.get(key, _UNKNOWN)
        if verdict is _UNKNOWN:
            if len(self._judged) >= _REMEMBERED:
                self._judged.clear()
            verdict = self._judged[key] = self._judge(address, protocol, port)
        return verdict

    def _judge(self, address: bytes, protocol: int, port: int) -> str | None:
        peer = (len(address), int.from_bytes(address, "big"))
        if _is_in(peer, self._never):
            return "special"
        if _is_named(peer, protocol, port, self._deny):
            return "denied"
        if _is_in(peer, self._pool):
            return None if self._between_hosts else "host"
        if _is_named(peer, protocol, port, self._allow):
            return None
        if address in self._own:
            return "anchor"
        if _is_in(peer, self._private):
            return "private" if self._refuse_private else None
        return "public" if self._refuse_public else None


_Masked = tuple[int, int, int]
"""Bytes of an address, the network's address and its mask."""


def _masked(networks: Iterable[IPNetwork]) -> list[_Masked]:
    return [
        (network.max_prefixlen // 8, int(network.network_address), int(network.netmask))
        for network in networks
    ]


def _is_in(peer: tuple[int, int], networks: Iterable[_Masked]) -> bool:
    size, number = peer
    return any(size == length and number & mask == first for length, first, mask in networks)


def _is_named(
    peer: tuple[int, int], protocol: int, port: int, rules: Iterable[tuple[_Masked, int | None, int | None]]
) -> bool:
    return any(
        _is_in(peer, (network,))
        and (wanted is None or (wanted == port and protocol in PORTED))
        and kind in (None, protocol)
        for network, wanted, kind in rules
    )
