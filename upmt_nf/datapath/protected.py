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

from upmt_nf.datapath.copies import is_carried
from upmt_nf.datapath.key_ring import Key, KeyRing
from upmt_nf.datapath.outer import OVERHEAD

if TYPE_CHECKING:
    from upmt_nf.datapath.paft import Tunnel

COOKIE_TYPE: Final = 0x1
SEALED_TYPE: Final = 0x2
"""The first four bits; 4 and 6 are those of a plain inner packet."""

_COOKIE_HEAD = struct.Struct("!HH8s")
_SEALED_HEAD = struct.Struct("!HBBIQ")
_TAG_BYTES = 16
_WINDOW = 2048
"""Packets that may overtake each other: two tunnels' worth of queues."""
_WHOLE_WINDOW = (1 << _WINDOW) - 1


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


@dataclass(slots=True, eq=False)
class _CookieKey(Key):
    """Both directions' secrets."""

    sending: bytes = field(repr=False)
    receiving: bytes = field(repr=False)
    sent: int = 0


@dataclass(slots=True, eq=False)
class _SealedKey(Key):
    """Both directions' ciphers; the last counter that was sealed, the highest opened and a bitmap of those below."""

    sealer: ChaCha20Poly1305
    opener: ChaCha20Poly1305
    counter: int = -1
    highest: int = -1
    seen: int = 0

    def open(self, counter: int, nonce: bytes, sealed: bytes, head: bytes) -> bytes | None:
        """The packet, or None: a repeat, too old, or not sealed with this key."""
        age = self.highest - counter
        if age >= _WINDOW or (age >= 0 and self.seen >> age & 1):
            return None
        try:
            packet = self.opener.decrypt(nonce, sealed, head)
        except InvalidTag:
            return None
        # Only what proved itself moves the window.
        if age < 0:
            self.seen = (self.seen << -age | 1) & _WHOLE_WINDOW if -age < _WINDOW else 1
            self.highest = counter
        else:
            self.seen |= 1 << age
        return packet

    def came_in_order(self, count: int) -> None:
        """So many packets were opened that followed the highest one by one: the window moves once for all of them."""
        if count:
            self.highest += count
            self.seen = (self.seen << count | (1 << count) - 1) & _WHOLE_WINDOW


