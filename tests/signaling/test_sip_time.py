"""Reading SIP takes time in proportion to its size, whatever a stranger sends."""

import time
from collections.abc import Callable

import pytest

from upmt_nf.signaling.sip.fields import parse_address, parse_cseq, parse_via
from upmt_nf.signaling.sip.message import Message, canonical
from upmt_nf.signaling.sip.parser import SipParseError, parse

FIGURE_9 = b"""REGISTER sip:45.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 192.168.100.25; branch=z9h; TID=Terminal_ID; rport;
To: <Terminal_ID>
From: <Terminal_ID>;tag=dba
Contact: <sip:Terminal_ID>
Call-ID: 1
CSeq: 1 REGISTER
VIpAddr:1.2.3.4

""".replace(b"\n", b"\r\n")


def parsed_or_refused(data: bytes) -> None:
    try:
        parse(data)
    except SipParseError:
        return


SIZE = 60_000
HOSTILE_VALUES = {
    "spaces": " " * SIZE,
    "SIP and spaces": "SIP" + " " * SIZE,
    "SIP, slash, spaces": "SIP/" + " " * SIZE + "x",
    "token and spaces": "SIP/2.0/" + "a" * (SIZE // 2) + " " * (SIZE // 2),
    "digits": "1" * SIZE,
    "digits and spaces": "1" + " " * SIZE + "(",
    "quotes": '"' * SIZE,
    "backslashes": '"' + "\\" * SIZE,
    "open brackets": "<" * SIZE,
    "closed brackets": "<>" * (SIZE // 2),
    "semicolons": ";" * SIZE,
    "commas": "SIP/2.0/UDP a" + "," * SIZE,
    "parameters": "SIP/2.0/UDP a" + ";a=b" * (SIZE // 4),
    "words": "a " * (SIZE // 2) + "<sip:a>",
}
_, _REST = FIGURE_9.split(b"\r\n", 1)
HOSTILE_MESSAGES = {
    "spaces in the request line": b"REGISTER" + b" " * SIZE + b"SIP/2.0\r\n" + _REST,
    "many headers": FIGURE_9[:-2] + b"a:b\r\n" * (SIZE // 5) + b"\r\n",
    "many empty lines": FIGURE_9[:-2] + b"\r\n" * (SIZE // 2),
    "empty lines in front": b"\r\n" * (SIZE // 2) + FIGURE_9,
    "folded lines": FIGURE_9[:-2] + b" a\r\n" * (SIZE // 4) + b"\r\n",
    "empty folded lines": FIGURE_9[:-2] + b" \r\n" * (SIZE // 3) + b"\r\n",
    "no colons": FIGURE_9[:-2] + b"a\r\n" * (SIZE // 3) + b"\r\n",
    "bare returns": FIGURE_9[:-2] + b"X:" + b"\r" * SIZE + b"\r\n\r\n",
    "a long header name": FIGURE_9[:-2] + b"a" * SIZE + b":\r\n\r\n",
    "spaces before a colon": FIGURE_9[:-2] + b"a" + b" " * SIZE + b"(:\r\n\r\n",
    "bytes that are no UTF-8": FIGURE_9[:-2] + b"X: " + b"\xff" * SIZE + b"\r\n\r\n",
    "no end": b"a" * SIZE,
}


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@pytest.mark.parametrize("name", HOSTILE_VALUES)
def test_hostile_field_values_take_little_time(name: str) -> None:
    value = HOSTILE_VALUES[name]
    readers: tuple[Callable[[str], object], ...] = (parse_via, parse_address, parse_cseq)
    for read in readers:

        def work(read: Callable[[str], object] = read) -> None:
            try:
                read(value)
            except ValueError:
                return

        assert seconds_of(work) < 1


@pytest.mark.parametrize("name", HOSTILE_MESSAGES)
def test_hostile_messages_take_little_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upmt_nf.signaling.sip.parser.MAX_DATAGRAM", 10**6)
    for most in (128, 10**6):
        monkeypatch.setattr("upmt_nf.signaling.sip.parser._MAX_HEADERS", most)
        assert seconds_of(lambda: parsed_or_refused(HOSTILE_MESSAGES[name])) < 1


@pytest.mark.parametrize(
    "header", [b"Via", b"To", b"From", b"CSeq", b"Call-ID", b"Max-Forwards", b"Content-Length"]
)
def test_hostile_values_inside_a_message_take_little_time(
    header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upmt_nf.signaling.sip.parser.MAX_DATAGRAM", 10**6)
    lines = [line for line in FIGURE_9[:-4].split(b"\r\n") if not line.startswith(header + b":")]
    for value in HOSTILE_VALUES.values():
        data = b"\r\n".join((*lines, header + b": " + value.encode(), b"", b""))
        assert seconds_of(lambda data=data: parsed_or_refused(data)) < 1  # type: ignore[misc]


def test_names_from_strangers_fill_no_memory() -> None:
    from upmt_nf.signaling.sip import message

    for number in range(2000):
        assert Message(((f"X-{number}", "v"),)).header(f"x-{number}") == "v"
    assert len(message._KNOWN) <= 512
    assert canonical("VIA") == canonical("v") == "via"
