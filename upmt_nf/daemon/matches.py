"""Conditions as people write them, in the configuration or after `upmt assign` -> an application rule."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from upmt_nf.classify.rules import ApplicationRule, parse_destination
from upmt_nf.config.match_values import read_dscp, read_host_name, read_ports
from upmt_nf.model.errors import UsageError
from upmt_nf.model.identity import ApplicationId

Result = TypeVar("Result")

_TEXTS = frozenset(("command", "executable", "cgroup", "unit", "container"))


def conditions_said(match: Mapping[str, Any]) -> str:
    """The conditions in one line: `command=ping uid=34`."""
    return " ".join(f"{key}={_word(value)}" for key, value in match.items())


def rule_of(
    application: ApplicationId, match: Mapping[str, Any], began: Callable[[int], int | None] = lambda _: None
) -> ApplicationRule:
    """A rule from conditions as people write them. Raises UsageError that names the condition.

    `began` tells when a process began: the rule then is about that process and not about a later one of its number.
    """
    fields: dict[str, Any] = {}
    for key, value in match.items():
        match key:
            case "destination":
                fields["destination"], port = parse_destination(str(value))
                _set_ports(fields, port, None)
            case "destination_name":
                fields["destination_name"] = _read(read_host_name, value)
            case "port":
                _set_ports(fields, *_read(read_ports, value))
            case "uid":
                fields["uid"] = _number(key, value, lambda name: pwd.getpwnam(name).pw_uid)
            case "gid":
                fields["gid"] = _number(key, value, lambda name: grp.getgrnam(name).gr_gid)
            case "pid":
                fields["pid"] = _number(key, value, None)
                fields["started"] = began(fields["pid"])
            case "dscp":
                fields["dscp"] = _read(read_dscp, value)
            case "children" if isinstance(value, bool):
                fields["children"] = value
            case _ if key in _TEXTS and isinstance(value, str) and (value or key == "command"):
                if "\0" in value or (key != "command" and "\n" in value):
                    raise UsageError(f"{key}={value!r}: no control group or file is called that")
                fields[key] = value
            case _:
                raise UsageError(f"{key}={value!r} is no condition for an application")
    return ApplicationRule(application, **fields)


def _read(reader: Callable[[Any], Result], value: Any) -> Result:
    try:
        return reader(value)
    except ValueError as reason:
        raise UsageError(str(reason)) from reason


def _set_ports(fields: dict[str, Any], port: int | None, last: int | None) -> None:
    if port is None:
        return
    if "port" in fields:
        raise UsageError("the port is given twice: with the destination and alone")
    fields["port"], fields["last_port"] = port, last


def _number(key: str, value: Any, by_name: Callable[[str], int] | None) -> int:
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) < 11 and int(text) < 2**32:
        return int(text)
    if by_name is not None:
        try:
            return by_name(text)
        except (KeyError, ValueError) as reason:
            raise UsageError(f"there is no {key} called {text!r}") from reason
    raise UsageError(f"{key} is a number, not {text!r}")


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
