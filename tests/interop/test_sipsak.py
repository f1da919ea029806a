"""sipsak as the client: its Via names another address and port than it sends from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop_peers import ANCHOR, HOST_OUTSIDE, SECRET, Interop, Running, needs

pytestmark = [pytest.mark.interop, needs("sipsak")]

PEER = f"sipsak@{ANCHOR}"
MESSAGE = """MESSAGE sip:anchor@{to} SIP/2.0
To: <sip:anchor@{to}>
From: <sip:{peer}>;tag=4
Call-ID: sipsak-message
CSeq: 7 MESSAGE
Max-Forwards: 70
X-Folded: one
  two
	three
c :  Application/JSON;charset=utf-8
l: {length}

{body}"""
BODY = '{"mType":"NoticeAnswer","list":[1,{}],"version":1}'


@pytest.fixture(scope="module")
def anchor(interop: Interop) -> Iterator[Running]:
    """MD5, as sipsak knows nothing else."""
    with interop.anchor("MD5", users=(PEER,)) as daemon:
        yield daemon


def message_file(directory: Path, to: str) -> str:
    file = directory / "message"
    text = MESSAGE.format(to=to, peer=PEER, length=len(BODY), body=BODY)
    file.write_bytes(text.replace("\n", "\r\n").encode())
    return str(file)


def sipsak(interop: Interop, *options: str, check: bool = True) -> str:
    words = ("sipsak", *options, "-u", PEER, f"--password={SECRET}", "-vvv")
    return interop.run("mh", *words, seconds=15, check=check)


def registered(interop: Interop, expires: int) -> str:
    options = ("-U", "-i", "-s", f"sip:{PEER}", "-C", f"sip:{PEER}", "-x", str(expires))
    return sipsak(interop, *options)


def test_it_registers_refreshes_and_leaves_and_is_answered_where_it_listens(
    interop: Interop, anchor: Running
) -> None:
    for _ in range(2):
        output = registered(interop, 60)
        assert "SIP/2.0 401 " in output
        assert "SIP/2.0 200 OK" in output
        assert "All usrloc tests completed successful" in output
        assert [one["identity"] for one in interop.status()["associations"]] == [PEER]
    # What sipsak believes to be its address and port is neither the host's nor the NAT's.
    said, answered = re.findall(r"^Via: SIP/2.0/UDP (127\.0\.0\.1:\d+\S*)", output, re.MULTILINE)[-2:]
    assert ";rport" in said
    assert f"received={HOST_OUTSIDE}" in answered
    port = re.search(r"rport=(\d+)", answered)
    assert port is not None
    assert "SIP/2.0 200 OK" in registered(interop, 0)
    assert interop.status()["associations"] == []


def test_a_message_outside_the_tunnels_is_forbidden(
    interop: Interop, anchor: Running, tmp_path: Path
) -> None:
    file = message_file(tmp_path, ANCHOR)
    output = sipsak(interop, "-f", file, "-L", "-s", f"sip:anchor@{ANCHOR}", check=False)
    assert "SIP/2.0 403 REGISTER comes outside the tunnels, MESSAGE inside" in output


def test_a_message_with_json_is_taken_where_messages_are(interop: Interop, tmp_path: Path) -> None:
    with interop.responder() as address:
        file = message_file(tmp_path, address)
        output = sipsak(interop, "-f", file, "-L", "-s", f"sip:anchor@{address}")
    assert "SIP/2.0 200 OK" in output
    assert '{"read": {"mType": "NoticeAnswer", "list": [1, {}], "version": 1}}' in output


def test_its_options_are_answered_with_what_is_allowed(interop: Interop, anchor: Running) -> None:
    output = sipsak(interop, "-s", f"sip:{ANCHOR}", check=False)
    assert "SIP/2.0 405 Method Not Allowed" in output
    assert "Allow: REGISTER, MESSAGE" in output
