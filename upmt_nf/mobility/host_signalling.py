"""What the mobile host says to its anchor and what it hears: SIP requests with the purpose each one served.

Builds messages, matches answers with purposes, answers the anchor's notices. Decides nothing about networks,
tunnels or flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.mobility.handover import FlowRequest
from upmt_nf.mobility.host_commands import SendSip, SendTunnelSignal
from upmt_nf.mobility.joint_requests import JointRequest
from upmt_nf.mobility.naming import NameRequest
from upmt_nf.mobility.notice_proofs import NoticeProofs
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.mobility.tallies import CountRequest
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.digest import DigestClient, Ticket
from upmt_nf.signaling.flow_room import FlowRoom
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode, flows_in_groups
from upmt_nf.signaling.messages import (
    AnchorNotice,
    AssociationRequest,
    FlowCountsRequest,
    HandoverRequest,
    NoticeAnswer,
    TunnelSetupRequest,
    UpmtMessage,
)
from upmt_nf.signaling.sip.build import message, register, response_to
from upmt_nf.signaling.sip.contacts import contacts_digest
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.transactions import (
    RequestReceived,
    RequestTimedOut,
    ResponseReceived,
    SipTimers,
    TransactionKey,
)

TOKEN_HEADER = "UPMT-Association"
"""The association's secret, 128 bits in hex: in the answer to REGISTER, and in refreshes."""
HEARD_HEADER = "UPMT-Heard"
"""In the success of a REGISTER: the digest of the Contacts that came."""

OUTSIDE = SipTimers(t1=0.5, t2=2.0, t4=5.0, give_up=32.0)
INSIDE_T1, LEAST_T1 = 0.1, 0.05
"""Seconds until the first retransmission inside a tunnel: before and after its round trip is known."""
INSIDE_T2, INSIDE_GIVE_UP = 1.0, 6.4
MAX_TRIES = 3
"""Challenges that are met for one request."""
LONGEST = 1200
"""Bytes of a SIP message on paths that take it: a little less than what every usual path takes."""
_LONGEST_BRANCH = ";branch=z9hG4bK" + 16 * "0"
_HIGHEST_CSEQ = 2**31 - 1
_MOST_DIGITS = 4
"""Of Content-Length."""
_PAIRS = len('"pairs":[]')
"""Bytes that pairs take in a setup request beside themselves."""


class SipPath(NamedTuple):
    """By which network, and whether inside its tunnel."""

    network: NetworkName
    is_inside: bool


@dataclass(frozen=True, slots=True)
class Registering:
    """Purpose of a REGISTER."""

    network: NetworkName
    expires: int
    cseq: int
    asked_at: float


@dataclass(frozen=True, slots=True)
class SettingUp:
    """Purpose of a tunnel setup request, and the flows that it takes along."""

    network: NetworkName
    asked_at: float
    claimed: tuple[FlowKey, ...]


@dataclass(frozen=True, slots=True)
class Moving:
    """Purpose of a handover request, which may serve several handovers at once."""

    network: NetworkName
    requests: tuple[FlowRequest, ...]


@dataclass(frozen=True, slots=True)
class Counting:
    """Purpose of a question for the anchor's counts."""

    network: NetworkName
    request: CountRequest


@dataclass(frozen=True, slots=True)
class Naming:
    """Purpose of a request that names flows."""

    network: NetworkName
    request: NameRequest


Purpose = Registering | SettingUp | Moving | Counting | Naming


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request that waits for its answer: as it is without proof, and the proof that it was sent with."""

    purpose: Purpose
    request: Request
    path: SipPath
    ticket: Ticket | None
    tries: int
    is_doubted: bool = False


class Answered(NamedTuple):
    """What became of a request; no response: nobody answered."""

    purpose: Purpose
    response: Response | None


class Noticed(NamedTuple):
    """The anchor said something unasked."""

    network: NetworkName
    notice: AnchorNotice


class Doubted(NamedTuple):
    """A success came that proves nothing: somebody else's answer, or an anchor that does not know our secret."""

    network: NetworkName


