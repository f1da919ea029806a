"""Tunnel formats: what stands between the outer UDP header and the inner packet. The first byte tells them apart.

`plain` is the paper's: nothing at all. Others add their class and their first bytes here; nothing else changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.datapath.packet import is_whole

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
        """The one whole inner packet of a payload, or None when it is not acceptable. Never raises."""


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
        return payload if is_whole(payload) else None


PLAIN: Final = Plain()

FORMATS: Final[dict[str, TunnelFormat]] = {PLAIN.name: PLAIN}
"""By the name in the configuration."""

BY_FIRST_BYTE: Final[tuple[TunnelFormat | None, ...]] = tuple(
    PLAIN if byte >> 4 in (4, 6) else None for byte in range(256)
)
"""An inner packet begins with its IP version, 4 or 6; every other first byte is free for other formats."""


def decode(tunnel: Tunnel | None, payload: bytes) -> bytes | None:
    """The inner packet of a payload in the tunnel's own format; None otherwise. Strangers may speak `plain` only."""
    if not payload:
        return None
    spoken = BY_FIRST_BYTE[payload[0]]
    agreed = PLAIN if tunnel is None else tunnel.format
    return spoken.decode(tunnel, payload) if spoken is not None and spoken is agreed else None
