"""The anchor's decisions: one event in, commands out (MMS of the paper, section V).

Leases virtual addresses, sets tunnels up, obeys handover requests, reflects measurement packets, forgets what is
not refreshed. Its owner performs the commands in order and calls again at `next_timeout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from random import Random
from typing import NamedTuple

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.formats import PLAIN
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.anchor_commands import (
    AnchorCommand,
    LeaseEnded,
    LeaseGranted,
    SendBindingAnswer,
    SendSip,
    SendTunnelSignal,
)
from upmt_nf.mobility.anchor_events import (
    AnchorEvent,
    BindingProbeReceived,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.anchor_tunnels import AnchorTunnels
from upmt_nf.mobility.binding_answers import BindingAnswers
from upmt_nf.mobility.commands import Announce, Level, Stopped
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.flow_moves import FlowMoves
from upmt_nf.mobility.host_answers import NO_ASSOCIATION
from upmt_nf.mobility.host_signalling import TOKEN_HEADER
from upmt_nf.mobility.leases import Lease, LeaseAsked, LeaseKeys, LeaseRefused, Leases
from upmt_nf.mobility.reflector import Reflector
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.mobility.tunnel_keys import SALT_BYTES, expose, protect
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import TerminalId
from upmt_nf.model.names import MEASUREMENT_PORT
from upmt_nf.signaling.digest import DigestServer, Unproven
from upmt_nf.signaling.keys import KeyPair
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    AnchorNotice,
    AssociationRequest,
    AssociationResponse,
    HandoverRequest,
    HandoverResponse,
    TunnelSetupRequest,
    TunnelSetupResponse,
    UpmtMessage,
)
from upmt_nf.signaling.sip.build import message, response_to
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.fields import parse_address, parse_cseq
from upmt_nf.signaling.sip.message import Header, Request, Response
from upmt_nf.signaling.sip.transactions import RequestReceived, SipTimers

SWEEP_INTERVAL = 5.0
OUTSIDE = SipTimers(t1=0.5, t2=2.0, give_up=32.0)
INSIDE = SipTimers(t1=0.1, t2=1.0, t4=2.0, give_up=16.0)


class AnchorPath(NamedTuple):
    """Where SIP comes from and goes to; inside a tunnel, `remote` is the outer endpoint and `inner` the inner one."""

    remote: Endpoint
    inner: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class AnchorAssociation:
    """One association, to show. `expires_at` in the clock of `now`."""

    identity: TerminalId
    virtual_address: IPAddress
    expires_at: float
    tunnels: tuple[Tunnel, ...]


class Anchor:
    """The composition. `paft` is shared with the forwarder; `random` gives tokens, ids and jitter.

    `guard` asks every host for proof of who it is; without one, every host is believed.
    """

    def __init__(
        self,
        settings: AnchorSettings,
        paft: Paft,
        random: Random,
        remembered: Mapping[TerminalId, IPAddress] | None = None,
        guard: DigestServer | None = None,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._paft = paft
        self._random = random
        self._leases = Leases(settings, lambda: f"{random.getrandbits(128):032x}", remembered)
        self._tunnels = AnchorTunnels(paft, settings, random)
        self._moves = FlowMoves(paft, self._tunnels)
        self._endpoint: SipEndpoint[AnchorPath] = SipEndpoint(
            token=lambda: f"{random.getrandbits(64):016x}",
            timers=lambda path: OUTSIDE if path.inner is None else INSIDE,
        )
        self._tag = f"{random.getrandbits(64):016x}"
        self._commands: list[AnchorCommand] = []
        self._sweep_at: float | None = None
        self._stop_at: float | None = None
        self._notices = 0
        self._is_stopped = False
        self._counters = Counters()
        self._reflector = Reflector(self._counters)
        self._binding = BindingAnswers(self._leases, self._counters)

    # --- views ---

    @property
    def associations(self) -> list[AnchorAssociation]:
        """Every association now."""
        return [
            AnchorAssociation(
                lease.identity, lease.address, lease.expires_at, tuple(self._tunnels.of(lease.address))
            )
            for lease in self._leases.by_identity.values()
        ]

    @property
    def counters(self) -> dict[str, int]:
        """What was refused or ignored, by reason; `sip_` is what the SIP endpoint counted."""
        sip = {f"sip_{reason}": count for reason, count in self._endpoint.counters.items()}
        return self._counters.as_dict() | sip

    # --- driving ---

    def next_timeout(self) -> float | None:
        """When `TimeoutReached` should come at the latest (seconds), or None."""
        if self._is_stopped:
            return None
        times = (self._leases.next_expiry(), self._endpoint.next_timeout(), self._sweep_at, self._stop_at)
        return min((time for time in times if time is not None), default=None)

    def handle(self, event: AnchorEvent, now: float) -> list[AnchorCommand]:
        """Take one event at time `now` (seconds, never backwards); gives what is to be done, in order."""
        if self._is_stopped:
            return []
        match event:
            case SipDatagramReceived(source, data):
                self._endpoint.receive_datagram(data, AnchorPath(source), now)
            case TunnelSignalReceived(tunnel, remote, source, port, payload):
                if port == MEASUREMENT_PORT:
                    answer = self._reflector.answer(tunnel, payload, now)
                    return [] if answer is None else [SendTunnelSignal(remote, source, port, answer)]
                if port == self._settings.signalling_port:
                    self._endpoint.receive_datagram(payload, AnchorPath(remote, source), now)
                else:
                    self._counters.add("unknown_port")
            case BindingProbeReceived(remote, data):
                return [SendBindingAnswer(*said) for said in self._binding.answer(remote, data)]
            case StopAsked():
                self._stop(now)
            case TimeoutReached():
                self._pass_time(now)
        self._digest(now)
        self._flush()
        if self._sweep_at is None:
            self._sweep_at = now + SWEEP_INTERVAL
        commands, self._commands = self._commands, []
        return commands

    def _pass_time(self, now: float) -> None:
        self._endpoint.handle_timeout(now)
        for lease in self._leases.expire(now):
            self._end(lease, "it was not refreshed")
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep_at = now + SWEEP_INTERVAL
            self._paft.age(now)
            self._tunnels.retire_keys(now)
            for tunnel in self._tunnels.expire(now):
                self._say(Level.INFO, f"tunnel {tunnel.id} of {tunnel.owner} was silent too long")
        if self._stop_at is not None and now >= self._stop_at:
            self._is_stopped = True

    def _digest(self, now: float) -> None:
        for event in self._endpoint.events():
            if isinstance(event, RequestReceived):
                self._receive(event, now)
            elif self._stop_at is not None and event.flow.inner is not None:
                # An answer to one of our last notices, or none; when all are in, there is nothing to wait for.
                self._notices -= 1
                self._is_stopped = self._is_stopped or self._notices <= 0

    def _receive(self, event: RequestReceived[AnchorPath], now: float) -> None:
        """Ask for proof first. A stranger costs one answer, of which nothing is kept."""
        request, ticket = event.request, None
        if self._guard is not None and request.method in ("REGISTER", "MESSAGE"):
            proof = self._guard.check(request, now)
            if isinstance(proof, Unproven):
                self._counters.add("challenged" if proof.status == 401 else f"refused_{proof.status}")
                response = self._no(request, proof.status, proof.reason, proof.headers)
                return self._endpoint.respond(event.transaction, response, now, and_forget=True)
            ticket = proof
        identity = TerminalId(ticket.identity) if ticket is not None else None
        response = self._answer(request, event.flow, identity, now)
        if response.status != 200:
            self._counters.add(f"refused_{response.status}")
        if ticket is not None and self._guard is not None:
            proof_of_ours = self._guard.info(ticket, response.body, now)
            response = replace(response, headers=(*response.headers, proof_of_ours))
        return self._endpoint.respond(event.transaction, response, now)

    def _flush(self) -> None:
        for data, path in self._endpoint.datagrams_to_send():
            if path.inner is None:
                self._commands.append(SendSip(path.remote, data))
            else:
                port = self._settings.signalling_port
                self._commands.append(SendTunnelSignal(path.remote, path.inner, port, data))
        if self._is_stopped:
            self._commands.append(Stopped())

    def _say(self, level: Level, text: str) -> None:
        self._commands.append(Announce(level, text))

    # --- requests ---

    def _answer(
        self, request: Request, path: AnchorPath, identity: TerminalId | None, now: float
    ) -> Response:
        """`identity` is proven; None: nobody asks for proof here."""
        if request.method == "REGISTER" and path.inner is None:
            return self._answer_register(request, path, identity, now)
        if request.method == "MESSAGE" and path.inner is not None:
            return self._answer_message(request, path, path.inner, identity, now)
        if request.method in ("REGISTER", "MESSAGE"):
            return self._no(request, 403, "REGISTER comes outside the tunnels, MESSAGE inside")
        return self._no(request, 405, None, (("Allow", "REGISTER, MESSAGE"),))

    def _answer_register(
        self, request: Request, path: AnchorPath, identity: TerminalId | None, now: float
    ) -> Response:
        try:
            asked = self._read_register(request)
        except ValueError as reason:
            return self._no(request, 400, f"Bad Request: {_one_line(str(reason))}")
        if identity not in (None, asked.identity):
            return self._no(request, 403, "that is another host's identity")
        if self._stop_at is not None:
            return self._no(request, 503, "the anchor is going down", (("Retry-After", "2"),))
        if asked.expires == 0:
            lease = self._leases.release(asked)
            if lease is not None:
                self._end(lease, "the host left")
            return response_to(request, 200, tag=self._tag, source=path.remote, headers=(("Expires", "0"),))
        given = self._leases.ask(asked, now)
        if isinstance(given, LeaseRefused):
            return self._refuse_lease(request, asked, given)
        lease = given.lease
        if asked.key is not None and self._guard is not None:
            try:
                self._agree(lease, asked.key)
            except PeerError as reason:
                return self._no(request, 400, f"Bad Request: {reason}")
        if given.has_restarted:
            self._tunnels.remove_all(lease.address)
            self._moves.start_over(lease.address)
            self._say(Level.INFO, f"{lease.identity} has restarted and keeps {lease.address}")
        if given.is_new:
            self._commands.append(LeaseGranted(lease.identity, lease.address))
            self._say(Level.INFO, f"{lease.identity} at {path.remote} is associated as {lease.address}")
        expires = max(1, round(lease.expires_at - now))
        headers: tuple[Header, ...] = (
            ("VIpAddr", str(lease.address)),
            ("Expires", str(expires)),
            (TOKEN_HEADER, lease.token),
        )
        if (contact := request.header("contact")) is not None:
            headers = (("Contact", f"{contact};expires={expires}"), *headers)
        key = lease.keys.ours if lease.keys is not None else None
        body = encode(AssociationResponse(lease.address, lease.token, expires, key))
        return response_to(request, 200, tag=self._tag, source=path.remote, headers=headers, body=body)

    def _read_register(self, request: Request) -> LeaseAsked:
        """Raises ValueError."""
        identity = parse_address(request.header("to") or "").record
        if len(identity) > 256:
            raise ValueError("the identity is too long")
        cseq, _ = parse_cseq(request.header("cseq") or "")
        expires = (request.header("expires") or str(self._settings.lifetime)).strip()
        if not (expires.isascii() and expires.isdigit()):
            raise ValueError("Expires is not a number")
        wanted = request.header("vipaddr")
        key = self._compare(request, expires, wanted) if request.body else None
        return LeaseAsked(
            identity=TerminalId(identity),
            call_id=request.header("call-id") or "",
            cseq=cseq,
            expires=min(int(expires[:10]), 2**32 - 1),
            wanted=ip_address(wanted.strip()) if wanted else None,
            key=key,
        )

    @staticmethod
    def _compare(request: Request, expires: str, wanted: str | None) -> bytes | None:
        """The body, which a proof covers, must say what the headers say; gives its key. Raises ValueError."""
        try:
            body = decode(request.body)
        except PeerError as reason:
            raise ValueError(str(reason)) from reason
        if not isinstance(body, AssociationRequest):
            raise ValueError("the body is no association request")
        address = None if wanted is None else ip_address(wanted.strip())
        if (body.expires, body.virtual_address) != (int(expires[:10]), address):
            raise ValueError("headers and body contradict each other")
        return body.key

    @staticmethod
    def _agree(lease: Lease, key: bytes) -> None:
        """Keys for an association, once for each key of the host. Raises PeerError."""
        if lease.keys is None or lease.keys.theirs != key:
            pair = KeyPair()
            lease.keys = LeaseKeys(key, pair.public, pair.agree(key, is_host=False))

    def _refuse_lease(self, request: Request, asked: LeaseAsked, refused: LeaseRefused) -> Response:
        headers: list[Header] = []
        if refused.least_lifetime is not None:
            headers.append(("Min-Expires", str(refused.least_lifetime)))
        if refused.retry_after is not None:
            headers.append(("Retry-After", str(refused.retry_after)))
        self._say(Level.WARNING, f"no association for {asked.identity}: {refused.reason}")
        return self._no(request, refused.status, refused.reason, tuple(headers))

    def _answer_message(
        self,
        request: Request,
        path: AnchorPath,
        inner: Endpoint,
        identity: TerminalId | None,
        now: float,
    ) -> Response:
        try:
            body = decode(request.body)
            cseq, _ = parse_cseq(request.header("cseq") or "")
        except (PeerError, ValueError) as reason:
            return self._no(request, 400, f"Bad Request: {_one_line(str(reason))}")
        lease = self._leases.by_address.get(inner.address)
        if lease is not None and identity not in (None, lease.identity):
            return self._no(request, 403, "that is another host's virtual address")
        match body:
            case TunnelSetupRequest():
                return self._set_up(request, body, path, inner, cseq, now)
            case HandoverRequest():
                return self._hand_over(request, body, path, inner, cseq, now)
            case _:
                return self._no(request, 400, "Bad Request: not a request of a mobile host")

    def _set_up(
        self,
        request: Request,
        body: TunnelSetupRequest,
        path: AnchorPath,
        inner: Endpoint,
        cseq: int,
        now: float,
    ) -> Response:
        lease = self._leases.by_token.get(body.association)
        if lease is None:
            return self._no(request, NO_ASSOCIATION, "no such association")
        if lease.address != body.virtual_address or inner.address != lease.address:
            return self._no(request, 403, "that is not this association's virtual address")
        if body.format not in self._settings.formats:
            return self._no(request, 403, f"tunnels here are {' or '.join(self._settings.formats)}")
        if body.format != PLAIN.name and lease.keys is None:
            return self._no(request, 403, "no keys were agreed with this association")
        tunnel = self._tunnels.set_up(lease, body.network, path.remote, cseq, now)
        if isinstance(tunnel, str):
            return self._no(request, 403, tunnel)
        key_id, salt = self._protect(tunnel, lease, body.format)
        results = self._moves.apply(lease, body.handover, tunnel, cseq, now)
        remote = path.remote
        return self._yes(
            request,
            TunnelSetupResponse(tunnel.id, remote.address, remote.port, results, body.format, key_id, salt),
        )

    def _protect(self, tunnel: Tunnel, lease: Lease, format: str) -> tuple[int, bytes | None]:
        """Give a tunnel the format that its host chose; gives the number and the salt of its keys."""
        tunnel.mtu = self._tunnels.mtu_of(tunnel.remote, format)
        if format == PLAIN.name or lease.keys is None:
            expose(tunnel)
            return 0, None
        key_id, salt = self._tunnels.next_key_id(tunnel), self._random.randbytes(SALT_BYTES)
        protect(tunnel, format, lease.keys.association, key_id, salt, is_host=False)
        return key_id, salt

    def _hand_over(
        self,
        request: Request,
        body: HandoverRequest,
        path: AnchorPath,
        inner: Endpoint,
        cseq: int,
        now: float,
    ) -> Response:
        tunnel = self._tunnels.at(path.remote, inner.address)
        if tunnel is None:
            return self._no(request, NO_ASSOCIATION, "this message came by no tunnel of yours")
        lease = self._leases.by_address.get(tunnel.owner)
        if lease is None or body.association not in ("", lease.token):
            return self._no(request, NO_ASSOCIATION, "no such association")
        results = self._moves.apply(lease, body.pairs, tunnel, cseq, now)
        return self._yes(request, HandoverResponse(results))

    def _yes(self, request: Request, body: UpmtMessage) -> Response:
        return response_to(request, 200, tag=self._tag, body=encode(body))

    def _no(
        self, request: Request, status: int, reason: str | None, headers: tuple[Header, ...] = ()
    ) -> Response:
        return response_to(request, status, tag=self._tag, headers=headers, reason=reason)

    # --- the rest ---

    def _end(self, lease: Lease, reason: str) -> None:
        self._tunnels.remove_all(lease.address)
        self._moves.forget(lease.address)
        self._commands.append(LeaseEnded(lease.identity, lease.address, reason))
        self._say(Level.INFO, f"the association of {lease.identity} as {lease.address} ended: {reason}")

    def _stop(self, now: float) -> None:
        """Tell every host, in the tunnel that was heard last; wait a moment for the answers."""
        if self._stop_at is not None:
            return
        self._stop_at = now + self._settings.notice_patience
        local = Endpoint(self._settings.address, self._settings.signalling_port)
        for lease in self._leases.by_identity.values():
            tunnel = self._tunnels.latest_of(lease.address)
            if tunnel is None:
                continue
            self._notices += 1
            inner = Endpoint(lease.address, self._settings.signalling_port)
            request = message(
                anchor=inner,
                local=local,
                identity="anchor@upmt",
                call_id=f"{self._random.getrandbits(64):016x}",
                cseq=1,
                tag=self._tag,
                body=encode(AnchorNotice("going-down", "the anchor was stopped")),
            )
            self._endpoint.send_request(request, AnchorPath(tunnel.remote, inner), now)
        self._is_stopped = self._notices == 0


def _one_line(text: str) -> str:
    """Printable and short, for a reason phrase."""
    return "".join(character for character in text if character.isprintable())[:120]
