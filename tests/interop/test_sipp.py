"""sipp as the client of the real anchor, behind a NAT and on a bad link; and of our SIP core as a plain server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from interop_peers import ANCHOR, HOST, HOST_OUTSIDE, Interop, Running, needs
from lab_driver import wait_until

pytestmark = [pytest.mark.interop, needs("sipp")]

PEER = "peer@fleet.example"
CROWD = tuple(f"peer{number}@fleet.example" for number in range(300))


@pytest.fixture(scope="module")
def anchor(interop: Interop) -> Iterator[Running]:
    """MD5, as sipp knows nothing else."""
    with interop.anchor("MD5", users=(PEER, *CROWD)) as daemon:
        yield daemon


def identities(interop: Interop) -> list[str]:
    return [one["identity"] for one in interop.status()["associations"]]


def assert_answers_say_where_the_requests_came_from(messages: str) -> None:
    """All but those that are cut short because their requests were short, and proved nothing."""
    answers = len(re.findall(r"^SIP/2\.0 \d+ \S", messages, re.MULTILINE))
    vias = re.findall(r"^Via: SIP/2.0/UDP (\S+)", messages, re.MULTILINE)
    told = [via for via in vias if "received=" in via]
    assert len(told) == answers > 0
    assert all(
        via.startswith(f"{HOST}:5070") and f"received={HOST_OUTSIDE}" in via and re.search(r"rport=\d+", via)
        for via in told
    )


def test_it_registers_refreshes_and_leaves_from_behind_a_nat(interop: Interop, anchor: Running) -> None:
    messages = interop.sipp("mh", "register", f"{ANCHOR}:5060", "-m", "1", users=(PEER,))
    assert_answers_say_where_the_requests_came_from(messages)
    # One challenge: the refresh and the goodbye use the nonce again, with counts of their own.
    assert messages.count("SIP/2.0 401") == 1
    counts = re.findall(r"^Authorization:.*nc=(\d+)", messages, re.MULTILINE)
    assert counts == ["00000001", "00000002", "00000003"]
    assert identities(interop) == []
    assert f"the association of {PEER}" in anchor.said()


def test_a_contact_that_expires_at_once_is_a_goodbye(interop: Interop, anchor: Running) -> None:
    interop.sipp("mh", "leave_by_contact", f"{ANCHOR}:5060", "-m", "1", users=(PEER,))
    assert identities(interop) == []


def test_a_message_outside_the_tunnels_is_forbidden(interop: Interop, anchor: Running) -> None:
    messages = interop.sipp("mh", "message_outside", f"{ANCHOR}:5060", "-m", "1", users=(PEER,))
    assert "MESSAGE inside" in messages


def test_a_message_with_json_is_taken_where_messages_are(interop: Interop) -> None:
    with interop.responder() as address:
        messages = interop.sipp("mh", "message", address, "-m", "1", users=(PEER,))
    assert_answers_say_where_the_requests_came_from(messages)
    assert '{"read": {"mType": "NoticeAnswer", "list": [1, "two", {}], "version": 1}}' in messages


def test_what_the_anchor_does_not_do_is_refused_as_rfc_3261_says(interop: Interop, anchor: Running) -> None:
    messages = interop.sipp("mh", "methods", f"{ANCHOR}:5060", "-m", "1", users=(PEER,))
    assert_answers_say_where_the_requests_came_from(messages)
    assert identities(interop) == []


def test_large_and_odd_headers_do_no_harm(interop: Interop, anchor: Running) -> None:
    messages = interop.sipp("mh", "odd", f"{ANCHOR}:5060", "-m", "1", users=(PEER,))
    sizes = [int(size) for size in re.findall(r"message sent \((\d+) bytes\)", messages)]
    assert max(sizes) > 5000
    assert identities(interop) == []


def test_hundreds_register_on_a_link_that_loses_a_tenth(interop: Interop, anchor: Running) -> None:
    """sipp loses messages both ways, so that requests and answers come again."""
    before = interop.status()["counters"]
    calls = ("-m", str(len(CROWD)), "-r", "150", "-lost", "10")
    messages = interop.sipp("ch", "load", f"{ANCHOR}:5060", *calls, users=CROWD, seconds=45)
    assert messages.count("\nSIP/2.0 200") >= 3 * len(CROWD)
    assert not re.search(r"^SIP/2\.0 (?!200|401)", messages, re.MULTILINE)
    counters = interop.status()["counters"]
    assert counters["sip_request_again"] > before.get("sip_request_again", 0)
    assert counters.get("refused_403", 0) == before.get("refused_403", 0)
    wait_until(lambda: identities(interop) == [], "everybody has left")
    given = re.findall(r"^VIpAddr: (\S+)", messages, re.MULTILINE)
    assert len(set(given)) == len(CROWD)
