"""Packets that find out what NATs and filters do to UDP, on flows of their own (layout: docs/protocol.md).

     0                   1                   2                   3
    +-------+-----------------------+-------------------------------+
    | 3     | kind                  | port                          |
    +-------+-----------------------+-------------------------------+
    | number: told back in the answer                               |
    +---------------------------------------------------------------+
    | virtual address, 16 octets (IPv4 as ::ffff:a.b.c.d)           |
    +---------------------------------------------------------------+
    | proof: HMAC-SHA256 of all before it, the first 16 octets      |
    +---------------------------------------------------------------+  40 octets

Each is as long as its answer, and only a host with an association gets one. An ECHO may have octets of any value
behind it.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from typing import Final

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import IPAddress

PROBE_SIZE: Final = 40
LARGEST_ECHO: Final = 2048
UNSUMMED: Final = 0x100
"""In an ECHO's `port`, beside its traffic class: it has no UDP checksum, and its answer is to have none."""
_TYPE: Final = 0x3
_HEAD = struct.Struct("!HHI16s")
_PROOF_BYTES: Final = 16
_MAPPED: Final = bytes(10) + b"\xff\xff"


class ProbeKind(IntEnum):
    """What a probe says."""

    HELLO = 1
    """Host, from the port whose mapping is to be watched."""
    WELCOME = 2
    """Anchor, to where HELLO came from; `port` is the one that it saw."""
    POKE = 3
    """Host, from another port: send something to `port` of my address."""
    POKED = 4
    """Anchor, to that port: whoever hears it has a mapping there."""
    POKING = 5
    """Anchor, to where POKE came from: it was done."""
    ECHO = 6
    """Host: sent with the traffic class (DSCP and ECN) that the low octet of `port` says, see UNSUMMED."""
    ECHOED = 7
    """Anchor, to where ECHO came from: sent in the same way, as long; the low octet says how the class came."""
    HAIRPIN = 8
    """Host, to where the anchor sees another port of its own: heard there if the NAT sends it back."""


_PADDED = (ProbeKind.ECHO, ProbeKind.ECHOED)


@dataclass(frozen=True, slots=True)
class BindingProbe:
    """One packet. `number` from 0 to 2**32 - 1."""

    kind: ProbeKind
    number: int
    virtual_address: IPAddress
    port: int = 0

    def sealed(self, key: bytes, size: int = PROBE_SIZE) -> bytes:
        """The octets, with the proof under `key` (see `probe_key`); `size` in all, of an echo."""
        packed = self.virtual_address.packed
        head = _HEAD.pack(
            _TYPE << 12 | self.kind,
            self.port,
            self.number,
            packed if len(packed) == 16 else _MAPPED + packed,
        )
        return (head + _proof(key, head)).ljust(size, b"\0")


def probe_key(secret: bytes) -> bytes:
    """The key of an association's probes, from what both ends of it know."""
    return hmac.digest(secret, b"upmt binding v1", "sha256")


def parse_probe(data: bytes) -> BindingProbe:
    """Read a probe without believing it. Raises PeerError."""
    if not PROBE_SIZE <= len(data) <= LARGEST_ECHO or data[0] >> 4 != _TYPE:
        raise PeerError("that is no binding probe")
    kind, port, number, packed = _HEAD.unpack_from(data)
    try:
        known = ProbeKind(kind & 0x0FFF)
    except ValueError as reason:
        raise PeerError(f"there is no binding probe of kind {kind & 0x0FFF}") from reason
    if len(data) > PROBE_SIZE and known not in _PADDED:
        raise PeerError(f"a binding probe of kind {known.name} has {PROBE_SIZE} octets")
    address = ip_address(packed[12:]) if packed.startswith(_MAPPED) else IPv6Address(packed)
    return BindingProbe(known, number, address, port)


def is_proven(data: bytes, key: bytes) -> bool:
    """Whether a probe was written by somebody who knows the association's key."""
    return hmac.compare_digest(data[_HEAD.size : PROBE_SIZE], _proof(key, data[: _HEAD.size]))


def _proof(key: bytes, head: bytes) -> bytes:
    return hmac.digest(key, head, "sha256")[:_PROOF_BYTES]
