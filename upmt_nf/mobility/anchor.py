"""The anchor's decisions: one event in, commands out (MMS of the paper, section V).

Leases virtual addresses, sets tunnels up, obeys handover requests, reflects measurement packets, forgets what is
not refreshed. Its owner performs the commands in order and calls again at `next_timeout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.formats import PLAIN
from upmt_nf.datapath.outer import OVERHEAD, packed_endpoint
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.anchor_authors import AuthorsAnswers
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
    LeaseRevoked,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.anchor_notices import AnchorNotices, AnchorPath
from upmt_nf.mobility.anchor_tunnels import AnchorTunnels
from upmt_nf.mobility.answer_size import (
    LONGEST,
    most_counts,
    most_pairs,
    room_for_results,
    with_short_reasons,
)
from upmt_nf.mobility.avoiding import heed
from upmt_nf.mobility.binding_answers import BindingAnswers
from upmt_nf.mobility.commands import Announce, Level, Stopped
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.flow_counts import counts_of
from upmt_nf.mobility.flow_moves import FlowMoves
from upmt_nf.mobility.host_answers import NO_ASSOCIATION
from upmt_nf.mobility.host_signalling import HEARD_HEADER
from upmt_nf.mobility.leases import Lease, LeaseAsked, LeaseRefused, Leases
from upmt_nf.mobility.reflector import Reflector
from upmt_nf.mobility.registrations import agree, grant, read_registration, refusal_headers
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.mobility.source_limits import SourceLimits
from upmt_nf.mobility.tunnel_keys import SALT_BYTES, expose, protect
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import TerminalId, TunnelId
from upmt_nf.model.names import MEASUREMENT_PORT
from upmt_nf.signaling.authors_json import CONTENT_TYPE, AuthorsBody, write_answers
from upmt_nf.signaling.digest import DigestServer, Ticket, Unproven
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    FlowCountsRequest,
    FlowCountsResponse,
    HandoverPair,
    HandoverRequest,
    HandoverResponse,
    TunnelSetupRequest,
    TunnelSetupResponse,
    UpmtMessage,
)
from upmt_nf.signaling.sip.build import response_to
from upmt_nf.signaling.sip.contacts import contacts_digest
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.fields import parse_cseq
from upmt_nf.signaling.sip.inspection import inspect
from upmt_nf.signaling.sip.message import Header, Request, Response
from upmt_nf.signaling.sip.transactions import RequestReceived, SipTimers

METHODS = ("REGISTER", "MESSAGE")
SWEEP_INTERVAL = 5.0
PLACES = "REGISTER comes outside the tunnels, MESSAGE inside"
HIGHEST_ID = TunnelId(2**32 - 1)
OUTSIDE = SipTimers(t1=0.5, t2=2.0, give_up=32.0)
INSIDE = SipTimers(t1=0.1, t2=1.0, t4=2.0, give_up=16.0)


@dataclass(frozen=True, slots=True)
class AnchorAssociation:
    """One association, to show. `expires_at` in the clock of `now`."""

    identity: TerminalId
    virtual_address: IPAddress
    expires_at: float
    tunnels: tuple[Tunnel, ...]
    contacts: tuple[tuple[str, float], ...] = ()
    """Where the host says it can be reached, and until when."""


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
        self._moves = FlowMoves(paft, self._tunnels, self._may_look_at)
        self._authors = AuthorsAnswers(settings, self._leases, self._tunnels, self._moves, self._associate)
        self._endpoint: SipEndpoint[AnchorPath] = SipEndpoint(
            token=lambda: f"{random.getrandbits(64):016x}",
            timers=lambda path: OUTSIDE if path.inner is None else INSIDE,
            source_of=lambda path: path.inner or path.remote,
        )
        self._notices = AnchorNotices(settings, paft, self._leases, self._tunnels, self._endpoint, random)
        self._tag = f"{random.getrandbits(32):08x}"
        self._commands: list[AnchorCommand] = []
        self._sweep_at: float | None = None
        self._stop_at: float | None = None
        self._is_stopped = False
        self._counters = Counters()
        identity_in = guard.identity_in if guard is not None else lambda _: None
        self.limits = SourceLimits(settings.rates, self._counters, random.randbytes(16), identity_in)
        self._reflector = Reflector(self._counters)
        self._binding = BindingAnswers(self._leases, self._counters)

    # --- views ---

    @property
    def associations(self) -> list[AnchorAssociation]:
        """Every association now."""
        return [
            AnchorAssociation(
                lease.identity,
                lease.address,
                lease.expires_at,
                tuple(self._tunnels.of(lease.address)),
                lease.contacts.ends(),
            )
            for lease in self._leases.by_identity.values()
        ]

    @property
    def remembered(self) -> dict[TerminalId, IPAddress]:
        """Which address is kept for which host, associated or not."""
        return self._leases.remembered

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
        times = (
            self._leases.next_expiry(),
            self._endpoint.next_timeout(),
            self._notices.next_timeout(),
            self._sweep_at,
            self._stop_at,
        )
        return min((time for time in times if time is not None), default=None)

    def handle(self, event: AnchorEvent, now: float) -> list[AnchorCommand]:
        """Take one event at time `now` (seconds, never backwards); gives what is to be done, in order."""
        if self._is_stopped:
            return []
        match event:
            case SipDatagramReceived(source, data, by):
                if not self.limits.admits(packed_endpoint(source), data, now):
                    return []
                self._endpoint.receive_datagram(data, AnchorPath(source, None, by), now)
            case TunnelSignalReceived(tunnel, remote, source, port, payload, by):
                if port == MEASUREMENT_PORT:
                    answer = self._reflector.answer(tunnel, payload, now)
                    return [] if answer is None else [SendTunnelSignal(remote, source, port, answer, by)]
                if port == self._settings.signalling_port:
                    lease = self._leases.by_address.get(tunnel.owner) if tunnel is not None else None
                    owner = lease.identity if lease is not None else None
                    if not self.limits.admits(packed_endpoint(remote), payload, now, owner):
                        return []
                    self._endpoint.receive_datagram(payload, AnchorPath(remote, source, by), now)
                else:
                    self._counters.add("unknown_port")
            case LeaseRevoked(identity):
                if (lease := self._leases.revoke(identity)) is not None:
                    self._end(lease, "an administrator ended it", now)
            case BindingProbeReceived(remote, data, by, tos):
                if not self.limits.admits(packed_endpoint(remote), data, now):
                    return []
                return [
                    SendBindingAnswer(said.remote, said.data, by, said.tos, said.has_checksum)
                    for said in self._binding.answer(remote, data, tos)
                ]
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
        self._notices.handle_timeout(now)
        for lease in self._leases.expire(now):
            self._end(lease, "it was not refreshed", now, is_told=self._notices.is_heard(lease, now))
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep_at = now + SWEEP_INTERVAL
            self._paft.age(now)
            self._notices.watch(now)
            self._tunnels.retire_keys(now)
            for tunnel in self._tunnels.expire(now):
                self._say(Level.INFO, f"tunnel {tunnel.id} of {tunnel.owner} was silent too long")
        if self._stop_at is not None and now >= self._stop_at:
            self._is_stopped = True

    def _digest(self, now: float) -> None:
        for event in self._endpoint.events():
            if isinstance(event, RequestReceived):
                self._receive(event, now)
            else:
                self._notices.hear(event)
        # When all have answered our goodbye, there is nothing to wait for.
        self._is_stopped = self._is_stopped or (self._stop_at is not None and not self._notices.waiting)

    def _receive(self, event: RequestReceived[AnchorPath], now: float) -> None:
        """Ask for proof first. A stranger costs one answer, of which nothing is kept."""
        request, ticket = event.request, None
        if (wrong := inspect(request, METHODS)) is not None:
            self._counters.add(f"refused_{wrong.status}")
            response = self._no(request, wrong.status, None, wrong.headers)
            return self._endpoint.respond(event.transaction, response, now, and_forget=True)
        if self._guard is not None:
            proof = self._guard.check(request, now, event.flow.remote.address.packed)
            if isinstance(proof, Unproven):
                self._counters.add("challenged" if proof.status == 401 else f"refused_{proof.status}")
                response = self._no(request, proof.status, proof.reason, proof.headers)
                return self._endpoint.respond(event.transaction, response, now, and_forget=True)
            ticket = proof
        response = self._answer(request, event.flow, ticket, now)
        if response.status != 200:
            self._counters.add(f"refused_{response.status}")
        if ticket is not None and self._guard is not None and response.status != 401:
            proof_of_ours = self._guard.info(ticket, response.body, now, event.flow.remote.address.packed)
            response = replace(response, headers=(*response.headers, proof_of_ours))
        is_stranger = ticket is None and self._guard is not None
        return self._endpoint.respond(event.transaction, response, now, and_forget=is_stranger)

    def _flush(self) -> None:
        for data, path in self._endpoint.datagrams_to_send():
            if path.inner is None:
                self._commands.append(SendSip(path.remote, data, path.by))
            else:
                port = self._settings.signalling_port
                self._commands.append(SendTunnelSignal(path.remote, path.inner, port, data, path.by))
        if self._is_stopped:
            self._commands.append(Stopped())

    def _say(self, level: Level, text: str) -> None:
        self._commands.append(Announce(level, text))

    # --- requests ---

    def _answer(self, request: Request, path: AnchorPath, ticket: Ticket | None, now: float) -> Response:
        """`ticket` is the proof of who asks; None: nobody asks for proof here."""
        if request.method == "REGISTER" and path.inner is None:
            return self._answer_register(request, path, ticket, now)
        if request.method == "MESSAGE":
            return self._answer_message(request, path, ticket, now)
        return self._no(request, 403, PLACES)

    def _answer_register(
        self, request: Request, path: AnchorPath, ticket: Ticket | None, now: float
    ) -> Response:
        try:
            asked = read_registration(request, self._settings.lifetime)
        except ValueError as reason:
            return self._no(request, 400, f"Bad Request: {_one_line(str(reason))}")
        if ticket is not None:
            if ticket.identity != asked.identity:
                return self._no(request, 403, "that is another host's identity")
            asked = replace(asked, proven_at=ticket.made_at)
        if asked.expires == 0 and self._stop_at is None:
            if (left := self._leases.release(asked)) is not None:
                self._end(left, "the host left", now, is_told=False)
            return response_to(request, 200, tag=self._tag, headers=(("Expires", "0"),))
        lease = self._associate(asked, path.remote, now)
        if isinstance(lease, LeaseRefused):
            return self._no(request, lease.status, lease.reason, refusal_headers(lease))
        if asked.key is not None and self._guard is not None:
            try:
                agree(lease, asked.key)
            except PeerError as reason:
                return self._no(request, 400, f"Bad Request: {reason}")
        headers, body = grant(lease, now)
        headers = (*headers, (HEARD_HEADER, contacts_digest(request)))
        return response_to(request, 200, tag=self._tag, headers=headers, body=body)

    def _associate(self, asked: LeaseAsked, remote: Endpoint, now: float) -> Lease | LeaseRefused:
        """The lease of a host at `remote`, given or refreshed, with all that follows from it."""
        if self._stop_at is not None:
            return LeaseRefused(503, "the anchor is going down", retry_after=2)
        given = self._leases.ask(asked, now)
        if isinstance(given, LeaseRefused):
            self._say(Level.WARNING, f"no association for {asked.identity}: {given.reason}")
            return given
        lease = given.lease
        if given.has_restarted:
            self._tunnels.remove_all(lease.address)
            self._moves.start_over(lease.address)
            self._say(Level.INFO, f"{lease.identity} has restarted and keeps {lease.address}")
        self.limits.know(lease.identity, packed_endpoint(remote))
        if given.is_new:
            self._commands.append(LeaseGranted(lease.identity, lease.address, given.is_inherited))
            self._say(Level.INFO, f"{lease.identity} at {remote} is associated as {lease.address}")
        return lease

    def _answer_message(
        self, request: Request, path: AnchorPath, ticket: Ticket | None, now: float
    ) -> Response:
        try:
            body = decode(request.body)
            cseq, _ = parse_cseq(request.header("cseq") or "")
        except (PeerError, ValueError) as reason:
            if path.inner is None and b'"MType"' not in request.body:
                return self._no(request, 403, PLACES)
            return self._no(request, 400, f"Bad Request: {_one_line(str(reason))}")
        inner = path.inner
        lease = self._leases.by_address.get(inner.address) if inner is not None else None
        if lease is not None and ticket is not None and ticket.identity != lease.identity:
            return self._no(request, 403, "that is another host's virtual address")
        if (
            inner is not None
            and ticket is not None
            and not ticket.is_here
            and self._may_set_up(body, path.remote, inner)
        ):
            return self._ask_there(request, ticket, path.remote, now)
        if isinstance(body, AuthorsBody):
            answers = self._authors.answer(body, path.remote, inner, ticket, now)
            return self._yes(request, write_answers(body, answers), CONTENT_TYPE)
        if inner is None:
            return self._no(request, 403, PLACES)
        match body:
            case TunnelSetupRequest():
                return self._set_up(request, body, path, inner, cseq, now)
            case HandoverRequest():
                return self._hand_over(request, body, path, inner, ticket is not None, cseq, now)
            case FlowCountsRequest():
                return self._count(request, body, path, inner)
            case _:
                return self._no(request, 400, "Bad Request: not a request of a mobile host")

    def _may_set_up(self, body: UpmtMessage | AuthorsBody, remote: Endpoint, inner: Endpoint) -> bool:
        """Whether a request can make a tunnel end at an address where no tunnel of this host ends yet."""
        if isinstance(body, HandoverRequest) and body.association:
            return False
        return all(tunnel.remote.address != remote.address for tunnel in self._tunnels.of(inner.address))

    def _ask_there(self, request: Request, ticket: Ticket, remote: Endpoint, now: float) -> Response:
        """Whoever proves this nonce gets what is sent there: no host has its traffic sent to another end."""
        assert self._guard is not None
        self._counters.add("challenged_there")
        asked = self._guard.challenge_there(ticket, now, remote.address.packed)
        return self._no(request, asked.status, asked.reason, asked.headers)

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
        remote = path.remote
        longest = TunnelSetupResponse(
            HIGHEST_ID,
            remote.address,
            65535,
            (),
            body.format,
            255,
            None if body.format == PLAIN.name else bytes(16),
            copies=True,
            knows_applications=True,
            reads_packed=True,
        )
        room = self._room(request, longest, body.handover, inner)
        if len(body.handover) > (most := most_pairs(room)):
            return self._no(request, 513, f"at most {most} pairs in a message")
        tunnel = self._tunnels.set_up(lease, body.network, remote, cseq, now, path.by)
        if isinstance(tunnel, str):
            return self._no(request, 403, tunnel)
        key_id, salt = self._protect(tunnel, lease, body.format, body.mtu)
        heed(tunnel, body.avoid)
        results = with_short_reasons(self._moves.apply(lease, body.handover, tunnel, cseq, now), room)
        answer = TunnelSetupResponse(
            tunnel.id,
            remote.address,
            remote.port,
            results,
            body.format,
            key_id,
            salt,
            copies=True,
            knows_applications=True,
            reads_packed=True,
        )
        return self._yes(request, encode(answer))

    def _protect(self, tunnel: Tunnel, lease: Lease, format: str, told: int) -> tuple[int, bytes | None]:
        """Give a tunnel the format and the size that its host chose; gives the number and the salt of its keys."""
        tunnel.mtu = self._tunnels.mtu_of(tunnel.remote, format, told)
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
        is_proven: bool,
        cseq: int,
        now: float,
    ) -> Response:
        lease = self._leases.by_address.get(inner.address)
        if lease is None or body.association not in ("", lease.token):
            return self._no(request, NO_ASSOCIATION, "no such association")
        tunnel: Tunnel | str | None = self._tunnels.at(path.remote, inner.address)
        if tunnel is None and is_proven and not body.association:
            # The paper's opportunistic set-up: its own form of the request has no token. Proven, it is as good as
            # a setup request; a host that has a token agrees on a format, and sets up in so many words.
            tunnel = self._tunnels.set_up_plain(lease, path.remote, cseq, now, path.by)
        if isinstance(tunnel, str):
            return self._no(request, 403, tunnel)
        if tunnel is None:
            return self._no(request, NO_ASSOCIATION, "this message came by no tunnel of yours")
        room = self._room(request, HandoverResponse(()), body.pairs, inner)
        if len(body.pairs) > (most := most_pairs(room)):
            return self._no(request, 513, f"at most {most} pairs in a message")
        results = self._moves.apply(lease, body.pairs, tunnel, cseq, now)
        return self._yes(request, encode(HandoverResponse(with_short_reasons(results, room))))

    def _count(
        self, request: Request, body: FlowCountsRequest, path: AnchorPath, inner: Endpoint
    ) -> Response:
        lease, tunnel = (
            self._leases.by_address.get(inner.address),
            self._tunnels.at(path.remote, inner.address),
        )
        if lease is None or tunnel is None or body.association != lease.token:
            return self._no(request, NO_ASSOCIATION, "no such association")
        mtu = self._settings.outer_mtu - OVERHEAD[self._settings.address.version]
        bare = len(bytes(self._yes(request, encode(FlowCountsResponse(())))))
        room = room_for_results(bare, mtu, inner.address.version, is_proven=self._guard is not None)
        counts = counts_of(self._paft, lease.address, body, tunnel, most_counts(room))
        return self._yes(request, encode(counts))

    def _room(
        self,
        request: Request,
        bare: TunnelSetupResponse | HandoverResponse,
        pairs: Sequence[HandoverPair],
        inner: Endpoint,
    ) -> int:
        """Bytes that an answer has for its results; one alone always has enough."""
        if len(pairs) < 2:
            return LONGEST
        answer = self._yes(request, encode(bare) + b',"results":[]')
        mtu = self._settings.outer_mtu - OVERHEAD[self._settings.address.version]
        is_proven = self._guard is not None
        return room_for_results(len(bytes(answer)), mtu, inner.address.version, is_proven=is_proven)

    def _yes(self, request: Request, body: bytes, content_type: str = "application/json") -> Response:
        return response_to(request, 200, tag=self._tag, body=body, content_type=content_type)

    def _no(
        self, request: Request, status: int, reason: str | None, headers: tuple[Header, ...] = ()
    ) -> Response:
        return response_to(request, status, tag=self._tag, headers=headers, reason=reason)

    # --- the rest ---

    def _may_look_at(self, lease: Lease, flows: int, now: float) -> bool:
        return self.limits.may_look_at(lease.identity, flows, now)

    def _end(self, lease: Lease, reason: str, now: float, *, is_told: bool = True) -> None:
        if is_told and self._stop_at is None:
            self._notices.tell(lease, "lease-ended", reason, now)
        self._tunnels.remove_all(lease.address)
        self._moves.forget(lease.address)
        self.limits.forget(lease.identity)
        self._commands.append(LeaseEnded(lease.identity, lease.address, reason))
        self._say(Level.INFO, f"the association of {lease.identity} as {lease.address} ended: {reason}")

    def _stop(self, now: float) -> None:
        """Tell every host, and wait a moment for the answers."""
        if self._stop_at is None:
            self._stop_at = now + self._settings.notice_patience
            self._notices.tell_all(
                "going-down", "the anchor was stopped", self._settings.notice_patience, now
            )


def _one_line(text: str) -> str:
    """Printable and short, for a reason phrase."""
    return "".join(character for character in text if character.isprintable())[:120]
