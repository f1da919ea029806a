"""Pages that are asked for by HTTP: an address, never a name."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.config.http_url import HttpUrl, read_http_url
from upmt_nf.model.flow import Endpoint


@pytest.mark.parametrize(
    ("text", "address", "port", "path"),
    [
        ("http://203.0.113.10", "203.0.113.10", 80, "/"),
        ("http://203.0.113.10:8080/", "203.0.113.10", 8080, "/"),
        ("http://203.0.113.10/generate_204?x=1", "203.0.113.10", 80, "/generate_204?x=1"),
        ("http://[2001:db8::1]:81/a", "2001:db8::1", 81, "/a"),
    ],
)
def test_an_address_a_port_and_a_path_are_read(text: str, address: str, port: int, path: str) -> None:
    assert read_http_url(text) == HttpUrl(Endpoint(ip_address(address), port), path)


@pytest.mark.parametrize(
    "text",
    [
        "https://203.0.113.10/", "http://portal.example/", "http://203.0.113/", "http://203.0.113.10:0/",
        "http://203.0.113.10:65536/", "http://203.0.113.10/a b", "http://203.0.113.10/\r\nX: y", "", 7, None,
        "http://user@203.0.113.10/", "http://[::1", "http://203.0.113.10/" + "a" * 300,
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_it_is(text: object) -> None:
    with pytest.raises(ValueError, match=r"http://|address"):
        read_http_url(text)


@given(st.text(max_size=60))
def test_what_is_read_can_be_put_into_a_request_line(path: str) -> None:
    try:
        url = read_http_url("http://203.0.113.10/" + path)
    except ValueError:
        return
    assert url.path.isascii()
    assert url.path.isprintable()
    assert " " not in url.path
