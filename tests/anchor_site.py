"""An anchor alone, and hosts made of nothing but SIP and proofs: for what a real mobile host never says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import Any

from mobility_terminal import ANCHOR

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import LeaseGranted, SendSip, SendTunnelSignal
from upmt_nf.mobility.anchor_events import AnchorEvent, SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint, FlowKey
from upmt_nf.model.names import SIGNALLING_PORT
from upmt_nf.signaling.digest import REALM, DigestClient, DigestServer, Ticket, secret_hash
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    AssociationResponse,
    TunnelSetupRequest,
    TunnelSetupResponse,
    UpmtMessage,
)
from upmt_nf.signaling.sip.build import message, register
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.parser import parse

PASSWORDS = {"mh@upmt": "a secret", "other@upmt": "another secret"}
CARE_OF = Endpoint(ip_address("203.0.0.1"), 40000)
SECOND = Endpoint(ip_address("203.0.1.1"), 40000)
STRANGER = Endpoint(ip_address("198.51.100.9"), 5060)


BRANCHES = itertools.count()


class Site:
    """An anchor alone, and what is said to it."""

    def __init__(self, *, is_guarded: bool = True, **anchor: Any) -> None:
        self.now = 1000.0
        self.paft = Paft()
        pool = AddressPool(ip_address("10.99.0.1"), ip_address("10.99.0.9"))
        numbers = itertools.count()
        guard = DigestServer(
            REALM,
            bytes(32),
            lambda identity: (
                secret_hash(identity, REALM, PASSWORDS[identity]) if identity in PASSWORDS else None
            ),
            lambda: next(numbers).to_bytes(8),
        )
        settings = AnchorSettings(address=ANCHOR, pool=pool, **anchor)
        self.anchor = Anchor(settings, self.paft, Random(5), guard=guard if is_guarded else None)
        self.granted: list[LeaseGranted] = []
        self.sizes: list[tuple[int, int]] = []
        """Bytes of each request and its answer."""

    def take(self, event: AnchorEvent) -> list[bytes]:
        """The datagrams that it answers with."""
        commands = self.anchor.handle(event, self.now)
        self.granted += [command for command in commands if isinstance(command, LeaseGranted)]
        return [
            command.data if isinstance(command, SendSip) else command.payload
            for command in commands
            if isinstance(command, SendSip | SendTunnelSignal)
        ]

    def network_of(self, flow: FlowKey) -> Endpoint | None:
        entry = self.paft.flows.get(flow.packed())
        tunnel = self.paft.tunnel_of(entry) if entry is not None else None
        return tunnel.remote if tunnel is not None else None


class Speaker:
    """A host: an identity, what it has of the anchor, and any bodies that a test wants it to send."""

    content_type = "application/json"
    has_call_ids_for_all = False
    """Every request with a Call-ID of its own and a CSeq of 1."""

    def __init__(self, site: Site, identity: str = "mh@upmt", secret: str | None = None) -> None:
        self.site = site
        self.identity = identity
        self.address = "0.0.0.0"
        self.token = ""
        self._numbers = itertools.count(1)
        self._digest = DigestClient(
            identity, secret or PASSWORDS[identity], lambda: f"{next(self._numbers):016x}"
        )

    def send(self, body: bytes, by: Endpoint | None = None, outer: Endpoint = CARE_OF) -> Response:
        """The final answer to a MESSAGE; `by` is the tunnel's outer endpoint, None: outside the tunnels."""
        return self._ask(lambda number: self._message(body, number), by, outer)

    def associate(self) -> str:
        """By REGISTER; gives the virtual address."""
        answer = self._ask(self._register, None, CARE_OF)
        assert answer.status == 200, answer.reason
        body = decode(answer.body)
        assert isinstance(body, AssociationResponse)
        self.address, self.token = str(body.virtual_address), body.association
        return self.address

    def ask(self, body: UpmtMessage, by: Endpoint) -> Any:
        """What a MESSAGE inside a tunnel is answered: a message, or the status of a refusal."""
        return read_answer(self.send(encode(body), by))

    def set_up(self, by: Endpoint) -> int:
        """Explicitly; gives the tunnel's id."""
        answer = self.ask(TunnelSetupRequest(self.token, ip_address(self.address), str(by.address)), by)
        assert isinstance(answer, TunnelSetupResponse)
        return answer.tunnel_id

    def flow(self, port: int = 2000) -> FlowKey:
        return FlowKey.parse(f"tcp:{self.address}:{port}>86.0.0.1:3000")

    def _ask(self, build: Callable[[int], Request], by: Endpoint | None, outer: Endpoint) -> Response:
        response, ticket = self._exchange(build(next(self._numbers)), by, outer)
        if response.status == 401:
            assert self._digest.take_challenge(response, ticket) is None
            response, ticket = self._exchange(build(next(self._numbers)), by, outer)
        if response.status == 200 and ticket is not None:
            assert self._digest.proves_itself(ticket, response)
        return response

    def _exchange(
        self, request: Request, by: Endpoint | None, outer: Endpoint
    ) -> tuple[Response, Ticket | None]:
        (name, via), *rest = request.headers
        request = replace(request, headers=((name, f"{via};branch=z9hG4bK{next(BRANCHES)}"), *rest))
        signed, ticket = self._digest.sign(request)
        inner = Endpoint(ip_address(self.address), SIGNALLING_PORT)
        event: AnchorEvent = SipDatagramReceived(outer, bytes(signed))
        if by is not None:
            tunnel = self.site.paft.tunnel_from(packed_endpoint(by), inner.address.packed)
            event = TunnelSignalReceived(tunnel, by, inner, SIGNALLING_PORT, bytes(signed))
        (data,) = self.site.take(event)
        response = parse(data)
        assert isinstance(response, Response)
        self.site.sizes.append((len(bytes(signed)), len(data)))
        return response, ticket

    def _register(self, number: int) -> Request:
        return register(
            anchor=Endpoint(ANCHOR, SIGNALLING_PORT),
            local=CARE_OF,
            identity=self.identity,
            call_id=f"call-{self.identity}",
            cseq=number,
            tag="t",
            expires=600,
        )

    def _message(self, body: bytes, number: int) -> Request:
        request = message(
            anchor=Endpoint(ANCHOR, SIGNALLING_PORT),
            local=Endpoint(ip_address(self.address), SIGNALLING_PORT),
            identity=self.identity,
            call_id=f"call-{self.identity}-{number}"
            if self.has_call_ids_for_all
            else f"call-{self.identity}",
            cseq=1 if self.has_call_ids_for_all else number,
            tag="t",
            body=body,
        )
        headers = tuple(header for header in request.headers if header[0] != "Content-Type")
        return replace(request, headers=(*headers, ("Content-Type", self.content_type), ("Subject", "UPMT")))


def read_answer(response: Response) -> Any:
    """The message in a success, or the status of a refusal."""
    return decode(response.body) if response.status == 200 else response.status
