"""`upmt lab up|down|exec|link|shape|status|demo`: a world to try it in.

What builds it is imported where it is used: loading it takes longer than most commands.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upmt_nf.cli.tables import print_json, print_table
from upmt_nf.lab import namespaces
from upmt_nf.lab.topology import LinkAction
from upmt_nf.model.errors import FacilityError, UsageError

if TYPE_CHECKING:
    from upmt_nf.lab.demo import DemoResult

lab_app = typer.Typer(help="The paper's fig. 6 in network namespaces.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", help="Which lab; several can be up.")]
_DEFAULT = "upmt"


@lab_app.command()
def up(
    name: Name = _DEFAULT,
    datapath: Annotated[str, typer.Option("--datapath", help="auto, agent or fast.")] = "auto",
    protection: Annotated[
        str, typer.Option("--protection", help="Tunnel format: plain, cookie or sealed.")
    ] = "plain",
    anchors: Annotated[int, typer.Option("--anchors", min=1, max=2, help="The second is host an2.")] = 1,
    daemons: Annotated[
        bool, typer.Option("--daemons/--no-daemons", help="Start anchor and mobile host.")
    ] = True,
) -> None:
    """Build a lab; returns when the host is associated and its tunnels are up."""
    _need_root()
    from upmt_nf.lab import lab as the_lab

    if datapath not in ("auto", "agent", "fast"):
        raise UsageError(f"there is no datapath {datapath!r}: auto, agent or fast")
    if protection not in ("plain", "cookie", "sealed"):
        raise UsageError(f"there is no protection {protection!r}: plain, cookie or sealed")
    the_lab.up(
        namespaces.check_lab_name(name),
        datapath,
        protection,
        with_daemons=daemons,
        say=typer.echo,
        anchors=anchors,
    )


@lab_app.command()
def down(name: Name = _DEFAULT) -> None:
    """Remove a lab and everything that runs in it, also after a crash."""
    _need_root()
    from upmt_nf.lab import lab as the_lab

    the_lab.down(namespaces.check_lab_name(name), say=typer.echo)


@lab_app.command("exec", context_settings={"allow_interspersed_args": False})
def execute(
    host: Annotated[str, typer.Argument(help="mh, an, ch, gw0, gw1 or inet; an2.")],
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    name: Name = _DEFAULT,
) -> None:
    """Run a command on a host of a lab."""
    _need_root()
    command = command[1:] if command[0] == "--" else command
    if not command:
        raise UsageError("say which command to run, after --")
    namespaces.enter(namespaces.check_lab_name(name), host)
    # So that `upmt` is found there even when it is not installed for everybody.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}"
    try:
        os.execvp(command[0], command)
    except OSError as reason:
        raise UsageError(f"cannot run {command[0]}: {reason.strerror}") from reason


@lab_app.command()
def link(
    network: Annotated[str, typer.Argument(help="net0 or net1.")],
    action: Annotated[LinkAction, typer.Argument(help="What happens to it.")],
    name: Name = _DEFAULT,
) -> None:
    """Take a network's carrier or give it back; let it drop everything, or end that."""
    _need_root()
    from upmt_nf.lab import links

    links.change_link(namespaces.check_lab_name(name), links.network_named(network), action)


@lab_app.command("shape")
def change_shape(
    network: Annotated[str, typer.Argument(help="net0 or net1.")],
    delay: Annotated[str | None, typer.Option("--delay", help="Each way, such as 40ms.")] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Each way, such as 1%.")] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Each way, such as 20mbit.")] = None,
    name: Name = _DEFAULT,
) -> None:
    """Delay, loss and rate of a network, in place of what was; without any of them it is as new."""
    _need_root()
    from upmt_nf.lab import lab as the_lab
    from upmt_nf.lab import shape

    wanted = shape.parse_shape(delay, loss, rate)
    typer.echo(f"{network}: {the_lab.change_shape(namespaces.check_lab_name(name), network, wanted)}")


@lab_app.command()
def status(
    name: Name = _DEFAULT, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """What there is of a lab."""
    _need_root()
    from upmt_nf.lab import lab as the_lab

    value = the_lab.status(namespaces.check_lab_name(name))
    if json:
        print_json(value)
        return
    running = [host for host, is_running in value["daemons"].items() if is_running]
    typer.echo(f"lab {name}: namespaces {', '.join(value['hosts'].values())}")
    typer.echo(f"daemons: {', '.join(running) or 'none'}; configurations and logs in {value['directory']}\n")
    columns = {"NETWORK": "name", "INTERFACE": "interface", "CARRIER": "carrier", "BLACK HOLE": "blackhole"}
    print_table(None, {**columns, "SHAPE": "shape"}, value["networks"])


@lab_app.command()
def demo() -> None:
    """See a video call move from Wi-Fi to LTE while a backup stays and waits; ends with 1 if anything breaks."""
    _need_root()
    from upmt_nf.lab.demo import Demo

    result = Demo(typer.echo).run()
    _print_result(result)
    if result.failures:
        raise typer.Exit(1)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise FacilityError("a lab is made of network namespaces: run it as root")


def _print_result(result: DemoResult) -> None:
    same = result.sha256_served == result.sha256_fetched
    typer.echo(f"\nBackup: {result.size} bytes, SHA-256 {'equal' if same else 'DIFFERENT'}")
    typer.echo(f"  served  {result.sha256_served}\n  fetched {result.sha256_fetched}\n")
    typer.echo("Call, 50 packets/s there and back:")
    rows = [
        {"event": name, **{key: getattr(stretch, key) for key in _CALL.values() if key != "event"}}
        for name, stretch in result.call.items()
    ]
    print_table(None, _CALL, rows)
    if any(row["reordered"] for row in rows):
        typer.echo("(Reordered: what goes by LTE overtakes what is still on the slow Wi-Fi.)")
    typer.echo(
        "\nBytes of each application by network, as its flows counted them, and all bytes on the wire:"
    )
    networks = list(result.carried)
    usage = [{"what": application, **by_network} for application, by_network in result.usage.items()]
    usage.append({"what": "on the wire", **result.carried})
    print_table(None, {"": "what", **{network.upper(): network for network in networks}}, usage)
    for failure in result.failures:
        typer.echo(f"NOT SO: {failure}")
    if not result.failures:
        typer.echo("\nAll of it is so: nothing broke.")


_CALL = {
    "WHILE": "event",
    "SENT": "sent",
    "LOST": "lost",
    "DOUBLED": "duplicated",
    "REORDERED": "reordered",
    "LONGEST GAP (ms)": "longest_gap_ms",
}
