"""`upmt anchor forward add|list|remove`: ports of the anchor that lead to a mobile host."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json, print_table
from upmt_nf.daemon.control_client import call
from upmt_nf.model.errors import FacilityError

forward_app = typer.Typer(help="Ports of the anchor that lead to a mobile host.", no_args_is_help=True)

Protocol = Annotated[str, typer.Argument(metavar="tcp|udp", help="Protocol.")]
Ports = Annotated[
    str, typer.Argument(metavar="PORT", help="Port of the anchor, or a range such as 8000-8010.")
]
External = Annotated[
    str | None,
    typer.Option("--external", metavar="ADDRESS", help="External address; the anchor's by default."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@forward_app.command()
def add(
    protocol: Protocol,
    port: Ports,
    host: Annotated[str, typer.Argument(metavar="HOST", help="Identity of a host, or a virtual address.")],
    host_port: Annotated[
        str | None,
        typer.Argument(metavar="[PORT]", help="Port there, of a range the first; the same by default."),
    ] = None,
    external: External = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Let a port lead to a host, from now on and after restarts. Without a lease of that host it waits for one."""
    _need_root()
    answer = call(
        "forward_add",
        protocol=protocol,
        ports=port,
        host=host,
        host_port=host_port,
        external=external,
        dry_run=dry_run,
    )
    _print(answer, json=json, done=f"{answer['forward']['state']}: ")


@forward_app.command()
def remove(
    protocol: Protocol,
    port: Ports,
    external: External = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Let a port lead to a host no more. Connections that are there go on until they end."""
    _need_root()
    answer = call("forward_remove", protocol=protocol, ports=port, external=external, dry_run=dry_run)
    _print(answer, json=json, done="removed: ")


@forward_app.command("list")
def list_forwards(json: Json = False) -> None:
    """What is open to the world: forwards and static NATs, also those that wait for their host."""
    rows = call("forward_list")
    if json:
        print_json(rows)
        return
    columns = {
        "PROTO": "protocol",
        "EXTERNAL": "external",
        "PORT": "ports",
        "HOST": "host",
        "HOST PORT": "host_ports",
        "STATE": "state",
        "VIRTUAL ADDRESS": "virtual_address",
        "ORIGIN": "origin",
        "REASON": "reason",
    }
    print_table(None, columns, rows)


def _print(answer: dict[str, Any], *, json: bool, done: str) -> None:
    if json:
        print_json(answer)
        return
    for line in answer["rules"]:
        typer.echo(line)
    if not answer["changed"]:
        typer.echo("nothing to do")
    elif not answer["rules"]:
        row = answer["forward"]
        outside = f"{row['protocol']} {row['external']} port {row['ports']}"
        typer.echo(f"{done}{outside} to {row['host']} port {row['host_ports']}")


def _need_root() -> None:
    if os.geteuid() != 0:
        raise FacilityError("this changes what the anchor lets in: run it as root")
