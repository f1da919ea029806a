"""The anchor's answers to hosts that look for captive portals: 204 and nothing else, to whatever is asked.

So that no third party need be asked. Bounded: few connections at a time, some bytes and some seconds each.
"""

from __future__ import annotations

import asyncio
import contextlib

from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint

_LONGEST_REQUEST = 2048
_PATIENCE = 3.0
MOST_CONNECTIONS = 256
_ANSWER = b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"


class PortalAnswers:
    """A server that knows one answer."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._connections = 0
        self.refused = 0

    async def serve(self, where: Endpoint) -> None:
        """Begin to answer. Raises UpmtError when the address is not to be had."""
        try:
            self._server = await asyncio.start_server(
                self._answer, str(where.address), where.port, limit=_LONGEST_REQUEST
            )
        except OSError as reason:
            raise UpmtError(f"portal_check_port at {where}: {reason.strerror or reason}") from reason

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MOST_CONNECTIONS:
            self.refused += 1
            writer.transport.abort()
            return
        self._connections += 1
        wrong = (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        try:
            with contextlib.suppress(*wrong):
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
                writer.write(_ANSWER)
                await asyncio.wait_for(writer.drain(), _PATIENCE)
        finally:
            self._connections -= 1
            writer.close()
