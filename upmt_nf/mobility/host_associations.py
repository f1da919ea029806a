"""All associations of one mobile host that are in use at a time: the usual one, and one with each anchor that
applications name.

Each is a `MobileHost` of its own, with its own PAFT, tunnels and virtual address; an application is in one of them, and
blocked in the others. Applications see the usual one's virtual address everywhere: whoever forwards translates. What a
further association wants, and what is heard by it, bears its anchor (`ByAnchor`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft
from upmt_nf.datapath.readdressing import readdressed_key
from upmt_nf.mobility.commands import Announce, Happened, Stopped
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.host_commands import ByAnchor, HandoverFinished, HostCommand, UseAnchor
from upmt_nf.mobility.host_events import (
    ApplicationAssigned,
    ApplicationDefined,
    ApplicationLocked,
    ClockRead,
    FlowsAdopted,
    HandoverAsked,
    HeardByAnchor,
    HostEvent,
    NetworkAppeared,
    NetworkMetered,
    NetworksRedescribed,
    NetworkTestAsked,
    NetworkVanished,
    SipDatagramReceived,
)
from upmt_nf.mobility.host_status import (
    AnchorStatus,
    ApplicationStatus,
    AssociationStatus,
    NetworkStatus,
)
from upmt_nf.mobility.mobile_host import MobileHost
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.mobility.standing_news import StandingNews
from upmt_nf.mobility.tallies import Counted
from upmt_nf.model.flow import FlowKey, IPAddress
from upmt_nf.model.identity import (
    ApplicationId,
    ApplicationName,
    NetworkName,
)
from upmt_nf.policy.budget import Ledger
from upmt_nf.policy.policy import Kind, Policy

ELSEWHERE = Policy("(by another anchor)", Kind.BLOCK)
"""What an application goes by in the associations that it is not in."""
_NUMBERS_EACH = 1 << 40
"""Numbers of handovers, so that those of different associations differ."""


@dataclass(eq=False, slots=True)
class FurtherAssociation:
    """One beside the usual one."""

    settings: HostSettings
    paft: Paft
    machine: MobileHost
    serial: int
    is_leaving: bool = False

    @property
    def anchor(self) -> IPAddress:
        """Where its anchor is."""
        return self.settings.anchor


@dataclass(slots=True)
class _Known:
    """An application as it was defined or assigned last."""

    id: ApplicationId
    policy: Policy | tuple[str, ...] | None
    wanted: IPAddress | None = None
    """The anchor that it names."""
    place: IPAddress | None = None
    """That of the further association that it is in; None: the usual one."""


class HostAssociations:
    """`paft` is that of the usual association, and knows every flow; `random` gives tokens and jitter, `new_paft` an
    empty one.

    An application that names the anchor which the usual association is with goes by that one. An anchor with a further
    association is reserved: the usual choice passes it over, as no anchor has two associations of one identity.
    """

    def __init__(
        self, settings: HostSettings, paft: Paft, random: Random, new_paft: Callable[[], Paft] = Paft
    ) -> None:
        self._new_paft = new_paft
        self.usual = MobileHost(settings, paft, random)
        self.further: dict[IPAddress, FurtherAssociation] = {}
        """Those that are in use or just being left, by their anchors."""
        self._settings = {each.anchor: each for each in settings.for_each_anchor()}
        self._default_policy = settings.default_policy
        self._random = random
        self._paft = paft
        self._known: dict[ApplicationName, _Known] = {}
        self._news = StandingNews()
        self._serials = 0
        self._reserved: set[IPAddress] = set()
        self._is_stopping = self._has_usual_stopped = False
        self._are_anchors_named = False
        """Or were: until then there is nothing to follow."""
        self._commands: list[HostCommand] = []

    # --- views ---

    @property
    def association(self) -> AssociationStatus:
        """The usual association now; `anchors` has the others', too."""
        usual = self.usual.association
        return replace(usual, anchors=tuple(self._anchor_status(each) for each in usual.anchors))

    def _anchor_status(self, status: AnchorStatus) -> AnchorStatus:
        names = tuple(name for name, known in self._known.items() if known.wanted == status.address)
        if (further := self.further.get(status.address)) is None:
            return replace(status, applications=names)
        own = further.machine.association
        return AnchorStatus(
            status.address, own.state, own.failure, False, own.virtual_address, applications=names
        )

    @property
    def networks(self) -> dict[NetworkName, NetworkStatus]:
        """Every configured network now, as the usual association sees it."""
        return self.usual.networks

    def networks_of(self, name: ApplicationName) -> dict[NetworkName, NetworkStatus]:
        """The same, as the association sees it that an application is in."""
        return self._machine_of(name).networks

    @property
    def applications(self) -> dict[ApplicationName, ApplicationStatus]:
        """Every application now, in the order of definition."""
        own = {further.anchor: further.machine.applications for further in self.further.values()}
        found = self.usual.applications
        for name, known in self._known.items():
            if known.wanted is not None:
                status = found[name] if known.place is None else own[known.place][name]
                found[name] = replace(status, anchor=known.wanted)
        return found

    def policy_of(self, name: ApplicationName) -> Policy | tuple[str, ...] | None:
        """What an application was told to go by last."""
        known = self._known.get(name)
        return known.policy if known is not None else None

    @property
    def elsewhere(self) -> dict[ApplicationId, IPAddress]:
        """The applications that are not in the usual association, and the anchors of theirs."""
        if not self.further:
            return {}
        return {known.id: known.place for known in self._known.values() if known.place is not None}

    @property
    def ledger(self) -> Ledger:
        """What was spent of budgets, by all of them."""
        return self.usual.ledger

    def spent_budgets(self, now: float) -> dict[tuple[ApplicationName, NetworkName], str]:
        """Which budgets keep whom from where."""
        found: dict[tuple[ApplicationName, NetworkName], str] = {}
        for place, machine in self.machines():
            for (name, network), budget in machine.spent_budgets(now).items():
                if self._place_of(name) == place:
                    found[name, network] = budget
        return found

    def bar(self, name: ApplicationName, network: NetworkName, now: float) -> str | None:
        """Why an application's policy or lock forbids it a network; None when it may be there."""
        return self._machine_of(name).bar(name, network, now)

    def verdict(self, name: ApplicationName, network: NetworkName, now: float) -> str | None:
        """Why an application is on a network that works, or is not, by its policy or lock; None: its list says it."""
        return self._machine_of(name).verdict(name, network, now)

    def is_testing(self, network: NetworkName) -> bool:
        """Whether a test of a network is under way."""
        return self.usual.is_testing(network)

    @property
    def counters(self) -> dict[str, int]:
        """What the signalling counted, by reason."""
        total: dict[str, int] = {}
        for _, machine in self.machines():
            for reason, count in machine.counters.items():
                total[reason] = total.get(reason, 0) + count
        return total

    # --- driving ---

    def next_timeout(self) -> float | None:
        """When `TimeoutReached` should come at the latest (seconds), or None."""
        times = [machine.next_timeout() for _, machine in self.machines()]
        return min((time for time in times if time is not None), default=None)

    def next_glance(self, now: float) -> float:
        """When `glance` should come (seconds)."""
        return min(machine.next_glance(now) for _, machine in self.machines())

    def glance(self, now: float) -> list[HostCommand]:
        """Look whether a tunnel in use has gone silent (see `MobileHost.glance`)."""
        for place, machine in self.machines():
            self._take(place, machine.glance(now))
        self._follow_usual(now)
        return self._hand_out()

    def handle(self, event: HostEvent, now: float) -> list[HostCommand]:
        """Take one event at time `now` (seconds, never backwards); gives what is to be done, in order."""
        match event:
            case HeardByAnchor(anchor, heard):
                if anchor in self.further:
                    self._pass(anchor, heard, now)
            case SipDatagramReceived(_, _, anchor):
                self._pass(anchor if anchor in self.further else None, event, now)
            case ApplicationDefined(name, id, policy, anchor):
                self._define(name, _Known(id, policy or self._default_policy, anchor), now)
            case ApplicationAssigned():
                self._assign(event, now)
            case ApplicationLocked(name):
                self._pass(self._place_of(name), event, now)
            case HandoverAsked():
                self._ask(event, now)
            case FlowsAdopted():
                self._adopt(event, now)
            case StopAsked():
                self._is_stopping = True
                self._pass_to_all(event, now)
            case (
                NetworkAppeared()
                | NetworkVanished()
                | NetworkMetered()
                | NetworksRedescribed()
                | ClockRead()
                | NetworkTestAsked()
                | TimeoutReached()
            ):
                self._news.note(event)
                self._pass_to_all(event, now)
            case _:
                self._pass(None, event, now)
        self._follow_usual(now)
        return self._hand_out()

    def _hand_out(self) -> list[HostCommand]:
        if self._is_stopping and self._has_usual_stopped and not self.further:
            self._has_usual_stopped = False
            self._commands.append(Stopped())
        commands, self._commands = self._commands, []
        return commands

    def machines(self) -> list[tuple[IPAddress | None, MobileHost]]:
        """All of them, the usual one first, with the anchors of the others."""
        return [(None, self.usual), *((each.anchor, each.machine) for each in self.further.values())]

    def _place_of(self, name: ApplicationName) -> IPAddress | None:
        known = self._known.get(name)
        return known.place if known is not None else None

    def _machine_of(self, name: ApplicationName) -> MobileHost:
        place = self._place_of(name)
        return self.usual if place is None else self.further[place].machine

    def _pass_to_all(self, event: HostEvent, now: float) -> None:
        for place, _ in self.machines():
            self._pass(place, event, now)

    def _pass(self, place: IPAddress | None, event: HostEvent, now: float) -> None:
        machine = self.usual if place is None else self.further[place].machine
        self._take(place, machine.handle(event, now))

    # --- what machines want ---

    def _take(self, place: IPAddress | None, commands: list[HostCommand]) -> None:
        if place is None:
            self._has_usual_stopped |= Stopped() in commands
            self._commands += [command for command in commands if command != Stopped()]
            return
        further = self.further[place]
        for command in commands:
            match command:
                case HandoverFinished():
                    self._commands.append(self._finished(further, command))
                case Counted(number):
                    self._commands.append(replace(command, number=number + further.serial * _NUMBERS_EACH))
                case Announce(level, text):
                    self._commands.append(Announce(level, f"by anchor {place}: {text}"))
                case Happened(application=None, network=network) if network is not None:
                    # What becomes of a network is told once, as the usual association sees it.
                    continue
                case Happened():
                    self._commands.append(command)
                case Stopped():
                    del self.further[place]
                    for known in self._known.values():
                        known.place = None if known.place == place else known.place
                    self._commands.append(ByAnchor(place, command))
                case _:
                    self._commands.append(ByAnchor(place, command))

    def _finished(self, further: FurtherAssociation, finished: HandoverFinished) -> HandoverFinished:
        """As applications see it."""
        receipt, number = finished.receipt, finished.number
        own = self.usual.association.virtual_address
        if receipt is not None and receipt.flow is not None and own is not None:
            receipt = replace(receipt, flow=replace(receipt.flow, source=own))
        if number is not None:
            number += further.serial * _NUMBERS_EACH
        return replace(finished, receipt=receipt, number=number)

    # --- applications ---

    def _define(self, name: ApplicationName, known: _Known, now: float) -> None:
        """An application is new, or names another anchor."""
        before = self._known.get(name)
        known.place = before.place if before is not None else None
        self._known[name] = known
        self._are_anchors_named |= known.wanted is not None
        if known.place is None and self._home_of(known) is None:
            return self._pass(None, ApplicationDefined(name, known.id, known.policy), now)
        if known.place is not None and known.place == self._home_of(known):
            return self._pass(known.place, ApplicationDefined(name, known.id, known.policy), now)
        return self._move(name, known, now)

    def _assign(self, event: ApplicationAssigned, now: float) -> None:
        if (known := self._known.get(event.name)) is not None:
            known.policy = event.policy
        self._pass(self._place_of(event.name), event, now)

    def _home_of(self, known: _Known) -> IPAddress | None:
        """The anchor of the further association that an application belongs into; None: into the usual one."""
        is_there = known.wanted in self._settings and known.wanted != self.usual.anchor
        return known.wanted if is_there else None

    def _move(self, name: ApplicationName, known: _Known, now: float) -> None:
        """Into the association that it belongs into. Its flows do not come along: no other anchor knows them."""
        locked = self.applications[name].locked if name in self._machine_of(name).applications else None
        left, known.place = known.place, self._home_of(known)
        if known.place is not None:
            self._begin(known.place, now)
        if left != known.place:
            self._pass(left, ApplicationDefined(name, known.id, ELSEWHERE), now)
        self._pass(known.place, ApplicationDefined(name, known.id, known.policy), now)
        if locked is not None:
            self._pass(known.place, ApplicationLocked(name, locked), now)

    # --- associations ---

    def _follow_usual(self, now: float) -> None:
        """The usual association may be with another anchor now: applications go where they belong."""
        if self._is_stopping or not self._are_anchors_named:
            return
        for name, known in self._known.items():
            if known.place != self._home_of(known) and not self._is_being_left(self._home_of(known)):
                self._move(name, known, now)
        for further in list(self.further.values()):
            is_wanted = any(known.place == further.anchor for known in self._known.values())
            if not is_wanted and not further.is_leaving:
                further.is_leaving = True
                self._pass(further.anchor, StopAsked(), now)
        self._reserve(now)

    def _reserve(self, now: float) -> None:
        if self._reserved != set(self.further):
            self._reserved = set(self.further)
            self.usual.reserve(self._reserved, now)
            self._pass(None, TimeoutReached(), now)

    def _is_being_left(self, anchor: IPAddress | None) -> bool:
        return anchor is not None and anchor in self.further and self.further[anchor].is_leaving

    def _begin(self, anchor: IPAddress, now: float) -> None:
        """An association with an anchor, if there is none yet."""
        if anchor in self.further:
            return
        self._serials += 1
        # Binding times are the NATs' and portals the networks': the usual association finds them out.
        settings = replace(
            self._settings[anchor],
            ledger=self.usual.ledger,
            default_policy=ELSEWHERE,
            probe_binding_time=False,
            checks_portals=False,
        )
        paft = self._new_paft()
        machine = MobileHost(settings, paft, self._random)
        self.further[anchor] = FurtherAssociation(settings, paft, machine, self._serials)
        self._reserve(now)
        self._commands.append(
            ByAnchor(anchor, UseAnchor(settings.anchor_tunnels, settings.anchor_signalling))
        )
        for event in self._news.said():
            self._pass(anchor, event, now)

    # --- flows ---

    def _ask(self, asked: HandoverAsked, now: float) -> None:
        """A handover of an application, or of a flow as applications see it."""
        if not isinstance(asked.what, FlowKey):
            return self._pass(self._place_of(asked.what), asked, now)
        entry = self._paft.flows.get(asked.what.packed())
        place = self.elsewhere.get(entry.application_id) if entry is not None else None
        if place is not None and (flow := self._as_leased(asked.what, place)) is not None:
            asked = replace(asked, what=flow)
        return self._pass(place, asked, now)

    def _adopt(self, adopted: FlowsAdopted, now: float) -> None:
        """Running flows have come to an application. Those that another anchor knows begin anew."""
        place = self._place_of(adopted.application)
        if place is not None:
            paft, id = self.further[place].paft, self._known[adopted.application].id
            flows = [flow for each in adopted.flows if (flow := self._as_leased(each, place)) is not None]
            entries = {flow: entry for flow in flows if (entry := paft.flows.get(flow.packed())) is not None}
            for entry in entries.values():
                paft.assign(entry, id)
            adopted = replace(adopted, flows=tuple(entries))
        self._pass(place, adopted, now)

    def _as_leased(self, flow: FlowKey, place: IPAddress) -> FlowKey | None:
        """A flow as a further association knows it, if that has a virtual address."""
        leased = self.further[place].machine.association.virtual_address
        return replace(flow, source=leased) if leased is not None else None

    def carrier_of(self, entry: FlowEntry) -> tuple[FlowEntry, Paft]:
        """The entry of a flow in the PAFT of the association that it goes by, if that has one; and that PAFT."""
        place = self.elsewhere.get(entry.application_id)
        if place is None:
            return entry, self._paft
        further = self.further[place]
        leased = further.machine.association.virtual_address
        key = readdressed_key(entry.key, leased.packed) if leased is not None else None
        return (further.paft.flows.get(key, entry) if key is not None else entry), further.paft
