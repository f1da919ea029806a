"""The handovers under way: what the anchor is asked, what PAFT is told when it has answered, what a failed one leaves.

Writes PAFT and gives `FlowRequest`s; knows neither SIP nor sockets, and does not decide who should be where:
that is `placement`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.advisor import Advisor
from upmt_nf.mobility.applications import Application
from upmt_nf.mobility.handover import FlowRequest, Handover, HandoverInput, HandoverPhase, Order
from upmt_nf.mobility.handover_outcome import outcome_of
from upmt_nf.mobility.host_commands import HostCommand, Mode
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.naming import Naming
from upmt_nf.mobility.selection import preferring, ranked
from upmt_nf.mobility.tallies import Tallies
from upmt_nf.model.flow import FlowBytes, FlowKey, IPAddress, application_meant, is_stand_in, named_flows_of
from upmt_nf.model.identity import DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, ApplicationName, NetworkName
from upmt_nf.policy.events import MoveFailed, Placed
from upmt_nf.signaling.flow_room import FlowRoom
from upmt_nf.signaling.messages import MOST_WEIGHED

RETURN_PATIENCE = 5.0
"""Seconds before another try after an automatic move to a better network failed."""


class RunningHandovers:
    """Carries orders out. `applications` and `tunnels` are shared with their owners; tunnels are read only.

    `room` gives how many flows one request by a network can carry.
    """

    def __init__(
        self,
        paft: Paft,
        applications: Mapping[ApplicationName, Application],
        tunnels: Mapping[NetworkName, HostTunnel],
        return_after: float,
        room: Callable[[NetworkName], FlowRoom],
        advisor: Advisor,
    ) -> None:
        self.commands: list[HostCommand] = []
        """Taken by the owner after each call."""
        self.requests: list[FlowRequest] = []
        self.cancelled: list[FlowRequest] = []
        self.newcomers: FlowKey | None = None
        """Stands for what correspondents will begin, which goes with the default application. Set by the owner."""
        self.naming = Naming(paft, applications, tunnels, self._is_apart, room)
        self.moving: dict[FlowBytes, Handover] = {}
        """Flows that are on a way of their own."""
        self.tallies = Tallies(paft)
        self._paft = paft
        self._applications = applications
        self._tunnels = tunnels
        self._return_after = return_after
        self.room = room
        self._advisor = advisor
        self._pins: dict[FlowBytes, NetworkName] = {}

    # --- orders ---

    def start_application(self, application: Application, order: Order, now: float) -> None:
        """Begin to move an application; whatever was under way gives way."""
        touched: set[FlowBytes] = set()
        while (running := application.handover) is not None:
            # Ending one that had moved flows leaves a repair behind, which the new handover makes needless.
            touched |= running.known if running.has_steered else running.touched
            self.supersede(running, now)
        is_planned = application.network is not None and application.network == order.source
        handover = Handover(order, Mode.MAKE_BEFORE_BREAK if is_planned else Mode.BREAK_BEFORE_MAKE, now)
        handover.touched |= touched
        confirmed: set[FlowBytes] = set()
        lost = application.lost
        if lost is not None and lost.claimant == order.target:
            confirmed, handover.started = lost.claimed, lost.claimed_at
        application.handover = handover
        handover.heard = self._tunnels[order.source].last_heard if order.source is not None else None
        counted = self._open_tally(handover, self._some_of(application), now)
        if not is_planned:
            # One write, and packets go on: whom the anchor is to be told of takes longer to gather.
            self._paft.steer(application.id, self._tunnel(order.target).id)
        # Older anchors keep an eye on those that are counted only if they are named one by one.
        singled = () if self.naming.is_packing else counted
        handover.add(dict.fromkeys(chain(singled, self.keys_of(application))), confirmed)
        self.advance(handover, now)

    def start_flow(self, order: Order, flow: FlowKey, now: float) -> None:
        """Begin to move one flow."""
        is_planned = order.source is not None and self._tunnels[order.source].is_usable
        handover = Handover(order, Mode.MAKE_BEFORE_BREAK if is_planned else Mode.BREAK_BEFORE_MAKE, now)
        self.moving[flow.packed()] = handover
        if (entry := self._paft.flows.get(flow.packed())) is not None and not order.is_repair:
            self._open_tally(handover, [entry], now)
        handover.add([flow])
        self.advance(handover, now)

    def repair(self, application: Application, flows: Sequence[FlowKey], now: float) -> None:
        """Tell the anchor that these flows are where their application is."""
        if application.network is None or not flows:
            return
        handover = application.handover
        if handover is None:
            order = Order(application.name, None, application.network, "repair", is_repair=True)
            handover = Handover(order, Mode.BREAK_BEFORE_MAKE, now)
            handover.has_steered = True
            application.handover = handover
        # Also those that this handover has moved already: they were elsewhere since.
        handover.known.difference_update(flow.packed() for flow in flows)
        handover.add(flows)
        self.advance(handover, now)

    def adopt(self, application: Application, flows: Sequence[FlowKey], now: float) -> None:
        """Running flows have come to an application: the anchor shall send them where it is."""
        self.repair(application, [flow for flow in flows if flow.packed() not in self._pins], now)

    def supersede(self, handover: Handover, now: float) -> None:
        """A newer order takes its place."""
        self.end(handover, HandoverInput.SUPERSEDED, "a newer handover took its place", now)

    def end(self, handover: Handover, input: HandoverInput, reason: str, now: float) -> None:
        """It has failed."""
        handover.fail(input, reason)
        self._finish(handover, now, is_superseded=input is HandoverInput.SUPERSEDED)

    # --- what the anchor says ---

    def confirm(self, requests: Sequence[FlowRequest], moved: int, now: float) -> None:
        """The anchor has moved the flows of all these, which went together, `moved` in all."""
        requests = [request for request in requests if request.handover.is_running]
        self._check_names(requests, moved)
        for request in requests:
            request.handover.confirm(request, now)
            self.advance(request.handover, now)

    def _check_names(self, requests: Sequence[FlowRequest], moved: int) -> None:
        """The anchor may have forgotten flows that it knew by their application: then they are named one by one."""
        named: list[tuple[Handover, Application]] = []
        for request in requests:
            for flow in request.flows:
                if not is_stand_in(key := flow.packed()):
                    moved -= 1
                elif (owner := self._meant_by(key)) is not None:
                    named.append((request.handover, owner))
        if moved < sum(self._paft.membership.number_told(owner.id) for _, owner in named):
            for handover, owner in named:
                self._paft.membership.doubt_all(owner.id)
                handover.add(self.keys_of(owner))

    def refuse(self, requests: Sequence[FlowRequest], reason: str, now: float) -> None:
        """The anchor has refused to. Of several that went together, each is asked again, to hear which it means."""
        if len(requests) > 1:
            return self.ask_again(requests, now, is_alone=True)
        for request in requests:
            if request.handover.is_running:
                request.handover.refuse(request, reason, now)
                self.advance(request.handover, now)
        return None

    def give_up(self, requests: Sequence[FlowRequest], now: float) -> None:
        """The anchor has not answered."""
        for request in requests:
            if request.handover.is_running:
                request.handover.give_up(request)
                self.advance(request.handover, now)

    def ask_again(self, requests: Iterable[FlowRequest], now: float, *, is_alone: bool = False) -> None:
        """What went together is asked once more, as far as it is still wanted."""
        for request in requests:
            if request.handover.is_running:
                request.handover.ask_again(request, is_alone=is_alone)
                self.advance(request.handover, now)

    # --- what becomes of the networks ---

    def watch(self, handover: Handover, now: float) -> None:
        """What the states of its networks mean to a running handover."""
        target, source = self._tunnels[handover.target], handover.order.source
        if not target.is_usable:
            self.end(
                handover,
                HandoverInput.TARGET_LOST,
                f"network {handover.target} became {target.state.value}",
                now,
            )
        elif handover.phase is HandoverPhase.ASKING and source and not self._tunnels[source].is_usable:
            handover.lose_source()
            self.advance(handover, now)

    def unpin_dead(self, now: float) -> list[FlowEntry]:
        """Flows that had a network of their own and lost it, or must not be there any more."""
        stranded = []
        for key, network in list(self._pins.items()):
            entry = self._paft.flows.get(key)
            if entry is None:
                del self._pins[key]
            elif not self._tunnels[network].is_usable or self._is_barred(entry, network, now):
                del self._pins[key]
                self._paft.unpin(key)
                stranded.append(entry)
        return stranded

    def _is_barred(self, entry: FlowEntry, network: NetworkName, now: float) -> bool:
        owner = self.application_of(entry)
        return owner is not None and self._advisor.bar(owner.name, network, now) is not None

    # --- names ---

    def correct_names(self, now: float) -> None:
        """Tell the anchor of flows that it may take for another application's."""
        misnamed = self._paft.membership.misnamed
        while misnamed:
            key, entry = misnamed.popitem()
            owner = self.application_of(entry)
            if owner is not None and not self._is_apart(key):
                self.repair(owner, [entry.flow], now)

    def confirmed(self, flows: Sequence[FlowKey], moved: int) -> set[FlowBytes]:
        """Which of these the anchor has moved for sure: named ones not, when it has moved fewer than we know of."""
        keys = {flow.packed() for flow in flows}
        stand_ins = {key for key in keys if is_stand_in(key)}
        told = sum(self._paft.membership.number_told(application_meant(key)) for key in stand_ins)
        return keys if moved >= len(keys) - len(stand_ins) + told else keys - stand_ins

    # --- what it cost ---

    def count(self, now: float) -> None:
        """Compare with the anchor what handovers that are done have cost."""
        self.tallies.handle_timeout({name: tunnel.is_usable for name, tunnel in self._tunnels.items()}, now)
        self.commands += self.tallies.counted
        self.tallies.counted.clear()

    def _open_tally(
        self, handover: Handover, entries: Sequence[FlowEntry], now: float
    ) -> tuple[FlowKey, ...]:
        """Gives the flows that are counted."""
        source, target = handover.order.source, self._tunnels[handover.target]
        old = self._tunnels[source] if source is not None else None
        if old is None or not entries:
            return ()
        carrier = old.network if old.is_usable and handover.mode is Mode.MAKE_BEFORE_BREAK else None
        # Packets that go by two tunnels have been coming all the time, whatever the old one did.
        goes_by_two = self._paft.doubles.get(self._applications[handover.order.application].id)
        handover.tally = self.tallies.begin(
            entries, None if goes_by_two else old.tunnel, target.network, target.tunnel, now, by=carrier
        )
        return handover.tally.flows

    # --- inside ---

    def advance(self, handover: Handover, now: float) -> None:
        """Do what a handover's phase asks for, until it waits or is over."""
        self._take_requests(handover, now)
        if handover.phase is HandoverPhase.CONFIRMING and not handover.has_steered:
            self._advisor.count(now)
            handover.steered = now
            if not self._steer(handover, now):
                return self.end(handover, HandoverInput.TARGET_LOST, "the flow has ended", now)
            self._take_requests(handover, now)
            if handover.order.flow is None:
                self._advisor_placed(handover, now)
        if not handover.is_running:
            self._finish(handover, now)
        return None

    def _advisor_placed(self, handover: Handover, now: float) -> None:
        name = handover.order.application
        if self._advisor.guides(name):
            self._advisor.tell(Placed(name, handover.target), now)

    def _take_requests(self, handover: Handover, now: float) -> None:
        taken = handover.take_requests(self._filter_of(handover), self.room(handover.target), now)
        self.requests += taken
        for request in taken:
            self.touch(request.flows)

    def touch(self, flows: Iterable[FlowKey]) -> None:
        """The anchor is told of these flows one by one."""
        for flow in flows:
            if (entry := self._paft.flows.get(flow.packed())) is not None:
                self.naming.touch(entry)

    def _filter_of(self, handover: Handover) -> Callable[[FlowBytes], bool]:
        if handover.order.flow is not None:
            return lambda key: key in self._paft.flows
        id = self._applications[handover.order.application].id
        return lambda key: (
            self._is_newcomers(key)
            or application_meant(key) == id
            or (
                (entry := self._paft.flows.get(key)) is not None
                and entry.application_id == id
                and key not in self._pins
                and key not in self.moving
            )
        )

    def _steer(self, handover: Handover, now: float) -> bool:
        handover.has_steered = True
        order = handover.order
        tunnel = self._tunnel(order.target)
        if order.flow is not None:
            if order.flow.packed() not in self._paft.flows:
                return False
            self.pin(order.flow.packed(), order.target)
            return True
        application = self._applications[order.application]
        self._paft.steer(application.id, tunnel.id)
        application.network = order.target
        application.lost = None
        if order.token is not None:
            self.prefer(application, order.target, now)
        # Flows that began while the anchor was asked follow, and the anchor shall know of them too.
        handover.add(self.keys_of(application))
        return True

    def prefer(self, application: Application, target: NetworkName, now: float) -> None:
        """A person moved it. A policy is not changed by that: a lock keeps it there."""
        if not self._advisor.guides(application.name):
            application.policy = preferring(target, application.policy)
        elif self._advisor.goes_by_list(application.name):
            application.policy = preferring(target, application.policy)
            self._advisor.reorder(application.name, ranked(application.policy, tuple(self._tunnels)), now)

    def _finish(self, handover: Handover, now: float, *, is_superseded: bool = False) -> None:
        order = handover.order
        self.cancelled += handover.asked
        self.requests = [request for request in self.requests if request.handover is not handover]
        application = self._applications[order.application]
        if order.flow is not None:
            self.moving.pop(order.flow.packed(), None)
        elif application.handover is handover:
            application.handover = None
        if not order.is_repair:
            if order.flow is None:
                handover.members = self._paft.membership.number_of(application.id) - self._number_apart(
                    application
                )
            self.commands += outcome_of(handover)
            if handover.phase is HandoverPhase.DONE and handover.tally is not None:
                self.tallies.finish(handover.tally, now)
        if handover.phase is HandoverPhase.FAILED and not handover.has_steered:
            # The anchor may have moved some flows already: put them back to where our packets leave.
            application.patience_until = now + max(RETURN_PATIENCE, self._return_after)
            self._take_back(handover.touched, now)
            is_application = order.flow is None and not order.is_repair
            if is_application and not is_superseded and self._advisor.guides(order.application):
                self._advisor.tell(MoveFailed(order.application, order.target), now)

    def _take_back(self, keys: Iterable[FlowBytes], now: float) -> None:
        """The anchor may have moved these flows: tell it where our packets leave, flow by flow as it is now."""
        stayed: dict[ApplicationName, list[FlowKey]] = {}
        for key in keys:
            if self._is_newcomers(key) and self.newcomers is not None:
                stayed.setdefault(DEFAULT_APPLICATION, []).append(self.newcomers)
                continue
            if (meant := self._meant_by(key)) is not None:
                stayed.setdefault(meant.name, []).append(FlowKey.unpacked(key))
                continue
            entry = self._paft.flows.get(key)
            if entry is None or key in self.moving or (owner := self.application_of(entry)) is None:
                continue
            if (network := self._pins.get(key)) is None:
                stayed.setdefault(owner.name, []).append(entry.flow)
            elif self._tunnels[network].is_usable:
                order = Order(owner.name, None, network, "repair", flow=entry.flow, is_repair=True)
                self.start_flow(order, entry.flow, now)
        for name, flows in stayed.items():
            self.repair(self._applications[name], flows, now)

    # --- looking ---

    def is_asked_about(self, key: FlowBytes) -> bool:
        """Whether the anchor may have moved a flow by a request that is not answered for good yet."""
        entry = self._paft.flows.get(key)
        if entry is not None and entry.told:
            # The anchor moves it with its application: it must be told that this flow goes another way.
            return True
        running = (application.handover for application in self._applications.values())
        return key in self.moving or any(handover and key in handover.known for handover in running)

    def keys_of(self, application: Application) -> list[FlowKey]:
        """What the anchor is told of when the application moves."""
        membership = self._paft.membership
        flows = [entry.flow for entry in membership.untold(application.id) if not self._is_apart(entry.key)]
        if self._address is not None and membership.number_told(application.id):
            flows.insert(0, named_flows_of(self._address, application.id))
        if application.id == DEFAULT_APPLICATION_ID and self.newcomers is not None:
            flows.append(self.newcomers)
        return flows

    def application_of(self, entry: FlowEntry) -> Application | None:
        """Whose flow it is."""
        ids = (
            application
            for application in self._applications.values()
            if application.id == entry.application_id
        )
        return next(ids, None)

    def pin(self, key: FlowBytes, network: NetworkName) -> None:
        """Give a flow a network of its own."""
        self._paft.pin(key, self._tunnel(network).id)
        self._pins[key] = network

    def _some_of(self, application: Application) -> list[FlowEntry]:
        """Some that go with the application."""
        some = self._paft.membership.some(application.id, MOST_WEIGHED)
        return [entry for entry in some if not self._is_apart(entry.key)]

    def _is_apart(self, key: FlowBytes) -> bool:
        """Whether a flow does not go with its application: it is pinned, or on a way of its own."""
        return key in self._pins or key in self.moving

    def _number_apart(self, application: Application) -> int:
        keys = self._pins.keys() | self.moving.keys()
        entries = (self._paft.flows.get(key) for key in keys)
        return sum(entry is not None and entry.application_id == application.id for entry in entries)

    def _meant_by(self, key: FlowBytes) -> Application | None:
        """The application that a stand-in means."""
        id = application_meant(key)
        return next((each for each in self._applications.values() if id and each.id == id), None)

    @property
    def _address(self) -> IPAddress | None:
        return self.newcomers.source if self.newcomers is not None else None

    def _is_newcomers(self, key: FlowBytes) -> bool:
        return self.newcomers is not None and key == self.newcomers.packed()

    def _tunnel(self, network: NetworkName) -> Tunnel:
        tunnel = self._tunnels[network].tunnel
        assert tunnel is not None, f"network {network} is usable without a tunnel"
        return tunnel
