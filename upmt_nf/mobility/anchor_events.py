"""What can happen to an anchor, in the past tense. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TerminalId


@dataclass(frozen=True, slots=True)
class SipDatagramReceived:
    """SIP outside the tunnels, at the signalling port (0) or at one of the further tunnel ports."""

    source: Endpoint
    data: bytes
    by: int = 0


@dataclass(frozen=True, slots=True)
class TunnelSignalReceived:
    """UDP payload to the anchor's inner address; `tunnel` is None when `remote` is no tunnel's endpoint yet.

    `remote` is the outer source, `source` the inner one, `port` the inner destination port, `by` the
    tunnel port that it came to (0: the first).
    """

    tunnel: Tunnel | None
    remote: Endpoint
    source: Endpoint
    port: int
    payload: bytes
    by: int = 0


@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    """An administrator ends the association of a host."""

    identity: TerminalId


@dataclass(frozen=True, slots=True)
class BindingProbeReceived:
    """A binding probe came to a tunnel port (0: the first), from wherever, with this traffic class."""

    remote: Endpoint
    data: bytes
    by: int = 0
    tos: int = 0


AnchorEvent = (
    SipDatagramReceived
    | BindingProbeReceived
    | TunnelSignalReceived
    | LeaseRevoked
    | StopAsked
    | TimeoutReached
)
