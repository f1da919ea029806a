"""Asking the daemon of this network namespace: one JSON object a line, over an abstract Unix socket.

The kernel keeps abstract sockets per network namespace, so whoever stands in a namespace finds its daemon.
Knows the form of the conversation only, not what the commands mean.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from upmt_nf.model.errors import ConfigError, FacilityError, KernelError, NoDaemonError, UpmtError, UsageError
from upmt_nf.model.names import CONTROL_SOCKET

ERROR_KINDS: dict[str, type[UpmtError]] = {
    kind.__name__: kind for kind in (UpmtError, UsageError, FacilityError, KernelError, ConfigError)
}
"""Errors that keep their kind, and so their exit code, on the way from the daemon to the command line."""

_MAX_ANSWER = 256 << 20


def call(command: str, *, timeout: float = 30.0, **arguments: Any) -> Any:
    """Ask the daemon and give its answer.

    Raises NoDaemonError when none answers here, and the daemon's own error otherwise. `timeout` in seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(CONTROL_SOCKET)
        except (ConnectionRefusedError, FileNotFoundError) as reason:
            raise NoDaemonError("no UPMT daemon runs in this network namespace") from reason
        _check_owner(connection)
        try:
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            answer = json.loads(_read_line(connection))
        except TimeoutError as reason:
            raise UpmtError(f"the daemon did not answer {command!r} within {timeout:g} s") from reason
        except (OSError, ValueError) as reason:
            raise UpmtError(f"the daemon broke off while answering {command!r}: {reason}") from reason
    if "error" in answer:
        raise ERROR_KINDS.get(answer.get("kind", ""), UpmtError)(answer["error"])
    return answer["result"]


def _check_owner(connection: socket.socket) -> None:
    """Anybody may take an abstract name: believe only root or ourselves."""
    pid, uid, _ = peer_of(connection)
    if uid != 0:
        raise NoDaemonError(
            f"the control socket is held by process {pid} of uid {uid}, which is no UPMT daemon"
        )


def peer_of(connection: socket.socket) -> tuple[int, int, int]:
    """Pid, uid and gid of the other end of a Unix socket, as the kernel vouches for them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid


def _read_line(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        part = connection.recv(1 << 18)
        if not part:
            raise ValueError("the connection ended")
        parts.append(part)
        size += len(part)
        if part.endswith(b"\n"):
            return b"".join(parts)
        if size > _MAX_ANSWER:
            raise ValueError("the answer is too long")
