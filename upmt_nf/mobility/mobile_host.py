"""The mobile host's decisions: one event in, commands out (MMC of the paper, section III, without its hands).

Composes the association, a tunnel per access network, the placement of applications, and the signalling. Its
owner performs the commands in order, calls again at `next_timeout`, and may read the views at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random

from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.advisor import new_advisor
from upmt_nf.mobility.association import AssociationLost, GoodbyeSaid, Granted, HostAssociation
from upmt_nf.mobility.commands import Announce, Level, Stopped
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.flow_requests import hear_flow_answer, send_flow_requests
from upmt_nf.mobility.glances import Glances
from upmt_nf.mobility.happenings import (
    AssociationTelling,
    assigned,
    locked,
    metered,
    network_changed,
    portal_found,
)
from upmt_nf.mobility.host_anchors import AnchorChanged, HostAnchors
from upmt_nf.mobility.host_commands import (
    HostCommand,
    KeepNatMapping,
    SendTunnelSignal,
    UseAnchor,
)
from upmt_nf.mobility.host_events import (
    ApplicationAssigned,
    ApplicationDefined,
    ApplicationLocked,
    BindingAnswerReceived,
    ClockRead,
    FlowsAdopted,
    HandoverAsked,
    HostEvent,
    NetworkAppeared,
    NetworkMetered,
    NetworksRedescribed,
    NetworkTestAsked,
    NetworkVanished,
    PathFailed,
    PathNarrowed,
    PortalChecked,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.host_signalling import (
    Answered,
    Counting,
    HostSignalling,
    Moving,
    Naming,
    Noticed,
    Purpose,
    Registering,
    SettingUp,
    SipPath,
)
from upmt_nf.mobility.host_status import (
    ApplicationStatus,
    AssociationStatus,
    NetworkStatus,
    application_status,
    association_status,
)
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.placement import Placement
from upmt_nf.mobility.resting import Resting
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.mobility.signalling_networks import SignallingNetworks
from upmt_nf.mobility.tunnel_setups import TunnelSetups
from upmt_nf.mobility.tunnel_states import (
    AskSetup,
    KeepMapping,
    SendProbe,
    SilenceChanged,
    StateChanged,
    TunnelAction,
    TunnelState,
)
from upmt_nf.mobility.upkeep import Upkeep
from upmt_nf.mobility.virtual_address import VirtualAddress
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import IPAddress, newcomers_of
from upmt_nf.model.identity import (
    DEFAULT_APPLICATION,
    DEFAULT_APPLICATION_ID,
    ApplicationId,
    ApplicationName,
    NetworkName,
)
from upmt_nf.model.names import MEASUREMENT_PORT
from upmt_nf.policy.budget import Ledger
from upmt_nf.policy.policy import Policy
from upmt_nf.signaling.flow_room import FlowRoom
from upmt_nf.signaling.messages import AnchorNotice
from upmt_nf.signaling.sip.message import Response
from upmt_nf.signaling.stamp import PACKET_SIZE, SenderPacket, parse_reflector

AGEING_INTERVAL = 5.0
ENDING_NOTICES = ("going-down", "lease-ended")
"""Notices after which the association is worth nothing."""


class MobileHost:
    """The composition. `paft` is shared with the forwarder; `random` gives tokens and jitter."""

    def __init__(self, settings: HostSettings, paft: Paft, random: Random) -> None:
        self._settings = settings
        self._paft = paft
        self._tunnels = {
            name: HostTunnel(
                name,
                index,
                settings.keepalive_interval,
                settings.setup_backoff,
                random,
                Resting(settings.idle_after, settings.keepalive_idle, random),
            )
            for index, name in enumerate(settings.networks, start=1)
        }
        self._advisor = new_advisor(settings, self._tunnels, paft)
        self._placement = Placement(paft, self._tunnels, settings.return_after, self._room, self._advisor)
        self._anchors = HostAnchors(
            settings,
            random,
            lambda name: self._tunnels[name].rtt,
            lambda name: self._tunnels[name].care_of_address,
        )
        self._upkeep = Upkeep(settings, random, self._tunnels, self._anchors)
        self._commands: list[HostCommand] = []
        self._setups = TunnelSetups(
            settings,
            paft,
            self._tunnels,
            self._anchors,
            self._placement,
            self._upkeep.rekeying,
            lambda command: self._commands.append(command),
        )
        self._glances = Glances(self._tunnels, self._placement.can_wait)
        self._age_at: float | None = None
        self._address = VirtualAddress(paft)
        self._is_stopped = False
        self._speaking = SignallingNetworks(settings.signalling, self._tunnels, self._advisor)
        self._telling = AssociationTelling()
        self._define(DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, settings.default_policy, 0.0)

    # --- views ---

    @property
    def association(self) -> AssociationStatus:
        """The association now."""
        return association_status(self._anchors)

    @property
    def anchor(self) -> IPAddress:
        """Where the anchor in use is."""
        return self._anchors.used.address

    @property
    def networks(self) -> dict[NetworkName, NetworkStatus]:
        """Every configured network now, in the order of preference."""
        paths = self._advisor.engine.paths
        return {name: self._upkeep.status_of(tunnel, paths[name]) for name, tunnel in self._tunnels.items()}

    @property
    def applications(self) -> dict[ApplicationName, ApplicationStatus]:
        """Every application now, in the order of definition."""
        return {
            name: application_status(application, self._advisor)
            for name, application in self._placement.applications.items()
        }

    @property
    def ledger(self) -> Ledger:
        """What was spent of budgets."""
        return self._advisor.engine.spending.ledger

    def spent_budgets(self, now: float) -> dict[tuple[ApplicationName, NetworkName], str]:
        """Which budgets keep whom from where."""
        return self._advisor.spent_budgets(now)

    def bar(self, name: ApplicationName, network: NetworkName, now: float) -> str | None:
        """Why an application's policy or lock forbids it a network; None when it may be there."""
        return self._advisor.bar(name, network, now)

    def verdict(self, name: ApplicationName, network: NetworkName, now: float) -> str | None:
        """Why an application is on a network that works, or is not, by its policy or lock; None: its list says it."""
        return self._advisor.verdict(name, network, now)

    def is_testing(self, network: NetworkName) -> bool:
        """Whether a test of a network is under way."""
        return self._upkeep.is_testing(network)

    @property
    def counters(self) -> dict[str, int]:
        """What the signalling counted, by reason."""
        tunnels = self._tunnels.values()
        return self._anchors.counters | {
            "keys_renewed": self._upkeep.rekeying.renewed,
            "flows_named": self._placement.running.naming.named,
            "given_up_silent": sum(tunnel.given_up for tunnel in tunnels),
            "given_up_wrongly": sum(tunnel.given_up_wrongly for tunnel in tunnels),
        }

    @property
    def _association(self) -> HostAssociation:
        return self._anchors.used.association

    @property
    def _signalling(self) -> HostSignalling:
        return self._anchors.used.signalling

    # --- driving ---

    def next_timeout(self) -> float | None:
        """When `TimeoutReached` should come at the latest (seconds), or None."""
        if self._is_stopped:
            return None
        times = [self._anchors.next_timeout(), self._age_at]
        times += [tunnel.next_timeout() for tunnel in self._tunnels.values() if self._may_act(tunnel)]
        times += [self._placement.next_timeout(), self._upkeep.next_timeout()]
        return min((time for time in times if time is not None), default=None)

    def handle(self, event: HostEvent, now: float) -> list[HostCommand]:
        """Take one event at time `now` (seconds, never backwards); gives what is to be done, in order."""
        if self._is_stopped:
            return []
        match event:
            case NetworkAppeared():
                self._appear(event, now)
            case NetworkVanished(network, reason):
                self._vanish(network, reason, now)
            case PathFailed(network, reason):
                if (tunnel := self._known(network)) is not None:
                    self._on_tunnel(tunnel, tunnel.break_path(reason, now), now)
            case PathNarrowed(network, mtu):
                if (tunnel := self._known(network)) is not None:
                    self._setups.set_mtu(tunnel, min(tunnel.mtu, self._setups.inner_mtu(tunnel, mtu)))
            case SipDatagramReceived(network, data, anchor):
                if self._known(network) is not None:
                    self._speaking.charge(network, data, is_inside=False)
                    self._anchors.receive(data, anchor, network, now)
            case BindingAnswerReceived():
                self._upkeep.hear(event, now)
            case NetworkMetered(network, is_metered):
                if self._known(network) is not None and self._advisor.set_metered(network, is_metered, now):
                    self._commands.append(metered(network, is_metered))
            case NetworkTestAsked(network):
                self._upkeep.ask_test(network, now)
            case PortalChecked(network, portal):
                if self._upkeep.portals.conclude(network, portal, now):
                    self._say(Level.INFO, f"network {network}: HTTP says {portal.finding.value}")
                    self._commands.append(portal_found(network, portal))
            case TunnelSignalReceived(network, port, payload):
                if (tunnel := self._known(network)) is not None:
                    self._speaking.charge(network, payload, is_inside=True)
                    self._receive_signal(tunnel, port, payload, now)
            case ApplicationDefined(name, id, policy):
                self._define(name, id, policy or self._settings.default_policy, now)
            case ApplicationAssigned(name, policy):
                if (application := self._placement.applications.get(name)) is not None:
                    self._define(name, application.id, policy, now)
                    self._commands.append(assigned(name, policy))
            case ApplicationLocked(name, network):
                if name in self._placement.applications:
                    self._placement.lock(name, network, now)
                    self._commands.append(locked(name, network))
            case NetworksRedescribed(facts):
                self._placement.redescribe_networks(facts, now)
            case ClockRead(offset):
                self._advisor.set_clock(offset, now)
            case HandoverAsked(token, what, target):
                self._placement.ask(token, what, target, now)
            case FlowsAdopted(name, flows):
                self._placement.adopt(name, flows, now)
            case StopAsked():
                self._anchors.stop(now)
            case TimeoutReached():
                self._pass_time(now)
        self._work_off(now)
        return self._hand_out()

    def _hand_out(self) -> list[HostCommand]:
        commands, self._commands = self._commands, []
        self._speaking.charge_sent(commands)
        return commands

    def reserve(self, anchors: Collection[IPAddress], now: float) -> None:
        """Anchors with which this host has another association are not asked by this one."""
        self._anchors.reserve(anchors, now)

    def next_glance(self, now: float) -> float:
        """When `glance` should come (seconds)."""
        return self._glances.next_look(now)

    def glance(self, now: float) -> list[HostCommand]:
        """Look whether a tunnel in use has gone silent, at time `now`; gives what is to be done, most often nothing.

        The owner brings the tunnels' counters up to date before. Without it black holes are found by keepalives only.
        """
        found = [] if self._is_stopped else self._glances.look(now)
        if not found:
            return []
        for tunnel, action in found:
            self._on_tunnel(tunnel, (action,), now)
        if any(isinstance(action, StateChanged | SilenceChanged) for _, action in found):
            self._work_off(now)
        return self._hand_out()

    def _define(
        self, name: ApplicationName, id: ApplicationId, policy: Policy | tuple[str, ...], now: float
    ) -> None:
        if isinstance(policy, Policy):
            self._placement.guide(name, id, policy, now)
        else:
            self._placement.define(name, id, policy, now)

    def _pass_time(self, now: float) -> None:
        self._anchors.handle_timeout(now)
        self._follow_anchors(now)
        for tunnel in self._tunnels.values():
            if self._may_act(tunnel):
                self._on_tunnel(tunnel, tunnel.handle_timeout(now), now)
        self._upkeep.handle_timeout(now)
        if self._age_at is None or now >= self._age_at:
            self._paft.age(now)
            self._age_at = now + AGEING_INTERVAL

    def _work_off(self, now: float) -> None:
        """Digest what was heard, bring applications into line, send."""
        while heard := self._anchors.heard(now):
            for item in heard:
                match item:
                    case Answered(purpose, response):
                        self._hear(purpose, response, now)
                    case Noticed(network, notice):
                        self._heed(network, notice, now)
        self._setups.heed(self._upkeep, now)
        self._watch_anchor(now)
        self._follow_anchors(now)
        self._placement.settle(now)
        self._heed_budgets(now)
        if self._placement.has_lost:
            self._placement.has_lost = False
            self._hurry_setup(now)
        running = self._placement.running
        send_flow_requests(running, self._signalling, self._association, self._tunnels, now)
        used = self._anchors.used
        self._commands += self._telling.changes(used.address, used.association)
        self._commands += self._placement.running.commands
        self._placement.running.commands.clear()
        self._commands += self._anchors.commands()
        self._commands += self._upkeep.take_commands()
        if self._is_stopped:
            self._commands.append(Stopped())

    def _heed(self, network: NetworkName, notice: AnchorNotice, now: float) -> None:
        """Do what a notice asks for. One that does not know our association is late, or a stranger's."""
        if notice.association != self._association.token:
            return
        self._say(Level.WARNING, f"the anchor by {network}: {notice.kind}: {notice.reason}")
        if notice.kind in ENDING_NOTICES:
            # An anchor that goes down has no other association for us; one that ended ours may give another.
            self._disown(f"the anchor said {notice.kind}", now, sends_us_on=notice.kind == "going-down")
        elif notice.kind == "tunnel-unheard":
            for tunnel in self._tunnels.values():
                if tunnel.tunnel is not None and tunnel.tunnel.id == notice.tunnel_id:
                    tunnel.doubt(now)
                    self._pass_time_of(tunnel, now)

    def _may_act(self, tunnel: HostTunnel) -> bool:
        return tunnel.is_usable or self._association.is_held

    def _known(self, network: NetworkName) -> HostTunnel | None:
        return self._tunnels.get(network)

    def _say(self, level: Level, text: str) -> None:
        self._commands.append(Announce(level, text))

    # --- networks ---

    def _appear(self, event: NetworkAppeared, now: float) -> None:
        tunnel = self._known(event.network)
        if tunnel is None:
            return self._say(Level.WARNING, f"network {event.network} is not configured")
        if tunnel.state is not TunnelState.DOWN:
            if tunnel.care_of_address == event.care_of_address and tunnel.interface == event.interface:
                tunnel.gateway, tunnel.ipv6 = event.gateway, event.ipv6
                tunnel.widest = self._setups.inner_mtu(tunnel, event.mtu)
                return self._setups.set_mtu(tunnel, self._upkeep.paths.capped(tunnel))
            self._vanish(event.network, f"its address is {event.care_of_address} now", now)
        tunnel.interface, tunnel.care_of_address = event.interface, event.care_of_address
        tunnel.gateway, tunnel.ipv6 = event.gateway, event.ipv6
        tunnel.mtu = tunnel.widest = self._setups.inner_mtu(tunnel, event.mtu)
        self._upkeep.appear(event, now)
        self._on_tunnel(tunnel, tunnel.appear(now), now)
        self._rank_networks()
        if event.network in self._speaking.ranked:
            self._anchors.appear(event.network, now)
        self._follow_anchors(now)
        if self._association.is_held:
            self._pass_time_of(tunnel, now)
        return None

    def _vanish(self, network: NetworkName, reason: str, now: float) -> None:
        tunnel = self._known(network)
        if tunnel is None:
            return
        if tunnel.state is TunnelState.DOWN:
            tunnel.reason = reason
            return
        self._upkeep.vanish(network)
        actions = tunnel.vanish(reason)
        self._setups.close(tunnel)
        self._on_tunnel(tunnel, actions, now)
        self._rank_networks()
        self._anchors.vanish(network, now)
        self._follow_anchors(now)

    def _rank_networks(self) -> None:
        self._anchors.rank(self._speaking.rank())

    def _heed_budgets(self, now: float) -> None:
        """Networks whose own budget is spent are not spoken by; those that have a new one are again."""
        if (freed := self._speaking.heed_budgets(now)) is not None:
            self._rank_networks()
            for network in [name for name in self._speaking.ranked if name in freed]:
                self._anchors.appear(network, now)
                self._follow_anchors(now)

    # --- tunnels ---

    def _pass_time_of(self, tunnel: HostTunnel, now: float) -> None:
        self._on_tunnel(tunnel, tunnel.handle_timeout(now), now)

    def _on_tunnel(self, tunnel: HostTunnel, actions: Iterable[TunnelAction], now: float) -> None:
        for action in actions:
            match action:
                case SendProbe(sequence):
                    packet = bytes(SenderPacket(sequence, now, tunnel.index))
                    self._commands.append(SendTunnelSignal(tunnel.network, MEASUREMENT_PORT, packet))
                case KeepMapping():
                    self._commands.append(KeepNatMapping(tunnel.network))
                case AskSetup(rebind):
                    self._setups.ask(tunnel, rebind, now)
                case StateChanged(old, new, reason):
                    level = Level.WARNING if new in (TunnelState.DEAD, TunnelState.DOWN) else Level.INFO
                    if TunnelState.SUSPECT in (old, new):
                        level = Level.DEBUG if new is not TunnelState.DEAD else level
                    self._say(level, f"network {tunnel.network} is {new.value}: {reason}")
                    self._commands.append(network_changed(tunnel.network, action))
                    self._upkeep.follow(tunnel, action, now)
                    self._rank_networks()

    def _hurry_setup(self, now: float) -> None:
        """Applications lost their last network: set the next one up at once, with their flows in the request."""
        for name, tunnel in self._tunnels.items():
            if self._association.is_held and self._placement.claims(name):
                tunnel.ask_setup_now(now)
                self._pass_time_of(tunnel, now)

    def _receive_signal(self, tunnel: HostTunnel, port: int, payload: bytes, now: float) -> None:
        if port != MEASUREMENT_PORT:
            self._signalling.receive(payload, SipPath(tunnel.network, True), now)
            return
        try:
            packet = parse_reflector(payload)
        except PeerError:
            return
        if len(payload) > PACKET_SIZE:
            self._upkeep.paths.hear(tunnel.network, packet.sender_sequence, len(payload), now)
            return
        tunnel.measured.take(packet, now)
        self._on_tunnel(tunnel, tunnel.answer(packet.sender_sequence, now), now)

    # --- the association ---

    def _watch_anchor(self, now: float) -> None:
        """Tell whether the anchor in use is out of reach by every network that is there."""
        there = [tunnel.state for tunnel in self._tunnels.values() if tunnel.state is not TunnelState.DOWN]
        is_cut_off = bool(there) and not any(tunnel.is_usable for tunnel in self._tunnels.values())
        is_proven = all(state is TunnelState.DEAD for state in there)
        self._anchors.watch(is_cut_off and self._association.is_held, now, is_proven=is_proven)

    def _follow_anchors(self, now: float) -> None:
        for event in self._anchors.events():
            match event:
                case AnchorChanged():
                    settings = self._anchors.used.settings
                    self._drop_tunnels(now)
                    self._upkeep.tests.start_over(now)
                    for tunnel in self._tunnels.values():
                        tunnel.anchor_port = 0
                    self._commands.append(UseAnchor(settings.anchor_tunnels, settings.anchor_signalling))
                    self._address.change_anchor()
                case Granted(is_new):
                    self._on_granted(is_new, now)
                case AssociationLost(reason):
                    self._say(Level.WARNING, f"no association with anchor {self.anchor}: {reason}")
                    self._drop_tunnels(now)
                case GoodbyeSaid():
                    self._leave(now)
                case Announce():
                    self._commands.append(event)

    def _on_granted(self, is_new: bool, now: float) -> None:
        address = self._association.virtual_address
        assert address is not None
        if commands := self._address.take(address):
            self._commands += commands
            self._placement.running.newcomers = newcomers_of(address)
        if is_new:
            self._say(Level.INFO, f"associated with anchor {self.anchor} as {address}")
            self._placement.running.tallies.start_over(now)
            self._placement.running.naming.start_over()
            self._drop_tunnels(now)
            for tunnel in self._tunnels.values():
                self._pass_time_of(tunnel, now)

    def _drop_tunnels(self, now: float) -> None:
        self._signalling.cancel(lambda purpose: not isinstance(purpose, Registering))
        self._placement.running.naming.drop()
        for tunnel in self._tunnels.values():
            self._setups.close(tunnel)
            self._on_tunnel(tunnel, tunnel.disown(now), now)
        self._placement.settle(now)

    def _disown(self, reason: str, now: float, *, sends_us_on: bool = False) -> None:
        self._anchors.disown(reason, now, sends_us_on=sends_us_on)
        self._follow_anchors(now)

    def _leave(self, now: float) -> None:
        self._drop_tunnels(now)
        self._commands += self._address.release()
        self._is_stopped = True

    # --- answers ---

    def _hear(self, purpose: Purpose, response: Response | None, now: float) -> None:
        match purpose:
            case SettingUp(network):
                actions, ended = self._setups.hear(purpose, response, now)
                self._on_tunnel(self._tunnels[network], actions, now)
                if ended is not None:
                    self._disown(ended, now)
                self._placement.settle(now)
            case Counting() | Naming() | Moving():
                if isinstance(purpose, Moving) and response is not None:
                    tunnel = self._tunnels[purpose.network]
                    self._on_tunnel(tunnel, tunnel.prove_alive(now), now)
                ended = hear_flow_answer(self._placement.running, purpose, response, self._tunnels, now)
                if ended is not None:
                    self._disown(ended, now)

    # --- handovers ---

    def _room(self, network: NetworkName) -> FlowRoom:
        """How many flows a request by a network has room for."""
        token, address = self._association.token, self._association.virtual_address
        if token is None or address is None:
            return FlowRoom(0)
        octets = self._signalling.room_for_flows(token, address, self._tunnels[network].mtu)
        return FlowRoom(octets, self._placement.running.naming.is_packing)
