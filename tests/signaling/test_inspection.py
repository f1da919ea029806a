"""What a server checks before it serves (RFC 3261 section 8.2)."""

import pytest

from upmt_nf.signaling.sip.inspection import Rejected, inspect
from upmt_nf.signaling.sip.message import Request

JSON = ("Content-Type", "Application/JSON; charset=utf-8")


def request(
    *headers: tuple[str, str], method: str = "MESSAGE", uri: str = "SIP:45.0.0.1", body: bytes = b"{}"
) -> Request:
    return Request(headers, method=method, uri=uri, body=body)


def inspected(asked: Request) -> Rejected | None:
    return inspect(asked, ("REGISTER", "MESSAGE"))


@pytest.mark.parametrize(
    "asked",
    [
        request(JSON),
        request(),
        request(JSON, ("Content-Encoding", "identity"), ("Supported", "outbound, path")),
        request(("Content-Type", "text/plain"), body=b""),
        request(JSON, ("Require", "")),
    ],
)
def test_what_can_be_served_passes(asked: Request) -> None:
    assert inspected(asked) is None


@pytest.mark.parametrize(
    ("asked", "status", "header"),
    [
        (request(method="OPTIONS"), 405, ("Allow", "REGISTER, MESSAGE")),
        (request(method="register"), 405, ("Allow", "REGISTER, MESSAGE")),
        (request(method="OPTIONS", uri="tel:1"), 405, ("Allow", "REGISTER, MESSAGE")),
        (request(uri="tel:+358"), 416, None),
        (request(uri="sips:45.0.0.1"), 416, None),
        (request(JSON, ("Require", "100rel ,path")), 420, ("Unsupported", "100rel, path")),
        (request(("Content-Type", "text/plain")), 415, ("Accept", "application/json, application/text")),
        (request(JSON, ("Content-Encoding", "gzip")), 415, ("Accept-Encoding", "identity")),
    ],
)
def test_what_cannot_is_refused_with_what_could(
    asked: Request, status: int, header: tuple[str, str] | None
) -> None:
    assert inspected(asked) == Rejected(status, () if header is None else (header,))
