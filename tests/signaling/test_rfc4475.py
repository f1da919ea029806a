"""The 49 torture messages of RFC 4475: what is read of the valid ones, and what a server answers to each."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random

import pytest

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import SendSip
from upmt_nf.mobility.anchor_events import SipDatagramReceived
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.digest import REALM, DigestServer
from upmt_nf.signaling.sip.build import response_to
from upmt_nf.signaling.sip.contacts import lifetime_asked
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.fields import parse_address, parse_cseq, parse_via, split_outside_quotes
from upmt_nf.signaling.sip.inspection import inspect
from upmt_nf.signaling.sip.message import Message, Request, Response, canonical
from upmt_nf.signaling.sip.parser import parse
from upmt_nf.signaling.sip.transactions import DatagramRefused, RequestReceived

TORTURE = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "rfc4475").glob("*.dat"))}
SOURCE = Endpoint(ip_address("192.0.2.7"), 4711)
EVERY_METHOD = (
    "INVITE",
    "OPTIONS",
    "REGISTER",
    "MESSAGE",
    "!interesting-Method0123456789_*+`.%indeed'~",
    "RE%47IST%45R",
)


def request(name: str) -> Request:
    message = parse(TORTURE[name])
    assert isinstance(message, Request)
    return message


def response(name: str) -> Response:
    message = parse(TORTURE[name])
    assert isinstance(message, Response)
    return message


def vias(message: Message) -> list[str]:
    return [one.strip() for value in message.all("via") for one in split_outside_quotes(value, ",")]


# --- 3.1.1, 3.2, 3.3, 3.4: the 27 valid ones, field by field ---

# name: (method, request URI, To's address of record, From's tag, sent-by of the topmost Via, CSeq, bytes of body)
REQUESTS: dict[str, tuple[str, str, str, str | None, str, int, int]] = {
    "wsinv": (
        "INVITE", "sip:vivekg@chair-dnrc.example.com;unknownparam", "vivekg@chair-dnrc.example.com",
        "98asjd8", "192.0.2.2:5060", 9, 150,
    ),
    "intmeth": (
        "!interesting-Method0123456789_*+`.%indeed'~",
        "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
        "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com",
        "_token~1'+`*%!-.", "host1.example.com:5060", 139122385, 0,
    ),
    "esc01": (
        "INVITE", "sip:sips%3Auser%40example.com@example.net", "user@example.com",
        "938", "host5.example.net:5060", 234234, 150,
    ),
    "escnull": (
        "REGISTER", "sip:example.com", "null-%00-null@example.com",
        "839923423", "host5.example.com:5060", 14398234, 0,
    ),
    "esc02": (
        "RE%47IST%45R", "sip:registrar.example.com", "resource@example.com",
        "f232jadfj23", "host.example.com:5060", 29344, 0,
    ),
    "lwsdisp": (
        "OPTIONS", "sip:user@example.com", "user@example.com", "323", "funky.example.com:5060", 60, 0,
    ),
    "longreq": (
        "INVITE", "sip:user@example.com", "user@example.com:6000",
        "1" + "298" * 50 + "2424", "sip33.example.com:5060", 3882340, 150,
    ),
    "dblreq": (
        "REGISTER", "sip:example.com", "j.user@example.com", "43251j3j324", "192.0.2.125:5060", 8, 0,
    ),
    "semiuri": (
        "OPTIONS", "sip:user;par=u%40example.net@example.com", "j_user@example.com",
        "33242", "192.0.2.1:5060", 8, 0,
    ),
    "transports": ("OPTIONS", "sip:user@example.com", "user@example.com", "323", "t1.example.com:5060", 60, 0),
    "mpart01": ("MESSAGE", "sip:kumiko@example.org", "kumiko@example.org", "2fb0dcc9", "127.0.0.1:5070", 1, 553),
    "badbranch": ("OPTIONS", "sip:user@example.com", "user@example.com", "33242", "192.0.2.1:5060", 8, 0),
    "unkscm": (
        "OPTIONS", "nobodyKnowsThisScheme:totallyopaquecontent", "user@example.com",
        "384", "host9.example.com:5060", 3923423, 0,
    ),
    "novelsc": (
        "OPTIONS", "soap.beep://192.0.2.103:3002", "user@example.com",
        "384", "host9.example.com:5060", 3923423, 0,
    ),
    "unksm2": (
        "REGISTER", "sip:example.com", "isbn:2983792873", "3234233", "192.0.2.21:5060", 234902, 0,
    ),
    "bext01": (
        "OPTIONS", "sip:user@example.com", "j_user@example.com",
        "242etr", "fold-and-staple.example.com:5060", 8, 0,
    ),
    "invut": (
        "INVITE", "sip:user@example.com", "j.user@example.com",
        "8392034", "somehost.example.com:5060", 235448, 40,
    ),
    "regaut01": (
        "REGISTER", "sip:example.com", "j.user@example.com", "87321hj23128", "192.0.2.253:5060", 9338, 0,
    ),
    "zeromf": (
        "OPTIONS", "sip:user@example.com", "user@example.com",
        "3ghsd41", "host1.example.com:5060", 39234321, 0,
    ),
    "cparam01": (
        "REGISTER", "sip:example.com", "watson@example.com",
        "DkfVgjkrtMwaerKKpe", "saturn.example.com:5060", 2, 0,
    ),
    "cparam02": ("REGISTER", "sip:example.com", "watson@example.com", "838293", "saturn.example.com:5060", 3, 0),
    "regescrt": ("REGISTER", "sip:example.com", "user@example.com", "8", "host5.example.com:5060", 14398234, 0),
    "sdp01": ("INVITE", "sip:user@example.com", "j_user@example.com", "234", "192.0.2.15:5060", 8, 150),
    "inv2543": (
        "INVITE", "sip:UserB@example.com", "+16505552222@ss1.example.net",
        None, "iftgw.example.com:5060", 56, -1,
    ),
}  # fmt: skip
RESPONSES = {"unreason": 200, "noreason": 100, "bcast": 200}


def test_the_valid_messages_are_27_and_all_messages_are_here() -> None:
    assert len(TORTURE) == 49
    assert len(set(REQUESTS) | set(RESPONSES)) == 27


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_a_valid_request_is_read_as_meant(name: str) -> None:
    method, uri, to, tag, sent_by, number, length = REQUESTS[name]
    message = request(name)
    assert (message.method, message.uri) == (method, uri)
    assert parse_address(message.header("to") or "").record == to
    assert parse_address(message.header("from") or "").tag == tag
    assert parse_via(message.header("via") or "").sent_by == sent_by
    assert parse_cseq(message.header("cseq") or "") == (number, method)
    assert (message.header("call-id") or "").startswith(name.replace("mpart01", "3d9485ad0c49859b"))
    stated = message.header("content-length")
    assert len(message.body) == (length if stated is not None else len(message.body))
    assert stated is None or int(stated) == length


@pytest.mark.parametrize("name", sorted(RESPONSES))
def test_a_valid_response_is_read_as_meant(name: str) -> None:
    message = response(name)
    assert message.status == RESPONSES[name]
    assert parse_cseq(message.header("cseq") or "") == (35, "INVITE")
    assert parse_address(message.header("to") or "").record == "user@example.edu"
    assert (message.header("call-id") or "").partition(".")[0] == name
    assert len(message.body) == int(message.header("content-length") or "")


def test_what_each_valid_message_is_in_the_rfc_for() -> None:
    wsinv = request("wsinv")
    assert [parse_via(one).sent_by for one in vias(wsinv)] == [
        "192.0.2.2:5060", "spindle.example.com:5060", "192.168.255.111:5060",
    ]  # fmt: skip
    assert parse_via(vias(wsinv)[2]).branch == "z9hG4bK30239"
    assert parse_address(wsinv.header("contact") or "").parameters == {
        "newparam": "newvalue", "secondparam": None, "q": "0.33",
    }  # fmt: skip
    assert wsinv.header("unknownheaderwithunusualvalue") == ";;,,;;,;"
    # 3.1.1.2: in a display name and a parameter's value, UTF-8 and escaped controls; 3.1.1.3 and 5: escapes.
    intmeth = request("intmeth")
    assert parse_address(intmeth.header("from") or "").uri == "sip:mundane@example.com"
    assert parse_address(intmeth.header("from") or "").parameters["fromparam''~+*_!.-%"] == '"работающий"'
    assert parse_address(request("esc01").header("to") or "").uri == "sip:%75se%72@example.com"
    assert list(request("escnull").all("contact")) == [
        "<sip:%00@host5.example.com>", "<sip:%00%00@host5.example.com>",
    ]  # fmt: skip
    assert len(list(request("esc02").all("contact"))) == 2
    assert request("esc02").header("c%6fntact") == "<sip:alias2@host2.example.com>"
    assert parse_address(request("lwsdisp").header("from") or "").uri == "sip:caller@example.com"
    assert len(vias(request("longreq"))) == 34
    assert [parse_via(one).transport for one in vias(request("transports"))] == [
        "UDP", "SCTP", "TLS", "UNKNOWN", "TCP",
    ]  # fmt: skip
    assert b"\0" in request("mpart01").body
    assert response("noreason").reason == ""
    assert response("unreason").reason.endswith("простое")
    # 3.2.1: this branch is as good as none.
    assert parse_via(request("badbranch").header("via") or "").branch is None
    # 3.3.11 and 3.3.12: the parameter belongs to the field in the first, to the URI in the second.
    first, second = (parse_address(request(f"cparam0{n}").header("contact") or "") for n in (1, 2))
    assert (first.uri, first.parameters) == ("sip:+19725552222@gw1.example.net", {"unknownparam": None})
    assert (second.uri, second.parameters) == ("sip:+19725552222@gw1.example.net;unknownparam", {})
    assert parse_address(request("semiuri").uri).uri.startswith("sip:user")
    assert parse_address(f"<{request('semiuri').uri}>").record == "user;par=u%40example.net@example.com"


# --- what is answered ---


class Answer:
    """An answer, read with forgiveness: it echoes what was wrong."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        first, *lines = data.decode("utf-8", "surrogateescape").partition("\r\n\r\n")[0].split("\r\n")
        self.status = int(first.removeprefix("SIP/2.0 ")[:3])
        self._headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]

    def header(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        return [value for written, value in self._headers if canonical(written.strip()) == name]


def only(answers: list[bytes]) -> Answer | None:
    """At most one answer to one message."""
    assert len(answers) < 2
    return Answer(answers[0]) if answers else None


class Server:
    """One who knows all those methods and does nothing: the endpoint, and the inspection before the work."""

    def __init__(self, methods: Collection[str]) -> None:
        tokens = itertools.count()
        self.methods = methods
        self.sip: SipEndpoint[Endpoint] = SipEndpoint(
            token=lambda: f"t{next(tokens)}", source_of=lambda source: source
        )
        self.refused: list[str] = []

    def answer(self, data: bytes) -> Answer | None:
        self.sip.receive_datagram(data, SOURCE, 0.0)
        for event in self.sip.events():
            if isinstance(event, DatagramRefused):
                self.refused.append(event.reason)
            if isinstance(event, RequestReceived):
                self.serve(event)
        return only([answer for answer, _ in self.sip.datagrams_to_send()])

    def serve(self, event: RequestReceived[Endpoint]) -> None:
        wrong = inspect(event.request, self.methods, ("application/sdp",))
        status, headers = (200, ()) if wrong is None else wrong
        answer = response_to(event.request, status, tag="s", headers=headers)
        self.sip.respond(event.transaction, answer, 0.0)


# RFC 4475 by section; 415 for mpart01 as this server only knows sdp; None: dropped, there is nobody to answer.
ANSWERED_BY_SERVER: dict[str, int | None] = {
    # 3.1.1
    "wsinv": 200, "intmeth": 200, "esc01": 200, "escnull": 200, "esc02": 200, "lwsdisp": 200, "longreq": 200,
    "dblreq": 200, "semiuri": 200, "transports": 200, "mpart01": 415, "unreason": None, "noreason": None,
    # 3.1.2; baddate and badaspec may be accepted by who does not read Date and passes over the spaces, regbadct
    # is refused by the registrar (below)
    "badinv01": 400, "clerr": 400, "ncl": 400, "scalar02": 400, "scalarlg": None, "quotbal": 400, "ltgtruri": 400,
    "lwsruri": 400, "lwsstart": 400, "trws": 400, "escruri": 400, "baddate": 200, "regbadct": 200,
    "badaspec": 200, "baddn": 400, "badvers": 505, "mismatch01": 400, "mismatch02": 400, "bigcode": None,
    # 3.2, 3.3, 3.4; the SIP answer to sdp01 is a matter of SDP, which nothing here reads
    "badbranch": 200, "insuf": 400, "unkscm": 416, "novelsc": 416, "unksm2": 200, "bext01": 420, "invut": 415,
    "regaut01": 200, "multi01": 400, "mcl01": 400, "bcast": None, "zeromf": 200, "cparam01": 200,
    "cparam02": 200, "regescrt": 200, "sdp01": 200, "inv2543": 200,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TORTURE))
