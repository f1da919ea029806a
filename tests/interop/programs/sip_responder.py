"""Our SIP core as a server on a plain UDP socket: MESSAGE with JSON gets 200, everything else what RFC 3261 says.

    sip_responder.py ADDRESS PORT

The anchor takes MESSAGE inside tunnels only, where no foreign program can be.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from ipaddress import ip_address
from secrets import token_hex

from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.sip.build import response_to
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.inspection import inspect
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.transactions import RequestReceived


def answer(request: Request) -> Response:
    wrong = inspect(request, ("MESSAGE",))
    if wrong is not None:
        return response_to(request, wrong.status, tag="responder", headers=wrong.headers)
    try:
        read = json.loads(request.body)
    except ValueError:
        return response_to(request, 400, tag="responder")
    return response_to(request, 200, tag="responder", body=json.dumps({"read": read}).encode())


def main(address: str, port: str) -> None:
    sip: SipEndpoint[Endpoint] = SipEndpoint(token=lambda: token_hex(8), source_of=lambda source: source)
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind((address, int(port)))
    print("listening", flush=True)
    while True:
        wake_at = sip.next_timeout()
        patience = None if wake_at is None else max(0.0, wake_at - time.monotonic())
        if select.select([own], [], [], patience)[0]:
            data, source = own.recvfrom(65536)
            sip.receive_datagram(data, Endpoint(ip_address(source[0]), source[1]), time.monotonic())
        sip.handle_timeout(time.monotonic())
        for event in sip.events():
            if isinstance(event, RequestReceived):
                sip.respond(event.transaction, answer(event.request), time.monotonic())
        for data, peer in sip.datagrams_to_send():
            own.sendto(data, (str(peer.address), peer.port))


main(*sys.argv[1:])
