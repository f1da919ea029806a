"""The fast plane after each event: programs on the interfaces that are there, tunnels and names as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from upmt_nf.daemon.fast_plane import FastPlane
from upmt_nf.datapath.fast_layout import NamedRow
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.host_status import ApplicationStatus, NetworkStatus
from upmt_nf.model.identity import ApplicationName


class FastFollowing:
    """What the fast plane was told last; one that knows it already is not told again."""

    def __init__(self) -> None:
        self._programmed: dict[str, int] = {}
        self._is_named = False

    def applications_changed(self) -> None:
        """One is new, or may go elsewhere: the next `follow` names them all again."""
        self._is_named = False

    def follow(
        self,
        fast: FastPlane,
        interfaces: dict[str, int],
        tunnels: Iterable[Tunnel],
        networks: Iterable[NetworkStatus],
        applications: Callable[[], Mapping[ApplicationName, ApplicationStatus]],
        is_declared: Callable[[ApplicationName], bool],
    ) -> None:
        """Bring it into line with the access interfaces that are there (name -> index) and the machine's views."""
        if interfaces != self._programmed:
            self._programmed = interfaces
            for interface in interfaces:
                fast.attach(interface)
        fast.refresh(tunnels)
        if not self._is_named:
            self._is_named = True
            for each in applications().values():
                fast.name(each.id, _row(each, is_declared=is_declared(each.name)))
        fast.settle([network.tunnel_id for network in networks if network.state == "up"])


def _row(status: ApplicationStatus, *, is_declared: bool) -> NamedRow:
    anchor = str(status.anchor) if status.anchor is not None else None
    return NamedRow(status.name, tuple(status.policy), is_declared, anchor)
