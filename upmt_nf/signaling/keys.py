"""Keys of an association and of its tunnels: X25519 (RFC 7748) under Digest's proof, then HKDF-SHA256 (RFC 5869).

Both public keys travel in bodies that `auth-int` covers, so nobody in the middle can put in their own.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from upmt_nf.model.errors import PeerError
from upmt_nf.model.identity import TunnelId

KEY_BYTES = 32


class KeyPair:
    """One end's fresh key pair."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()
        """32 bytes."""

    def agree(self, theirs: bytes, *, is_host: bool) -> bytes:
        """The association's key, the same at both ends. Raises PeerError for a key that is none."""
        if len(theirs) != KEY_BYTES:
            raise PeerError("a key has 32 bytes")
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(theirs))
        except (ValueError, InvalidKey) as reason:
            raise PeerError("that is no usable key") from reason
        host, anchor = (self.public, theirs) if is_host else (theirs, self.public)
        return _derive(shared, host + anchor, b"upmt association v1", KEY_BYTES)


class TunnelSecrets(NamedTuple):
    """What protects a tunnel in each direction, 32 bytes each."""

    up: bytes
    """From the mobile host to the anchor."""
    down: bytes


def tunnel_secrets(association_key: bytes, format: str, tunnel: TunnelId, salt: bytes) -> TunnelSecrets:
    """Fresh with every salt: no key is ever used for two sequences of counters."""
    info = b"upmt tunnel v1 " + format.encode() + b" " + tunnel.to_bytes(4, "big")
    both = _derive(association_key, salt, info, 2 * KEY_BYTES)
    return TunnelSecrets(both[:KEY_BYTES], both[KEY_BYTES:])


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)
