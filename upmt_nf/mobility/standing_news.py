"""What a mobile host's machines were told of the world and what still holds: for a machine that begins later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from upmt_nf.mobility.host_events import (
    ClockRead,
    HostEvent,
    NetworkAppeared,
    NetworkMetered,
    NetworksRedescribed,
    NetworkVanished,
)
from upmt_nf.model.identity import NetworkName


@dataclass(slots=True)
class StandingNews:
    """The last of each kind, of each network."""

    networks: dict[NetworkName, NetworkAppeared] = field(default_factory=dict)
    metered: dict[NetworkName, NetworkMetered] = field(default_factory=dict)
    facts: NetworksRedescribed | None = None
    clock: ClockRead | None = None

    def note(self, event: HostEvent) -> None:
        """Remember what still holds."""
        match event:
            case NetworkAppeared(network):
                self.networks[network] = event
            case NetworkVanished(network):
                self.networks.pop(network, None)
            case NetworkMetered(network):
                self.metered[network] = event
            case NetworksRedescribed():
                self.facts = event
            case ClockRead():
                self.clock = event

    def said(self) -> Iterator[HostEvent]:
        """All of it, in an order that a machine can begin with."""
        if self.clock is not None:
            yield self.clock
        if self.facts is not None:
            yield self.facts
        yield from self.metered.values()
        yield from self.networks.values()