class Cookie:
    """12 bytes more than `plain`: type, application, 16 bits of the tunnel's id, 64 bits of secret."""

    name: Final = "cookie"
    extra: Final = _COOKIE_HEAD.size

    def __init__(self, sending: bytes, receiving: bytes, key_id: int = 0, *, waits: bool = False) -> None:
        self._keys = KeyRing(_CookieKey(key_id, sending[:8], receiving[:8]), waits=waits)

    @property
    def used(self) -> int:
        """See `Sealed`."""
        return self._keys.current.sent

    def overhead(self, outer_version: int) -> int:
        """See `TunnelFormat`."""
        return OVERHEAD[outer_version] + self.extra

    def encode(self, tunnel: Tunnel, packet: bytes) -> bytes:
        """See `TunnelFormat`."""
        key = self._keys.current
        key.sent += 1
        return _COOKIE_HEAD.pack(COOKIE_TYPE << 12, tunnel.id & 0xFFFF, key.sending) + packet

    def decode(self, tunnel: Tunnel | None, payload: bytes) -> bytes | None:
        """See `TunnelFormat`."""
        if len(payload) < _COOKIE_HEAD.size or payload[0] >> 4 != COOKIE_TYPE:
            return None
        given = payload[4:12]
        for key in self._keys:
            if hmac.compare_digest(given, key.receiving):
                packet = payload[_COOKIE_HEAD.size :]
                if not is_carried(packet):
                    return None
                self._keys.hear(key)
                return packet
        return None

    def encode_all(self, tunnel: Tunnel, packets: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        key = self._keys.current
        head = _COOKIE_HEAD.pack(COOKIE_TYPE << 12, tunnel.id & 0xFFFF, key.sending)
        parts = [head + packets[at : at + size] for at in range(0, len(packets), size)]
        key.sent += len(parts)
        return b"".join(parts), size + self.extra

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

    def count_sent(self, packets: int) -> None:
        """So many packets left under the present secret without `encode`: the fast plane's."""
        self._keys.current.sent += packets

    def secrets(self) -> tuple[bytes, tuple[bytes, ...], int]:
        """What to send, what to believe, and how many of those, from the first on, must still be heard."""
        keys = self._keys
        return keys.current.sending, tuple(key.receiving for key in keys), keys.unheard

    def renew(self, sending: bytes, receiving: bytes, key_id: int) -> None:
        """Other secrets from now on; those of before are still believed for a while (see `KeyRing`)."""
        self._keys.add(_CookieKey(key_id, sending[:8], receiving[:8]))

    def retire(self, now: float) -> bool:
        """See `KeyRing`."""
        return self._keys.retire(now)


class Sealed:
    """32 bytes more than `plain`: type, application, key id, tunnel id, counter; a tag of 16 bytes behind.

    `waits`: see `KeyRing`.
    """

    name: Final = "sealed"
    extra: Final = _SEALED_HEAD.size + _TAG_BYTES

    def __init__(self, sending: bytes, receiving: bytes, key_id: int = 0, *, waits: bool = False) -> None:
        self._keys = KeyRing(_sealed_key(key_id, sending, receiving), waits=waits)

    @property
    def used(self) -> int:
        """Packets that were protected with the present key, in the direction that had more of them."""
        key = self._keys.current
        return max(key.counter, key.highest) + 1

    def overhead(self, outer_version: int) -> int:
        """See `TunnelFormat`."""
        return OVERHEAD[outer_version] + self.extra

    def encode(self, tunnel: Tunnel, packet: bytes) -> bytes:
        """See `TunnelFormat`."""
        key = self._keys.current
        key.counter += 1
        head = _SEALED_HEAD.pack(SEALED_TYPE << 12, key.id, 0, tunnel.id, key.counter)
        return head + key.sealer.encrypt(head[4:], packet, head)

    def decode(self, tunnel: Tunnel | None, payload: bytes) -> bytes | None:
        """See `TunnelFormat`."""
        if len(payload) < self.extra or payload[0] >> 4 != SEALED_TYPE:
            return None
        head = payload[: _SEALED_HEAD.size]
        _, key_id, _, tunnel_id, counter = _SEALED_HEAD.unpack(head)
        if tunnel is None or tunnel_id != tunnel.id:
            return None
        for key in self._keys:
            if key.id == key_id:
                packet = key.open(counter, head[4:], payload[_SEALED_HEAD.size :], head)
                if packet is None or not is_carried(packet):
                    return None
                self._keys.hear(key)
                return packet
        return None

    def encode_all(self, tunnel: Tunnel, packets: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        key = self._keys.current
        pack, encrypt, id, tunnel_id, counter = (
            _SEALED_HEAD.pack, key.sealer.encrypt, key.id, tunnel.id, key.counter,
        )  # fmt: skip
        sealed: list[bytes] = []
        for at in range(0, len(packets), size):
            counter += 1
            head = pack(SEALED_TYPE << 12, id, 0, tunnel_id, counter)
            sealed += (head, encrypt(head[4:], packets[at : at + size], head))
        key.counter = counter
        return b"".join(sealed), size + self.extra

    def decode_all(self, tunnel: Tunnel, payloads: bytes, size: int) -> tuple[bytes, int]:
        """See `TunnelFormat`."""
        opened: list[bytes] = []
        key: _SealedKey | None = None
        known, head_size, expected, in_order = b"", _SEALED_HEAD.size, 0, 0
        for at in range(0, len(payloads), size):
            head = payloads[at : at + head_size]
            if key is not None and head[:8] == known and at + self.extra <= len(payloads):
                counter, sealed = int.from_bytes(head[8:], "big"), payloads[at + head_size : at + size]
                if counter == expected:
                    try:
                        opened.append(key.opener.decrypt(head[4:], sealed, head))
                    except InvalidTag:
                        continue
                    expected, in_order = expected + 1, in_order + 1
                    continue
                key.came_in_order(in_order)
                packet = key.open(counter, head[4:], sealed, head)
            else:
                # All but the counter is nearly always the same: the first of its kind is looked at in full.
                if key is not None:
                    key.came_in_order(in_order)
                packet = self.decode(tunnel, payloads[at : at + size])
                if packet is not None:
                    known, key = head[:8], next(each for each in self._keys if each.id == head[2])
            if packet is not None:
                opened.append(packet)
            in_order = 0
            expected = key.highest + 1 if key is not None else 0
        if key is not None:
            key.came_in_order(in_order)
        return b"".join(opened), _inner_size(size, self.extra)

    def renew(self, sending: bytes, receiving: bytes, key_id: int) -> None:
        """Other keys, which the anchor numbered; what was sealed with the old ones is still opened for a while."""
        self._keys.add(_sealed_key(key_id, sending, receiving))

    def retire(self, now: float) -> bool:
        """See `KeyRing`."""
        return self._keys.retire(now)


def _sealed_key(key_id: int, sending: bytes, receiving: bytes) -> _SealedKey:
    return _SealedKey(key_id, ChaCha20Poly1305(sending), ChaCha20Poly1305(receiving))


PROTECTED: Final[dict[str, type[Cookie] | type[Sealed]]] = {Cookie.name: Cookie, Sealed.name: Sealed}
"""By the name in the configuration."""
