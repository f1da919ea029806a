"""Tunnel formats: what stands between the outer UDP header and the inner packet. The first four bits tell them apart.

`plain` is the paper's: nothing at all. The others are in `protected`, each with the state of one tunnel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from upmt_nf.datapath.copies import is_carried
from upmt_nf.datapath.outer import OVERHEAD

if TYPE_CHECKING:
    from upmt_nf.datapath.paft import Tunnel


class TunnelFormat(Protocol):
    """One way to put an inner packet into a UDP payload."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    def overhead(self, outer_version: int) -> int:
        """Bytes on the wire beyond the inner packet, outer IP and UDP headers included; 4 or 6."""

    def encode(self, tunnel: Tunnel, packet: bytes) -> bytes:
        """The UDP payload that carries an inner packet."""

    def decode(self, tunnel: Tunnel | None, payload: bytes) -> bytes | None:
        """The one whole inner packet of a payload, maybe numbered (`copies`), or None. Never raises."""

    def encode_all(self, tunnel: Tunnel, packets: bytes, size: int) -> tuple[bytes, int]:
        """The payloads of joined packets, joined, and their size. Packets are of `size`, the last may be shorter."""

    def decode_all(self, tunnel: Tunnel, payloads: bytes, size: int) -> tuple[bytes, int]:
        """The acceptable inner packets of joined payloads, joined, and their size. Never raises.

        They may still be damaged: whole as to the payload's own format, not checked as IP packets.
        """


class Plain:
    """The payload is the inner packet: 28 bytes more over IPv4, 48 over IPv6 (paper section VIII)."""

    name: Final = "plain"

    def overhead(self, outer_version: int) -> int:
        """See `TunnelFormat`."""
        return OVERHEAD[outer_version]

    def encode(self, tunnel: Tunnel, packet: bytes) -> bytes:
        """See `TunnelFormat`."""
        return packet

    def decode(self, tunnel: Tunnel | None, payload: bytes) -> bytes | None:
        """A payload longer or shorter than its inner packet says is refused: the datagram was cut or merged."""
        return payload if is_carried(payload) else None

    def encode_all(self, tunnel: Tunnel, packets: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        return packets, size

    def decode_all(self, tunnel: Tunnel, payloads: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        return payloads, size


PLAIN: Final = Plain()
NAT_KEEPALIVE: Final = b"\xff"
"""A whole payload: for the NATs on the way only (RFC 3948 section 2.3)."""
BINDING_PROBE_TYPE: Final = 0x3
BINDING_PROBE_SIZE: Final = 40
LARGEST_PROBE: Final = 2048
"""Bytes."""


def is_plain(payload: bytes) -> bool:
    """Whether a payload is an inner packet as it is: it begins with its IP version, 4 or 6."""
    return bool(payload) and payload[0] >> 4 in (4, 6)


def is_binding_probe(payload: bytes) -> bool:
    """Whether a payload looks like a packet that tries NATs and filters; who has an association proves it."""
    return BINDING_PROBE_SIZE <= len(payload) <= LARGEST_PROBE and payload[0] >> 4 == BINDING_PROBE_TYPE


def is_registration(payload: bytes) -> bool:
    """Whether a payload looks like the one SIP request that comes in no tunnel."""
    return payload.startswith(b"REGISTER ")


def decode(tunnel: Tunnel | None, payload: bytes) -> bytes | None:
    """The inner packet of a payload in the tunnel's own format; None otherwise. Strangers may speak `plain` only."""
    return (PLAIN if tunnel is None else tunnel.format).decode(tunnel, payload) if payload else None
