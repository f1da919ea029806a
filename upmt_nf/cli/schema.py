"""`upmt schema [NAME]`: the JSON Schemas of the signalling's bodies and of the commands' answers.

A schema refers to its parts by name; what is printed has them inside, so that it stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Annotated, Any

import typer

from upmt_nf.cli.tables import print_json
from upmt_nf.model.errors import UsageError

PACKAGES = ("upmt_nf.signaling", "upmt_nf.daemon")
"""Each has a folder `schema`."""


def register(app: typer.Typer) -> None:
    """Add `schema` to `app`."""
    app.command()(schema)


def schema(
    name: Annotated[str | None, typer.Argument(help="One of the list; without it, the list.")] = None,
) -> None:
    """The JSON Schemas of the messages on the wire and of the answers of the commands."""
    known = schemas()
    if name is None:
        for each, document in known.items():
            typer.echo(f"{each:20} {document['title']}")
    elif name not in known:
        raise UsageError(f"there is no schema {name!r}; there are {', '.join(known)}")
    else:
        print_json(bundled(known[name], known))


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema as it is in its file, by name, in the order of the list."""
    files = (
        file
        for package in PACKAGES
        for file in sorted((resources.files(package) / "schema").iterdir(), key=lambda file: file.name)
    )
    return {
        file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".json")
    }


def bundled(document: dict[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A schema with all that it refers to in its `$defs` (JSON Schema 2020-12, section 9.3)."""
    by_id = {other["$id"]: other for other in known.values()}
    needed: dict[str, Any] = {}
    waiting = [document]
    while waiting:
        for id in _referred(waiting.pop()):
            if id not in needed and id != document["$id"]:
                needed[id] = by_id[id]
                waiting.append(by_id[id])
    return document | {"$defs": document.get("$defs", {}) | needed} if needed else document


def _referred(value: Any) -> Iterator[str]:
    """The ids of the other schemas that a part of a schema refers to."""
    if isinstance(value, list):
        for item in value:
            yield from _referred(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref" and not item.startswith("#"):
                yield item.partition("#")[0]
            else:
                yield from _referred(item)
