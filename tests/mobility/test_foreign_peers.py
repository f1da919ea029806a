"""What the anchor says to SIP programs that are no hosts of ours, and the host of registrars that are no anchors."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from mobility_world import World

from upmt_nf.mobility.anchor_commands import SendSip
from upmt_nf.mobility.anchor_events import SipDatagramReceived
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.sip.fields import parse_via
from upmt_nf.signaling.sip.message import Response
from upmt_nf.signaling.sip.parser import parse

NAT = Endpoint(ip_address("198.51.100.9"), 33333)
NOT_PROVEN = "an answer came that does not prove that it is the anchor's"


def asked(method: str, *lines: str, branch: str = "1") -> bytes:
    head = (
        f"{method} sip:45.0.0.1 SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{branch};rport",
        "To: <sip:peer@fleet.example>",
        "From: <sip:peer@fleet.example>;tag=x",
        "Call-ID: c",
        f"CSeq: {branch} {method}",
        # What is shorter than its answer would get a shorter one, or none.
        "User-Agent: one that says a lot about itself, its version, its maker and the weather of today",
        *lines,
    )
    return ("\r\n".join(head) + "\r\n\r\n").encode()


def answer(world: World, data: bytes) -> Response:
    (command,) = (one for one in world.take(SipDatagramReceived(NAT, data)) if isinstance(one, SendSip))
    assert command.destination == NAT
    read = parse(command.data)
    assert isinstance(read, Response)
    return read


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (asked("OPTIONS"), 405),
        (asked("CANCEL"), 481),
        (asked("REGISTER", "Require: path"), 420),
        (asked("REGISTER", "Expires: x"), 400),
        (asked("REGISTER", "Expires: 1"), 423),
        (asked("REGISTER", "Contact: *", "Expires: 7"), 400),
        (asked("REGISTER"), 200),
        (asked("MESSAGE"), 403),
    ],
)
def test_every_answer_says_where_it_was_asked_from(data: bytes, status: int) -> None:
    """RFC 3261 section 18.2.1 and RFC 3581 section 4: refusals and challenges too."""
    found = answer(World(), data)
    assert found.status == status
    via = parse_via(found.header("via") or "")
    assert (via.parameters["received"], via.parameters["rport"]) == ("198.51.100.9", "33333")


def test_nothing_is_kept_of_what_the_anchor_does_not_do() -> None:
    world = World()
    for data in (asked("OPTIONS"), asked("INVITE"), asked("REGISTER", "Require: path")):
        assert answer(world, data) == answer(world, data)
    assert world.anchor.counters["refused_405"] == 4
    assert "sip_request_again" not in world.anchor.counters


def test_a_contact_has_its_own_lifetime_and_says_goodbye_by_it() -> None:
    """RFC 3261 sections 10.2.1.1 and 10.2.2."""
    world = World()
    given = answer(world, asked("REGISTER", "Contact: <sip:p@b;ob>;expires=77;q=1", "Expires: 300"))
    assert (given.header("expires"), given.header("contact")) == ("77", "<sip:p@b;ob>;q=1;expires=77")
    gone = answer(world, asked("REGISTER", "Contact: <sip:p@b;ob>;expires=0", "Expires: 300", branch="2"))
    assert (gone.status, gone.header("contact")) == (200, None)
    assert world.anchor.associations == []
    answer(world, asked("REGISTER", "m: <sip:p@b>", branch="3"))
    assert len(world.anchor.associations) == 1
    assert answer(world, asked("REGISTER", "m: *", "Expires: 0", branch="4")).status == 200
    assert world.anchor.associations == []


def test_a_yes_without_proof_is_told_at_once_and_after_it_was_waited_for_in_vain() -> None:
    """A registrar that lets everybody in, or an anchor that asks nobody for proof."""
    world = World(secret="ours")
    world.host.appear(*world.host.links)
    world.run(0.5)
    association = world.host.machine.association
    assert world.host.state == "registering"
    assert (association.failure or "").startswith(NOT_PROVEN)
    assert sum(NOT_PROVEN in line for line in map(str, world.host.said)) == 1
    world.until(lambda: world.host.state == "lost", 40)
    assert (world.host.machine.association.failure or "").startswith(NOT_PROVEN)
    assert world.host.virtual_address is None


def test_a_doubt_is_forgotten_with_its_round() -> None:
    world = World(secret="ours")
    world.host.appear(*world.host.links)
    world.run(0.5)
    world.anchor_has_stopped = True
    world.until(lambda: world.host.state == "lost", 40)
    assert (world.host.machine.association.failure or "").startswith(NOT_PROVEN)
    world.until(lambda: world.host.state == "registering", 40)
    world.until(lambda: world.host.state == "lost", 40)
    assert world.host.machine.association.failure == "the anchor does not answer"
