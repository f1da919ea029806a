"""TOML text -> a pydantic model; every error reads `file:line: key: reason`. Knows no particular configuration."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from upmt_nf.config.toml_lines import KeyPath, key_lines, line_of
from upmt_nf.model.errors import ConfigError


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


Model = TypeVar("Model", bound=Section)

_MAX_TEXT = 1 << 20


Complaint = tuple[KeyPath, str]
"""A key and what is wrong with its value."""


def _no_complaints(_: Section) -> Iterable[Complaint]:
    return ()


def checked(
    model: type[Model],
    text: str,
    file: str,
    contradictions: Callable[[Model], Iterable[Complaint]] = _no_complaints,
) -> Model:
    """Parse and check `text`. Raises ConfigError listing every wrong line, in the order of the file.

    `contradictions` looks at what no single value can show: names that do not fit each other.
    """
    if len(text) > _MAX_TEXT:
        raise ConfigError(f"{file}:1: the file is larger than 1 MiB")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as reason:
        raise ConfigError(_syntax_error(file, str(reason))) from reason
    try:
        value = model.model_validate(document)
    except ValidationError as errors:
        wrong = [(value.place, value.reason) for value in _wrong_values(errors)]
        raise ConfigError(_report(text, file, wrong)) from errors
    if complaints := list(contradictions(value)):
        raise ConfigError(_report(text, file, complaints))
    return value


def _report(text: str, file: str, complaints: list[Complaint]) -> str:
    lines = key_lines(text)
    found = sorted(
        (line_of(lines, place), f"{'.'.join(map(str, place)) or '(whole file)'}: {reason}")
        for place, reason in complaints
    )
    return "\n".join(f"{file}:{line}: {what}" for line, what in found)


@dataclass(frozen=True, slots=True)
class _WrongValue:
    place: KeyPath
    kind: str
    message: str

    @property
    def reason(self) -> str:
        match self.kind:
            case "extra_forbidden":
                return "no such key"
            case "missing":
                return "is missing"
            case "tuple_type" | "list_type":
                return "is a list: [...], or one [[table]] for each"
            case _:
                return self.message.removeprefix("Value error, ")


def _wrong_values(errors: ValidationError) -> list[_WrongValue]:
    """Pydantic's errors, one a key: the branches of a union all complain about the same value."""
    seen: dict[KeyPath, _WrongValue] = {}
    for error in errors.errors(include_url=False, include_context=False):
        place = tuple(part for part in error["loc"] if not _is_branch(part))
        seen.setdefault(place, _WrongValue(place, error["type"], error["msg"]))
    return list(seen.values())


def _is_branch(part: str | int) -> bool:
    """Pydantic puts the branch of a union into the place; the administrator never wrote it."""
    return isinstance(part, str) and (not re.fullmatch(r"[a-z0-9_\-]+", part) or part in _BRANCHES)


_BRANCHES = {"str", "int", "float", "bool", "list", "tuple", "literal"}


def _syntax_error(file: str, reason: str) -> str:
    place = re.search(r" \(at line (\d+), column \d+\)$", reason)
    if place is None:
        return f"{file}:1: {reason}"
    return f"{file}:{place[1]}: {reason[: place.start()]}"
