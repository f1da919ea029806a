"""`upmt run|assign|handover`: who goes where."""

from __future__ import annotations

import os
from enum import Enum
from ipaddress import ip_address
from typing import Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json
from upmt_nf.daemon.control_client import call
from upmt_nf.linux import resolver_view
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import IPAddress


class OnNoNetwork(Enum):
    """The kill switch."""

    HOLD = "hold"
    REJECT = "reject"
    NATIVE = "native"


_COMMAND_SETTINGS = {"allow_interspersed_args": False, "ignore_unknown_options": False}


def register(app: typer.Typer) -> None:
    """Add the steering commands to `app`."""
    app.command(context_settings=_COMMAND_SETTINGS)(run)
    app.command()(assign)
    app.command()(handover)


def run(
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    app: Annotated[
        str | None, typer.Option("--app", help="Application to belong to; the command's name by default.")
    ] = None,
    resolver: Annotated[
        list[str] | None,
        typer.Option("--resolver", help="Name server that the command asks itself; may be repeated."),
    ] = None,
    system_resolver: Annotated[
        bool, typer.Option("--system-resolver", help="Leave look-ups to the system, whoever makes them.")
    ] = False,
) -> None:
    """Run a command as a member of an application; its first packet already goes by that application's network."""
    name = app or os.path.basename(command[0])
    asked = _servers_asked(resolver, leave=system_resolver)
    # The daemon puts *this* process into the application's cgroup; the command inherits it through exec.
    declared = call("join", application=name)["resolver"]
    if asked is None and declared is not None:
        asked = [ip_address(text) for text in declared]
    if servers := _servers_behind_the_stub() if asked is None else asked:
        resolver_view.own_view(servers)
    try:
        os.execvp(command[0], command)
    except OSError as reason:
        raise UsageError(f"cannot run {command[0]}: {reason.strerror}") from reason


def _servers_asked(asked: list[str] | None, *, leave: bool) -> list[IPAddress] | None:
    """What the command line says: these name servers, none for the system's way; None when it says nothing."""
    if asked and leave:
        raise UsageError("either --resolver or --system-resolver")
    try:
        return [ip_address(text) for text in asked or ()] if asked or leave else None
    except ValueError as reason:
        raise UsageError(f"--resolver takes the address of a name server: {reason}") from reason


def _servers_behind_the_stub() -> list[IPAddress]:
    """Those that a command is to ask itself; none where it asks the system's servers itself anyway."""
    facts = resolver_view.look()
    return list(facts.upstream) if facts.helpers else []


def assign(
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Policy, network, or networks in order: voice or lte,wifi or any; native to be left alone.",
        ),
    ] = None,
    app: Annotated[
        str | None, typer.Option("--app", help="Name of the application; made from the match by default.")
    ] = None,
    command: Annotated[
        str | None, typer.Option("--command", help="Command name, executable's base name or pattern.")
    ] = None,
    executable: Annotated[
        str | None, typer.Option("--executable", help="Path of the program's file.")
    ] = None,
    uid: Annotated[str | None, typer.Option("--uid", help="User, by number or name.")] = None,
    gid: Annotated[str | None, typer.Option("--gid", help="Group, by number or name.")] = None,
    cgroup: Annotated[str | None, typer.Option("--cgroup", help="Path below the cgroup v2 root.")] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="systemd unit or slice.")] = None,
    pid: Annotated[int | None, typer.Option("--pid", help="A running process and its children.")] = None,
    children: Annotated[
        bool | None,
        typer.Option("--children/--no-children", help="Descendants as well; by default those of a pid."),
    ] = None,
    container: Annotated[str | None, typer.Option("--container", help="A container's name or id.")] = None,
    destination: Annotated[str | None, typer.Option("--destination", help="CIDR[:PORT].")] = None,
    destination_name: Annotated[
        str | None, typer.Option("--destination-name", help="A host's name; its addresses are kept fresh.")
    ] = None,
    port: Annotated[str | None, typer.Option("--port", help="Destination port, or FIRST-LAST.")] = None,
    dscp: Annotated[str | None, typer.Option("--dscp", help="0 to 63, or EF, AF41, CS5 ...")] = None,
    on_no_network: Annotated[
        OnNoNetwork | None,
        typer.Option("--on-no-network", help="What becomes of its packets when no allowed network is left."),
    ] = None,
    anchor: Annotated[
        str | None,
        typer.Option("--anchor", help="The anchor that it goes by, by name; any: whichever the host uses."),
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Keep it for the daemon's next start, too.")] = False,
    remove: Annotated[
        bool,
        typer.Option(
            "--remove", help="End such an assignment instead; with --save the one that is kept, too."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Tie whatever matches to a network, running programs included. Several conditions must all hold."""
    given = {
        "command": command,
        "executable": executable,
        "uid": uid,
        "gid": gid,
        "cgroup": cgroup,
        "unit": unit,
        "container": container,
        "pid": pid,
        "children": children,
        "destination": destination,
        "destination_name": destination_name,
        "port": port,
        "dscp": dscp,
    }
    match = {key: value for key, value in given.items() if value is not None}
    if not match and app is None:
        raise UsageError(
            "say what to assign: --command, --executable, --uid, --gid, --cgroup, --unit, --container, --pid, "
            "--destination, --destination-name, --port, --dscp or --app"
        )
    if remove:
        if to is not None or on_no_network is not None or anchor is not None:
            raise UsageError("--remove ends an assignment: it goes with conditions or --app, and --save")
        ended = call("take_back", application=app, match=match, save=save)
        if json:
            print_json(ended)
        else:
            typer.echo("\n".join(ended["removed"]) or "nothing was assigned like that")
        return
    if to is None:
        raise UsageError("say where to: --to NETWORK, a policy or native; or --remove")
    more: dict[str, Any] = {"on_no_network": on_no_network.value} if on_no_network is not None else {}
    if anchor is not None:
        more["anchor"] = anchor
    answer = call("assign", application=app, match=match, networks=to.split(","), save=save, **more)
    if json:
        print_json(answer)
    elif answer["is_left_alone"]:
        typer.echo(f"{answer['name']}: {', '.join(answer['policy'])}; new flows are left alone")
    else:
        typer.echo(
            f"{answer['name']}: {', '.join(answer['policy'])}; now by {answer['network'] or 'no network'}"
        )


def handover(
    subject: Annotated[str, typer.Argument(help="An application, or a flow as `upmt flows` prints it.")],
    to: Annotated[str, typer.Option("--to", help="The network to move to.")],
    json: Json = False,
) -> None:
    """Move an application or one flow to another network now, without breaking it. Prints a receipt."""
    receipt = call("handover", subject=subject, to=to)
    if json:
        print_json(receipt)
    else:
        flows = "1 flow" if receipt["flows"] == 1 else f"{receipt['flows']} flows"
        typer.echo(
            f"{receipt['application']}: {receipt['from'] or 'no network'} -> {receipt['to']}, "
            f"{receipt['mode']}, {flows}, signalling {receipt['signalling_ms']:.1f} ms"
        )