def test_a_server_answers_as_the_rfc_says(name: str) -> None:
    server = Server(EVERY_METHOD)
    answer = server.answer(TORTURE[name])
    assert (answer.status if answer else None) == ANSWERED_BY_SERVER[name]
    if answer is None:
        assert server.refused
        return
    # A Via that cannot be read is echoed as it came; so is a To.
    assert (";received=192.0.2.7" in (answer.header("via") or "")) == (name not in ("badinv01", "badvers"))
    assert ("tag" in (answer.header("to") or "")) == (name not in ("insuf", "quotbal", "baddn"))
    if answer.status == 420:
        assert answer.header("unsupported") == "nothingSupportsThis, nothingSupportsThisEither"


def test_what_follows_the_stated_length_is_no_second_request() -> None:
    server = Server(EVERY_METHOD)
    answer = server.answer(TORTURE["dblreq"])
    assert answer is not None
    assert answer.header("cseq") == "8 REGISTER"
    assert server.sip.counters["refused"] == 0


def anchor_answer(data: bytes, *, is_guarded: bool) -> Answer | None:
    """What our own registrar says."""
    guard = DigestServer(REALM, b"k" * 32, lambda _: None, lambda: bytes(8)) if is_guarded else None
    pool = AddressPool(ip_network("1.2.3.0/24")[1], ip_network("1.2.3.0/24")[9])
    anchor = Anchor(AnchorSettings(ip_address("45.0.0.1"), pool), Paft(), Random(1), guard=guard)
    commands = anchor.handle(SipDatagramReceived(SOURCE, data), 0.0)
    return only([command.data for command in commands if isinstance(command, SendSip)])


