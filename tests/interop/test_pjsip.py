"""PJSIP as the client of the real anchor: Digest with SHA-256, extra headers, behind a NAT."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from interop_peers import ANCHOR, HERE, HOST, HOST_OUTSIDE, SECRET, Interop, needs, steps_of

pytestmark = [pytest.mark.interop, needs(modules=("pjsua2",))]

PEER = "pjsip@fleet.example"


def pjsip(interop: Interop, secret: str = SECRET, to: str = ANCHOR) -> tuple[dict[str, dict[str, Any]], str]:
    program = str(HERE / "programs" / "pjsip_client.py")
    output = interop.run("mh", sys.executable, program, ANCHOR, PEER, secret, HOST, "5080", to, seconds=45)
    return steps_of(output), output


@pytest.mark.parametrize("algorithms", [("SHA-256",), ("MD5", "SHA-256")])
def test_it_registers_refreshes_says_something_and_leaves(
    interop: Interop, algorithms: tuple[str, ...]
) -> None:
    """Offered both, it takes the first, which is the stronger one (RFC 8760 section 2.4)."""
    with interop.anchor(*algorithms, users=(PEER,)) as anchor:
        steps, output = pjsip(interop)
        assert {step: said["status"] for step, said in steps.items()} == {
            "register": 200, "refresh": 200, "message": 403, "unregister": 200,
        }, output  # fmt: skip
        assert interop.status()["associations"] == [], output
        assert f"{PEER} at {HOST_OUTSIDE}:" in anchor.said()
    assert steps["register"]["expires"] == 300
    # It learnt from the challenge where it is seen and registers that (RFC 3581).
    assert f"Contact: <sip:pjsip@{HOST_OUTSIDE}:5080;ob>;expires=300" in steps["register"]["answer"], output
    assert "algorithm=SHA-256, cnonce" in output
    assert "algorithm=MD5, cnonce" not in output
    assert f"X-Long: {'x' * 600}" in output


def test_a_wrong_secret_is_refused(interop: Interop) -> None:
    with interop.anchor("SHA-256", users=(PEER,)):
        steps, output = pjsip(interop, secret="wrong")
        assert steps["register"]["status"] == 403, output
        assert interop.status()["associations"] == []


def test_a_message_with_json_is_taken_where_messages_are(interop: Interop) -> None:
    with interop.anchor("SHA-256", users=(PEER,)), interop.responder() as address:
        steps, output = pjsip(interop, to=address)
    assert steps["message"]["status"] == 200, output
