"""`upmt anchor run` and `upmt mobile-host run`: read a configuration file and be a daemon in the foreground."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

anchor_app = typer.Typer(help="The anchor node.", no_args_is_help=True)
mobile_host_app = typer.Typer(help="The mobile host.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", help="TOML configuration.", metavar="FILE")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log each change of the kernel's state too.")]


@anchor_app.command("run")
def run_anchor(config: ConfigFile, verbose: Verbose = False) -> None:
    """Be an anchor until SIGTERM or SIGINT; then put everything back."""
    # Imported here: no reading command needs what a daemon is made of.
    from upmt_nf.cli.reading_config import anchor_config
    from upmt_nf.daemon.anchor_daemon import AnchorDaemon
    from upmt_nf.daemon.lifetime import run_daemon

    _log_to_stderr(verbose)
    run_daemon(AnchorDaemon(anchor_config(config).anchor))


@mobile_host_app.command("run")
def run_mobile_host(config: ConfigFile, verbose: Verbose = False) -> None:
    """Be a mobile host until SIGTERM or SIGINT; then put everything back."""
    from upmt_nf.cli.reading_config import mobile_host_config
    from upmt_nf.daemon.host_daemon import HostDaemon
    from upmt_nf.daemon.lifetime import run_daemon

    _log_to_stderr(verbose)
    run_daemon(HostDaemon(mobile_host_config(config), config.absolute()))


def _log_to_stderr(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
