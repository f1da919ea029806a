"""The anchors that a mobile host is configured with: an association, a SIP identity and keys for each, one in use.

Performs what `anchor_choice` decides. Its owner takes `events` after each call: what the one association in use
means to tunnels and the virtual address; that there are others shows only in `AnchorChanged`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from upmt_nf.mobility.anchor_choice import AnchorChoice, Ask, AskAgain, ChoiceCommand, Use, Withdraw
from upmt_nf.mobility.association import (
    AssociationAction,
    AssociationLost,
    AssociationState,
    GoodbyeSaid,
    Granted,
    HostAssociation,
    RegisterOn,
)
from upmt_nf.mobility.commands import Announce, Level
from upmt_nf.mobility.farewell import Farewell
from upmt_nf.mobility.host_answers import Refusal, read_registration
from upmt_nf.mobility.host_commands import SendSip, SendTunnelSignal
from upmt_nf.mobility.host_signalling import (
    Answered,
    Doubted,
    HostSignalling,
    Noticed,
    Registering,
    SipPath,
)
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.keys import KeyPair

MAX_CONTACTS = 5
"""Named in one REGISTER beside its own, and as many that are gone, if a datagram has room for them."""


@dataclass(frozen=True, slots=True)
class AnchorChanged:
    """Another anchor is in use than before; a grant follows."""


AssociationEvent = AnchorChanged | Granted | AssociationLost | GoodbyeSaid | Announce


@dataclass(eq=False, slots=True)
class HostAnchor:
    """One anchor, and what we have with it."""

    settings: HostSettings
    association: HostAssociation
    signalling: HostSignalling
    keys: KeyPair | None
    key: bytes | None = field(default=None, repr=False)
    """The association's key, once it was agreed."""
    farewell: Farewell = field(default_factory=Farewell)
    contacts: set[IPAddress] = field(default_factory=set)
    """Care-of addresses that it may still know us by."""
    has_asked: bool = False
    """It may have leased us something since our last goodbye."""
    is_distrusted: bool = False
    """Said so in the log already."""

    @property
    def address(self) -> IPAddress:
        """Where it is."""
        return self.settings.anchor

    @property
    def state(self) -> str:
        """What `status` shows: a value of AssociationState."""
        if self.farewell.is_going_on:
            return AssociationState.LEAVING.value
        return self.association.state.value


def _anchor(
    settings: HostSettings, random: Random, round_trip: Callable[[NetworkName], float | None]
) -> HostAnchor:
    def held_key() -> bytes | None:
        return anchor.key if anchor.association.is_held else None

    anchor = HostAnchor(
        settings,
        HostAssociation(settings.lifetime, settings.leave_patience, random),
        HostSignalling(settings, random, round_trip, held_key),
        KeyPair() if settings.secret is not None else None,
    )
    return anchor


