"""Serves one text by HTTP: as much of it (RFC 9112) as Prometheus needs. Off unless the configuration says where."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from upmt_nf.daemon.metrics import CONTENT_TYPE
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint

_LONGEST_REQUEST = 8192
_PATIENCE = 5.0


class MetricsServer:
    """`text` is asked for at each request."""

    def __init__(self, text: Callable[[], Awaitable[str]]) -> None:
        self._text = text
        self._server: asyncio.Server | None = None

    async def serve(self, where: Endpoint) -> None:
        """Begin to answer. Raises UpmtError when the address is not to be had."""
        try:
            self._server = await asyncio.start_server(
                self._answer, str(where.address), where.port, limit=_LONGEST_REQUEST
            )
        except OSError as reason:
            raise UpmtError(f"metrics at {where}: {reason.strerror or reason}") from reason

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wrong = (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        with contextlib.suppress(*wrong):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
            method, _, rest = head.partition(b" ")
            is_ours = method in (b"GET", b"HEAD") and rest.split(b" ")[0] in (b"/metrics", b"/")
            body = (await self._text()).encode() if is_ours else b"try GET /metrics\n"
            first = b"200 OK" if is_ours else b"404 Not Found"
            kind = CONTENT_TYPE.encode() if is_ours else b"text/plain"
            writer.write(
                b"HTTP/1.1 " + first + b"\r\nContent-Type: " + kind + b"\r\nConnection: close\r\n"
                b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n"
            )
            if method != b"HEAD":
                writer.write(body)
            await asyncio.wait_for(writer.drain(), _PATIENCE)
        writer.close()
