"""The protected tunnel formats, each with the state of one tunnel (layouts: docs/protocol.md).

`cookie` proves that a packet's sender knows the tunnel's secret, which stops whoever cannot read the path. `sealed`
encrypts and authenticates (ChaCha20-Poly1305, RFC 8439) and refuses repeats (a window as in RFC 6479).
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.datapath.packet import is_whole

if TYPE_CHECKING:
    from upmt_nf.datapath.paft import Tunnel

COOKIE_TYPE: Final = 0x1
SEALED_TYPE: Final = 0x2
"""The first four bits; 4 and 6 are those of a plain inner packet."""

_COOKIE_HEAD = struct.Struct("!HH8s")
_SEALED_HEAD = struct.Struct("!HBBIQ")
_TAG_BYTES = 16
_KEPT_KEYS = 4
_WINDOW = 2048
"""Packets that may overtake each other: two tunnels' worth of queues."""


def tunnel_hint(payload: bytes) -> tuple[int, int] | None:
    """What a protected payload says of its tunnel: its id and the mask of bits that are told. None: not protected."""
    match payload[0] >> 4:
        case 0x1 if len(payload) >= _COOKIE_HEAD.size:
            return payload[2] << 8 | payload[3], 0xFFFF
        case 0x2 if len(payload) >= _SEALED_HEAD.size:
            return int.from_bytes(payload[4:8], "big"), 0xFFFFFFFF
    return None


def _inner_size(size: int, extra: int) -> int:
    """What payloads of one size carry each. Those too small to carry anything are not believed."""
    return max(size - extra, 1)


