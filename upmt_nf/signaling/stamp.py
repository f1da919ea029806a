"""Measurement and keepalive packets: STAMP in unauthenticated mode (RFC 8762, session id of RFC 8972).

 0                   1                   2                   3
+---------------------------------------------------------------+
|                        sequence number                        |
|                     timestamp, NTP format                     |
|                          (8 octets)                           |
|       error estimate          |          session id           |
|  reflector only: receive timestamp (8), sender's sequence (4), |
|  timestamp (8), error estimate (2), zero (2), TTL (1), zeros  |
+---------------------------------------------------------------+  44 octets
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from upmt_nf.model.errors import PeerError

PACKET_SIZE = 44
"""Octets of both packets, without extensions."""

_SENDER = struct.Struct("!IIIHH28x")
_REFLECTOR = struct.Struct("!IIIHHIIIIIHHB3x")
_TIME = struct.Struct("!II")
_TLV = struct.Struct("!BBH")
_UNRECOGNIZED, _EXTRA_PADDING = 0x80, 1
"""The flag that a sender sets, and the type (RFC 8972 sections 4 and 4.1)."""
_ERROR_ESTIMATE = 0x0001
"""Not synchronised, NTP format, multiplier 1 (RFC 4656 section 4.1.2)."""


@dataclass(frozen=True, slots=True)
class SenderPacket:
    """What the mobile host sends. `sent_at` in seconds of the sender's own clock, modulo 2**32."""

    sequence: int
    sent_at: float
    session: int = 0

    def __bytes__(self) -> bytes:
        return _SENDER.pack(self.sequence, *_ntp(self.sent_at), _ERROR_ESTIMATE, self.session)


@dataclass(frozen=True, slots=True)
class ReflectorPacket:
    """What the anchor sends back: its own times beside the sender's. All times in seconds."""

    sequence: int
    sent_at: float
    session: int
    received_at: float
    sender_sequence: int
    sender_sent_at: float
    sender_ttl: int

    def __bytes__(self) -> bytes:
        return _REFLECTOR.pack(
            self.sequence,
            *_ntp(self.sent_at),
            _ERROR_ESTIMATE,
            self.session,
            *_ntp(self.received_at),
            self.sender_sequence,
            *_ntp(self.sender_sent_at),
            _ERROR_ESTIMATE,
            0,
            self.sender_ttl,
        )


def parse_sender(data: bytes) -> SenderPacket:
    """Read a sender's packet; longer ones carry extensions that are ignored. Raises PeerError."""
    _check_size(data)
    sequence, seconds, fraction, _, session = _SENDER.unpack_from(data)
    return SenderPacket(sequence, _seconds(seconds, fraction), session)


def parse_reflector(data: bytes) -> ReflectorPacket:
    """Read a reflector's packet. Raises PeerError."""
    _check_size(data)
    (sequence, sent_s, sent_f, _, session, got_s, got_f, sender_sequence, was_s, was_f, _, _, ttl) = (
        _REFLECTOR.unpack_from(data)
    )
    return ReflectorPacket(
        sequence,
        _seconds(sent_s, sent_f),
        session,
        _seconds(got_s, got_f),
        sender_sequence,
        _seconds(was_s, was_f),
        ttl,
    )


def reflect(
    data: bytes, *, received_at: float, sent_at: float, sequence: int | None = None, ttl: int = 255
) -> bytes:
    """The answer to a sender's packet (RFC 8762 section 4.3). Raises PeerError.

    `sequence` is the reflector's own counter (stateful); left out, it is the sender's number (stateless).
    """
    sender = parse_sender(data)
    answer = bytes(
        ReflectorPacket(
            sequence=sender.sequence if sequence is None else sequence,
            sent_at=sent_at,
            session=sender.session,
            received_at=received_at,
            sender_sequence=sender.sequence,
            sender_sent_at=sender.sent_at,
            sender_ttl=ttl,
        )
    )
    # The sender's part is an exact copy: a float has no room for all 64 bits of its time, nor for its error estimate.
    # Extensions go back as they came, so that the answer is as long as the question (RFC 8972 section 4).
    return answer[:24] + data[:14] + answer[38:] + data[PACKET_SIZE:]


def padded(packet: bytes, size: int) -> bytes:
    """A packet made `size` octets long by an Extra Padding TLV (RFC 8972 section 4.1), if there is room for one."""
    room = size - len(packet) - _TLV.size
    if room < 0:
        return packet
    return packet + _TLV.pack(_UNRECOGNIZED, _EXTRA_PADDING, room) + bytes(room)


def stamped(packet: bytes, sent_at: float) -> bytes:
    """The same packet, of either kind, with another time of sending: the one just before it leaves."""
    return packet[:4] + _TIME.pack(*_ntp(sent_at)) + packet[12:]


def _check_size(data: bytes) -> None:
    if len(data) < PACKET_SIZE:
        raise PeerError(f"a measurement packet has {PACKET_SIZE} octets, not {len(data)}")


def _ntp(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole & 0xFFFFFFFF, int((seconds - whole) * 2**32) & 0xFFFFFFFF


def _seconds(whole: int, fraction: int) -> float:
    return whole + fraction / 2**32
