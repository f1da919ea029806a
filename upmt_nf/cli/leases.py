"""`upmt anchor lease list|release`: which host has which virtual address, and the end of that."""

from __future__ import annotations

from typing import Annotated

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json, print_table
from upmt_nf.daemon.control_client import call

lease_app = typer.Typer(help="The virtual addresses of this anchor's hosts.", no_args_is_help=True)


@lease_app.command("list")
def list_leases(json: Json = False) -> None:
    """Every address that a host has, or had and would get again."""
    rows = call("leases")
    if json:
        print_json(rows)
        return
    columns = {
        "HOST": "identity",
        "VIRTUAL ADDRESS": "virtual_address",
        "STATE": "state",
        "EXPIRES (s)": "expires_in_s",
    }
    print_table(None, columns, rows)


@lease_app.command()
def release(
    host: Annotated[str, typer.Argument(help="Its identity, such as boat7@fleet.example.")],
    json: Json = False,
) -> None:
    """End a host's association now; it is told, and may associate again unless `anchor user remove` forbids it."""
    answer = call("release", identity=host)
    if json:
        print_json(answer)
    elif answer["ended"]:
        typer.echo(f"{host} has {answer['virtual_address']} no more")
    else:
        typer.echo(f"{host} is not associated")
