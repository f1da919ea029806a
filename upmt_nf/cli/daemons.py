"""`upmt anchor run` and `upmt mobile-host run`: read a configuration file and be a daemon in the foreground."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

anchor_app = typer.Typer(help="The anchor node.", no_args_is_help=True)
mobile_host_app = typer.Typer(help="The mobile host.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", help="TOML configuration.", metavar="FILE")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log each change of the kernel's state too.")]
Watchdog = Annotated[
    float | None,
    typer.Option(
        "--watchdog",
        min=1.0,
        max=3600.0,
        metavar="SECONDS",
        help="Without a service manager: start the daemon again when it fails, or has hung for so long.",
    ),
]


@anchor_app.command("run")
def run_anchor(config: ConfigFile, verbose: Verbose = False, watchdog: Watchdog = None) -> None:
    """Be an anchor until SIGTERM or SIGINT; then put everything back."""
    if watchdog is not None:
        _be_kept("anchor", config, verbose, watchdog)
    # Imported here: no reading command needs what a daemon is made of.
    from upmt_nf.cli.reading_config import anchor_config
    from upmt_nf.daemon.anchor_daemon import AnchorDaemon
    from upmt_nf.daemon.lifetime import run_daemon

    _log_to_stderr(verbose)
    run_daemon(AnchorDaemon(anchor_config(config).anchor))


@mobile_host_app.command("run")
def run_mobile_host(config: ConfigFile, verbose: Verbose = False, watchdog: Watchdog = None) -> None:
    """Be a mobile host until SIGTERM or SIGINT; then put everything back."""
    if watchdog is not None:
        _be_kept("mobile-host", config, verbose, watchdog)
    from upmt_nf.cli.reading_config import mobile_host_config
    from upmt_nf.daemon.host_daemon import HostDaemon
    from upmt_nf.daemon.lifetime import run_daemon

    _log_to_stderr(verbose)
    run_daemon(HostDaemon(mobile_host_config(config), config.absolute()))


def _be_kept(role: str, config: Path, verbose: bool, watchdog: float) -> NoReturn:
    """Be the parent of the daemon, and end as it does."""
    from upmt_nf.daemon.keeper import keep

    _log_to_stderr(verbose)
    words = (sys.executable, "-m", "upmt_nf.cli.main", role, "run", "--config", str(config))
    sys.exit(keep((*words, *(["--verbose"] if verbose else [])), watchdog))


def _log_to_stderr(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
