"""Tunnels of a mobile host from the setup request to the open tunnel: format, keys, size, and back to nothing.

The answers to setup requests are believed here and nowhere else. Knows neither when a tunnel is to be set up, which
`host_tunnel` says, nor where applications go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from upmt_nf.datapath.formats import PLAIN
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.avoiding import heed
from upmt_nf.mobility.commands import Announce, EventKind, Happened, Level
from upmt_nf.mobility.host_anchors import HostAnchors
from upmt_nf.mobility.host_answers import Refusal, downgrade, read_setup
from upmt_nf.mobility.host_commands import CloseTunnel, HostCommand, OpenTunnel, RebindTunnel
from upmt_nf.mobility.host_signalling import INSIDE_T1, SettingUp
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.measurement import PathMeasurement
from upmt_nf.mobility.network_test import TestResult
from upmt_nf.mobility.placement import Placement
from upmt_nf.mobility.rekeying import Rekeying
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.mobility.tunnel_keys import LEAST_MTU, inner_mtu, protect
from upmt_nf.mobility.tunnel_states import TunnelAction
from upmt_nf.mobility.upkeep import Upkeep
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName, TunnelId
from upmt_nf.signaling.messages import TunnelSetupResponse
from upmt_nf.signaling.sip.message import Response


class TunnelSetups:
    """For all networks of a host, towards the anchor in use. `perform` takes the commands, in order."""

    def __init__(
        self,
        settings: HostSettings,
        paft: Paft,
        tunnels: Mapping[NetworkName, HostTunnel],
        anchors: HostAnchors,
        placement: Placement,
        rekeying: Rekeying,
        perform: Callable[[HostCommand], None],
    ) -> None:
        self._settings = settings
        self._paft = paft
        self._tunnels = tunnels
        self._anchors = anchors
        self._placement = placement
        self._rekeying = rekeying
        self._perform = perform

    # --- size ---

    def inner_mtu(self, tunnel: HostTunnel, outer: int) -> int:
        """The largest inner packet where outer ones have at most this many bytes."""
        version = self._settings.reached_at(tunnel.care_of_address).version
        return max(LEAST_MTU, inner_mtu(outer, version, self._format_of(tunnel)))

    def set_mtu(self, tunnel: HostTunnel, mtu: int) -> None:
        """Inner packets have at most this many bytes from now on."""
        tunnel.mtu = mtu
        if tunnel.tunnel is not None:
            tunnel.tunnel.mtu = mtu

    # --- the anchor's ports ---

    def anchor_end(self, tunnel: HostTunnel) -> Endpoint:
        """Where a network's tunnel ends."""
        settings = self._anchors.used.settings
        address = settings.reached_at(tunnel.care_of_address)
        return Endpoint(address, tunnel.anchor_port or settings.tunnel_port)

    def heed(self, upkeep: Upkeep, now: float) -> None:
        """Take up what was found out about networks since the last time."""
        upkeep.tests.handle_timeout(now)
        for network, result in upkeep.tests.take_finished():
            self._heed_test(self._tunnels[network], result, now)
        for network, mtu in upkeep.paths.take_finished():
            self._heed_path(self._tunnels[network], mtu)
        for network, filters in upkeep.filters.take_finished():
            self._heed_filters(self._tunnels[network], filters.avoid)
        self._renew(now)

    def _heed_test(self, tunnel: HostTunnel, result: TestResult, now: float) -> None:
        """A network that has no tunnel by the port that it was to go to goes to the first that is let through."""
        settings, ports = self._anchors.used.settings, result.open_ports
        port = self.anchor_end(tunnel).port
        if tunnel.is_usable or not ports or port in ports or not set(ports) <= set(settings.tunnel_ports):
            return
        tunnel.anchor_port = ports[0] if ports[0] != settings.tunnel_port else 0
        text = (
            f"network {tunnel.network}: UDP to port {port} of the anchor does not pass, to {ports[0]} it does"
        )
        self._perform(Announce(Level.WARNING, text))
        old, new = str(port), str(ports[0])
        self._perform(Happened(EventKind.PORT, "UDP does not pass", tunnel.network, None, old, new))
        self.ask(tunnel, rebind=True, now=now)

    def _heed_path(self, tunnel: HostTunnel, mtu: int) -> None:
        """The largest inner packet that was seen to pass."""
        if tunnel.tunnel is None or tunnel.reflexive is None or mtu == tunnel.mtu:
            return
        text = f"network {tunnel.network}: its path takes inner packets of {mtu} bytes, not {tunnel.mtu}"
        self._perform(Announce(Level.INFO, text))
        old, new = str(tunnel.mtu), str(mtu)
        self._perform(Happened(EventKind.PATH_MTU, "found by trial", tunnel.network, None, old, new))
        self.set_mtu(tunnel, mtu)
        self._perform(OpenTunnel(tunnel.network, tunnel.tunnel.id, tunnel.reflexive, mtu))

    def _heed_filters(self, tunnel: HostTunnel, avoid: tuple[str, ...]) -> None:
        """What the path drops is not sent in the tunnel, by neither end (`_renew` tells the anchor)."""
        if avoid == tunnel.avoid:
            return
        said = ", ".join(avoid) or "nothing of what it dropped before"
        self._perform(Announce(Level.WARNING, f"network {tunnel.network}: its path drops {said}"))
        tunnel.avoid = avoid
        if tunnel.tunnel is not None:
            heed(tunnel.tunnel, avoid)

    # --- set up and closed ---

    def ask(self, tunnel: HostTunnel, rebind: bool, now: float) -> None:
        """Send a setup request, in place of the one that may be under way; after `rebind` from another port."""
        association, signalling = self._anchors.used.association, self._anchors.used.signalling
        token, address = association.token, association.virtual_address
        if token is None or address is None:
            return
        network = tunnel.network
        signalling.cancel(lambda purpose: isinstance(purpose, SettingUp) and purpose.network == network)
        if rebind:
            self._perform(RebindTunnel(network, self.anchor_end(tunnel).port))
        claims = self._placement.claims(network)
        if claims:
            self._placement.note_claims(network, now)
        tunnel.told = tunnel.mtu, tunnel.avoid
        is_packed = self._placement.running.naming.is_packing
        signalling.set_up(network, token, address, claims, tunnel.mtu, now, tunnel.avoid, is_packed=is_packed)

    def _renew(self, now: float) -> None:
        """Set tunnels up once more whose keys have served, or of whose path the anchor knows other things than we do.

        What it sends would be too large for the path, or dropped there, and its correspondents would not hear of it.
        """
        wanted = set(self._rekeying.due(self._paft.tunnels.values(), now))
        for network, tunnel in self._tunnels.items():
            if not tunnel.is_usable or (network not in wanted and tunnel.told == (tunnel.mtu, tunnel.avoid)):
                continue
            association, signalling = self._anchors.used.association, self._anchors.used.signalling
            token, address = association.token, association.virtual_address
            if token is not None and address is not None and not signalling.is_setting_up(network):
                tunnel.told = tunnel.mtu, tunnel.avoid
                signalling.set_up(network, token, address, [], tunnel.mtu, now, tunnel.avoid)

    def hear(
        self, purpose: SettingUp, response: Response | None, now: float
    ) -> tuple[list[TunnelAction], str | None]:
        """The answer to a request, or None: there is none. Gives why the anchor knows us no more, if it does not."""
        tunnel = self._tunnels[purpose.network]
        answer = Refusal("no answer") if response is None else read_setup(response)
        if not isinstance(answer, Refusal):
            has_key = self._anchors.used.key is not None
            answer = downgrade(answer, self._format_of(tunnel), has_key=has_key) or answer
        address = self._anchors.used.association.virtual_address
        if isinstance(answer, Refusal) or address is None or self._is_taken(answer.tunnel_id, tunnel):
            reason = answer.reason if isinstance(answer, Refusal) else "the anchor gave one id to two tunnels"
            if response is not None:
                self._perform(Announce(Level.WARNING, f"network {tunnel.network}: no tunnel: {reason}"))
            is_disowned = isinstance(answer, Refusal) and answer.is_disowned
            return tunnel.fail_setup(now), reason if is_disowned else None
        self._open(tunnel, answer, address, now)
        naming = self._placement.running.naming
        naming.is_understood, naming.is_packing = answer.knows_applications, answer.reads_packed
        was_resent = now - purpose.asked_at >= INSIDE_T1
        actions = tunnel.accept(now, None if was_resent else now - purpose.asked_at)
        if purpose.claimed and answer.results and all(result.accepted for result in answer.results):
            moved = sum(result.flows for result in answer.results)
            self._placement.confirm_claims(tunnel.network, purpose.claimed, moved, purpose.asked_at)
        return actions, None

    def close(self, tunnel: HostTunnel) -> None:
        """Forget a tunnel, if it is there."""
        if tunnel.tunnel is not None:
            self._paft.remove_tunnel(tunnel.tunnel.id)
            tunnel.heard_before = tunnel.tunnel.heard
            tunnel.tunnel = None
            tunnel.reflexive = None
            self._perform(CloseTunnel(tunnel.network))

    # --- inside ---

    def _format_of(self, tunnel: HostTunnel) -> str:
        return self._settings.protection.get(tunnel.network, PLAIN.name)

    def _is_taken(self, tunnel_id: TunnelId, tunnel: HostTunnel) -> bool:
        others = (other.tunnel for other in self._tunnels.values() if other is not tunnel)
        return any(other is not None and other.id == tunnel_id for other in others)

    def _open(self, tunnel: HostTunnel, answer: TunnelSetupResponse, address: IPAddress, now: float) -> None:
        reflexive = Endpoint(answer.your_address, answer.your_port)
        old = tunnel.tunnel
        if old is not None and old.id == answer.tunnel_id:
            if old.remote != self.anchor_end(tunnel):
                self._paft.move_endpoint(old, self.anchor_end(tunnel))
            self._protect(old, answer, now)
            if tunnel.reflexive == reflexive:
                return
        if old is not None and old.id != answer.tunnel_id:
            self._paft.remove_tunnel(old.id)
        if old is None or old.id != answer.tunnel_id:
            tunnel.tunnel = Tunnel(
                answer.tunnel_id,
                address,
                self.anchor_end(tunnel),
                tunnel.mtu,
                tunnel.network,
                now,
            )
            self._protect(tunnel.tunnel, answer, now)
            tunnel.measured = PathMeasurement()
            self._paft.add_tunnel(tunnel.tunnel)
        assert tunnel.tunnel is not None, "it was there, or has just been made"
        tunnel.tunnel.takes_copies = answer.copies
        heed(tunnel.tunnel, tunnel.avoid)
        tunnel.reflexive = reflexive
        self._perform(OpenTunnel(tunnel.network, answer.tunnel_id, reflexive, tunnel.mtu))

    def _protect(self, tunnel: Tunnel, answer: TunnelSetupResponse, now: float) -> None:
        if answer.salt is not None and self._anchors.used.key is not None:
            protect(tunnel, answer.format, self._anchors.used.key, answer.key_id, answer.salt, is_host=True)
            self._rekeying.begin(tunnel.network, now)
