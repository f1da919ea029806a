"""The SIP parser: RFC 4475's torture messages, what comes back from its own writing, and time on hostile input."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.sip import build
from upmt_nf.signaling.sip.fields import (
    parse_address,
    parse_cseq,
    parse_via,
    split_outside_quotes,
)
from upmt_nf.signaling.sip.message import Request, Response, canonical
from upmt_nf.signaling.sip.parser import MAX_DATAGRAM, SipParseError, parse

TORTURE = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "rfc4475").glob("*.dat"))}
REFUSED = {
    "baddn": (400, "display name"),
    "badinv01": (400, "empty"),
    "badvers": (505, "SIP/7.0"),
    "bigcode": (400, "status line"),
    "clerr": (400, "9999"),
    "escruri": (400, "URI has headers"),
    "insuf": (400, "missing"),
    "ltgtruri": (400, "URI"),
    "lwsruri": (400, "request line"),
    "lwsstart": (400, "request line"),
    "mcl01": (400, "content-length is there twice"),
    "mismatch01": (400, "method of CSeq"),
    "mismatch02": (400, "method of CSeq"),
    "multi01": (400, "is there twice"),
    "ncl": (400, "content-length"),
    "quotbal": (400, "quoted string"),
    "scalar02": (400, "CSeq"),
    "scalarlg": (400, "CSeq"),
    "trws": (400, "request line"),
}
LENIENT = frozenset(("badaspec", "baddate", "regbadct"))
"""Wrong only in fields that the protocol does not read, or in ways that do no harm."""
ENDPOINT = Endpoint(ip_address("160.80.100.1"), 4000)
FIGURE_9 = b"""REGISTER sip:45.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 192.168.100.25; branch=z9h; TID=Terminal_ID; rport;
To: <Terminal_ID>
From: <Terminal_ID>;tag=dba
Contact: <sip:Terminal_ID>
Call-ID: 1
CSeq: 1 REGISTER
VIpAddr:1.2.3.4

