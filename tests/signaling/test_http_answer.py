"""The head of an HTTP answer that a stranger wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.http_answer import HttpAnswer, parse_answer


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", HttpAnswer(204)),
        (b"HTTP/1.0 200\r\n\r\n<html>", HttpAnswer(200)),
        (
            b"HTTP/1.1 302 Found\r\nServer: x\r\nLOCATION: http://login/ \r\n\r\n",
            HttpAnswer(302, "http://login/"),
        ),
        (b"HTTP/1.1 302 Found\nlocation:http://a\n\nLocation: http://b\n", HttpAnswer(302, "http://a")),
        (b"HTTP/1.1 511 Network Authentication Required\r\nLoc", HttpAnswer(511)),
        (b"HTTP/1.1 302 F\r\nLocation: \x1b[2Jhttp://\xff\xfea\r\n\r\n", HttpAnswer(302, "[2Jhttp://a")),
        (b"HTTP/1.1 302 F\r\nLocation: " + b"a" * 3000, HttpAnswer(302, "a" * 200)),
        (b"HTTP/1.1 302 F\r\nLocation:\r\n", HttpAnswer(302)),
    ],
)
def test_status_and_location_are_read(data: bytes, answer: HttpAnswer) -> None:
    assert parse_answer(data) == answer


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/2 200\r\n",
        b"HTTP/1.1 99 x\r\n",
        b"HTTP/1.1 2004\r\n",
        b"<html>",
        b"\n" * 9000,
    ],
)
def test_what_is_no_http_is_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        parse_answer(data)


@given(st.binary(max_size=6000))
def test_nothing_that_a_stranger_sends_gets_past_it(data: bytes) -> None:
    for head in (data, b"HTTP/1.1 302 Found\r\nLocation: " + data):
        try:
            answer = parse_answer(head)
        except PeerError:
            continue
        assert 100 <= answer.status <= 599
        assert answer.location is None or (answer.location.isprintable() and len(answer.location) <= 200)
