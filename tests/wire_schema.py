"""What crosses a wire of the tests, held against the schemas that `upmt schema` prints."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from upmt_nf.cli.schema import bundled, schemas
from upmt_nf.signaling.sip.parser import SipParseError, parse

FORMATS = FormatChecker(("ipv4", "ipv6"))


@cache
def validator(name: str) -> Draft202012Validator:
    """Of the schema as it is printed, with its formats."""
    known = schemas()
    return Draft202012Validator(bundled(known[name], known), format_checker=FORMATS)


def complaints(name: str, value: Any) -> list[str]:
    """What a schema finds wrong."""
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(value)]


@lru_cache(maxsize=4096)
def body_complaints(body: bytes) -> list[str]:
    """What the schema of its own `mType` finds wrong with a body."""
    value = json.loads(body)
    return complaints("authors" if isinstance(value, list) else value["mType"], value)


def body_of(datagram: bytes) -> bytes:
    """The body of a SIP message; none of what is no SIP."""
    try:
        return parse(datagram).body
    except SipParseError:
        return b""
