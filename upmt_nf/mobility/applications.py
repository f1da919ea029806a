"""The applications as mobility sees them: a policy, a network, perhaps a handover under way."""

from __future__ import annotations

from dataclasses import dataclass, field

from upmt_nf.mobility.handover import Handover
from upmt_nf.model.flow import FlowBytes
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName


@dataclass(slots=True)
class Application:
    """A named class of flows. `network` is where it is now; `lost` says why it is nowhere."""

    name: ApplicationName
    id: ApplicationId
    policy: tuple[str, ...]
    network: NetworkName | None = None
    handover: Handover | None = None
    lost: Lost | None = None
    copies_on: NetworkName | None = None
    """Where copies of its packets go, when it is redundant."""
    patience_until: float = 0.0
    """No other try to move to a better network before (seconds): the last one failed."""


@dataclass(slots=True)
class Lost:
    """An application has no network: which it was on, and why not any more."""

    source: NetworkName | None
    cause: str
    claimant: NetworkName | None = None
    """Whose tunnel setup took the flows along ..."""
    claimed: set[FlowBytes] = field(default_factory=set)
    """... which ones the anchor confirmed ..."""
    claimed_at: float = 0.0
    """... and when it was asked (seconds)."""
    last_claim: tuple[NetworkName, float] | None = None
    """The newest setup request that took flows along, whatever became of it: its network, when it was asked."""
