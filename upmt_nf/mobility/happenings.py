"""Changes of state -> what programs that follow them are told (`Happened`). Values only, and what was told last."""

from __future__ import annotations

from upmt_nf.mobility.association import HostAssociation
from upmt_nf.mobility.commands import EventKind, Happened
from upmt_nf.mobility.portal_checks import Portal
from upmt_nf.mobility.tunnel_states import StateChanged
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.policy import Policy


def network_changed(network: NetworkName, change: StateChanged) -> Happened:
    """A network's tunnel is in another state."""
    return Happened(EventKind.NETWORK, change.reason, network, None, change.old.value, change.new.value)


def portal_found(network: NetworkName, portal: Portal) -> Happened:
    """HTTP has told something new of a network."""
    return Happened(EventKind.PORTAL, portal.location or "", network, new=portal.finding.value)


def metered(network: NetworkName, is_metered: bool) -> Happened:
    """Somebody pays for a network by the byte, or nobody does any more."""
    return Happened(EventKind.METERED, "NetworkManager says so", network, new="yes" if is_metered else "no")


def assigned(name: ApplicationName, policy: Policy | tuple[str, ...]) -> Happened:
    """An application has another policy."""
    new = policy.name if isinstance(policy, Policy) else ", ".join(policy)
    return Happened(EventKind.POLICY, "assigned", application=name, new=new)


def locked(name: ApplicationName, network: NetworkName | None) -> Happened:
    """An application is locked to a network, or released."""
    reason = "locked" if network is not None else "released"
    return Happened(EventKind.LOCK, reason, application=name, new=network)


class AssociationTelling:
    """Tells when the association is in another state; refreshes are none."""

    def __init__(self) -> None:
        self._told = "idle"

    def changes(self, anchor: IPAddress, association: HostAssociation) -> list[Happened]:
        """What is to be told of the association with the anchor in use, if anything."""
        state = "associated" if association.is_held else association.state.value
        if state == self._told:
            return []
        old, self._told = self._told, state
        about = association.virtual_address if association.is_held else association.failure
        reason = f"anchor {anchor}" + (f": {about}" if about else "")
        return [Happened(EventKind.ASSOCIATION, reason, old=old, new=state)]
