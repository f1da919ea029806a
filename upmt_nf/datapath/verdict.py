"""What is to be done with a packet: small values that the forwarders give and the agent plane performs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from upmt_nf.datapath.offload import Offload
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import NetworkName


class Outbound(NamedTuple):
    """Send `payloads` by `tunnel` with `tos`; hand `error` back to the packet's sender. Nothing to send: dropped.

    With `size`, each of the payloads is many, joined: of `size` bytes each, the last maybe shorter. `copy` goes by
    another tunnel at the same time.
    """

    tunnel: Tunnel | None
    payloads: Sequence[bytes]
    tos: int
    error: bytes | None = None
    size: int = 0
    copy: Outbound | None = None


class TunnelSignal(NamedTuple):
    """A datagram for our own ports that came inside a tunnel: SIP (5060) or measurement (862).

    `network` names the path at the mobile host and is empty at the anchor; `tunnel` is None before tunnel setup;
    `remote` is the outer endpoint it came from, `source` the inner one.
    """

    network: NetworkName
    tunnel: Tunnel | None
    remote: Endpoint
    source: Endpoint
    port: int
    payload: bytes


class Inbound(NamedTuple):
    """Let `deliver` go on in place of the outer packet, take `signal` or `probe`, or send `answer` back; else dropped.

    `offload` is what is left for the kernel to do on `deliver`; `probe` is what came in no tunnel, a binding
    probe or SIP, with the outer endpoint that it came from and its traffic class.
    """

    deliver: bytes | None = None
    signal: TunnelSignal | None = None
    answer: Outbound | None = None
    offload: Offload | None = None
    probe: tuple[Endpoint, bytes, int] | None = None


DROPPED_OUT = Outbound(None, (), 0)
DROPPED_IN = Inbound()
