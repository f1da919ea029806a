"""Payloads of one size for one tunnel, gathered while packets are being read, so that one call sends them all."""

from __future__ import annotations

from collections.abc import Callable

from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.verdict import Outbound

Send = Callable[[Tunnel, bytes, int, int], None]
"""Tunnel, payloads joined, type of service, size of each payload (0: there is but one)."""

_MOST = 64
_LARGEST = 60000


class Gathering:
    """Keeps the order of each tunnel's payloads. Whoever adds calls `flush` before waiting for more packets."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tunnel: Tunnel | None = None
        self._tos = self._size = self._total = 0
        self._parts: list[bytes] = []

    def add(self, verdict: Outbound) -> None:
        """Send what a verdict says, now or with the next `flush`."""
        tunnel = verdict.tunnel
        if tunnel is None:
            return
        if verdict.size:
            self.flush()
            for payload in verdict.payloads:
                self._send(tunnel, payload, verdict.tos, verdict.size)
        else:
            for payload in verdict.payloads:
                self._add(tunnel, payload, verdict.tos)
        if verdict.copy is not None:
            self.add(verdict.copy)

    def _add(self, tunnel: Tunnel, payload: bytes, tos: int) -> None:
        length = len(payload)
        if self._parts:
            fits = length <= self._size and self._total + length <= _LARGEST and len(self._parts) < _MOST
            if not fits or tunnel is not self._tunnel or tos != self._tos:
                self.flush()
        if not self._parts:
            self._tunnel, self._tos, self._size, self._total = tunnel, tos, length, 0
        self._parts.append(payload)
        self._total += length
        if length < self._size:
            # A shorter one can only be the last.
            self.flush()

    def flush(self) -> None:
        """Send what is left."""
        parts, tunnel = self._parts, self._tunnel
        if not parts or tunnel is None:
            return
        self._parts, self._tunnel = [], None
        if len(parts) == 1:
            self._send(tunnel, parts[0], self._tos, 0)
        else:
            self._send(tunnel, b"".join(parts), self._tos, self._size)
