"""Which application is on which network, and what moves it: lost tunnels, returned networks, policies, people.

Owns the applications and the running handovers and writes PAFT. Asks for signalling as `FlowRequest`s; knows
neither SIP nor sockets. `settle` is called after every change and brings all into line with the tunnels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from upmt_nf.datapath.paft import FlowEntry, Paft, Tunnel
from upmt_nf.mobility.advisor import PLAIN_LIST, Advisor
from upmt_nf.mobility.applications import Application, Lost
from upmt_nf.mobility.handover import FlowRequest, Handover, HandoverInput, HandoverPhase, Order
from upmt_nf.mobility.handover_outcome import outcome_of
from upmt_nf.mobility.host_commands import HandoverFinished, HostCommand, Mode, Receipt
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.selection import Fitness, preferring, ranked, select
from upmt_nf.mobility.tunnel_states import TunnelState
from upmt_nf.model.flow import FlowBytes, FlowKey
from upmt_nf.model.identity import (
    DEFAULT_APPLICATION,
    DEFAULT_APPLICATION_ID,
    ApplicationId,
    ApplicationName,
    NetworkName,
)
from upmt_nf.policy.events import Locked, MoveFailed, Placed, Released
from upmt_nf.policy.policy import Policy

RETURN_PATIENCE = 5.0
"""Seconds before another try after an automatic move to a better network failed."""


class Placement:
    """Where everything is. `tunnels` is shared with its owner and read only.

    `room` gives how many bytes of flows one request by a network can carry.
    """

    def __init__(
        self,
        paft: Paft,
        tunnels: Mapping[NetworkName, HostTunnel],
        return_after: float,
        room: Callable[[NetworkName], int],
        advisor: Advisor,
    ) -> None:
        self.applications: dict[ApplicationName, Application] = {}
        self.commands: list[HostCommand] = []
        """Taken by the owner after each call."""
        self.requests: list[FlowRequest] = []
        self.cancelled: list[FlowRequest] = []
        self.has_lost = False
        """An application lost its last network: a tunnel setup should take its flows along. Reset by the owner."""
        self.newcomers: FlowKey | None = None
        """Stands for what correspondents will begin, which goes with the default application. Set by the owner."""
        self._paft = paft
        self._tunnels = tunnels
        self._configured: Sequence[NetworkName] = tuple(tunnels)
        self._return_after = return_after
        self._room = room
        self._advisor = advisor
        self._lent: set[ApplicationName] = set()
        """Go by a list of networks, but are locked."""
        self._settled_at = 0.0
        self._pins: dict[FlowBytes, NetworkName] = {}
        self._moving: dict[FlowBytes, Handover] = {}

    # --- what people say ---

    def guide(self, name: ApplicationName, id: ApplicationId, policy: Policy, now: float) -> None:
        """An application exists, or has another policy now, which the engine decides by."""
        self.define(name, id, policy.networks)
        self._advisor.take_on(name, id, policy, now)
        if (network := self.applications[name].network) is not None:
            self._advisor.tell(Placed(name, network), now)

    def define(self, name: ApplicationName, id: ApplicationId, policy: tuple[str, ...]) -> None:
        """An application exists, or goes by another list of networks now."""
        self._advisor.let_go(name)
        self._lent.discard(name)
        known = self.applications.get(name)
        if known is None:
            self.applications[name] = Application(name, id, policy, lost=Lost(None, "first network"))
            self._paft.steer(id, None)
        else:
            known.policy, known.patience_until = policy, 0.0

    def lock(self, name: ApplicationName, network: NetworkName | None, now: float) -> None:
        """Keep an application on one network and nowhere else, or let its policy decide again (None)."""
        application = self.applications[name]
        if network is None:
            self._advisor.tell(Released(name), now)
            if name in self._lent:
                self.define(name, application.id, application.policy)
            return
        if not self._advisor.guides(name):
            order = ranked(application.policy, self._configured)
            policy = Policy(PLAIN_LIST, networks=order, good_for=max(self._return_after, 1.0))
            self._advisor.take_on(name, application.id, policy, now)
            self._lent.add(name)
            if application.network is not None:
                self._advisor.tell(Placed(name, application.network), now)
        self._advisor.tell(Locked(name, network), now)

    def ask(self, token: int, what: ApplicationName | FlowKey, target: NetworkName, now: float) -> None:
        """A handover is wanted. The answer is a HandoverFinished, now or when the anchor has answered."""
        failure, is_usage = self._objection(what, target, now)
        if failure is not None:
            self.commands.append(HandoverFinished(token, None, failure, is_usage))
        elif isinstance(what, FlowKey):
            self._ask_flow(token, what, target, now)
        else:
            self._ask_application(token, self.applications[what], target, now)

    def _objection(
        self, what: ApplicationName | FlowKey, target: NetworkName, now: float
    ) -> tuple[str, bool] | tuple[None, bool]:
        if target not in self._tunnels:
            return f"there is no network {target!r}; there are {', '.join(self._tunnels)}", True
        if isinstance(what, FlowKey):
            entry = self._paft.flows.get(what.packed())
            if entry is None or self._application_of(entry) is None:
                return f"there is no flow {what}", True
        if not isinstance(what, FlowKey) and what not in self.applications:
            return f"there is no application {what!r}; there are {', '.join(self.applications)}", True
        tunnel = self._tunnels[target]
        if not tunnel.is_usable:
            return f"network {target} is {tunnel.state.value}: {tunnel.reason}", False
        owner = self._owner_of(what)
        if owner is not None and (bar := self._advisor.bar(owner, target, now)) is not None:
            return f"{owner} must not use {target}: {bar}", False
        return None, False

    def _owner_of(self, what: ApplicationName | FlowKey) -> ApplicationName | None:
        if not isinstance(what, FlowKey):
            return what
        entry = self._paft.flows.get(what.packed())
        application = self._application_of(entry) if entry is not None else None
        return application.name if application is not None else None

    def _ask_application(self, token: int, application: Application, target: NetworkName, now: float) -> None:
        running = application.handover
        if running is not None and running.phase is HandoverPhase.ASKING:
            self._supersede(running, now)
        source = application.network
        if source == target:
            # What tells the anchor so, if anything still does, goes on.
            self._prefer(application, target)
            receipt = Receipt(
                application.name, source, target, Mode.MAKE_BEFORE_BREAK, 0, 0.0, "already there"
            )
            self.commands.append(HandoverFinished(token, receipt, None))
            return
        order = Order(application.name, source, target, "asked", token)
        self._start_application(application, order, now)

    def _prefer(self, application: Application, target: NetworkName) -> None:
        """A person moved it. A policy is not changed by that: a lock keeps it there."""
        if not self._advisor.guides(application.name):
            application.policy = preferring(target, application.policy)

    def _ask_flow(self, token: int, flow: FlowKey, target: NetworkName, now: float) -> None:
        key = flow.packed()
        entry = self._paft.flows[key]
        is_elsewhere = self._is_asked_about(key)
        while (running := self._moving.get(key)) is not None:
            self._supersede(running, now)
        tunnel = self._paft.tunnel_of(entry)
        source = tunnel.network if tunnel is not None else None
        application = self._application_of(entry)
        assert application is not None
        name = application.name
        if source == target and not is_elsewhere:
            self._pin(key, target)
            receipt = Receipt(name, source, target, Mode.MAKE_BEFORE_BREAK, 1, 0.0, "already there", flow)
            self.commands.append(HandoverFinished(token, receipt, None))
            return
        self._start_flow(Order(name, source, target, "asked", token, flow), flow, now)

    def _is_asked_about(self, key: FlowBytes) -> bool:
        """Whether the anchor may have moved a flow by a request that is not answered for good yet."""
        running = (application.handover for application in self.applications.values())
        return key in self._moving or any(handover and key in handover.known for handover in running)

    def adopt(self, name: ApplicationName, flows: Sequence[FlowKey], now: float) -> None:
        """Running flows have come to an application from another: the anchor shall send them where it is."""
        if (application := self.applications.get(name)) is not None:
            self._repair(application, [flow for flow in flows if flow.packed() not in self._pins], now)

    # --- what the anchor says ---

    def confirm(self, request: FlowRequest, now: float) -> None:
        """The anchor has moved a request's flows."""
        if request.handover.is_running:
            request.handover.confirm(request, now)
            self._advance(request.handover, now)

    def refuse(self, request: FlowRequest, reason: str, now: float) -> None:
        """The anchor has refused to."""
        if request.handover.is_running:
            request.handover.refuse(request, reason, now)
            self._advance(request.handover, now)

    def give_up(self, request: FlowRequest, now: float) -> None:
        """The anchor has not answered."""
        if request.handover.is_running:
            request.handover.give_up(request)
            self._advance(request.handover, now)

    def claims(self, network: NetworkName) -> list[FlowKey]:
        """Flows without a network that the anchor should put on this one while it sets its tunnel up."""
        found: list[FlowKey] = []
        for application in self.applications.values():
            if application.network is None and self._claimant(application) == network:
                found += self._keys_of(application)
        return found

    def note_claims(self, network: NetworkName, asked_at: float) -> None:
        """A setup request with the claims of this network leaves now (seconds)."""
        for application in self.applications.values():
            lost = application.lost
            if application.network is None and lost is not None and self._claimant(application) == network:
                lost.last_claim = network, asked_at

    def confirm_claims(self, network: NetworkName, flows: Sequence[FlowKey], asked_at: float) -> None:
        """The anchor has done so; `settle` follows. `asked_at` in seconds.

        Worth something only when no newer request claimed flows for another network: that one may arrive yet.
        """
        moved = {flow.packed() for flow in flows}
        for application in self.applications.values():
            lost = application.lost
            if application.network is None and lost is not None and lost.last_claim == (network, asked_at):
                lost.claimant, lost.claimed, lost.claimed_at = network, moved, asked_at

    def _claimant(self, application: Application) -> NetworkName | None:
        """The network that an application without one will most likely get: exactly one, or both ends disagree."""
        order = self._order_of(application)
        for state in (TunnelState.SETUP, TunnelState.DEAD):
            for name in order:
                if self._tunnels[name].state is state:
                    return name
        return None

    # --- time ---

    def next_timeout(self) -> float | None:
        """When a network will have been back long enough."""
        now = self._settled_at
        if not any(application.network is not None for application in self.applications.values()):
            return self._advisor.next_timeout()
        times = [self._good_at(tunnel) for tunnel in self._tunnels.values()]
        times += [application.patience_until for application in self.applications.values()]
        times.append(self._advisor.next_timeout())
        return min((time for time in times if time is not None and time > now), default=None)

    # --- the tunnels have changed, or time has passed ---

    def settle(self, now: float) -> None:
        """Bring every flow and application into line with the tunnels' states."""
        self._settled_at = now
        self._advisor.look(now)
        stranded = self._unpin_dead()
        for handover in list(self._moving.values()):
            self._watch(handover, now)
        fitness = {name: self._fitness(tunnel, now) for name, tunnel in self._tunnels.items()}
        for application in self.applications.values():
            if application.handover is not None:
                self._watch(application.handover, now)
            if self._advisor.guides(application.name):
                self._follow(application, now)
            elif application.handover is None or application.handover.phase is HandoverPhase.CONFIRMING:
                self._select(application, fitness, now)
        for entry in stranded:
            if (owner := self._application_of(entry)) is not None:
                self._repair(owner, [entry.flow], now)
        self._advisor.urge(now)

    def _follow(self, application: Application, now: float) -> None:
        """Do what the policy engine decided for an application."""
        name, running = application.name, application.handover
        wish = self._advisor.take_wish(name)
        if application.network is not None and not self._tunnels[application.network].is_usable:
            tunnel = self._tunnels[application.network]
            self._lose(
                application, f"network {tunnel.network} is {tunnel.state.value} ({tunnel.reason})", now
            )
            wish = self._advisor.take_wish(name) or wish
        if wish is None:
            return None
        if wish.is_urgent and application.network is not None and wish.target != application.network:
            if (
                running is not None
                and running.target == wish.target
                and running.phase is HandoverPhase.ASKING
            ):
                running.lose_source()
                return self._advance(running, now)
            self._lose(application, wish.reason, now)
            wish = self._advisor.take_wish(name) or wish
        running = application.handover
        if wish.target is None:
            return None
        if running is not None and not running.order.is_repair and not wish.is_urgent:
            # A person's wish goes first, and what is under way is finished.
            return self._advisor.keep_wish(wish)
        if application.network == wish.target:
            return self._advisor.tell(Placed(name, wish.target), now)
        if not self._tunnels[wish.target].is_usable:
            return self._advisor.tell(MoveFailed(name, wish.target), now)
        lost = application.lost
        source = lost.source if application.network is None and lost is not None else application.network
        cause = lost.cause if application.network is None and lost is not None else wish.reason
        order = Order(name, source, wish.target, cause, decision=wish)
        return self._start_application(application, order, now)

    def _select(self, application: Application, fitness: dict[NetworkName, Fitness], now: float) -> None:
        order = ranked(application.policy, self._configured)
        current = application.network
        chosen = select(order, fitness, current)
        if chosen == current:
            return
        if current is not None and self._tunnels[current].is_usable:
            # Nothing is broken: finish what is under way first, and do not insist when it failed a moment ago.
            if application.handover is None and chosen is not None and now >= application.patience_until:
                cause = "policy" if current not in order else f"{chosen} is better"
                self._start_application(application, Order(application.name, current, chosen, cause), now)
            elif chosen is None and application.handover is None:
                self._lose(application, "its policy allows no network that is up", now)
            return
        if current is not None:
            tunnel = self._tunnels[current]
            self._lose(application, f"network {current} is {tunnel.state.value} ({tunnel.reason})", now)
        if chosen is not None:
            lost = application.lost
            source, cause = (lost.source, lost.cause) if lost is not None else (None, "first network")
            self._start_application(application, Order(application.name, source, chosen, cause), now)

    def _lose(self, application: Application, cause: str, now: float) -> None:
        if application.handover is not None:
            self._end(application.handover, HandoverInput.TARGET_LOST, cause, now)
        self._advisor.count(now)
        application.lost = Lost(application.network, cause)
        application.network = None
        self.has_lost = True
        self._paft.steer(application.id, None)

    def _watch(self, handover: Handover, now: float) -> None:
        """What the states of its networks mean to a running handover."""
        target, source = self._tunnels[handover.target], handover.order.source
        if not target.is_usable:
            self._end(
                handover,
                HandoverInput.TARGET_LOST,
                f"network {handover.target} became {target.state.value}",
                now,
            )
        elif handover.phase is HandoverPhase.ASKING and source and not self._tunnels[source].is_usable:
            handover.lose_source()
            self._advance(handover, now)

    def _unpin_dead(self) -> list[FlowEntry]:
        stranded = []
        for key, network in list(self._pins.items()):
            entry = self._paft.flows.get(key)
            if entry is None:
                del self._pins[key]
            elif not self._tunnels[network].is_usable or self._is_barred(entry, network):
                del self._pins[key]
                self._paft.unpin(key)
                stranded.append(entry)
        return stranded

    def _is_barred(self, entry: FlowEntry, network: NetworkName) -> bool:
        owner = self._application_of(entry)
        return owner is not None and self._advisor.bar(owner.name, network, self._settled_at) is not None

    # --- handovers ---

    def _start_application(self, application: Application, order: Order, now: float) -> None:
        touched: set[FlowBytes] = set()
        while (running := application.handover) is not None:
            # Ending one that had moved flows leaves a repair behind, which the new handover makes needless.
            touched |= running.known if running.has_steered else running.touched
            self._supersede(running, now)
        is_planned = application.network is not None and application.network == order.source
        handover = Handover(order, Mode.MAKE_BEFORE_BREAK if is_planned else Mode.BREAK_BEFORE_MAKE, now)
        handover.touched |= touched
        confirmed: set[FlowBytes] = set()
        lost = application.lost
        if lost is not None and lost.claimant == order.target:
            confirmed, handover.started = lost.claimed, lost.claimed_at
        application.handover = handover
        handover.add(self._keys_of(application), confirmed)
        self._advance(handover, now)

    def _start_flow(self, order: Order, flow: FlowKey, now: float) -> None:
        is_planned = order.source is not None and self._tunnels[order.source].is_usable
        handover = Handover(order, Mode.MAKE_BEFORE_BREAK if is_planned else Mode.BREAK_BEFORE_MAKE, now)
        self._moving[flow.packed()] = handover
        handover.add([flow])
        self._advance(handover, now)

    def _repair(self, application: Application, flows: Sequence[FlowKey], now: float) -> None:
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
        self._advance(handover, now)

    def _take_back(self, keys: Iterable[FlowBytes], now: float) -> None:
        """The anchor may have moved these flows: tell it where our packets leave, flow by flow as it is now."""
        stayed: dict[ApplicationName, list[FlowKey]] = {}
        for key in keys:
            if self._is_newcomers(key) and self.newcomers is not None:
                stayed.setdefault(DEFAULT_APPLICATION, []).append(self.newcomers)
                continue
            entry = self._paft.flows.get(key)
            if entry is None or key in self._moving or (owner := self._application_of(entry)) is None:
                continue
            if (network := self._pins.get(key)) is None:
                stayed.setdefault(owner.name, []).append(entry.flow)
            elif self._tunnels[network].is_usable:
                order = Order(owner.name, None, network, "repair", flow=entry.flow, is_repair=True)
                self._start_flow(order, entry.flow, now)
        for name, flows in stayed.items():
            self._repair(self.applications[name], flows, now)

    def _advance(self, handover: Handover, now: float) -> None:
        """Do what a handover's phase asks for, until it waits or is over."""
        self._take_requests(handover)
        if handover.phase is HandoverPhase.CONFIRMING and not handover.has_steered:
            self._advisor.count(now)
            if not self._steer(handover):
                return self._end(handover, HandoverInput.TARGET_LOST, "the flow has ended", now)
            self._take_requests(handover)
            if handover.order.flow is None:
                self._advisor_placed(handover, now)
        if not handover.is_running:
            self._finish(handover, now)
        return None

    def _advisor_placed(self, handover: Handover, now: float) -> None:
        name = handover.order.application
        if self._advisor.guides(name):
            self._advisor.tell(Placed(name, handover.target), now)

    def _take_requests(self, handover: Handover) -> None:
        self.requests += handover.take_requests(self._filter_of(handover), self._room(handover.target))

    def _filter_of(self, handover: Handover) -> Callable[[FlowBytes], bool]:
        if handover.order.flow is not None:
            return lambda key: key in self._paft.flows
        id = self.applications[handover.order.application].id
        return lambda key: (
            self._is_newcomers(key)
            or (
                (entry := self._paft.flows.get(key)) is not None
                and entry.application_id == id
                and key not in self._pins
                and key not in self._moving
            )
        )

    def _steer(self, handover: Handover) -> bool:
        handover.has_steered = True
        order = handover.order
        tunnel = self._tunnel(order.target)
        if order.flow is not None:
            if order.flow.packed() not in self._paft.flows:
                return False
            self._pin(order.flow.packed(), order.target)
            return True
        application = self.applications[order.application]
        self._paft.steer(application.id, tunnel.id)
        application.network = order.target
        application.lost = None
        if order.token is not None:
            self._prefer(application, order.target)
        # Flows that began while the anchor was asked follow, and the anchor shall know of them too.
        handover.add(self._keys_of(application))
        return True

    def _supersede(self, handover: Handover, now: float) -> None:
        self._end(handover, HandoverInput.SUPERSEDED, "a newer handover took its place", now)

    def _end(self, handover: Handover, input: HandoverInput, reason: str, now: float) -> None:
        handover.fail(input, reason)
        self._finish(handover, now, is_superseded=input is HandoverInput.SUPERSEDED)

    def _finish(self, handover: Handover, now: float, *, is_superseded: bool = False) -> None:
        order = handover.order
        self.cancelled += handover.asked
        self.requests = [request for request in self.requests if request.handover is not handover]
        application = self.applications[order.application]
        if order.flow is not None:
            self._moving.pop(order.flow.packed(), None)
        elif application.handover is handover:
            application.handover = None
        if not order.is_repair:
            self.commands += outcome_of(handover)
        if handover.phase is HandoverPhase.FAILED and not handover.has_steered:
            # The anchor may have moved some flows already: put them back to where our packets leave.
            application.patience_until = now + max(RETURN_PATIENCE, self._return_after)
            self._take_back(handover.touched, now)
            is_application = order.flow is None and not order.is_repair
            if is_application and not is_superseded and self._advisor.guides(order.application):
                self._advisor.tell(MoveFailed(order.application, order.target), now)

    # --- looking ---

    def _order_of(self, application: Application) -> Sequence[NetworkName]:
        """The networks that an application may use, best first."""
        if self._advisor.guides(application.name):
            return self._advisor.order(application.name, self._settled_at)
        return ranked(application.policy, self._configured)

    def _flows_of(self, application: Application) -> list[FlowEntry]:
        """Those that go with the application: neither pinned nor on a way of their own."""
        return [
            entry
            for entry in self._paft.flows_of(application.id)
            if entry.key not in self._pins and entry.key not in self._moving
        ]

    def _keys_of(self, application: Application) -> list[FlowKey]:
        """What the anchor is told of when the application moves."""
        flows = [entry.flow for entry in self._flows_of(application)]
        if application.id == DEFAULT_APPLICATION_ID and self.newcomers is not None:
            flows.append(self.newcomers)
        return flows

    def _is_newcomers(self, key: FlowBytes) -> bool:
        return self.newcomers is not None and key == self.newcomers.packed()

    def _application_of(self, entry: FlowEntry) -> Application | None:
        ids = (
            application
            for application in self.applications.values()
            if application.id == entry.application_id
        )
        return next(ids, None)

    def _pin(self, key: FlowBytes, network: NetworkName) -> None:
        self._paft.pin(key, self._tunnel(network).id)
        self._pins[key] = network

    def _tunnel(self, network: NetworkName) -> Tunnel:
        tunnel = self._tunnels[network].tunnel
        assert tunnel is not None, f"network {network} is usable without a tunnel"
        return tunnel

    def _good_at(self, tunnel: HostTunnel) -> float | None:
        if tunnel.up_since is None:
            return None
        return tunnel.up_since + (self._return_after if tunnel.has_returned else 0.0)

    def _fitness(self, tunnel: HostTunnel, now: float) -> Fitness:
        if not tunnel.is_usable:
            return Fitness.UNUSABLE
        if tunnel.state is TunnelState.SUSPECT:
            return Fitness.DOUBTFUL
        good_at = self._good_at(tunnel)
        return Fitness.GOOD if good_at is not None and now >= good_at else Fitness.RETURNING
