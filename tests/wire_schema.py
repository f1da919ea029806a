"""What crosses a wire of the tests, held against the schemas that `upmt schema` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import typer
from jsonschema import Draft202012Validator, FormatChecker

from upmt_nf.cli.main import app
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


@cache
def strict_validator(name: str) -> Draft202012Validator:
    """Takes no key that the schema does not name. Keys may be added for others; ours are to be published."""
    return Draft202012Validator(_closed(validator(name).schema), format_checker=FORMATS)


def unpublished(name: str, value: Any) -> list[str]:
    """What a schema finds wrong, keys that it does not name among it."""
    return [f"{error.json_path}: {error.message}" for error in strict_validator(name).iter_errors(value)]


def _closed(part: Any) -> Any:
    if isinstance(part, list):
        return [_closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    found = {key: _closed(item) for key, item in part.items()}
    return found | {"additionalProperties": False} if isinstance(part.get("properties"), dict) else found


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


def commands_with_json() -> Iterator[tuple[str, ...]]:
    """The words of every command that takes `--json`."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        waiting += [((*words, name), below) for name, below in getattr(command, "commands", {}).items()]
        if any("--json" in option.opts for option in command.params):
            yield words
