"""What an anchor wants done, imperative, in this order. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from upmt_nf.mobility.commands import Announce, Stopped
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import TerminalId


@dataclass(frozen=True, slots=True)
class SendSip:
    """Send SIP outside the tunnels, from the signalling port, or from one of the further tunnel ports."""

    destination: Endpoint
    data: bytes
    by: int = 0


@dataclass(frozen=True, slots=True)
class SendTunnelSignal:
    """Send UDP anchor:`port` -> `destination`, encapsulated, to `remote` from tunnel port `by` (0: the first)."""

    remote: Endpoint
    destination: Endpoint
    port: int
    payload: bytes
    by: int = 0


@dataclass(frozen=True, slots=True)
class SendBindingAnswer:
    """Send this as it is from a tunnel port (0: the first), in fragments where it is too large."""

    remote: Endpoint
    data: bytes
    by: int = 0
    tos: int = 0
    has_checksum: bool = True


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """An association begins: this host has this virtual address. `is_inherited`: another host had it before."""

    identity: TerminalId
    address: IPAddress
    is_inherited: bool = False


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """An association is over; the address stays remembered for the host."""

    identity: TerminalId
    address: IPAddress
    reason: str


AnchorCommand = (
    SendSip | SendTunnelSignal | SendBindingAnswer | LeaseGranted | LeaseEnded | Announce | Stopped
)