REGISTRATIONS = ("cparam01", "cparam02", "dblreq", "escnull", "regescrt", "unksm2")


@pytest.mark.parametrize("name", sorted(TORTURE))
def test_the_anchor_answers_as_a_registrar_without_calls(name: str) -> None:
    """REGISTER is served, MESSAGE has its place, other methods are not allowed: checked before all else (8.2.1)."""
    expected = ANSWERED_BY_SERVER[name]
    if expected not in (None, 400, 505):
        method = parse(TORTURE[name])
        assert isinstance(method, Request)
        expected = {"REGISTER": 200, "MESSAGE": 415}.get(method.method, 405)
    expected = 400 if name == "regbadct" else expected
    answer = anchor_answer(TORTURE[name], is_guarded=False)
    assert (answer.status if answer else None) == expected
    if answer is not None and answer.status == 405:
        allow = "REGISTER, MESSAGE"
        has_room = len(answer.data) + len(f"Allow: {allow}\r\n") <= len(TORTURE[name])
        assert answer.header("allow") in (allow, allow if has_room else None)


@pytest.mark.parametrize("name", [*REGISTRATIONS, "regaut01", "regbadct"])
def test_a_guarded_anchor_challenges_whoever_proves_nothing(name: str) -> None:
    """Also one with credentials of a scheme that nobody knows (3.3.7)."""
    line, rest = TORTURE[name].split(b"\r\n", 1)
    answer = anchor_answer(b"\r\n".join((line, b"Subject: " + b"long " * 40, rest)), is_guarded=True)
    assert answer is not None
    assert answer.status == 401
    assert (answer.header("www-authenticate") or "").startswith('Digest realm="upmt"')


@pytest.mark.parametrize("name", sorted(TORTURE))
def test_a_guarded_anchor_answers_nobody_with_more_than_he_sent(name: str) -> None:
    answer = anchor_answer(TORTURE[name], is_guarded=True)
    assert answer is None or len(answer.data) <= len(TORTURE[name])


@pytest.mark.parametrize("name", REGISTRATIONS)
def test_the_contacts_of_a_registration_come_back_with_their_time(name: str) -> None:
    answer = anchor_answer(TORTURE[name], is_guarded=False)
    assert answer is not None
    given = [parse_address(value) for value in answer.all("contact")]
    asked = [parse_address(value) for value in request(name).all("contact")]
    assert [contact.uri for contact in given] == [contact.uri for contact in asked]
    assert all(contact.parameters["expires"] == answer.header("expires") for contact in given)
    assert lifetime_asked(request(name)) is None
