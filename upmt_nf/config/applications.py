"""Applications as a document of their own: what `upmt apply` reads and `upmt assign --save` writes.

The words are those of `[[application]]` in a mobile host's configuration.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal

from pydantic import IPvAnyAddress

from upmt_nf.config.application_sections import (
    ANY_ANCHOR,
    NATIVE,
    TUNNEL,
    ApplicationSection,
    FlowSection,
    MatchSection,
    named_anchor,
)
from upmt_nf.config.checked import Section, checked
from upmt_nf.config.mobile_host import MobileHostConfig, contradictions, read_mobile_host_config
from upmt_nf.model.errors import UsageError
from upmt_nf.model.identity import DEFAULT_APPLICATION

Sections = tuple[ApplicationSection, ...]


class ApplicationsFile(Section):
    """The whole document."""

    application: Sections = ()


def read_applications(text: str, file: str) -> Sections:
    """The applications of a document, or of a whole configuration. Raises ConfigError with file, line and reason."""
    try:
        is_whole = "mobile_host" in tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        is_whole = False
    if is_whole:
        return read_mobile_host_config(text, file).application
    return checked(ApplicationsFile, text, file).application


def check_applications(config: MobileHostConfig, sections: Sections) -> None:
    """Whether they fit a configuration: its networks, its default. Raises UsageError naming key and reason."""
    # What the system's resolver belongs to is the file's business.
    host = config.mobile_host.model_copy(update={"resolver": DEFAULT_APPLICATION})
    wrong = contradictions(config.model_copy(update={"application": sections, "mobile_host": host}))
    if said := [f"{'.'.join(map(str, place))}: {reason}" for place, reason in wrong]:
        raise UsageError("; ".join(said))


def written(sections: Iterable[ApplicationSection]) -> str:
    """As text that `read_applications` takes."""
    lines: list[str] = []
    for section in sections:
        lines.append("[[application]]")
        given = section.model_dump(exclude_defaults=True, exclude={"match", "flow"})
        lines += [f"{key} = {_toml(value)}" for key, value in given.items()]
        for table, parts in (("match", section.match), ("flow", section.flow)):
            for part in parts:
                lines.append(f"[[application.{table}]]")
                given = part.model_dump(exclude_unset=True, exclude_none=True)
                lines += [f"{key} = {_toml(value)}" for key, value in given.items()]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, IPv4Address | IPv6Address):
        return json.dumps(str(value))
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def differences(old: Sequence[ApplicationSection], new: Sequence[ApplicationSection]) -> list[str]:
    """What changes from one document to the other, in words; empty when nothing does."""
    before = {section.name: section for section in old}
    after = {section.name: section for section in new}
    said = [line for name, section in after.items() for line in _changes(name, before.get(name), section)]
    said += [f"{name}: removed" for name in before if name not in after]
    if not said and list(before) != list(after):
        said.append(f"order: {', '.join(after)}")
    return said


def _changes(name: str, old: ApplicationSection | None, new: ApplicationSection) -> Iterator[str]:
    if old is None:
        yield f"{name}: added, {_policy(new)}"
        none = {"match": (), "flow": (), "on_no_network": None, "anchor": None, "resolver": None}
        old = new.model_copy(update=none)
    elif _policy(old) != _policy(new):
        yield f"{name}: {_policy(old)} -> {_policy(new)}"
    if old.on_no_network != new.on_no_network:
        yield f"{name}: on_no_network {old.on_no_network or 'none'} -> {new.on_no_network or 'none'}"
    if named_anchor(old) != named_anchor(new):
        yield f"{name}: anchor {named_anchor(old) or ANY_ANCHOR} -> {named_anchor(new) or ANY_ANCHOR}"
    if old.resolver != new.resolver:
        yield f"{name}: resolver {_servers(old.resolver)} -> {_servers(new.resolver)}"
    yield from (f"{name}: match added: {_said(match)}" for match in new.match if match not in old.match)
    yield from (f"{name}: match removed: {_said(match)}" for match in old.match if match not in new.match)
    if old.flow != new.flow:
        said = "; ".join(f"{_said(flow)} ({_policy(flow)})" for flow in new.flow)
        yield f"{name}: flows {said or 'have no policies of their own'}"
    kept = [match for match in old.match if match in new.match]
    if kept != [match for match in new.match if match in old.match]:
        yield f"{name}: matches in another order"


def _policy(section: ApplicationSection | FlowSection) -> str:
    if section.policy == NATIVE:
        return NATIVE
    networks = f"networks {', '.join(section.networks)}"
    if section.policy == TUNNEL:
        return networks
    named = f"policy {section.policy}"
    return f"{named}, {networks}" if "networks" in section.model_fields_set else named


def _servers(resolver: Literal["system"] | tuple[IPvAnyAddress, ...] | None) -> str:
    return ", ".join(map(str, resolver)) if isinstance(resolver, tuple) else resolver or "none"


def _said(match: MatchSection | FlowSection) -> str:
    given = match.model_dump(exclude_none=True, exclude={"name", "networks", "policy"})
    return " ".join(f"{key}={value}" for key, value in given.items())


def with_assignment(sections: Sections, assigned: ApplicationSection) -> Sections:
    """The document after `upmt assign --save`: the new assignment first, as it wins over what was said before."""
    known = next((section for section in sections if section.name == assigned.name), None)
    if known is not None:
        kept = tuple(match for match in known.match if match not in assigned.match)
        choice = assigned.on_no_network if assigned.policy != "native" else None
        assigned = assigned.model_copy(
            update={
                "match": assigned.match + kept,
                "flow": assigned.flow or (known.flow if assigned.policy != "native" else ()),
                "on_no_network": choice or (known.on_no_network if assigned.policy != "native" else None),
                "anchor": assigned.anchor or (known.anchor if assigned.policy != "native" else None),
                "resolver": known.resolver,
            }
        )
    return (assigned, *(section for section in sections if section.name != assigned.name))


def without_assignment(sections: Sections, name: str | None, match: MatchSection | None) -> Sections:
    """The document after `upmt assign --remove --save`: without these conditions, or without the application.

    An application that says nothing more goes.
    """
    left: list[ApplicationSection] = []
    for section in sections:
        if name in (None, section.name):
            matches = tuple(each for each in section.match if match is not None and each != match)
            if not matches and (match is None or section.match):
                continue
            section = section.model_copy(update={"match": matches})
        left.append(section)
    return tuple(left)
