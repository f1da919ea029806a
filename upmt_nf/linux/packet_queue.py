"""Packets from netfilter: one NFQUEUE, read in batches by an event loop (python binding: NetfilterQueue).

The binding reads 4 kB a message at most and would cut larger packets silently; handing it messages that we read
ourselves lifts that. Knows nothing of what the packets mean.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from netfilterqueue import COPY_PACKET, NetfilterQueue

from upmt_nf.model.errors import FacilityError

log = logging.getLogger(__name__)

_WHOLE_PACKET = 0xFFFF
_MESSAGE = 1 << 17
_CONFIGURE_QUEUE = 3 << 8 | 2
"""NFNL_SUBSYS_QUEUE and NFQNL_MSG_CONFIG (linux/netfilter/nfnetlink_queue.h)."""
_JUDGE_MANY = 3 << 8 | 3
"""NFQNL_MSG_VERDICT_BATCH."""
_NFQA_CFG_PARAMS, _NFQA_VERDICT_HDR, _NFQA_MARK, _NLM_F_REQUEST = 2, 2, 3, 1
_NF_REPEAT = 4


class _RawPacket(Protocol):
    """The binding's packet, as far as we use it."""

    id: int
    mark: int

    def get_payload(self) -> bytes: ...
    def set_payload(self, payload: bytes) -> None: ...
    def accept(self) -> None: ...
    def drop(self) -> None: ...
    def set_mark(self, mark: int) -> None: ...
    def repeat(self) -> None: ...
    def retain(self) -> None: ...


class Packet:
    """One queued packet. Exactly one of `accept`, `accept_with`, `repeat_with` and `drop` is to be called.

    At once, or later if it is put on `hold`.
    """

    __slots__ = ("_raw", "mark", "payload")

    def __init__(self, raw: _RawPacket) -> None:
        self._raw = raw
        self.payload = raw.get_payload()
        self.mark = raw.mark

    def accept(self) -> None:
        """Let it go on."""
        self._raw.accept()

    def accept_with(self, payload: bytes) -> None:
        """Let `payload` go on in its place: in raw PREROUTING conntrack and everything behind see only that."""
        self._raw.set_payload(payload)
        self._raw.accept()

    def drop(self) -> None:
        """Let it end here."""
        self._raw.drop()

    def repeat_with(self, mark: int) -> None:
        """Let it pass the chain that queued it once more, with another fwmark."""
        self._raw.set_mark(mark)
        self._raw.repeat()

    def hold(self) -> None:
        """Let the verdict come later than the end of the callback."""
        self._raw.retain()

    @property
    def number(self) -> int:
        """Its place in the queue: packets are numbered in their order."""
        return self._raw.id


class PacketQueue:
    """NFQUEUE `number`. The kernel holds up to `max_length` packets and `buffer_bytes` of messages for us.

    Raises FacilityError when the kernel has no NFQUEUE or another program holds this queue.
    """

    def __init__(
        self,
        number: int,
        callback: Callable[[Packet], None],
        *,
        max_length: int = 16384,
        buffer_bytes: int = 64 << 20,
        batch: int = 64,
    ) -> None:
        self.number = number
        self.overruns = 0
        self._batch = batch
        self._left = 0
        self._queue = NetfilterQueue()

        def take(raw: _RawPacket) -> None:
            callback(Packet(raw))

        try:
            self._queue.bind(number, take, max_length, COPY_PACKET, _WHOLE_PACKET, buffer_bytes)
        except OSError as reason:
            raise FacilityError(
                f"packet queue {number} cannot be taken (another program holds it, or the kernel has no NFQUEUE): "
                f"{reason}"
            ) from reason
        self._socket = socket.socket(fileno=os.dup(self._queue.get_fd()))
        self._socket.setblocking(False)
        self._copy_whole_packets()
        self._buffer = bytearray(_MESSAGE)
        self._view = memoryview(self._buffer)

    def _copy_whole_packets(self) -> None:
        """The binding limits the copies to 4016 bytes: ask the kernel for all of each packet."""
        parameters = struct.pack("!IB", _WHOLE_PACKET, COPY_PACKET)
        attribute = struct.pack("=HH", 4 + len(parameters), _NFQA_CFG_PARAMS) + parameters.ljust(8, b"\0")
        self._send(_CONFIGURE_QUEUE, attribute)

    def fileno(self) -> int:
        """Readable when packets wait."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Hand at most one batch of waiting packets to the callback. Call it when readable."""
        self._left = self._batch
        self._queue.run_socket(self)

    def recv(self, _size: int) -> bytes:
        """For the binding: the next message of any size. Raises BlockingIOError to end the batch."""
        if self._left == 0:
            raise BlockingIOError(errno.EAGAIN, "the batch is done")
        self._left -= 1
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
                return bytes(self._view[:size])
            except OSError as reason:
                if reason.errno != errno.ENOBUFS:
                    raise
                # The kernel dropped packets because its buffer was full: counted, and on with the next.
                self.overruns += 1

    def repeat_all_with(self, mark: int, last: Packet) -> None:
        """`repeat_with` for all packets up to `last` that have no verdict yet, by one message."""
        verdict = struct.pack(
            "=HHII", 12, _NFQA_VERDICT_HDR, socket.htonl(_NF_REPEAT), socket.htonl(last.number)
        )
        self._send(_JUDGE_MANY, verdict + struct.pack("=HHI", 8, _NFQA_MARK, socket.htonl(mark)))

    def _send(self, kind: int, attributes: bytes) -> None:
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, self.number) + attributes
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST, 0, 0) + body)

    @property
    def dropped(self) -> int:
        """Packets that the kernel dropped because too many waited already, or because we did not read in time."""
        try:
            with open("/proc/thread-self/net/netfilter/nfnetlink_queue", encoding="ascii") as file:
                rows = [line.split() for line in file]
            return next(int(row[5]) + int(row[6]) for row in rows if row[0] == str(self.number))
        except (OSError, ValueError, IndexError, StopIteration):
            return 0

    def close(self) -> None:
        """Give the queue up; packets that still come are dropped by the kernel."""
        self._socket.close()
        self._queue.unbind()
