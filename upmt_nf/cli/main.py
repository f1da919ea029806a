"""The `upmt` command: composes the nouns and turns every error into one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from upmt_nf import __version__
from upmt_nf.cli import (
    assignments,
    daemons,
    declaring,
    doctor,
    enrolment,
    events,
    forwards,
    handovers,
    leases,
    networks,
    policy,
    reading,
    rules,
    schema,
    steering,
    trace,
    watch,
    why,
)
from upmt_nf.cli.lab import lab_app
from upmt_nf.model.errors import UpmtError

app = typer.Typer(
    name="upmt",
    help="Per-application mobility: choose and change the network of each running application.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
daemons.anchor_app.add_typer(enrolment.user_app, name="user")
daemons.anchor_app.add_typer(forwards.forward_app, name="forward")
daemons.anchor_app.add_typer(leases.lease_app, name="lease")
daemons.mobile_host_app.command()(declaring.reload)
enrolment.register(daemons.mobile_host_app)
app.add_typer(daemons.anchor_app, name="anchor")
app.add_typer(daemons.mobile_host_app, name="mobile-host")
app.add_typer(rules.rules_app, name="rules")
app.add_typer(lab_app, name="lab")
app.add_typer(policy.policy_app, name="policy")
app.add_typer(trace.trace_app, name="trace")
for noun in (
    reading,
    networks,
    events,
    assignments,
    why,
    steering,
    handovers,
    watch,
    declaring,
    rules,
    doctor,
    schema,
):
    noun.register(app)


def _be_quiet(wanted: bool) -> None:
    """Nothing on standard output from here on; what `upmt run` starts keeps its own."""
    if wanted:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the life of the process)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"upmt {__version__}")
        raise typer.Exit


@app.callback()
def _upmt(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    _quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", callback=_be_quiet, is_eager=True, help="Print errors only; the exit code tells."
        ),
    ] = False,
) -> None:
    """Per-application mobility: choose and change the network of each running application."""


def main() -> None:
    """Entry point of the `upmt` command. Exit codes: see `model/errors.py`."""
    try:
        app(prog_name="upmt")
    except UpmtError as reason:
        print(f"upmt: {reason}", file=sys.stderr)
        sys.exit(reason.exit_code)
    except BrokenPipeError:
        # The reader of our output went away (`upmt flows | head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