class HostSignalling:
    """One SIP identity: one Call-ID and one rising CSeq for all requests, so that the anchor can order them.

    `association_key` gives the key of the association that is held, or None. While it is held only proven answers
    and notices count: whoever can read the path could otherwise end it with a forged refusal.
    """

    def __init__(
        self,
        settings: HostSettings,
        random: Random,
        round_trip: Callable[[NetworkName], float | None],
        association_key: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._is_changed: dict[NetworkName, bool] = {}
        """Whether SIP that went by a network came as it was sent."""
        self._sent_outside: dict[NetworkName, tuple[bytes, int]] = {}
        """What went outside the tunnels last, and how often it had gone before."""
        self._random = random
        self._round_trip = round_trip
        self._association_key = association_key
        self._notice_proofs = NoticeProofs()
        self._endpoint: SipEndpoint[SipPath] = SipEndpoint(
            token=self._token, timers=self._timers, is_proven=self._is_proven
        )
        self._credentials: DigestClient | None = None
        if settings.secret is not None:
            self._credentials = DigestClient(settings.identity, settings.secret, self._token)
        self._sent: dict[TransactionKey, _Sent] = {}
        self._call_id = f"{random.getrandbits(128):032x}"
        self._tag = self._token()
        self._cseq = 0
        self._last_move = 0
        """The number of the newest request that moves flows."""
        self._heard: list[Answered | Noticed | Doubted] = []

    def _token(self) -> str:
        return f"{self._random.getrandbits(64):016x}"

    def _timers(self, path: SipPath) -> SipTimers:
        if not path.is_inside:
            return OUTSIDE
        round_trip = self._round_trip(path.network)
        t1 = INSIDE_T1 if round_trip is None else max(LEAST_T1, 2 * round_trip)
        return SipTimers(t1=t1, t2=max(INSIDE_T2, t1), t4=2.0, give_up=max(INSIDE_GIVE_UP, 8 * t1))

    # --- requests ---

    def register(
        self,
        network: NetworkName,
        care_of: IPAddress,
        expires: int,
        virtual_address: IPAddress | None,
        token: str | None,
        key: bytes | None,
        now: float,
        others: Sequence[IPAddress] = (),
        gone: Sequence[IPAddress] = (),
    ) -> None:
        """Association request (M1 of the paper's figure 9), outside the tunnels. See `build.register`."""
        port = self._settings.signalling_port
        self._cseq += 1
        request = register(
            anchor=self._settings.anchor_signalling,
            local=Endpoint(care_of, self._settings.signalling_port),
            identity=self._settings.identity,
            call_id=self._call_id,
            cseq=self._cseq,
            tag=self._tag,
            expires=expires,
            virtual_address=None if virtual_address is None else str(virtual_address),
            body=encode(AssociationRequest(expires, virtual_address, key)),
            others=[Endpoint(address, port) for address in others],
            gone=[Endpoint(address, port) for address in gone],
        )
        if token is not None:
            request = replace(request, headers=(*request.headers, (TOKEN_HEADER, token)))
        request = self._with_fitting_contacts(request)
        self._send(request, SipPath(network, False), Registering(network, expires, self._cseq, now), now)

    def _with_fitting_contacts(self, request: Request) -> Request:
        """With as many Contacts as one datagram has room for: its own always, those that are gone last."""
        places = [place for place, (name, _) in enumerate(request.headers) if name == "Contact"]
        while len(places) > 1 and self._longest(request) > LONGEST:
            last = places.pop()
            request = replace(request, headers=request.headers[:last] + request.headers[last + 1 :])
        return request

    def set_up(
        self,
        network: NetworkName,
        token: str,
        virtual_address: IPAddress,
        flows: list[FlowKey],
        mtu: int,
        now: float,
        avoid: tuple[str, ...] = (),
        *,
        is_packed: bool = False,
    ) -> None:
        """Tunnel setup request, in the network's tunnel socket; takes along as many `flows` as fit.

        `mtu`: the largest inner packet, bytes; `avoid`: what the path drops. The anchor is told both. `is_packed`: it
        reads packed flows.
        """
        claimed: tuple[FlowKey, ...] = ()
        body = TunnelSetupRequest(
            token,
            virtual_address,
            network,
            format=self._settings.protection.get(network, "plain"),
            mtu=mtu,
            avoid=avoid,
        )
        room = self._room(body, virtual_address, mtu)
        if flows:
            space = FlowRoom(room - _PAIRS, is_packed)
            first = space.groups(flows)[0]
            pairs = (space.pair(first),)
            if len(encode(replace(body, handover=pairs))) <= len(encode(body)) + room:
                body = replace(body, handover=pairs)
                claimed = first
        self._send_message(body, network, virtual_address, SettingUp(network, now, claimed), now)

    def move(
        self, token: str, virtual_address: IPAddress, request: JointRequest, room: FlowRoom, now: float
    ) -> None:
        """Handover request (M3 of the paper's figure 9): to the tunnel that it comes by."""
        body = HandoverRequest(token, (room.pair(request.flows),))
        purpose = Moving(request.network, request.requests)
        self._send_message(body, request.network, virtual_address, purpose, now)

    def count(
        self, token: str, virtual_address: IPAddress, request: CountRequest, mtu: int, now: float
    ) -> None:
        """Ask for the anchor's counts of as many of the flows as fit; `mtu`: the largest inner packet, bytes."""
        room = self._room(FlowCountsRequest(token, (), takes_readings=True), virtual_address, mtu)
        request.flows = flows_in_groups(request.flows, room)[0]
        body = FlowCountsRequest(token, request.flows, takes_readings=True)
        self._send_message(body, request.network, virtual_address, Counting(request.network, request), now)

    def name(
        self, token: str, virtual_address: IPAddress, request: NameRequest, room: FlowRoom, now: float
    ) -> None:
        """Say which application flows are of, by the network where that is."""
        body = HandoverRequest(token, (room.pair(request.flows, request.application),))
        self._send_message(body, request.network, virtual_address, Naming(request.network, request), now)

    def room_for_flows(self, token: str, virtual_address: IPAddress, mtu: int) -> int:
        """Bytes of pairs for which a handover request has room, in a tunnel whose inner packets have up to `mtu`."""
        return self._room(HandoverRequest(token, ()), virtual_address, mtu)

    def _room(self, body: UpmtMessage, source: IPAddress, mtu: int) -> int:
        """What is left beside the headers, which the host's name and its proof make longer, and the bare body."""
        used = self._longest(self._message(body, source, _HIGHEST_CSEQ))
        return min(LONGEST, mtu - OVERHEAD[source.version]) - used

    def _longest(self, request: Request) -> int:
        """Bytes of a request on the wire at most, with its proof."""
        if self._credentials is not None:
            request = self._credentials.with_space(request)
        return len(bytes(request)) + len(_LONGEST_BRANCH) + _MOST_DIGITS

    def _send_message(
        self, body: UpmtMessage, network: NetworkName, source: IPAddress, purpose: Purpose, now: float
    ) -> None:
        self._cseq += 1
        if isinstance(purpose, Moving) or (isinstance(purpose, SettingUp) and purpose.claimed):
            self._last_move = self._cseq
        self._send(self._message(body, source, self._cseq), SipPath(network, True), purpose, now)

    def _message(self, body: UpmtMessage, source: IPAddress, cseq: int) -> Request:
        return message(
            anchor=self._settings.anchor_signalling,
            local=Endpoint(source, self._settings.signalling_port),
            identity=self._settings.identity,
            call_id=self._call_id,
            cseq=cseq,
            tag=self._tag,
            body=encode(body),
        )

    def _send(self, request: Request, path: SipPath, purpose: Purpose, now: float, tries: int = 0) -> None:
        if isinstance(purpose, Counting):
            # Behind the packets that are counted, also when it goes again with a proof.
            purpose.request.leave(now)
        ticket = None
        signed = request
        if self._credentials is not None:
            signed, ticket = self._credentials.sign(request)
        key = self._endpoint.send_request(signed, path, now)
        self._sent[key] = _Sent(purpose, request, path, ticket, tries)

    def _is_proven(self, key: TransactionKey, response: Response) -> bool:
        """Whether an answer is the anchor's: with a secret, only one who knows it can say yes, or end what we have."""
        if self._credentials is None or response.status == 401:
            return True
        if response.status >= 300 and self._association_key() is None:
            return True
        sent = self._sent.get(key)
        if sent is None:
            return False
        if sent.ticket is not None and self._credentials.proves_itself(sent.ticket, response):
            return True
        if isinstance(sent.purpose, Registering) and not sent.is_doubted:
            self._sent[key] = replace(sent, is_doubted=True)
            self._heard.append(Doubted(sent.path.network))
        return False

    def cancel(self, is_meant: Callable[[Purpose], bool]) -> list[Purpose]:
        """Give requests up; gives their purposes. A late answer means nothing then."""
        found = [(key, sent.purpose) for key, sent in self._sent.items() if is_meant(sent.purpose)]
        for key, _ in found:
            self._endpoint.cancel(key)
            del self._sent[key]
        return [purpose for _, purpose in found]

    def is_setting_up(self, network: NetworkName) -> bool:
        """Whether a tunnel setup request of this network waits for its answer."""
        return any(
            isinstance(sent.purpose, SettingUp) and sent.purpose.network == network
            for sent in self._sent.values()
        )

    # --- what comes back ---

    def receive(self, data: bytes, path: SipPath, now: float) -> None:
        """Take a datagram; `heard` has what it meant."""
        self._endpoint.receive_datagram(data, path, now)
        self._digest(now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        return self._endpoint.next_timeout()

    def handle_timeout(self, now: float) -> None:
        """Resend and give up what is due."""
        self._endpoint.handle_timeout(now)
        self._digest(now)

    def _digest(self, now: float) -> None:
        for event in self._endpoint.events():
            match event:
                case ResponseReceived(key, _, response, _):
                    if (sent := self._sent.pop(key, None)) is not None:
                        self._hear(sent, response, now)
                case RequestTimedOut(key, _, _):
                    if (sent := self._sent.pop(key, None)) is not None:
                        self._heard.append(Answered(sent.purpose, None))
                case RequestReceived(key, request, path):
                    response = self._answer(request, path)
                    self._endpoint.respond(key, response, now)
                case _:
                    pass  # DatagramRefused: counted by the endpoint

    def _hear(self, sent: _Sent, response: Response, now: float) -> None:
        """A challenge is met with another try, under a new number; everything else is an answer."""
        if response.status == 401 and self._credentials is not None:
            failure = self._credentials.take_challenge(response, sent.ticket)
            if failure is None and sent.tries < MAX_TRIES:
                request, purpose = sent.request, sent.purpose
                if (
                    isinstance(purpose, SettingUp)
                    and purpose.claimed
                    and _number_of(request) < self._last_move
                ):
                    # The new number would put its claims before those of the newer request.
                    request, purpose = _without_claims(request), replace(purpose, claimed=())
                self._cseq += 1
                purpose = _renewed(purpose, self._cseq, now)
                return self._send(_numbered(request, self._cseq), sent.path, purpose, now, sent.tries + 1)
            if self._association_key() is not None:
                # Nobody proves a challenge. Whoever sends false ones may cost us requests, not the association.
                self._heard.append(Answered(sent.purpose, None))
                return None
            response = replace(response, reason=failure or "the anchor challenges without end")
        if (
            isinstance(sent.purpose, Registering)
            and (heard := response.header(HEARD_HEADER.lower())) is not None
        ):
            self._is_changed[sent.path.network] = heard.strip() != contacts_digest(sent.request)
        self._heard.append(Answered(sent.purpose, response))
        return None

    def is_changed(self, network: NetworkName) -> bool | None:
        """Whether somebody on a network's way writes other things into our SIP; None: not known."""
        return self._is_changed.get(network)

    def _answer(self, request: Request, path: SipPath) -> Response:
        if request.method != "MESSAGE":
            return response_to(request, 405, tag=self._tag, headers=(("Allow", "MESSAGE"),))
        if not path.is_inside:
            # Only the anchor can reach us inside a tunnel; outside, anybody can.
            return response_to(request, 403, tag=self._tag)
        try:
            notice = decode(request.body)
        except PeerError:
            notice = None
        if not isinstance(notice, AnchorNotice):
            return response_to(request, 400, tag=self._tag)
        if self._credentials is not None and not self._notice_proofs.accepts(
            request, self._association_key()
        ):
            self._endpoint.counters["unproven_notice"] += 1
            return response_to(request, 403, tag=self._tag)
        self._heard.append(Noticed(path.network, notice))
        return response_to(request, 200, tag=self._tag, body=encode(NoticeAnswer()))

    def heard(self) -> list[Answered | Noticed | Doubted]:
        """What was heard since the last call."""
        heard, self._heard = self._heard, []
        return heard

    def commands(self) -> list[SendSip | SendTunnelSignal]:
        """What is to be sent now."""
        return [
            SendTunnelSignal(path.network, self._settings.signalling_port, data)
            if path.is_inside
            else SendSip(path.network, self._outside_port(path.network, data), data)
            for data, path in self._endpoint.datagrams_to_send()
        ]

    def _outside_port(self, network: NetworkName, data: bytes) -> Endpoint:
        """Where to send SIP outside the tunnels: what is sent again tries the anchor's further tunnel ports as well.

        An access network that lets no tunnels pass by their usual port seldom lets SIP pass by its own.
        """
        before, tries = self._sent_outside.get(network, (b"", 0))
        tries = tries + 1 if data == before else 0
        self._sent_outside[network] = data, tries
        ports = (self._settings.signalling_port, *self._settings.further_tunnel_ports)
        return Endpoint(self._settings.anchor, ports[tries % len(ports)])

    @property
    def counters(self) -> dict[str, int]:
        """What the SIP endpoint counted, by reason."""
        return dict(self._endpoint.counters)


def _numbered(request: Request, cseq: int) -> Request:
    """The same request under another number."""
    headers = tuple(
        (name, f"{cseq} {request.method}") if name == "CSeq" else (name, value)
        for name, value in request.headers
    )
    return replace(request, headers=headers)


def _number_of(request: Request) -> int:
    """Its CSeq."""
    return int((request.header("cseq") or "0").partition(" ")[0])


def _without_claims(request: Request) -> Request:
    """A tunnel setup request that takes no flows along."""
    body = decode(request.body)
    assert isinstance(body, TunnelSetupRequest)
    return replace(request, body=encode(replace(body, handover=())))


def _renewed(purpose: Purpose, cseq: int, now: float) -> Purpose:
    """The purpose of a request that is sent again: round trips count from now."""
    match purpose:
        case Registering():
            return replace(purpose, cseq=cseq, asked_at=now)
        case SettingUp():
            return replace(purpose, asked_at=now)
        case Moving() | Counting() | Naming():
            return purpose
