"""Our SIP endpoint and Digest client on a plain UDP socket, against a registrar of others.

    sip_client.py REGISTRAR IDENTITY SECRET LOCAL_ADDRESS

Registers, refreshes, says something in JSON, leaves. One JSON object a line says what happened.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from ipaddress import ip_address
from secrets import token_hex
from typing import Any

from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.digest import DigestClient, Ticket
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import ANY, AssociationRequest, HandoverPair, HandoverRequest
from upmt_nf.signaling.sip.build import message, register
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.transactions import ResponseReceived

PATIENCE = 8.0
KEY = bytes(range(32))


class Client:
    def __init__(self, registrar: Endpoint, local: Endpoint, identity: str, secret: str) -> None:
        self.identity, self.registrar = identity, registrar
        self.sip: SipEndpoint[Endpoint] = SipEndpoint(token=lambda: token_hex(8))
        self.digest = DigestClient(identity, secret, lambda: token_hex(8), qop="auth")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((str(local.address), local.port))
        self.common: dict[str, Any] = {
            "anchor": registrar, "local": local, "identity": identity, "call_id": token_hex(16), "tag": token_hex(8),
        }  # fmt: skip
        self.cseq = 0

    def registration(self, expires: int) -> Request:
        body = encode(AssociationRequest(expires, None, KEY))
        return register(**self.common, cseq=self.cseq, expires=expires, body=body)

    def handover(self) -> Request:
        body = encode(HandoverRequest("", (HandoverPair(ANY, (TunnelId(7), ANY)),)))
        return message(**self.common, cseq=self.cseq, body=body)

    def ask(self, step: str, make: Any) -> None:
        """Ask, meet one challenge, and tell what came of it."""
        statuses: list[int] = []
        ticket: Ticket | None = None
        answer: Response | None = None
        for _ in range(2):
            self.cseq += 1
            request, ticket = self.digest.sign(make())
            answer = self.exchange(request)
            statuses.append(answer.status if answer else 0)
            if answer is None or answer.status != 401:
                break
            failure = self.digest.take_challenge(answer, ticket)
            if failure is not None:
                statuses.append(-1)
                print(failure, flush=True)
                break
        is_proven = ticket is not None and answer is not None and self.digest.proves_itself(ticket, answer)
        said = {
            "step": step,
            "statuses": statuses,
            "count": ticket.count if ticket else None,
            "is_proven": is_proven,
        }
        contacts = list(answer.all("contact")) if answer else []
        print("STEP " + json.dumps({**said, "contacts": contacts}), flush=True)

    def exchange(self, request: Request) -> Response | None:
        self.sip.send_request(request, self.registrar, time.monotonic())
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for data, peer in self.sip.datagrams_to_send():
                self.socket.sendto(data, (str(peer.address), peer.port))
            if select.select([self.socket], [], [], 0.1)[0]:
                data, source = self.socket.recvfrom(65536)
                self.sip.receive_datagram(data, Endpoint(ip_address(source[0]), source[1]), time.monotonic())
            self.sip.handle_timeout(time.monotonic())
            for event in self.sip.events():
                if isinstance(event, ResponseReceived):
                    return event.response
        return None


def main(registrar: str, identity: str, secret: str, local: str) -> None:
    client = Client(
        Endpoint(ip_address(registrar), 5060), Endpoint(ip_address(local), 5064), identity, secret
    )
    client.ask("register", lambda: client.registration(60))
    client.ask("refresh", lambda: client.registration(60))
    client.ask("message", client.handover)
    client.ask("leave", lambda: client.registration(0))


main(*sys.argv[1:])