""".replace(b"\n", b"\r\n")


def parsed_or_refused(data: bytes) -> Request | Response | SipParseError:
    try:
        return parse(data)
    except SipParseError as reason:
        return reason


def without_length(message: Request | Response) -> Request | Response:
    headers = tuple(header for header in message.headers if canonical(header[0]) != "content-length")
    return replace(message, headers=headers)


def assert_survives_writing(message: Request | Response) -> None:
    """Written and read, the message is the same; written once more, the bytes are."""
    data = bytes(message)
    again = parse(data)
    assert without_length(again) == without_length(message)
    assert again.header("content-length") == str(len(message.body))
    assert bytes(again) == data


def torture_request(name: str) -> Request:
    message = parse(TORTURE[name])
    assert isinstance(message, Request)
    return message


def refusal(data: bytes) -> SipParseError:
    with pytest.raises(SipParseError) as caught:
        parse(data)
    return caught.value


# --- RFC 4475 ---


def test_all_torture_messages_are_here() -> None:
    assert len(TORTURE) == 49
    assert set(REFUSED) | LENIENT < set(TORTURE)


@pytest.mark.parametrize("name", sorted(set(TORTURE) - set(REFUSED)))
def test_valid_torture_messages_are_read_and_survive_writing(name: str) -> None:
    assert_survives_writing(parse(TORTURE[name]))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_invalid_torture_messages_are_refused_with_the_reason(name: str) -> None:
    status, word = REFUSED[name]
    reason = refusal(TORTURE[name])
    assert reason.status == status
    assert word in str(reason)
    if reason.partial is not None:
        answer = build.response_to(reason.partial, reason.status, tag="t")
        assert bytes(answer).startswith(b"SIP/2.0 %d " % status)
        assert answer.header("call-id") == reason.partial.header("call-id")


def test_the_short_tortuous_invite_is_read_as_meant() -> None:
    message = torture_request("wsinv")
    assert message.method == "INVITE"
    assert parse_cseq(message.header("cseq") or "") == (9, "INVITE")
    to = parse_address(message.header("to") or "")
    assert (to.uri, to.tag) == ("sip:vivekg@chair-dnrc.example.com", "1918181833n")
    sender = parse_address(message.header("from") or "")
    assert (sender.uri, sender.tag) == ("sip:jdrosen@example.com", "98asjd8")
    via = parse_via(message.header("via") or "")
    assert (via.transport, via.host, via.parameters["branch"]) == ("UDP", "192.0.2.2", "390skdjuw")
    assert message.header("max-forwards") == "0068"
    assert message.header("subject") == ""
    assert message.header("newfangledheader") == "newfangled value continued newfangled value"
    assert len(message.body) == int(message.header("content-length") or "")


def test_unusual_methods_reasons_and_bodies_are_read_as_meant() -> None:
    assert torture_request("intmeth").method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert torture_request("dblreq").body == b""
    assert torture_request("zeromf").header("max-forwards") == "0"
    assert len(torture_request("longreq").header("to") or "") == 486
    no_reason, novel = parse(TORTURE["noreason"]), parse(TORTURE["unreason"])
    assert isinstance(no_reason, Response)
    assert (no_reason.status, no_reason.reason) == (100, "")
    assert isinstance(novel, Response)
    assert novel.reason.startswith("= 2**3 * 5**2 ")
    assert len(novel.reason) < len(novel.reason.encode())


def test_the_papers_figure_9_is_read_as_printed() -> None:
    message = parse(FIGURE_9)
    assert isinstance(message, Request)
    assert parse_address(message.header("from") or "").tag == "dba"
    assert parse_address("< Terminal_ID >").uri == "Terminal_ID"
    via = parse_via(message.header("via") or "")
    assert via.parameters == {"branch": "z9h", "tid": "Terminal_ID", "rport": None}
    assert via.branch is None
    assert message.header("vipaddr") == "1.2.3.4"
    answer = build.response_to(message, 200, tag="t", source=ENDPOINT)
    answered = parse_via(answer.header("via") or "")
    assert answered.parameters["rport"] == "4000"
    assert answered.parameters["received"] == "160.80.100.1"
    assert answer.header("to") == "<Terminal_ID>;tag=t"
    assert_survives_writing(answer)


# --- what is refused, and where the line is ---


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (b"Call-ID: 1", b"Call-ID:", "call-id is empty"),
        (b"Call-ID: 1", b"X: 1", "call-id is missing"),
        (b"Call-ID: 1", b"Call-ID: 1\r\ni: 1", "call-id is there twice"),
        (b"Call-ID: 1", b"Call-ID 1", "is not a header"),
        (b"Call-ID: 1", b"Call(ID): 1", "is not a header"),
        (b"SIP/2.0/UDP 192", b"SIP/3.0/UDP 192", "Via is not"),
        (b"192.168.100.25;", b"192.168.100.25:65536;", "wrong port"),
        (b"192.168.100.25;", b" ;", "Via names no host"),
        (b"CSeq: 1 REGISTER", b"CSeq: 1", "CSeq is not"),
        (b"CSeq: 1 REGISTER", b"CSeq: 4294967296 REGISTER", "2**32"),
        (b"CSeq: 1 REGISTER", b"CSeq: 1 MESSAGE", "method of CSeq"),
        (b"CSeq: 1 REGISTER", b"CSeq: 1 REGISTER\r\nMax-Forwards: 256", "max-forwards"),
        (b"CSeq: 1 REGISTER", b"CSeq: 1 REGISTER\r\nMax-Forwards: -1", "max-forwards"),
        (b"CSeq: 1 REGISTER", b"CSeq: 1 REGISTER\r\nl: 1", "content-length is 1, but 0"),
        (b"CSeq: 1 REGISTER", b"CSeq: 1 REGISTER\r\nl: x", "content-length is not"),
        (b"CSeq: 1 REGISTER", b"CSeq: 1 REGISTER\r\nl: 0000000000", "content-length is not"),
        (b"From: <Terminal_ID>", b"From: <Terminal_ID", "closing"),
        (b"From: <Terminal_ID>", b"From: <>", "URI"),
        (b"From: <Terminal_ID>", b"From: <Terminal_ID>x", "behind"),
        (b"sip:45.0.0.1 ", b"45.0.0.1 ", "scheme"),
        (b"REGISTER sip", b"REG(STER sip", "token"),
        (b"SIP/2.0\r\nVia", b"SIP/2.0\r\n folded\r\nVia", "folded"),
        (b"VIpAddr:1.2.3.4\r\n\r\n", b"VIpAddr:1.2.3.4\r\n", "does not end"),
    ],
)
def test_one_wrong_thing_is_enough(old: bytes, new: bytes, word: str) -> None:
    parse(FIGURE_9)
    assert old in FIGURE_9
    reason = refusal(FIGURE_9.replace(old, new, 1))
    assert reason.status == 400
    assert word in str(reason)


@pytest.mark.parametrize("code", ["99", "099", "700", "999", "2000", "2x0", "\u0662\u0660\u0660", ""])
def test_statuses_that_do_not_exist_are_refused(code: str) -> None:
    right = b"SIP/2.0 200 OK\r\n" + FIGURE_9.partition(b"\r\n")[2]
    assert isinstance(parse(right), Response)
    assert "status" in str(refusal(right.replace(b" 200 ", f" {code} ".encode())))


def test_empty_lines_before_a_message_are_passed_over() -> None:
    assert parse(b"\r\n\r\n" + FIGURE_9) == parse(FIGURE_9)


def test_an_answer_keeps_a_tag_that_is_there() -> None:
    request = parse(FIGURE_9.replace(b"To: <Terminal_ID>", b"To: <Terminal_ID>;tag=theirs"))
    assert isinstance(request, Request)
    assert build.response_to(request, 200, tag="ours").header("to") == "<Terminal_ID>;tag=theirs"


def test_sizes_are_bounded() -> None:
    padded = FIGURE_9 + b"x" * (MAX_DATAGRAM - len(FIGURE_9))
    parse(padded)
    assert refusal(padded + b"x").status == 513
    head = FIGURE_9[: -len(b"\r\n")]
    parse(head + b"X: 1\r\n" * 121 + b"\r\n")
    assert "more than 128" in str(refusal(head + b"X: 1\r\n" * 122 + b"\r\n"))


def test_compact_folded_and_spaced_headers_are_the_same_headers() -> None:
    message = parse(FIGURE_9.replace(b"VIpAddr:1.2.3.4", b"vipaddr \t:\t1.2.3.4 \r\n\t and \r\n more"))
    assert message.header("vipaddr") == "1.2.3.4 and more"
    compact = FIGURE_9.replace(b"Via:", b"v:").replace(b"To:", b"t:").replace(b"From:", b"F:")
    compact = compact.replace(b"Call-ID:", b"I:").replace(b"Contact:", b"m:")
    names = ("via", "to", "from", "call-id", "contact")
    ordinary = parse(FIGURE_9)
    assert [parse(compact).header(name) for name in names] == [ordinary.header(name) for name in names]


def test_quotes_and_brackets_hide_separators() -> None:
    assert split_outside_quotes('"a,b\\"c,",<d,e>,f', ",") == ['"a,b\\"c,"', "<d,e>", "f"]
    address = parse_address('"<sip:not@this>;tag=no" <sip:a@b;x=1>;tag=yes')
    assert (address.uri, address.tag, address.record) == ("sip:a@b;x=1", "yes", "a@b")
    via = parse_via("SIP / 2.0 / udp [2001:db8::9] : 4000 ;branch=z9hG4bKx, SIP/2.0/UDP other")
    assert (via.transport, via.sent_by, via.branch) == ("UDP", "[2001:db8::9]:4000", "z9hG4bKx")


# --- properties ---

TOKENS = st.text(alphabet="abcXYZ019-.!%*_+`'~", min_size=1, max_size=20)
VALUES = (
    st.binary(max_size=60)
    .map(lambda data: data.decode("utf-8", "surrogateescape").strip(" \t"))
    .filter(lambda text: "\r" not in text and "\n" not in text)
)
EXTRA_HEADERS = st.lists(st.tuples(TOKENS.map(lambda name: f"X-{name}"), VALUES), max_size=5).map(tuple)
IDENTITIES = st.from_regex(r"[a-z0-9.]{1,20}@[a-z0-9.]{1,20}", fullmatch=True)
ENDPOINTS = st.builds(Endpoint, st.ip_addresses(), st.integers(1, 65535))
ODD_BYTES = st.binary(max_size=4) | st.sampled_from(
    b'\r\n|\r\n\r\n|\r|\n| |\t|:|;|,|"|\\|<|>|\xff|\0|SIP/2.0|\r\n |=|[|]|99999999999'.split(b"|")
)
EDITS = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 30), ODD_BYTES), min_size=1, max_size=5)


@given(
    ENDPOINTS,
    ENDPOINTS,
    IDENTITIES,
    TOKENS,
    st.integers(0, 2**32 - 1),
    EXTRA_HEADERS,
    st.binary(max_size=200),
)
def test_what_is_built_and_written_is_read(
    anchor: Endpoint,
    local: Endpoint,
    identity: str,
    word: str,
    cseq: int,
    extra: tuple[tuple[str, str], ...],
    body: bytes,
) -> None:
    registration = build.register(
        anchor=anchor, local=local, identity=identity, call_id=word, cseq=cseq, tag=word, expires=60
    )
    text = build.message(
        anchor=anchor, local=local, identity=identity, call_id=word, cseq=cseq, tag=word, body=body
    )
    for request in (registration, text):
        longer = replace(request, headers=(*request.headers, *extra))
        answer = build.response_to(longer, 200, tag="x", source=local, headers=extra, body=body)
        for message in (longer, answer):
            length = ("Content-Length", str(len(message.body)))
            assert parse(bytes(message)) == replace(message, headers=(*message.headers, length))
        assert answer.header("call-id") == word
        assert parse_via(answer.header("via") or "").parameters["rport"] == str(local.port)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_no_bytes_raise_anything_but_a_parse_error(data: bytes) -> None:
    parsed_or_refused(data)
    parsed_or_refused(data + b"\r\n\r\n")
    parsed_or_refused(FIGURE_9[:-2] + b"X: " + data + b"\r\n\r\n")


@given(st.sampled_from(sorted(TORTURE.values())), EDITS)
@settings(max_examples=500)
def test_mutated_messages_raise_nothing_else_and_survive_writing(
    data: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for place, length, other in edits:
        place %= len(data) + 1
        data = data[:place] + other + data[place + length :]
    found = parsed_or_refused(data)
    if not isinstance(found, SipParseError):
        assert_survives_writing(found)
        return
    assert found.status in (400, 505, 513)
    if found.partial is not None:
        assert bytes(build.response_to(found.partial, found.status, tag="t", source=ENDPOINT))


@given(st.text(max_size=80))
def test_fields_raise_nothing_but_value_errors(text: str) -> None:
    readers: tuple[Callable[[str], object], ...] = (parse_via, parse_address, parse_cseq)
    for read in readers:
        for value in (text, f"SIP/2.0/UDP {text}", f'"{text}', f"<{text}>", f"1 {text}"):
            try:
                read(value)
            except ValueError:
                continue


@pytest.mark.parametrize("host", ["a<b", "<a", 'a"b', "a b", "[::1", "a]", "[]", "[a<]", "", "a\u00e4"])
def test_a_via_names_a_host_and_nothing_that_opens_brackets_or_quotes(host: str) -> None:
    """What an answer adds to the Via (`;received=`) must not end up inside of them."""
    with pytest.raises(ValueError, match="Via"):
        parse_via(f"SIP/2.0/UDP {host};branch=z9hG4bK1")


@pytest.mark.parametrize(
    "host", ["a", "192.168.0.2:5060", "[2001:db8::1]", "[::1]:5060", "a_b.example.", "a-b"]
)
def test_a_via_may_name_any_host(host: str) -> None:
    assert f"{parse_via(f'SIP/2.0/UDP {host};rport').host}" == host.removesuffix(":5060")
