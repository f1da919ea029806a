"""What a mobile host wants done, imperative, in this order. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from upmt_nf.mobility.binding_time import BindingTime
from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.commands import Announce, Happened, Stopped
from upmt_nf.mobility.handover_steps import Step
from upmt_nf.mobility.tallies import Counted
from upmt_nf.model.flow import Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationName, NetworkName, TunnelId
from upmt_nf.policy.events import Decision


@dataclass(frozen=True, slots=True)
class SendSip:
    """Send SIP outside the tunnels, from this network's signalling socket."""

    network: NetworkName
    destination: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class SendTunnelSignal:
    """Send UDP virtual address:`port` -> anchor:`port`, encapsulated, from this network's tunnel socket."""

    network: NetworkName
    port: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class UseAnchor:
    """Every tunnel ends at this anchor from now on; `ConfigureVirtualAddress` follows. Until then nothing is sent."""

    tunnels: Endpoint
    signalling: Endpoint


@dataclass(frozen=True, slots=True)
class ConfigureVirtualAddress:
    """Applications get this address as their source from now on, in the place of any that they have."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class ReleaseVirtualAddress:
    """Take the virtual address away."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class OpenTunnel:
    """A network's tunnel has this id now and carries packets; PAFT already knows it.

    `reflexive` is our end as the anchor sees it after NAT; `mtu` the largest inner packet.
    """

    network: NetworkName
    tunnel_id: TunnelId
    reflexive: Endpoint
    mtu: int


@dataclass(frozen=True, slots=True)
class CloseTunnel:
    """A network's tunnel has no id any more; PAFT has forgotten it."""

    network: NetworkName


@dataclass(frozen=True, slots=True)
class RebindTunnel:
    """Give the network's tunnel socket a new source port: a NAT on the way may hold a dead mapping.

    `anchor_port`: which of the anchor's tunnel ports it sends to from now on.
    """

    network: NetworkName
    anchor_port: int


@dataclass(frozen=True, slots=True)
class KeepNatMapping:
    """Send one octet (0xff) from the network's tunnel socket, which the anchor passes over."""

    network: NetworkName


@dataclass(frozen=True, slots=True)
class SendBindingProbe:
    """Send to a tunnel port of the anchor, or to `to`, from a port of the network's own for this flow.

    The port is opened when it is not yet. Sent with this traffic class, in fragments where it is too large, and over
    IPv4 maybe without a UDP checksum.
    """

    network: NetworkName
    flow: ProbeFlow
    data: bytes
    anchor_port: int
    tos: int = 0
    has_checksum: bool = True
    to: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class CloseBindingProbe:
    """Give ports of a network up that were opened for these flows."""

    network: NetworkName
    flows: tuple[ProbeFlow, ...] = (ProbeFlow.WATCHED, ProbeFlow.ASKING)


@dataclass(frozen=True, slots=True)
class CheckPortal:
    """Ask by HTTP, from this network's care-of address, what `PortalChecked` is to tell."""

    network: NetworkName


@dataclass(frozen=True, slots=True)
class RememberBindingTime:
    """Keep what was found out about a place's NAT over restarts."""

    place: str
    known: BindingTime


class Mode(Enum):
    """How a handover was made (paper, table I, requirement 9)."""

    MAKE_BEFORE_BREAK = "make-before-break"
    BREAK_BEFORE_MAKE = "break-before-make"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A handover that both ends have agreed on. `signalling_ms`: from the decision to the anchor's last answer."""

    application: ApplicationName
    source: NetworkName | None
    target: NetworkName
    mode: Mode
    flows: int
    signalling_ms: float
    cause: str
    flow: FlowKey | None = None
    decision: Decision | None = None
    """With the policy's line and the numbers behind it, when a policy decided."""
    started: float = 0.0
    """When it was decided, seconds of the host's clock."""
    moved_ms: float | None = None
    """From the decision until the new path began to carry what we send."""
    steps: tuple[Step, ...] = ()
    """When each step came; `Counted` has those that the packets tell of."""


@dataclass(frozen=True, slots=True)
class HandoverFinished:
    """The end of a handover: a receipt, or why there is none. `token` None: nobody asked, it was automatic."""

    token: int | None
    receipt: Receipt | None
    failure: str | None
    is_usage_error: bool = False
    """The failure is the asker's: it named something that does not exist."""
    application: ApplicationName | None = None
    target: NetworkName | None = None
    """Of a failure, as far as they are known."""
    number: int | None = None
    """`Counted` with this number follows."""


@dataclass(frozen=True, slots=True)
class ByAnchor:
    """Do this for an association beside the usual one, that with `anchor`. It begins with `UseAnchor` and ends with
    `Stopped`; its virtual address is configured nowhere, but packets are translated to it and back.
    """

    anchor: IPAddress
    what: HostCommand


HostCommand = (
    SendSip
    | SendTunnelSignal
    | UseAnchor
    | ConfigureVirtualAddress
    | ReleaseVirtualAddress
    | OpenTunnel
    | CloseTunnel
    | RebindTunnel
    | KeepNatMapping
    | SendBindingProbe
    | CloseBindingProbe
    | CheckPortal
    | RememberBindingTime
    | HandoverFinished
    | Counted
    | Announce
    | Happened
    | ByAnchor
    | Stopped
)
