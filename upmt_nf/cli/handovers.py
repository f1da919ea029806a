"""`upmt lock|release|handovers`: keep an application somewhere; what was moved, and why."""

from __future__ import annotations

import json as json_format
import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json, print_table
from upmt_nf.daemon.control_client import call

Application = Annotated[str, typer.Argument(help="An application.")]
_LOOK_EVERY = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (lock, release, handovers):
        app.command()(command)


def lock(
    application: Application,
    to: Annotated[str | None, typer.Option("--to", help="Network; where it is now by default.")] = None,
    json: Json = False,
) -> None:
    """Keep an application on one network and nowhere else, until it is released."""
    _print(call("lock", application=application, to=to), json)


def release(application: Application, json: Json = False) -> None:
    """Let an application's policy decide again."""
    _print(call("release", application=application), json)


def handovers(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    last: Annotated[int, typer.Option("--last", min=0, max=1000, help="So many, the newest.")] = 20,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Also the numbers behind each, and its steps.")
    ] = False,
    json: Json = False,
) -> None:
    """The last handovers with their causes. With --follow and --json: one JSON object a line."""
    rows = call("handovers", most=last) if last else []
    line = _long if long else _line
    if not follow:
        if json:
            print_json(rows)
        elif long:
            typer.echo("\n".join(map(_long, rows)))
        else:
            _print_table(rows)
        return
    newest = max((row["number"] for row in rows), default=0)
    with suppress(KeyboardInterrupt):
        while True:
            for row in rows:
                if row["is_counting"]:
                    break  # shown, and those behind it, when it is complete
                typer.echo(json_format.dumps(row) if json else line(row))
                newest = max(newest, row["number"])
            time.sleep(_LOOK_EVERY)
            rows = call("handovers", after=newest, most=1000)


def _print(value: dict[str, Any], json: bool) -> None:
    if json:
        print_json(value)
        return
    state = f"locked to {value['locked']}" if value["locked"] else "not locked"
    typer.echo(f"{value['application']}: {state}; now by {value['network'] or 'no network'}")


def _line(row: dict[str, Any]) -> str:
    if row["outcome"] != "done":
        return f"{row['time']}  failed: {row['failure']}"
    what = row["flow"] or row["application"]
    rule = f"  [{row['rule']}]" if row["rule"] else ""
    way = f"{row['from'] or 'none'} -> {row['to']}"
    return f"{row['time']}  {what}: {way}  {row['cause']}{rule}  {_cost(row)}".rstrip()


def _long(row: dict[str, Any]) -> str:
    """The line, and below it what it was decided by and when each step came, in ms since it was decided."""
    lines = [_line(row)]
    if row["numbers"]:
        numbers = (
            f"{name} {'unknown' if value is None else value}" for name, value in row["numbers"].items()
        )
        lines.append("    " + ", ".join(numbers))
    if row["steps"]:
        lines.append("    ms: " + ", ".join(map(_step, row["steps"])))
    return "\n".join(lines)


def _step(step: dict[str, Any]) -> str:
    """`answered 12.4`, or `anchor-steered 6.2 +- 6.1`."""
    within = f" +- {step['within_ms']:.1f}" if step["within_ms"] else ""
    return f"{step['step']} {step['ms']:.1f}{within}"


def _cost(row: dict[str, Any]) -> str:
    """What was lost and how long nothing came, up and down: `up 0 lost 20 ms, down 1-3 lost 35 ms`."""
    counts = row["counts"] or {}
    return ", ".join(
        f"{way} {_lost(counts[way])} lost {counts[way]['gap_ms']} ms"
        for way in ("up", "down")
        if counts.get(way)
    )


def _lost(course: dict[str, Any] | None) -> str | None:
    """A number, or its bounds; records of older daemons have no bounds."""
    if course is None:
        return None
    least, most = course["lost"], course.get("lost_at_most", course["lost"])
    return str(least) if least == most else f"{least}-{most}"


def _print_table(rows: list[dict[str, Any]]) -> None:
    columns = {
        "TIME": "at",
        "WHAT": "what",
        "FROM": "from",
        "TO": "to",
        "FLOWS": "flows",
        "MS": "signalling_ms",
        "UP LOST": "up",
        "DOWN LOST": "down",
        "CAUSE": "why",
        "POLICY'S LINE": "rule",
    }
    shown = [
        {
            **row,
            "at": row["time"][:19].replace("T", " "),
            "what": row["flow"] or row["application"],
            "why": row["failure"] or row["cause"],
            **{way: _lost((row["counts"] or {}).get(way)) for way in ("up", "down")},
        }
        for row in rows
    ]
    print_table(None, columns, shown)
