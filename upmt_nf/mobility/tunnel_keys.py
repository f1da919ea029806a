"""Keys for protected tunnels, the same at both ends: the association's key and a salt in, the tunnel's format out."""

from __future__ import annotations

from upmt_nf.datapath.formats import PLAIN
from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import PROTECTED, Cookie, Sealed
from upmt_nf.signaling.keys import tunnel_secrets

SALT_BYTES = 16
LEAST_MTU = 552 - 60
"""No path is believed to be narrower: a forged ICMP error must not stop everything. Linux believes 552 (min_pmtu),
which a sealed tunnel must still fit."""


def protect(
    tunnel: Tunnel, format: str, association_key: bytes, key_id: int, salt: bytes, *, is_host: bool
) -> None:
    """Give a tunnel a format with fresh keys; a format that it has already keeps its old keys for a while."""
    secrets = tunnel_secrets(association_key, format, tunnel.id, salt)
    sending, receiving = secrets if is_host else (secrets.down, secrets.up)
    present = tunnel.format
    if isinstance(present, Cookie | Sealed) and present.name == format:
        present.renew(sending, receiving, key_id)
    else:
        tunnel.format = PROTECTED[format](sending, receiving, key_id, waits=not is_host)


def expose(tunnel: Tunnel) -> None:
    """Give a tunnel the plain format."""
    tunnel.format = PLAIN


def inner_mtu(outer: int, version: int, format: str) -> int:
    """The largest inner packet of a tunnel over a path that takes outer packets of `outer` bytes."""
    extra = PROTECTED[format].extra if format in PROTECTED else 0
    return outer - OVERHEAD[version] - extra
