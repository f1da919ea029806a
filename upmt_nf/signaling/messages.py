"""The JSON bodies of the SIP messages and their answers (paper section VII and figure 9), as values.

A pair says what moves ("match") and where to ("tunnelID"); without a tunnel, it is the one the message came by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from upmt_nf.model.flow import FlowKey, IPAddress
from upmt_nf.model.identity import TunnelId

VERSION = 1
MAX_BODY = 8192
"""Bytes; larger bodies are refused unread."""

DROPPED = ("zero-checksum", "dscp", "ecn")
"""UDP without a checksum, packets with a DSCP, packets that are ECN-capable."""

MOST_COUNTED = 8
"""Flows in one request for counts: the answer is to fit into one packet."""
MOST_WEIGHED = 64
"""Flows among an application's oldest, and among its newest, of which the busiest are counted, at both ends."""

Any_ = Literal["any"]
ANY: Any_ = "any"


@dataclass(frozen=True, slots=True)
class IptablesMatch:
    """A match in iptables' words, not yet parsed (see `iptables_match`)."""

    text: str


FlowSelector = tuple[FlowKey, ...] | Any_ | IptablesMatch
TunnelChoice = TunnelId | Any_


@dataclass(frozen=True, slots=True)
class HandoverPair:
    """Move what `match` says to the first of `tunnels` that works; none given: the tunnel that the message came by.

    With `application` (1 to 4095) the flows are of that application of the host's from now on, and go where it goes:
    to that tunnel, if no newer request said else. `is_packed`: flows, all of one source, in few bytes; only for an
    anchor that said that it can read them.
    """

    match: FlowSelector
    tunnels: tuple[TunnelChoice, ...] = ()
    application: int = 0
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class HandoverResult:
    """What became of one pair; `flows` were moved."""

    accepted: bool
    tunnel_id: TunnelId | None = None
    flows: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """In a REGISTER: what its headers say too, but under the proof that covers the body. `expires` in seconds.

    `key`: the host's public key (X25519, 32 bytes), for protected tunnels.
    """

    expires: int
    virtual_address: IPAddress | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class AssociationResponse:
    """In the answer to a REGISTER, likewise; `association` is the token of the requests that follow."""

    virtual_address: IPAddress
    association: str
    expires: int
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class TunnelSetupRequest:
    """Table II: asks for a tunnel on the path that the message comes by, and maybe for a handover to it at once.

    `mtu`: the largest inner packet that the path takes, as far as the host knows; bytes, 0: not told. `avoid`: what the
    path drops, and neither end should send outside (`DROPPED`); others mean nothing.
    """

    association: str
    virtual_address: IPAddress
    network: str | None = None
    handover: tuple[HandoverPair, ...] = ()
    format: str = "plain"
    mtu: int = 0
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TunnelSetupResponse:
    """Table II: the tunnel's id, and the host's end as the anchor sees it behind NAT."""

    tunnel_id: TunnelId
    your_address: IPAddress
    your_port: int
    results: tuple[HandoverResult, ...] = ()
    format: str = "plain"
    key_id: int = 0
    salt: bytes | None = None
    """Of the keys that this answer brings (16 bytes), numbered `key_id` (0 to 255); None for `plain`."""
    knows_applications: bool = False
    """Flows can be named, and their application moved as one."""
    copies: bool = False
    """The anchor takes packets that are sent by two tunnels (docs/protocol.md)."""
    reads_packed: bool = False
    """The anchor reads packed flows, and keeps an eye on some of an application that moves by its name in them."""


@dataclass(frozen=True, slots=True)
class HandoverRequest:
    """Table II: pairs of flows and tunnels."""

    association: str
    pairs: tuple[HandoverPair, ...]


@dataclass(frozen=True, slots=True)
class HandoverResponse:
    """One result a pair, in their order."""

    results: tuple[HandoverResult, ...]


@dataclass(frozen=True, slots=True)
class AnchorNotice:
    """The anchor tells something without being asked: `going-down`, `lease-ended`, `tunnel-unheard`.

    `association` is the token of the association that it is about; `tunnel_id` the tunnel, where it is about one.
    """

    kind: str
    reason: str
    association: str = ""
    tunnel_id: TunnelId | None = None


@dataclass(frozen=True, slots=True)
class NoticeAnswer:
    """The host has heard a notice."""


@dataclass(frozen=True, slots=True)
class FlowCountsRequest:
    """What did you get and send of these flows? Goes before a handover's receipt is written.

    `takes_readings`: the host knows what to make of counts that are readings.
    """

    association: str
    flows: tuple[FlowKey, ...]
    takes_readings: bool = False


@dataclass(frozen=True, slots=True)
class FlowCount:
    """One flow at the anchor, in packets since it began there; `late` came by another tunnel after the new one's first.

    `gap_ms`: the longest time between two packets of the host's since the flow was moved last. `is_reading`: the flow's
    packets passed by while this was read, so some that are behind the question or the answer may be counted.
    """

    received: int
    sent: int
    late: int = 0
    gap_ms: int = 0
    is_reading: bool = False


@dataclass(frozen=True, slots=True)
class FlowCountsResponse:
    """One a flow, in their order; None for those that cannot be told. There may be fewer than were asked for."""

    counts: tuple[FlowCount | None, ...]


UpmtMessage = (
    AssociationRequest
    | AssociationResponse
    | TunnelSetupRequest
    | TunnelSetupResponse
    | HandoverRequest
    | HandoverResponse
    | AnchorNotice
    | NoticeAnswer
    | FlowCountsRequest
    | FlowCountsResponse
)
