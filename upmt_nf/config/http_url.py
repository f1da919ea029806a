"""A page that is asked for by plain HTTP at an address: no names, which would be looked up who knows where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import PlainValidator

from upmt_nf.model.flow import Endpoint

_URL = re.compile(r"http://(\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::(\d{1,5}))?(/[!-~]{0,200})?")


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """`http://SERVER PATH`; the path in printable ASCII."""

    server: Endpoint
    path: str = "/"


def read_http_url(value: Any) -> HttpUrl:
    """`http://203.0.113.10:8080/` or `http://[2001:db8::1]/x`. Raises ValueError."""
    if isinstance(value, HttpUrl):
        return value
    found = _URL.fullmatch(value) if isinstance(value, str) else None
    port = int(found[2] or 80) if found is not None else 0
    if found is None or not 1 <= port <= 65535:
        raise ValueError(f"{value!r} is not http:// and an address, such as 'http://203.0.113.10:8080/'")
    try:
        address = ip_address(found[1].strip("[]"))
    except ValueError:
        raise ValueError(f"{value!r}: {found[1]} is no address; names are not looked up here") from None
    return HttpUrl(Endpoint(address, port), found[3] or "/")


WrittenUrl = Annotated[HttpUrl, PlainValidator(read_http_url)]
