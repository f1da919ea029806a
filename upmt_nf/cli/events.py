"""`upmt events`: what has changed on this mobile host, as lines for people or as JSON lines for scripts."""

from __future__ import annotations

import json as json_format
import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json
from upmt_nf.daemon.control_client import call
from upmt_nf.model.errors import NoDaemonError

_LOOK_EVERY = 0.5


def register(app: typer.Typer) -> None:
    """Add `events` to `app`."""
    app.command()(events)


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    last: Annotated[int, typer.Option("--last", min=0, max=1000, help="So many, the newest.")] = 20,
    json: Json = False,
) -> None:
    """What has changed: networks, association, handovers, policies, locks, budgets; --follow --json: JSON lines."""
    rows = call("events", most=last) if last or not follow else []
    if json and not follow:
        print_json(rows)
        return
    newest = _say(rows, json)
    if not follow:
        return
    if not last:
        newest = max((row["number"] for row in call("events", most=1)), default=0)
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(_LOOK_EVERY)
            # A daemon that is started anew goes on with the same numbers.
            with suppress(NoDaemonError):
                newest = max(newest, _say(call("events", after=newest, most=1000), json))


def _say(rows: list[dict[str, Any]], json: bool) -> int:
    """Print them; gives the number of the newest."""
    for row in rows:
        typer.echo(json_format.dumps(row) if json else _line(row))
    return max((row["number"] for row in rows), default=0)


def _line(row: dict[str, Any]) -> str:
    what = " ".join(each for each in (row["event"], row["application"], row["network"]) if each)
    way = " -> ".join(each for each in (row["from"], row["to"]) if each)
    said = ": ".join(each for each in (what, way, row["reason"]) if each)
    return f"{row['time'][:19].replace('T', ' ')}  {said}"
