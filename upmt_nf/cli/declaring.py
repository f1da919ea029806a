"""`upmt apply FILE` and `upmt mobile-host reload`: applications as files say them, and what that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json
from upmt_nf.daemon.control_client import call


def register(app: typer.Typer) -> None:
    """Add `apply` to `app`."""
    app.command()(apply)


def apply(
    file: Annotated[Path, typer.Argument(help="TOML with [[application]] tables, or a whole configuration.")],
    save: Annotated[bool, typer.Option("--save", help="Keep it for the daemon's next start, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    json: Json = False,
) -> None:
    """Let the applications be as FILE says; what an earlier FILE said and this one does not is taken back.

    Prints what changes. Twice is the same as once.
    """
    from upmt_nf.cli.reading_config import applications_in

    sections = [section.model_dump(mode="json", exclude_defaults=True) for section in applications_in(file)]
    _print(call("apply", applications=sections, save=save, dry_run=dry_run), json)


def reload(json: Json = False) -> None:
    """Have the running mobile host read its configuration again. Flows go on; applications change at once."""
    answer = call("reload")
    _print(answer, json)
    if not json:
        for what in answer["needs_restart"]:
            typer.echo(f"{what} is another now: takes a restart", err=True)


def _print(answer: dict[str, Any], json: bool) -> None:
    if json:
        print_json(answer)
        return
    for line in answer["changes"] or ["nothing to do"]:
        typer.echo(line)
