"""Tells the anchor ahead of time which flows are of which application, so that a handover need not name them.

In the background, some flows a request and one request at a time, and only flows that have lived for a while: most
end before. What the anchor has confirmed is kept in PAFT's `membership`. Knows neither SIP nor sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.applications import Application
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.model.flow import FlowBytes, FlowKey
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName
from upmt_nf.signaling.flow_room import FlowRoom

LIVED = 3.0
"""Seconds between the first packet of a flow and its last so far, after which it is worth a name."""
LOOK_EVERY, PACE = 1.0, 0.005
"""Seconds between looks for such flows, and at least between two requests when there are many: half of what an anchor
hears of one host."""
REFUSED_PATIENCE = 60.0
"""Seconds before another try when the anchor has no room."""
_NUMBER = len(',"application":4095')
"""Bytes that a request has beyond one that moves flows."""
_MOST_LOOKED_AT, _MOST_IN_A_REQUEST = 256, 64


@dataclass(eq=False, slots=True)
class NameRequest:
    """Tell the anchor, by the network where the application is, that these flows are its."""

    application: ApplicationId
    network: NetworkName
    flows: tuple[FlowKey, ...]
    open: set[FlowBytes] = field(default_factory=set)
    """Those of which nothing else was said since."""


class Naming:
    """For one host. `requests` is taken by the owner after each call.

    `is_apart` says which flows do not go with their application, `room` how many flows a request by a network
    can carry.
    """

    def __init__(
        self,
        paft: Paft,
        applications: Mapping[ApplicationName, Application],
        tunnels: Mapping[NetworkName, HostTunnel],
        is_apart: Callable[[FlowBytes], bool],
        room: Callable[[NetworkName], FlowRoom],
    ) -> None:
        self.requests: list[NameRequest] = []
        self.is_understood = False
        """The anchor knows what a name is. Set by the owner."""
        self.is_packing = False
        """It reads packed flows, and watches some of an application that moves by its name. Set by the owner."""
        self._membership = paft.membership
        self._paft = paft
        self._applications = applications
        self._tunnels = tunnels
        self._is_apart = is_apart
        self._room = room
        self._asked: NameRequest | None = None
        self._look_at = self._asked_at = 0.0

    @property
    def named(self) -> int:
        """Flows that the anchor knows by their application now."""
        return sum(self._membership.number_told(each.id) for each in self._applications.values())

    def start_over(self) -> None:
        """Another association: the anchor knows nothing."""
        self.is_understood = self.is_packing = False
        self._membership.start_over()
        self.drop()

    def drop(self) -> None:
        """What was asked gets no answer any more."""
        self._asked = None
        self.requests.clear()

    def touch(self, entry: FlowEntry) -> None:
        """The anchor is told of this flow by itself: it goes with no application there."""
        if entry.told:
            self._membership.doubt(entry)
        if self._asked is not None:
            self._asked.open.discard(entry.key)

    def next_timeout(self) -> float | None:
        """When `look` has something to do (seconds)."""
        is_idle = not self.is_understood or self._asked is not None or not self._membership.has_untold
        return None if is_idle else self._look_at

    def look(self, now: float) -> None:
        """Name some flows that are worth it, if it is time."""
        if (due := self.next_timeout()) is None or now < due:
            return
        self._look_at = now + LOOK_EVERY
        for application in self._applications.values():
            network = application.network
            if network is None or application.handover is not None or not self._tunnels[network].is_usable:
                continue
            if application.id in self._paft.doubles:
                # Its flows go by two tunnels, each as it is heard.
                continue
            entries = [
                entry
                for entry in self._membership.next_untold(application.id, _MOST_LOOKED_AT)
                if entry.last_seen - entry.created >= LIVED and not self._is_apart(entry.key)
            ][:_MOST_IN_A_REQUEST]
            if entries:
                self._asked_at = now
                self._ask(application.id, network, entries)
                return

    def _ask(self, application: ApplicationId, network: NetworkName, entries: Sequence[FlowEntry]) -> None:
        flows = self._room(network).less(_NUMBER).groups(entry.flow for entry in entries)[0]
        request = NameRequest(application, network, flows)
        for entry in entries[: len(flows)]:
            # From here on the anchor may know; what is told and not confirmed is named again.
            self._membership.doubt(entry)
            request.open.add(entry.key)
        self._asked = request
        self.requests.append(request)

    def answer(self, request: NameRequest, is_accepted: bool, is_refused: bool, now: float) -> None:
        """What became of a request: accepted, refused, or (neither) not answered."""
        if request is not self._asked:
            return
        self._asked = None
        if is_accepted:
            self._look_at = self._asked_at + PACE
        else:
            self._look_at = now + (REFUSED_PATIENCE if is_refused else LOOK_EVERY)
        if is_accepted:
            for key in request.open:
                entry = self._paft.flows.get(key)
                if entry is not None and entry.application_id == request.application:
                    self._membership.tell(entry)
