"""`upmt anchor run` and `upmt mobile-host run`: read a configuration file and be a daemon in the foreground."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from upmt_nf.config.anchor import read_anchor_config
from upmt_nf.config.mobile_host import read_mobile_host_config
from upmt_nf.model.errors import ConfigError

anchor_app = typer.Typer(help="The anchor node.", no_args_is_help=True)
mobile_host_app = typer.Typer(help="The mobile host.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", help="TOML configuration.", metavar="FILE")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log each change of the kernel's state too.")]


@anchor_app.command("run")
def run_anchor(config: ConfigFile, verbose: Verbose = False) -> None:
    """Be an anchor until SIGTERM or SIGINT; then put everything back."""
    settings = read_anchor_config(read_text(config), str(config))
    # Imported here: the daemon brings in the kernel bindings, which no reading command needs.
    from upmt_nf.daemon.anchor_daemon import AnchorDaemon
    from upmt_nf.daemon.lifetime import run_daemon

    _log_to_stderr(verbose)
    run_daemon(AnchorDaemon(settings.anchor))


@mobile_host_app.command("run")
def run_mobile_host(config: ConfigFile, verbose: Verbose = False) -> None:
    """Be a mobile host until SIGTERM or SIGINT; then put everything back."""
    settings = read_mobile_host_config(read_text(config), str(config))
    from upmt_nf.daemon.host_daemon import HostDaemon
    from upmt_nf.daemon.lifetime import run_daemon

    _log_to_stderr(verbose)
    run_daemon(HostDaemon(settings))


def read_text(file: Path) -> str:
    """The text of a configuration file. Raises ConfigError naming it."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as reason:
        raise ConfigError(f"{file}: cannot be read: {reason.strerror}") from reason
    except UnicodeDecodeError as reason:
        raise ConfigError(f"{file}:1: is not UTF-8 text") from reason


def _log_to_stderr(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
