"""Packets that find out how long a NAT keeps a silent mapping, on flows of their own (layout: docs/protocol.md).

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

Each is as long as its answer, and only a host with an association gets one.
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


@dataclass(frozen=True, slots=True)
class BindingProbe:
    """One packet. `number` from 0 to 2**32 - 1."""

    kind: ProbeKind
    number: int
    virtual_address: IPAddress
    port: int = 0

    def sealed(self, key: bytes) -> bytes:
        """The octets, with the proof under `key` (see `probe_key`)."""
        packed = self.virtual_address.packed
        head = _HEAD.pack(
            _TYPE << 12 | self.kind,
            self.port,
            self.number,
            packed if len(packed) == 16 else _MAPPED + packed,
        )
        return head + _proof(key, head)


def probe_key(secret: bytes) -> bytes:
    """The key of an association's probes, from what both ends of it know."""
    return hmac.digest(secret, b"upmt binding v1", "sha256")


def parse_probe(data: bytes) -> BindingProbe:
    """Read a probe without believing it. Raises PeerError."""
    if len(data) != PROBE_SIZE or data[0] >> 4 != _TYPE:
        raise PeerError("that is no binding probe")
    kind, port, number, packed = _HEAD.unpack_from(data)
    try:
        known = ProbeKind(kind & 0x0FFF)
    except ValueError as reason:
        raise PeerError(f"there is no binding probe of kind {kind & 0x0FFF}") from reason
    address = ip_address(packed[12:]) if packed.startswith(_MAPPED) else IPv6Address(packed)
    return BindingProbe(known, number, address, port)


def is_proven(data: bytes, key: bytes) -> bool:
    """Whether a probe was written by somebody who knows the association's key."""
    return hmac.compare_digest(data[_HEAD.size :], _proof(key, data[: _HEAD.size]))


def _proof(key: bytes, head: bytes) -> bytes:
    return hmac.digest(key, head, "sha256")[:_PROOF_BYTES]
