"""`upmt rules show|install|remove|verify` and `upmt cleanup`: what is put into the host, and taking it out again."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json
from upmt_nf.daemon.control_client import call
from upmt_nf.model.errors import FacilityError, NoDaemonError, UpmtError, UsageError
from upmt_nf.model.names import QUEUE_FIRST, judged_mark
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
IPv6 = Annotated[bool, typer.Option("--ipv6", help="Those of the IPv6 tables.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def register(app: typer.Typer) -> None:
    """Add `cleanup` to `app`."""
    app.command()(cleanup)


@rules_app.command()
def show(role: RoleOption, config: ConfigOption = None, ipv6: IPv6 = False, json: Json = False) -> None:
    """Print the rules as `iptables-restore` takes them (with --ipv6 as `ip6tables-restore` does)."""
    sets = _rule_sets(role, config)
    if json:
        print_json(
            {
                "role": role.value,
                "rules": _rows(sets.ipv4),
                "rules_ipv6": _rows(sets.ipv6),
                "routing": sets.routing,
            }
        )
    else:
        typer.echo(str(sets.ipv6 if ipv6 else sets.ipv4), nl=False)


@rules_app.command()
def install(
    role: RoleOption, config: ConfigOption = None, dry_run: DryRun = False, json: Json = False
) -> None:
    """Put the rules into the kernel; twice is the same as once. The daemon does this itself when it starts.

    Prints the iptables commands that lead to the same; with --dry-run it only prints them.
    """
    _need_root()
    from upmt_nf.linux import netfilter
    from upmt_nf.linux.journal import Journal

    sets = _rule_sets(role, config)
    commands = sets.changes()
    if not dry_run:
        netfilter.install(sets.ipv4, Journal())
        if sets.ipv6.rules:
            netfilter.install(sets.ipv6, Journal(), 6)
    _answer("commands", commands, "nothing to do", json)


@rules_app.command()
def remove(role: RoleOption, dry_run: DryRun = False, json: Json = False) -> None:
    """Take the rules out of the kernel. Refused while a daemon runs, which would be cut off."""
    _need_root()
    from upmt_nf.linux import netfilter
    from upmt_nf.linux.cleanup import refuse_beside_daemon

    commands = [each for version in (4, 6) for each in netfilter.changes(RuleSet(()), version)]
    if not dry_run:
        refuse_beside_daemon()
        for version in (4, 6):
            netfilter.remove(version)
    _answer("commands", commands, "nothing to do", json)


@rules_app.command()
def verify(role: RoleOption, config: ConfigOption = None, json: Json = False) -> None:
    """Say where the kernel differs from the rules, rule by rule; ends with 1 when it does.

    Beside a running daemon its routes and policy rules are compared, too.
    """
    _need_root()
    from upmt_nf.linux import netfilter
    from upmt_nf.linux.routes import routing_in_place

    sets = _rule_sets(role, config)
    drift = netfilter.verify(sets.ipv4)
    drift += [f"IPv6 {each}" for each in netfilter.verify(sets.ipv6, 6)]
    if sets.routing is not None:
        present = routing_in_place()
        drift += [f"routing: missing {line}" for line in sets.routing if line not in present]
        drift += [f"routing: not ours {line}" for line in present if line not in sets.routing]
    _answer("drift", drift, "the kernel has exactly these rules", json)
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


@dataclass(frozen=True, slots=True)
class _RuleSets:
    """All rules of a role. `routing`: one `ip` command a line; None where only a running daemon knows it."""

    ipv4: RuleSet
    ipv6: RuleSet
    routing: list[str] | None = None

    def changes(self) -> list[str]:
        """The commands that lead from what is there to these rules."""
        from upmt_nf.linux import netfilter

        return netfilter.changes(self.ipv4) + netfilter.changes(self.ipv6, 6)


def _rule_sets(role: Role, config: Path | None) -> _RuleSets:
    """From a file as a daemon would start with it, or what the running daemon has in place."""
    if config is None:
        return _running_rules(role)
    from upmt_nf.linux.virtual_interface import likely_kind

    if role is Role.ANCHOR:
        from upmt_nf.cli.reading_config import anchor_config
        from upmt_nf.daemon.anchor_kernel import anchor_rules

        section = anchor_config(config).anchor
        rules = anchor_rules(section, (), likely_kind(section.virtual_interface))
        return _RuleSets(rules, RuleSet(()))
    from upmt_nf.cli.reading_config import mobile_host_config
    from upmt_nf.config.system_resolver import declared_applications
    from upmt_nf.daemon.applications import Applications
    from upmt_nf.daemon.host_kernel import host_rules, host_rules_ipv6

    settings = mobile_host_config(config)
    # A network without a port of its own gets its line when the daemon has bound one.
    there = settings.anchor.tunnel_port
    ports = {each.interface: (each.tunnel_port, there) for each in settings.network if each.tunnel_port}
    applications = Applications(declared_applications(settings), settings.mobile_host.default)
    leaves_alone = applications.is_any_native
    judged, admits = _marks_in_place()
    ipv4 = host_rules(
        settings.anchor.tunnels,
        ports,
        applications.netfilter_lines(4, QUEUE_FIRST),
        likely_kind(settings.mobile_host.virtual_interface),
        judged,
        leaves_alone=leaves_alone,
        admits=admits,
    )
    lines = applications.netfilter_lines(6)
    return _RuleSets(ipv4, host_rules_ipv6(lines, leaves_alone=leaves_alone) if lines else RuleSet(()))


def _marks_in_place() -> tuple[int, bool]:
    """The mark of known flows that a running daemon uses, else that of a first one; whether the kernel lets some in."""
    with contextlib.suppress(NoDaemonError):
        answer = call("rules")
        if judged := answer.get("judged"):
            return int(judged), bool(answer.get("admits"))
    return judged_mark(0), False


def _running_rules(role: Role) -> _RuleSets:
    try:
        running = call("status")["role"]
    except NoDaemonError as reason:
        raise UsageError("no daemon runs here: say --config FILE") from reason
    if running != role.value:
        raise UpmtError(f"the daemon here is of role {running}")
    answer = call("rules")
    return _RuleSets(
        expand(answer["rules"], "the daemon's rules", {}),
        expand(answer["rules_ipv6"], "the daemon's IPv6 rules", {}),
        answer["routing"],
    )


def _rows(ruleset: RuleSet) -> list[dict[str, str]]:
    return [{"table": rule.table, "chain": rule.chain, "rule": str(rule)} for rule in ruleset.rules]


def _answer(key: str, lines: list[str], otherwise: str, json: bool) -> None:
    if json:
        print_json({key: lines})
    else:
        _say(lines, otherwise)


def _say(lines: list[str], otherwise: str) -> None:
    for line in lines or [otherwise]:
        typer.echo(line)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise FacilityError("this reads or changes netfilter: run it as root")
