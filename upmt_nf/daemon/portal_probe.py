"""One question by HTTP from a network's care-of address: whoever answers is bounded in bytes and in time.

Nothing is followed, nothing but the answer's head is read, and no name is looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from upmt_nf.config.http_url import HttpUrl
from upmt_nf.linux.tunnel_socket import stream_socket
from upmt_nf.mobility.host_events import PortalChecked
from upmt_nf.mobility.portal_checks import Finding, Portal
from upmt_nf.mobility.traffic import OwnTraffic
from upmt_nf.model.errors import KernelError, PeerError
from upmt_nf.model.identity import NetworkName
from upmt_nf.model.names import outer_mark
from upmt_nf.routing.plan import NetworkRouting
from upmt_nf.signaling.http_answer import LONGEST_HEAD, parse_answer

log = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds for all of it."""
_TCP_BYTES = 400
"""What setting a connection up and ending it costs on the wire, about."""


class PortalProbes:
    """`heard` gets what each check found."""

    def __init__(
        self,
        url: HttpUrl | None,
        routing_of: Callable[[NetworkName], NetworkRouting | None],
        heard: Callable[[PortalChecked], None],
        own: OwnTraffic,
    ) -> None:
        self._url = url
        self._routing_of = routing_of
        self._heard = heard
        self._own = own
        self._tasks: dict[NetworkName, asyncio.Task[None]] = {}

    def check(self, network: NetworkName) -> None:
        """Ask once; one at a time a network."""
        before = self._tasks.get(network)
        if self._url is not None and (before is None or before.done()):
            self._tasks[network] = asyncio.get_running_loop().create_task(self._check(network, self._url))

    def close(self) -> None:
        """Ask nothing more."""
        for task in self._tasks.values():
            task.cancel()

    async def _check(self, network: NetworkName, url: HttpUrl) -> None:
        portal = Portal(Finding.SILENT)
        try:
            async with asyncio.timeout(PATIENCE):
                head = await self._ask(network, url)
            answer = parse_answer(head)
            is_clear = answer.status == 204
            portal = Portal(Finding.CLEAR if is_clear else Finding.PORTAL, answer.location)
        except PeerError:
            portal = Portal(Finding.PORTAL)
        except (OSError, TimeoutError, KernelError) as reason:
            log.debug("network %s: no answer from %s: %s", network, url.server, reason)
        self._heard(PortalChecked(network, portal))

    async def _ask(self, network: NetworkName, url: HttpUrl) -> bytes:
        """The first bytes of the answer. Raises OSError, KernelError."""
        routing = self._routing_of(network)
        if routing is None:
            raise KernelError(f"network {network} is gone")
        loop = asyncio.get_running_loop()
        request = (
            f"GET {url.path} HTTP/1.1\r\nHost: {url.server}\r\nUser-Agent: upmt\r\n"
            "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
        ).encode("ascii")
        head = bytearray()
        with contextlib.closing(
            stream_socket(routing.interface, routing.address.ip, outer_mark(routing.index))
        ) as asking:
            self._own.sent(network, len(request) + _TCP_BYTES)
            await loop.sock_connect(asking, (str(url.server.address), url.server.port))
            await loop.sock_sendall(asking, request)
            while len(head) < LONGEST_HEAD and b"\r\n\r\n" not in head:
                if not (part := await loop.sock_recv(asking, LONGEST_HEAD - len(head))):
                    break
                head += part
        self._own.received(network, len(head) + _TCP_BYTES)
        if not head:
            raise ConnectionResetError("it answered nothing")
        return bytes(head)
