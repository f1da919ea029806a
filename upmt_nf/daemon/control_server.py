"""The daemon's ear: takes commands from the control socket and hands them to the daemon, one line at a time.

Holding the socket is also the lock: a second daemon in the same network namespace cannot bind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from upmt_nf.daemon.control_client import peer_of
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.names import CONTROL_SOCKET

log = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any], int], Awaitable[Any]]
"""Takes the arguments and the caller's pid; gives what can be written as JSON."""

_MAX_REQUEST = 1 << 20


class ControlServer:
    """Serves `commands` by name. `reading` names those that change nothing, which any user may call."""

    def __init__(self, commands: dict[str, Handler], reading: frozenset[str]) -> None:
        self._commands = commands
        self._reading = reading
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server: asyncio.Server | None = None

    def claim(self) -> None:
        """Take the name. Raises UpmtError when a daemon already runs in this network namespace."""
        try:
            self._socket.bind(CONTROL_SOCKET)
            # Listening at once: whoever asks between now and `serve` waits instead of finding nobody.
            self._socket.listen(64)
        except OSError as reason:
            raise UpmtError(
                f"another UPMT daemon already runs in this network namespace{_holder()}"
            ) from reason

    async def serve(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_unix_server(self._converse, sock=self._socket, limit=_MAX_REQUEST)

    async def close(self) -> None:
        """Stop answering and give the name back."""
        if self._server is not None:
            self._server.close()
        self._socket.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, uid, _ = peer_of(writer.get_extra_info("socket"))
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            try:
                while line := await reader.readline():
                    answer = await self._answer(line, pid, uid)
                    writer.write(json.dumps(answer, default=str).encode() + b"\n")
                    await writer.drain()
            except ValueError:
                writer.write(b'{"error": "the request is longer than 1 MiB", "kind": "UsageError"}\n')
            finally:
                writer.close()

    async def _answer(self, line: bytes, pid: int, uid: int) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or not isinstance(request.get("command"), str):
                raise UsageError("a request is a JSON object with a 'command'")
            name = request.pop("command")
            handler = self._commands.get(name)
            if handler is None:
                raise UsageError(f"this daemon has no command {name!r}")
            if uid != 0 and name not in self._reading:
                raise UpmtError(f"only root may {name}")
            return {"result": await handler(request, pid)}
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as reason:
            return {"error": f"the request is not JSON: {reason}", "kind": "UsageError"}
        except UpmtError as reason:
            return {"error": str(reason), "kind": type(reason).__name__}
        except Exception as reason:  # one bad request must not end the daemon
            log.exception("a control command failed")
            return {"error": f"the daemon failed: {type(reason).__name__}: {reason}", "kind": "UpmtError"}


def _holder() -> str:
    """` (process N)`, or nothing when the holder does not listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(1.0)
        probe.connect(CONTROL_SOCKET)
        return f" (process {peer_of(probe)[0]})"
    return ""