class Cookie:
    """12 bytes more than `plain`: type, application, 16 bits of the tunnel's id, 64 bits of secret."""

    name: Final = "cookie"
    extra: Final = _COOKIE_HEAD.size

    def __init__(self, sending: bytes, receiving: bytes, key_id: int = 0, *, waits: bool = False) -> None:
        self._waits = waits
        self._sending = sending[:8]
        self._next = b""
        self._receiving = [receiving[:8]]

    def overhead(self, outer_version: int) -> int:
        """See `TunnelFormat`."""
        return OVERHEAD[outer_version] + self.extra

    def encode(self, tunnel: Tunnel, packet: bytes) -> bytes:
        """See `TunnelFormat`."""
        return _COOKIE_HEAD.pack(COOKIE_TYPE << 12, tunnel.id & 0xFFFF, self._sending) + packet

    def decode(self, tunnel: Tunnel | None, payload: bytes) -> bytes | None:
        """See `TunnelFormat`."""
        if len(payload) < _COOKIE_HEAD.size or payload[0] >> 4 != COOKIE_TYPE:
            return None
        given = payload[4:12]
        if not any(hmac.compare_digest(given, known) for known in self._receiving):
            return None
        if self._next and hmac.compare_digest(given, self._receiving[0]):
            self._sending, self._next = self._next, b""
        packet = payload[_COOKIE_HEAD.size :]
        return packet if is_whole(packet) else None

    def encode_all(self, tunnel: Tunnel, packets: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        head = _COOKIE_HEAD.pack(COOKIE_TYPE << 12, tunnel.id & 0xFFFF, self._sending)
        return b"".join(
            head + packets[at : at + size] for at in range(0, len(packets), size)
        ), size + self.extra

    def decode_all(self, tunnel: Tunnel, payloads: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        good = []
        # Nearly always all heads are the same: the secret is compared once.
        known = b""
        for at in range(0, len(payloads), size):
            payload = payloads[at : at + size]
            if payload[: _COOKIE_HEAD.size] != known:
                if self.decode(tunnel, payload) is None:
                    continue
                known = payload[: _COOKIE_HEAD.size]
            good.append(payload[_COOKIE_HEAD.size :])
        return b"".join(good), _inner_size(size, self.extra)

    def renew(self, sending: bytes, receiving: bytes, key_id: int) -> None:
        """Other secrets from now on; those of before are still believed, for what is under way."""
        if self._waits:
            self._next = sending[:8]
        else:
            self._sending = sending[:8]
        self._receiving = [receiving[:8], *self._receiving[: _KEPT_KEYS - 1]]


@dataclass(slots=True)
class _Opener:
    """One key's receiving side: the highest counter, and a bitmap of those below it."""

    key_id: int
    cipher: ChaCha20Poly1305
    highest: int = -1
    seen: int = 0

    def open(self, counter: int, nonce: bytes, sealed: bytes, head: bytes) -> bytes | None:
        """The packet, or None: a repeat, too old, or not sealed with this key."""
        age = self.highest - counter
        if age >= _WINDOW or (age >= 0 and self.seen >> age & 1):
            return None
        try:
            packet = self.cipher.decrypt(nonce, sealed, head)
        except InvalidTag:
            return None
        # Only what proved itself moves the window.
        if age < 0:
            self.seen = (self.seen << -age | 1) & ((1 << _WINDOW) - 1) if -age < _WINDOW else 1
            self.highest = counter
        else:
            self.seen |= 1 << age
        return packet


@dataclass(slots=True)
class _Sealer:
    """One key's sending side."""

    key_id: int
    cipher: ChaCha20Poly1305
    counter: int = field(default=-1)


class Sealed:
    """32 bytes more than `plain`: type, application, key id, tunnel id, counter; a tag of 16 bytes behind.

    `waits`: with new keys, go on sealing with the old one until the other end was heard with the new one (the anchor,
    whose answer with the salt may be lost).
    """

    name: Final = "sealed"
    extra: Final = _SEALED_HEAD.size + _TAG_BYTES

    def __init__(self, sending: bytes, receiving: bytes, key_id: int = 0, *, waits: bool = False) -> None:
        self._waits = waits
        self._sealer = _Sealer(key_id, ChaCha20Poly1305(sending))
        self._next: _Sealer | None = None
        self._openers = [_Opener(key_id, ChaCha20Poly1305(receiving))]

    def overhead(self, outer_version: int) -> int:
        """See `TunnelFormat`."""
        return OVERHEAD[outer_version] + self.extra

    def encode(self, tunnel: Tunnel, packet: bytes) -> bytes:
        """See `TunnelFormat`."""
        sealer = self._sealer
        sealer.counter += 1
        head = _SEALED_HEAD.pack(SEALED_TYPE << 12, sealer.key_id, 0, tunnel.id, sealer.counter)
        return head + sealer.cipher.encrypt(head[4:], packet, head)

    def decode(self, tunnel: Tunnel | None, payload: bytes) -> bytes | None:
        """See `TunnelFormat`."""
        if len(payload) < self.extra or payload[0] >> 4 != SEALED_TYPE:
            return None
        head = payload[: _SEALED_HEAD.size]
        _, key_id, _, tunnel_id, counter = _SEALED_HEAD.unpack(head)
        if tunnel is None or tunnel_id != tunnel.id:
            return None
        for opener in self._openers:
            if opener.key_id == key_id:
                packet = opener.open(counter, head[4:], payload[_SEALED_HEAD.size :], head)
                if packet is None or not is_whole(packet):
                    return None
                if self._next is not None and key_id == self._next.key_id:
                    self._sealer, self._next = self._next, None
                return packet
        return None

    def encode_all(self, tunnel: Tunnel, packets: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        encode = self.encode
        sealed = [encode(tunnel, packets[at : at + size]) for at in range(0, len(packets), size)]
        return b"".join(sealed), size + self.extra

    def decode_all(self, tunnel: Tunnel, payloads: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        opened = [self.decode(tunnel, payloads[at : at + size]) for at in range(0, len(payloads), size)]
        return b"".join(packet for packet in opened if packet is not None), _inner_size(size, self.extra)

    def renew(self, sending: bytes, receiving: bytes, key_id: int) -> None:
        """Other keys, which the anchor numbered; what was sealed with the old ones is still opened."""
        sealer = _Sealer(key_id, ChaCha20Poly1305(sending))
        if self._waits:
            self._next = sealer
        else:
            self._sealer, self._next = sealer, None
        # The key that the other end seals with is the one that we were last heard to seal with: keep it, however
        # many answers with new ones were lost.
        others = [opener for opener in self._openers if opener.key_id != key_id]
        others.sort(key=lambda opener: opener.key_id != self._sealer.key_id)
        self._openers = [_Opener(key_id, ChaCha20Poly1305(receiving)), *others[: _KEPT_KEYS - 1]]


PROTECTED: Final[dict[str, type[Cookie] | type[Sealed]]] = {Cookie.name: Cookie, Sealed.name: Sealed}
"""By the name in the configuration."""
