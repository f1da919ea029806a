"""What a path drops and its tunnel must not send outside, the same at both ends (`messages.DROPPED`)."""

from __future__ import annotations

from collections.abc import Container

from upmt_nf.datapath.paft import Tunnel

_DSCP, _ECN = 0xFC, 0x03


def heed(tunnel: Tunnel, avoid: Container[str]) -> None:
    """Let a tunnel's outer packets be such as its path lets pass.

    Without ECN outside, congestion on the way is told by loss, as RFC 6040 has it in compatibility mode.
    """
    tunnel.needs_checksums = "zero-checksum" in avoid
    tunnel.tos_mask = 0xFF & ~(_DSCP if "dscp" in avoid else 0) & ~(_ECN if "ecn" in avoid else 0)
