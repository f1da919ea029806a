"""`upmt assignments`: which rule names which application, in the order in which they are tried."""

from __future__ import annotations

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json, print_table
from upmt_nf.daemon.control_client import call


def register(app: typer.Typer) -> None:
    """Add `assignments` to `app`."""
    app.command()(assignments)


def assignments(json: Json = False) -> None:
    """Every rule that names an application; the first that matches wins."""
    rows = call("assignments")
    if json:
        print_json(rows)
        return
    columns = {
        "": "place",
        "APPLICATION": "application",
        "CONDITIONS": "conditions",
        "FROM": "origin",
        "DECIDED BY": "decided_by",
    }
    print_table(None, columns, rows)
