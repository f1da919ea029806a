"""`upmt policy check|show|replay`: policies before they run. Needs neither a daemon nor root."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import console, data_size, print_json, print_table
from upmt_nf.model.errors import ConfigError, UpmtError, UsageError
from upmt_nf.model.names import CONFIG_DIRECTORY

if TYPE_CHECKING:
    # What reads configurations takes 0.1 s to import: only the commands that need it wait for it.
    from upmt_nf.config.mobile_host import MobileHostConfig
    from upmt_nf.policy.policy import Policy

policy_app = typer.Typer(
    help="Policies: check them, look at them, try them on a trace.", no_args_is_help=True
)
DEFAULT_CONFIG = Path(CONFIG_DIRECTORY) / "mobile-host.toml"

ConfigFile = Annotated[Path, typer.Option("--config", help="The mobile host's configuration.")]


@policy_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A mobile host's configuration.")],
    json: Json = False,
) -> None:
    """Check the policies of a configuration without running it; every wrong line is named."""
    from upmt_nf.cli.reading_config import mobile_host_config

    config = mobile_host_config(file)
    rows = [_policy_row(name, policy) for name, policy in _used(config).items()]
    if json:
        print_json(rows)
        return
    _print_policies(rows)
    typer.echo(f"{file}: good")


@policy_app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="One policy; all by default.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """The policies that applications may name: profiles, kinds, and those of the configuration."""
    from upmt_nf.cli.reading_config import mobile_host_config

    policies = mobile_host_config(config).book().policies
    if name is not None and name not in policies:
        raise UsageError(f"there is no policy {name!r}; there are {', '.join(policies)}")
    rows = [_policy_row(key, policy) for key, policy in policies.items() if name in (None, key)]
    print_json(rows) if json else _print_policies(rows)


@policy_app.command()
def replay(
    trace: Annotated[
        Path, typer.Option("--trace", help="A trace, recorded or written; see docs/policies.md.")
    ],
    config: ConfigFile = DEFAULT_CONFIG,
    drawing: Annotated[Path | None, typer.Option("--svg", help="Draw the replay into this file.")] = None,
    json: Json = False,
) -> None:
    """Run a trace against the policies with a pretend clock, and say what would have happened."""
    from upmt_nf.cli.reading_config import mobile_host_config
    from upmt_nf.policy.drawing import svg
    from upmt_nf.policy.replay import replay as run_replay
    from upmt_nf.policy.report import report_json
    from upmt_nf.policy.trace import read_trace

    host = mobile_host_config(config)
    policies = host.policies()
    if not policies:
        raise UsageError(f'{config}: no application has a policy: say policy = "voice" in an [[application]]')
    facts = host.facts()
    course = read_trace(_text(trace), str(trace), [item.name for item in facts], policies)
    begun = time.perf_counter()
    report = run_replay(course, facts, policies)
    took = time.perf_counter() - begun
    if drawing is not None:
        _write(drawing, svg(report))
    value = report_json(report)
    if json:
        print_json(value)
        return
    for row in value["applications"]:
        _print_course(row)
    speed = report.duration / took if took else 0.0
    typer.echo(f"{report.duration:g} s of trace in {took:.2f} s, {speed:.0f} times faster than real time")


def _used(config: MobileHostConfig) -> dict[str, Policy]:
    """Those of the file, and the ready-made ones that its applications name."""
    from upmt_nf.config.application_sections import with_parts

    named = {section.policy for section in with_parts(config.application)} | {
        section.name for section in config.policy
    }
    return {name: policy for name, policy in config.book().policies.items() if name in named}


def _policy_row(name: str, policy: Policy) -> dict[str, Any]:
    from upmt_nf.policy.quality import shown_value

    def limits(thresholds: Any) -> dict[str, str]:
        return {key.value: shown_value(key, limit) for key, limit in thresholds.given().items()}

    return {
        "name": name,
        "kind": policy.kind.value,
        "networks": list(policy.networks),
        "leave": limits(policy.leave),
        "enter": limits(policy.enter),
        "bad_for_s": policy.bad_for,
        "good_for_s": policy.good_for,
        "hold_s": policy.hold,
        "protection": policy.protection.label,
        "protection_untrusted": policy.protection_untrusted.label,
        "cost_limit": policy.cost_limit,
        "budgets": [str(budget) for budget in policy.budgets],
        "redundant": policy.is_redundant,
        "reorder_s": policy.reorder,
        "hours": len(policy.by_time),
        "most_moves_per_hour": policy.most_moves(len(policy.networks), 3600.0),
    }


def _print_policies(rows: list[dict[str, Any]]) -> None:
    columns = {
        "POLICY": "name",
        "KIND": "kind",
        "NETWORKS": "networks",
        "LEAVE BEYOND": "left",
        "GO WITHIN": "entered",
        "BUDGETS": "budgets",
    }
    shown = [
        {
            **row,
            "left": ", ".join(f"{key} {limit}" for key, limit in row["leave"].items()),
            "entered": ", ".join(f"{key} {limit}" for key, limit in row["enter"].items()),
        }
        for row in rows
    ]
    print_table(None, columns, shown)


def _print_course(row: dict[str, Any]) -> None:
    out = console()
    used = ", ".join(
        f"{name} {data_size(count)}" + (f" (cost {row['cost'][name]:g})" if row["cost"][name] else "")
        for name, count in row["bytes"].items()
    )
    out.print(
        f"{row['name']} ({row['policy']}): {row['handovers']} handovers, {row['flaps']} flaps, "
        f"{row['out_of_profile_s']:g} s out of profile" + (f"; {used}" if used else ""),
        highlight=False,
    )
    for move in row["moves"]:
        failed = "" if move["done"] is not False else " (failed)"
        out.print(
            f"  {move['t']:>10.1f} s  {move['from'] or 'none'} -> {move['to'] or 'none'}{failed}  "
            f"{move['cause']}: {move['reason']}  [{move['rule']}]",
            highlight=False,
            markup=False,
        )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as reason:
        raise ConfigError(f"{file}: cannot be read: {reason.strerror}") from reason
    except UnicodeDecodeError as reason:
        raise ConfigError(f"{file}:1: is not UTF-8 text") from reason


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as reason:
        raise UpmtError(f"{file}: cannot be written: {reason.strerror}") from reason