class HostAnchors:
    """All of them. `round_trip` (seconds) and `care_of` are asked for each network as needed."""

    def __init__(
        self,
        settings: HostSettings,
        random: Random,
        round_trip: Callable[[NetworkName], float | None],
        care_of: Callable[[NetworkName], IPAddress | None],
    ) -> None:
        self._leave_patience = settings.leave_patience
        self._care_of = care_of
        self.all: Sequence[HostAnchor] = [
            _anchor(each, random, round_trip) for each in settings.for_each_anchor()
        ]
        self._by_address = {anchor.address: anchor for anchor in self.all}
        self._choice = AnchorChoice(len(self.all))
        self._latest = self.all[0]
        self._networks: list[NetworkName] = []
        self._events: list[AssociationEvent] = []
        self._has_left = False
        """The one in use was told that we stop."""

    @property
    def used(self) -> HostAnchor:
        """The one whose association counts; before there is one, the one that counted last."""
        return self.all[self._choice.used]

    def events(self) -> list[AssociationEvent]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    # --- networks ---

    def rank(self, networks: list[NetworkName]) -> None:
        """These networks are there, the most promising first."""
        self._networks = networks
        for anchor in self.all:
            anchor.association.networks = networks

    def appear(self, network: NetworkName, now: float) -> None:
        """A network can be used."""
        self._obey(self._choice.appear(now), now)
        for number in sorted(self._choice.asked):
            anchor = self.all[number]
            self._act(anchor, anchor.association.appear(network, now), now)
        for anchor in self.all:
            anchor.farewell.hurry(now)
        self._say_goodbyes(now)

    def vanish(self, network: NetworkName, now: float) -> None:
        """A network cannot be used any more."""
        for anchor in self.all:
            anchor.signalling.cancel(lambda purpose: purpose.network == network)
            self._act(anchor, anchor.association.vanish(network, now), now)
        if not self._networks:
            self._obey(self._choice.lose_networks(), now)

    def watch(self, is_cut_off: bool, now: float, *, is_proven: bool) -> None:
        """Whether the networks that are there are all without a tunnel; see `AnchorChoice.watch`."""
        self._obey(self._choice.watch(is_cut_off, now, is_proven=is_proven), now)

    def reserve(self, addresses: Collection[IPAddress], now: float) -> None:
        """Anchors with which this host has another association: they hear nothing of us, not even a goodbye."""
        numbers = [number for number, anchor in enumerate(self.all) if anchor.address in addresses]
        self._obey(self._choice.reserve(frozenset(numbers), now), now)
        for number in numbers:
            if (anchor := self.all[number]) is not self.used:
                self._finish_farewell(anchor)

    # --- the one in use ---

    def disown(self, reason: str, now: float, *, sends_us_on: bool = False) -> None:
        """The anchor in use does not know our association (any more)."""
        self._act(self.used, self.used.association.disown(reason, now), now, sends_us_on=sends_us_on)

    def stop(self, now: float) -> None:
        """Leave them all."""
        self._obey(self._choice.stop(), now)
        for anchor in self.all:
            anchor.farewell.end_within(self._leave_patience, now)
        self._say_goodbyes(now)
        self._act(self.used, self.used.association.stop(now), now)

    # --- what comes back ---

    def receive(self, data: bytes, source: IPAddress | None, network: NetworkName, now: float) -> None:
        """SIP outside the tunnels. What comes from no anchor of ours is passed over."""
        anchor = self.used if source is None else self._by_address.get(source)
        if anchor is not None:
            anchor.signalling.receive(data, SipPath(network, False), now)

    def heard(self, now: float) -> list[Answered | Noticed]:
        """What the anchor in use said about tunnels and flows since the last call; registrations are digested."""
        others: list[Answered | Noticed] = []
        for anchor in self.all:
            for item in anchor.signalling.heard():
                match item:
                    case Answered(Registering() as purpose, _):
                        self._hear_registration(anchor, purpose, item, now)
                    case Doubted():
                        self._distrust(anchor, now)
                    case Answered() | Noticed() if anchor is self.used:
                        others.append(item)
        return others

    def commands(self) -> list[SendSip | SendTunnelSignal]:
        """What is to be sent now."""
        found: list[SendSip | SendTunnelSignal] = []
        for anchor in self.all:
            for command in anchor.signalling.commands():
                if isinstance(command, SendSip) or anchor is self.used:
                    found.append(command)
        return found

    @property
    def counters(self) -> dict[str, int]:
        """What the SIP endpoints counted, by reason."""
        total: dict[str, int] = {}
        for anchor in self.all:
            for reason, count in anchor.signalling.counters.items():
                total[reason] = total.get(reason, 0) + count
        return total

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `handle_timeout` or `watch` has something to do."""
        times = [self._choice.next_timeout()]
        for anchor in self.all:
            times.append(anchor.association.next_timeout())
            times.append(anchor.signalling.next_timeout())
            times.append(anchor.farewell.next_timeout())
        return min((time for time in times if time is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Resend, refresh, retry, expire, ask the next one, as is due."""
        for anchor in self.all:
            anchor.signalling.handle_timeout(now)
            self._act(anchor, anchor.association.handle_timeout(now), now)
        self._obey(self._choice.handle_timeout(now), now)
        self._say_goodbyes(now)

    # --- inside ---

    def _obey(self, commands: Iterable[ChoiceCommand], now: float) -> None:
        for command in commands:
            anchor = self.all[command.anchor]
            match command:
                case Ask():
                    anchor.farewell.finish()
                    anchor.signalling.cancel(lambda purpose: isinstance(purpose, Registering))
                    if self._networks:
                        self._act(anchor, anchor.association.appear(self._networks[0], now), now)
                case AskAgain():
                    self._act(anchor, anchor.association.ask_again(now), now)
                case Use():
                    self._use(anchor)
                case Withdraw():
                    self._withdraw(anchor, now)

    def _use(self, anchor: HostAnchor) -> None:
        """The choice has made it the one in use already."""
        if anchor is not self._latest:
            self._latest = anchor
            self._events.append(AnchorChanged())
        self._events.append(Granted(is_new=True))

    def _withdraw(self, anchor: HostAnchor, now: float) -> None:
        anchor.signalling.cancel(lambda _: True)
        anchor.association.withdraw()
        if anchor.has_asked:
            anchor.farewell.begin(now, anchor.association.lifetime)
            self._say_goodbye(anchor, now)

    def _act(
        self,
        anchor: HostAnchor,
        actions: Iterable[AssociationAction],
        now: float,
        *,
        sends_us_on: bool = False,
    ) -> None:
        """Perform what one anchor's association wants, and tell the choice what became of it."""
        for action in actions:
            match action:
                case RegisterOn(network, expires):
                    self._register(anchor, network, expires, now)
                case Granted(is_new):
                    self._take_grant(anchor, is_new, now)
                case AssociationLost(reason):
                    self._take_loss(anchor, reason, now, sends_us_on)
                case GoodbyeSaid():
                    self._has_left = True
                    self._say_goodbyes(now)

    def _take_grant(self, anchor: HostAnchor, is_new: bool, now: float) -> None:
        anchor.is_distrusted = False
        anchor.contacts &= {self._care_of(network) for network in self._networks}
        anchor.signalling.cancel(lambda purpose: isinstance(purpose, Registering))
        commands = self._choice.grant(self.all.index(anchor), now)
        is_chosen = any(isinstance(command, Use) for command in commands)
        self._obey(commands, now)
        if anchor is self.used and not is_chosen:
            self._events.append(Granted(is_new))

    def _take_loss(self, anchor: HostAnchor, reason: str, now: float, sends_us_on: bool) -> None:
        if anchor is self.used:
            self._events.append(AssociationLost(reason))
        else:
            text = f"no association with anchor {anchor.address} either: {reason}"
            self._events.append(Announce(Level.WARNING, text))
        number, has_networks = self.all.index(anchor), bool(self._networks)
        self._obey(self._choice.fail(number, now, sends_us_on=sends_us_on, has_networks=has_networks), now)

    def _register(self, anchor: HostAnchor, network: NetworkName, expires: int, now: float) -> None:
        care_of = self._care_of(network)
        if care_of is None:
            return
        association = anchor.association
        anchor.has_asked = anchor.has_asked or expires > 0
        others = {self._care_of(other) for other in self._networks} - {care_of, None}
        here = {address for address in others if address is not None}
        gone = anchor.contacts - here - {care_of}
        anchor.contacts |= here | {care_of}
        anchor.signalling.register(
            network,
            care_of,
            expires,
            association.virtual_address,
            association.token,
            anchor.keys.public if anchor.keys is not None else None,
            now,
            others=sorted(here, key=str)[:MAX_CONTACTS],
            gone=sorted(gone, key=str)[:MAX_CONTACTS],
        )

    def _say_goodbyes(self, now: float) -> None:
        for anchor in self.all:
            self._say_goodbye(anchor, now)
        if self._has_left and not any(anchor.farewell.is_going_on for anchor in self.all):
            self._has_left = False
            self._events.append(GoodbyeSaid())

    def _say_goodbye(self, anchor: HostAnchor, now: float) -> None:
        if anchor.farewell.is_due(now):
            anchor.signalling.cancel(lambda purpose: isinstance(purpose, Registering))
            for network in self._networks:
                self._register(anchor, network, 0, now)

    def _hear_registration(
        self, anchor: HostAnchor, purpose: Registering, answered: Answered, now: float
    ) -> None:
        association, response = anchor.association, answered.response
        if response is None:
            return self._act(anchor, association.go_unanswered(purpose.network, now), now)
        if not purpose.expires:
            self._finish_farewell(anchor)
            self._act(anchor, association.accept_goodbye(), now)
            return self._say_goodbyes(now)
        answer = read_registration(purpose, response, is_proven=anchor.settings.secret is not None)
        if not isinstance(answer, Refusal):
            if anchor.keys is not None and answer.key is not None:
                with suppress(PeerError):
                    anchor.key = anchor.keys.agree(answer.key, is_host=True)
            return self._act(anchor, association.accept(purpose.network, answer, now), now)
        if answer.is_distrust:
            self._say_distrust(anchor, f"anchor {anchor.address} does not accept who we are: {answer.reason}")
        actions = association.refuse(
            purpose.network,
            answer.reason,
            now,
            least_lifetime=answer.least_lifetime,
            retry_after=answer.retry_after,
        )
        return self._act(anchor, actions, now, sends_us_on=answer.sends_us_on)

    @staticmethod
    def _finish_farewell(anchor: HostAnchor) -> None:
        if anchor.farewell.is_going_on:
            anchor.farewell.finish()
            anchor.has_asked = False
            anchor.signalling.cancel(lambda purpose: isinstance(purpose, Registering))

    def _distrust(self, anchor: HostAnchor, now: float) -> None:
        """Somebody at an anchor's address says yes without knowing our secret. The true one may answer yet."""
        if anchor.farewell.is_going_on:
            return self._finish_farewell(anchor)
        if not anchor.is_distrusted:
            self._say_distrust(anchor, f"anchor {anchor.address}: {anchor.association.doubt()}")
            self._obey(self._choice.pass_over(now), now)
        return None

    def _say_distrust(self, anchor: HostAnchor, text: str) -> None:
        if not anchor.is_distrusted:
            anchor.is_distrusted = True
            self._events.append(Announce(Level.WARNING, text))
