"""The vectors and the messages of docs/protocol.md are what the product sends."""

import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from upmt_nf.datapath.copies import Number, Numbering, number_of
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import PROTECTED
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.authors_json import AuthorsBody
from upmt_nf.signaling.binding_probe import BindingProbe, ProbeKind, probe_key
from upmt_nf.signaling.keys import tunnel_secrets
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode

TEXT = (Path(__file__).parents[2] / "docs/protocol.md").read_text()


@pytest.mark.parametrize("name", PROTECTED)
def test_the_vectors_are_so(name: str) -> None:
    found = re.search(rf"{name}, secret ([0-9a-f]+)\n\s+([0-9a-f]+)\n", TEXT)
    inner = re.search(r"inner\s+([0-9a-f]+)\n", TEXT)
    assert found is not None
    assert inner is not None
    secrets = tunnel_secrets(bytes(range(32)), name, TunnelId(0x12345678), bytes(range(16)))
    assert secrets.up.hex() == found[1]
    tunnel = Tunnel(TunnelId(0x12345678), ip_address("1.2.3.4"), Endpoint(ip_address("45.0.0.1"), 1800), 1400)
    tunnel.format = PROTECTED[name](secrets.up, secrets.down, 7)
    assert tunnel.format.encode(tunnel, bytes.fromhex(inner[1])).hex() == found[2]


def test_the_numbered_vector_is_so() -> None:
    found = re.search(r"numbered, run abcdef, number 1, plain\n\s+([0-9a-f]+)\n", TEXT)
    inner = re.search(r"inner\s+([0-9a-f]+)\n", TEXT)
    assert found is not None
    assert inner is not None
    numbering = Numbering(0xABCDEF)
    numbering.head()
    assert numbering.head().hex() + inner[1] == found[1]
    assert number_of(bytes.fromhex(found[1])) == Number(0xABCDEF, 1)


def test_the_probes_vector_is_so() -> None:
    found = re.search(r"POKE of 1\.2\.3\.4, number 01020304, port 33000\n\s+([0-9a-f]+)\n", TEXT)
    assert found is not None
    poke = BindingProbe(ProbeKind.POKE, 0x01020304, ip_address("1.2.3.4"), 33000)
    assert poke.sealed(probe_key(bytes(range(32)))).hex() == found[1]


def test_the_messages_are_read_and_written_like_that() -> None:
    bodies = re.findall(
        r'^    (\{"mType":"(?:Tunnel|Handover).*?"version":1\})$', TEXT, re.MULTILINE | re.DOTALL
    )
    assert len(bodies) == 6
    for body in bodies:
        written = re.sub(r"\n\s+", "", body).replace("<16 bytes in hex>", "00" * 16)
        message = decode(written.encode())
        assert not isinstance(message, AuthorsBody)
        assert encode(message).decode() == written
