"""Key agreement and the keys of tunnels."""

import pytest

from upmt_nf.model.errors import PeerError
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.keys import KeyPair, tunnel_secrets


def test_both_ends_agree_and_a_third_does_not() -> None:
    host, anchor, other = KeyPair(), KeyPair(), KeyPair()
    key = host.agree(anchor.public, is_host=True)
    assert anchor.agree(host.public, is_host=False) == key
    assert len(key) == 32
    assert other.agree(host.public, is_host=False) != key
    assert anchor.agree(host.public, is_host=True) != key


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33), bytes(32)])
def test_what_is_no_key_is_a_peer_error(wrong: bytes) -> None:
    with pytest.raises(PeerError):
        KeyPair().agree(wrong, is_host=True)


def test_the_secrets_of_a_tunnel_as_docs_protocol_gives_them() -> None:
    secrets = tunnel_secrets(bytes(range(32)), "sealed", TunnelId(0x12345678), bytes(range(16)))
    assert secrets.up.hex() == "057a1bb865c6c6364b6a4b84b6808e0c68dbe2c7454c558893d3196010552fa5"
    assert secrets.down.hex() == "f55d9c167b0744715fdbb7791ebf2d7461c3d71801ddceab6f9a655d38aee2a9"


def test_every_input_changes_every_secret() -> None:
    base = (bytes(32), "sealed", TunnelId(1), bytes(16))
    found = {tunnel_secrets(*base)}
    for other in (
        (b"k" * 32, "sealed", TunnelId(1), bytes(16)),
        (bytes(32), "cookie", TunnelId(1), bytes(16)),
        (bytes(32), "sealed", TunnelId(2), bytes(16)),
        (bytes(32), "sealed", TunnelId(1), b"s" * 16),
    ):
        found.add(tunnel_secrets(*other))
    assert len({secret for secrets in found for secret in secrets}) == 10
