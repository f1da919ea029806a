"""Which application is on which network, and what moves it: lost tunnels, returned networks, policies, people.

Owns the applications and decides; `running` carries the handovers out. Knows neither SIP nor sockets. `settle` is
called after every change and brings all into line with the tunnels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.advisor import PLAIN_LIST, Advisor
from upmt_nf.mobility.applications import Application, Lost
from upmt_nf.mobility.handover import HandoverInput, HandoverPhase, Order
from upmt_nf.mobility.host_commands import HandoverFinished, Mode, Receipt
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.running_handovers import RunningHandovers
from upmt_nf.mobility.selection import Fitness, ranked, select
from upmt_nf.mobility.tunnel_states import TunnelState
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import (
    ApplicationId,
    ApplicationName,
    NetworkName,
)
from upmt_nf.policy.events import Locked, MoveFailed, Placed, Released
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import Policy
from upmt_nf.signaling.flow_room import FlowRoom

IN_USE = 10.0
"""Seconds since its last packet within which a flow counts as one in use; counts of the fast plane come late."""


class Placement:
    """Where everything is. `tunnels` is shared with its owner and read only.

    `room` gives how many flows one request by a network can carry.
    """

    def __init__(
        self,
        paft: Paft,
        tunnels: Mapping[NetworkName, HostTunnel],
        return_after: float,
        room: Callable[[NetworkName], FlowRoom],
        advisor: Advisor,
    ) -> None:
        self.applications: dict[ApplicationName, Application] = {}
        self.running = RunningHandovers(paft, self.applications, tunnels, return_after, room, advisor)
        """Its `requests`, `cancelled` and `commands` are taken by the owner after each call."""
        self.has_lost = False
        """An application lost its last network: a tunnel setup should take its flows along. Reset by the owner."""
        self._paft = paft
        self._tunnels = tunnels
        self._configured: Sequence[NetworkName] = tuple(tunnels)
        self._return_after = return_after
        self._advisor = advisor
        self._lent: set[ApplicationName] = set()
        """Go by a list of networks, but the engine decides."""
        self._settled_at = 0.0

    # --- what people say ---

    def guide(self, name: ApplicationName, id: ApplicationId, policy: Policy, now: float) -> None:
        """An application exists, or has another policy now, which the engine decides by."""
        self._name(name, id, policy.networks)
        self._advisor.take_on(name, id, policy, now)
        if (network := self.applications[name].network) is not None:
            self._advisor.tell(Placed(name, network), now)

    def define(self, name: ApplicationName, id: ApplicationId, policy: tuple[str, ...], now: float) -> None:
        """An application exists, or goes by another list of networks now."""
        self._name(name, id, policy)
        if self._advisor.engine.spending.has_network_budgets:
            self._lend(self.applications[name], now)

    def redescribe_networks(self, facts: tuple[NetworkFacts, ...], now: float) -> None:
        """Networks are others as to what policies know of them; applications that go by a list heed their budgets."""
        self._advisor.describe(facts, now)
        for application in list(self.applications.values()):
            name = application.name
            goes_by_list = name in self._lent or not self._advisor.guides(name)
            if goes_by_list and self._advisor.lock_of(name) is None:
                self.define(name, application.id, application.policy, now)

    def _name(self, name: ApplicationName, id: ApplicationId, policy: tuple[str, ...]) -> None:
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
                self.define(name, application.id, application.policy, now)
            return
        if not self._advisor.guides(name):
            self._lend(application, now)
        self._advisor.tell(Locked(name, network), now)

    def _lend(self, application: Application, now: float) -> None:
        """Have the engine decide by a list of networks, too: for locks and for the budgets of networks."""
        order = ranked(application.policy, self._configured)
        policy = Policy(PLAIN_LIST, networks=order, good_for=max(self._return_after, 1.0))
        self._advisor.take_on(application.name, application.id, policy, now)
        self._lent.add(application.name)
        if application.network is not None:
            self._advisor.tell(Placed(application.name, application.network), now)

    def ask(self, token: int, what: ApplicationName | FlowKey, target: NetworkName, now: float) -> None:
        """A handover is wanted. The answer is a HandoverFinished, now or when the anchor has answered."""
        self.running.correct_names(now)
        failure, is_usage = self._objection(what, target, now)
        if failure is not None:
            self.running.commands.append(HandoverFinished(token, None, failure, is_usage))
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
            if entry is None or self.running.application_of(entry) is None:
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
        application = self.running.application_of(entry) if entry is not None else None
        return application.name if application is not None else None

    def _ask_application(self, token: int, application: Application, target: NetworkName, now: float) -> None:
        running = application.handover
        if running is not None and running.phase is HandoverPhase.ASKING:
            self.running.supersede(running, now)
        source = application.network
        if source == target:
            # What tells the anchor so, if anything still does, goes on.
            self.running.prefer(application, target, now)
            receipt = Receipt(
                application.name, source, target, Mode.MAKE_BEFORE_BREAK, 0, 0.0, "already there"
            )
            self.running.commands.append(HandoverFinished(token, receipt, None))
            return
        order = Order(application.name, source, target, "asked", token)
        self.running.start_application(application, order, now)

    def _ask_flow(self, token: int, flow: FlowKey, target: NetworkName, now: float) -> None:
        key = flow.packed()
        entry = self._paft.flows[key]
        is_elsewhere = self.running.is_asked_about(key)
        while (running := self.running.moving.get(key)) is not None:
            self.running.supersede(running, now)
        tunnel = self._paft.tunnel_of(entry)
        source = tunnel.network if tunnel is not None else None
        application = self.running.application_of(entry)
        assert application is not None
        name = application.name
        if source == target and not is_elsewhere:
            self.running.pin(key, target)
            receipt = Receipt(name, source, target, Mode.MAKE_BEFORE_BREAK, 1, 0.0, "already there", flow)
            self.running.commands.append(HandoverFinished(token, receipt, None))
            return
        self.running.start_flow(Order(name, source, target, "asked", token, flow), flow, now)

    def adopt(self, name: ApplicationName, flows: Sequence[FlowKey], now: float) -> None:
        """Running flows have come to an application from another: the anchor shall send them where it is."""
        if (application := self.applications.get(name)) is not None:
            self.running.adopt(application, flows, now)

    # --- what the anchor is told with a tunnel setup ---

    def claims(self, network: NetworkName) -> list[FlowKey]:
        """Flows without a network that the anchor should put on this one while it sets its tunnel up."""
        found: list[FlowKey] = []
        for application in self.applications.values():
            if application.network is None and self._claimant(application) == network:
                found += self.running.keys_of(application)
        return found

    def note_claims(self, network: NetworkName, asked_at: float) -> None:
        """A setup request with the claims of this network leaves now (seconds)."""
        self.running.touch(self.claims(network))
        for application in self.applications.values():
            lost = application.lost
            if application.network is None and lost is not None and self._claimant(application) == network:
                lost.last_claim = network, asked_at

    def confirm_claims(
        self, network: NetworkName, flows: Sequence[FlowKey], moved: int, asked_at: float
    ) -> None:
        """The anchor has done so, with `moved` flows in all; `settle` follows. `asked_at` in seconds.

        Worth something only when no newer request claimed flows for another network: that one may arrive yet.
        """
        confirmed = self.running.confirmed(flows, moved)
        for application in self.applications.values():
            lost = application.lost
            if application.network is None and lost is not None and lost.last_claim == (network, asked_at):
                lost.claimant, lost.claimed, lost.claimed_at = network, confirmed, asked_at

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
            # Nothing is named that is nowhere.
            times = [self._advisor.next_timeout(), self.running.tallies.next_timeout()]
            return min((time for time in times if time is not None), default=None)
        times = [self._good_at(tunnel) for tunnel in self._tunnels.values()]
        times += [application.patience_until for application in self.applications.values()]
        times += [self._advisor.next_timeout(), self.running.tallies.next_timeout()]
        times.append(self.running.naming.next_timeout())
        return min((time for time in times if time is not None and time > now), default=None)

    # --- the tunnels have changed, or time has passed ---

    def settle(self, now: float) -> None:
        """Bring every flow and application into line with the tunnels' states."""
        self._settled_at = now
        self._advisor.look(now)
        stranded = self.running.unpin_dead(now)
        self.running.correct_names(now)
        for handover in list(self.running.moving.values()):
            self.running.watch(handover, now)
        fitness = {name: self._fitness(tunnel, now) for name, tunnel in self._tunnels.items()}
        for application in self.applications.values():
            if application.handover is not None:
                self.running.watch(application.handover, now)
            if self._advisor.guides(application.name):
                self._follow(application, now)
            elif application.handover is None or application.handover.phase is HandoverPhase.CONFIRMING:
                self._select(application, fitness, now)
        for entry in stranded:
            if (owner := self.running.application_of(entry)) is not None:
                self.running.repair(owner, [entry.flow], now)
        for application in self.applications.values():
            self._double(application, now)
        self.running.count(now)
        self.running.naming.look(now)
        self._advisor.urge(now)

    def can_wait(self, network: NetworkName, now: float) -> bool:
        """Whether no application that uses a network loses anything while it is silent for `silence.HELD`.

        Where the counts say that nobody uses it, they are late: it may be any that has flows there.
        """
        members = self._paft.membership
        here = [
            each
            for each in self.applications.values()
            if each.network == network and members.number_of(each.id)
        ]
        using = [
            each for each in here if any(now - entry.last_seen < IN_USE for entry in members.of(each.id))
        ]
        return all(self._advisor.bears_silence(each.name, now) for each in using or here)

    def _double(self, application: Application, now: float) -> None:
        """Number the packets of who asks for it, and send those of a redundant application by a second tunnel."""
        name, is_numbered = application.name, self._advisor.is_numbered(application.name)
        other = self._advisor.copies_on(name, now) if is_numbered else None
        if window := self._advisor.reorder_of(name) if is_numbered else 0.0:
            self._paft.windows[application.id] = window
        else:
            self._paft.windows.pop(application.id, None)
        tunnel = self._tunnels[other].tunnel if other is not None else None
        application.copies_on = other
        self._paft.double(application.id, tunnel.id if tunnel is not None else None, is_numbered=is_numbered)

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
                return self.running.advance(running, now)
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
        return self.running.start_application(application, order, now)

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
                self.running.start_application(
                    application, Order(application.name, current, chosen, cause), now
                )
            elif chosen is None and application.handover is None:
                self._lose(application, "its policy allows no network that is up", now)
            return
        if current is not None:
            tunnel = self._tunnels[current]
            self._lose(application, f"network {current} is {tunnel.state.value} ({tunnel.reason})", now)
        if chosen is not None:
            lost = application.lost
            source, cause = (lost.source, lost.cause) if lost is not None else (None, "first network")
            self.running.start_application(application, Order(application.name, source, chosen, cause), now)

    def _lose(self, application: Application, cause: str, now: float) -> None:
        if application.handover is not None:
            self.running.end(application.handover, HandoverInput.TARGET_LOST, cause, now)
        self._advisor.count(now)
        application.lost = Lost(application.network, cause)
        application.network = None
        self.has_lost = True
        self._paft.steer(application.id, None)

    # --- looking ---

    def _order_of(self, application: Application) -> Sequence[NetworkName]:
        """The networks that an application may use, best first."""
        if self._advisor.guides(application.name):
            return self._advisor.order(application.name, self._settled_at)
        return ranked(application.policy, self._configured)

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
