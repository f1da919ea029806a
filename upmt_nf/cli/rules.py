"""`upmt rules show|install|remove|verify` and `upmt cleanup`: what is put into the host, and taking it out again."""

from __future__ import annotations

import contextlib
import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from upmt_nf.daemon.control_client import call
from upmt_nf.model.errors import FacilityError, NoDaemonError, UpmtError, UsageError
from upmt_nf.model.names import judged_mark
from upmt_nf.routing.rule_text import RuleSet, expand

rules_app = typer.Typer(help="The netfilter rules, from rules/.", no_args_is_help=True)


class Role(Enum):
    """Whose rules."""

    MOBILE_HOST = "mobile-host"
    ANCHOR = "anchor"


RoleOption = Annotated[Role, typer.Option("--role", help="Whose rules.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML configuration; of the running daemon by default.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def register(app: typer.Typer) -> None:
    """Add `cleanup` to `app`."""
    app.command()(cleanup)


@rules_app.command()
def show(role: RoleOption, config: ConfigOption = None) -> None:
    """Print the rules as `iptables-restore` takes them."""
    typer.echo(str(_ruleset(role, config)), nl=False)


@rules_app.command()
def install(role: RoleOption, config: ConfigOption = None, dry_run: DryRun = False) -> None:
    """Put the rules into the kernel; twice is the same as once. The daemon does this itself when it starts."""
    _need_root()
    from upmt_nf.linux import netfilter
    from upmt_nf.linux.journal import Journal

    ruleset = _ruleset(role, config)
    if dry_run:
        _say(netfilter.verify(ruleset), "nothing to do")
        return
    _say(netfilter.install(ruleset, Journal()), "nothing to do")


@rules_app.command()
def remove(role: RoleOption, dry_run: DryRun = False) -> None:
    """Take the rules out of the kernel. Refused while a daemon runs, which would be cut off."""
    _need_root()
    from upmt_nf.linux import netfilter
    from upmt_nf.linux.cleanup import refuse_beside_daemon

    if dry_run:
        _say(netfilter.verify(RuleSet(())), "nothing to do")
        return
    refuse_beside_daemon()
    _say([f"our chains removed from table {name}" for name in netfilter.remove()], "nothing to do")


@rules_app.command()
def verify(role: RoleOption, config: ConfigOption = None) -> None:
    """Say where the kernel differs from the rules; ends with 1 when it does."""
    _need_root()
    from upmt_nf.linux import netfilter

    drift = netfilter.verify(_ruleset(role, config))
    _say(drift, "the kernel has exactly these rules")
    if drift:
        raise typer.Exit(1)


def cleanup() -> None:
    """Put back everything that a daemon in this network namespace changed, also after it was killed."""
    _need_root()
    from upmt_nf.linux.cleanup import cleanup as put_back
    from upmt_nf.linux.cleanup import refuse_beside_daemon
    from upmt_nf.linux.journal import Journal

    refuse_beside_daemon()
    _say(put_back(Journal()), "nothing to put back")


def _ruleset(role: Role, config: Path | None) -> RuleSet:
    """From a file as a daemon would start with it, or what the running daemon has in place."""
    if config is None:
        return _running_rules(role)
    from upmt_nf.linux.virtual_interface import likely_kind

    if role is Role.ANCHOR:
        from upmt_nf.cli.reading_config import anchor_config
        from upmt_nf.daemon.anchor_kernel import anchor_rules

        section = anchor_config(config).anchor
        return anchor_rules(section, (), likely_kind(section.virtual_interface))
    from upmt_nf.cli.reading_config import mobile_host_config
    from upmt_nf.daemon.applications import Applications
    from upmt_nf.daemon.host_kernel import host_rules

    settings = mobile_host_config(config)
    # A network without a port of its own gets its line when the daemon has bound one.
    ports = {network.interface: network.tunnel_port for network in settings.network if network.tunnel_port}
    return host_rules(
        settings.anchor.tunnels,
        ports,
        Applications(settings.application).netfilter_lines(),
        likely_kind(settings.mobile_host.virtual_interface),
        _judged_in_place(),
    )


def _judged_in_place() -> int:
    """The mark of known flows that a running daemon uses, else that of a first one."""
    with contextlib.suppress(NoDaemonError):
        if judged := call("rules").get("judged"):
            return int(judged)
    return judged_mark(0)


def _running_rules(role: Role) -> RuleSet:
    try:
        running = call("status")["role"]
    except NoDaemonError as reason:
        raise UsageError("no daemon runs here: say --config FILE") from reason
    if running != role.value:
        raise UpmtError(f"the daemon here is of role {running}")
    return expand(call("rules")["rules"], "the daemon's rules", {})


def _say(lines: list[str], otherwise: str) -> None:
    for line in lines or [otherwise]:
        typer.echo(line)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise FacilityError("this reads or changes netfilter: run it as root")
