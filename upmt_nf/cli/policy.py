"""`upmt policy check|show|replay`: policies before they run. Needs neither a daemon nor root."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import console, data_size, print_json, print_table, shown
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
    from upmt_nf.policy.report import policy_json

    config = mobile_host_config(file)
    rows = [policy_json(name, policy) for name, policy in _used(config).items()]
    if json:
        print_json(rows)
        return
    _print_policies(rows)
    typer.echo(f"{file}: good")


@policy_app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="One policy; all by default.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help=f"A mobile host's configuration, by default {DEFAULT_CONFIG} if there."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """The policies that applications may name: profiles, kinds, and those of the configuration."""
    from upmt_nf.policy.report import policy_json

    policies = _known(config)
    if name is not None and name not in policies:
        raise UsageError(f"there is no policy {name!r}; there are {', '.join(policies)}")
    rows = [policy_json(key, policy) for key, policy in policies.items() if name in (None, key)]
    if json:
        print_json(rows)
    elif name is None:
        _print_policies(rows)
    else:
        _print_policy(rows[0])


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
    value = {**report_json(report), "left_out": list(course.left_out)}
    if json:
        print_json(value)
        return
    for row in value["applications"]:
        _print_course(row)
    if course.left_out:
        typer.echo(f"left out, as they have no policy: {', '.join(course.left_out)}")
    speed = report.duration / took if took else 0.0
    typer.echo(f"{report.duration:g} s of trace in {took:.2f} s, {speed:.0f} times faster than real time")


def _known(config: Path | None) -> Mapping[str, Policy]:
    """Those that a host may use; without a configuration the ready-made ones."""
    from upmt_nf.cli.reading_config import mobile_host_config
    from upmt_nf.config.policies import policy_book

    if config is None and not DEFAULT_CONFIG.exists():
        return policy_book((), ()).policies
    return mobile_host_config(config or DEFAULT_CONFIG).book().policies


def _used(config: MobileHostConfig) -> dict[str, Policy]:
    """Those of the file, and the ready-made ones that its applications name."""
    from upmt_nf.config.application_sections import with_parts

    named = {section.policy for section in with_parts(config.application)} | {
        section.name for section in config.policy
    }
    return {name: policy for name, policy in config.book().policies.items() if name in named}


def _print_policies(rows: list[dict[str, Any]]) -> None:
    columns = {
        "POLICY": "name",
        "KIND": "kind",
        "NETWORKS": "networks",
        "LEAVE BEYOND": "left",
        "GO WITHIN": "entered",
        "BUDGETS": "budgets",
    }
    rows = [
        {
            **row,
            "left": _listed(row["leave"]),
            "entered": _listed(row["enter"]),
        }
        for row in rows
    ]
    print_table(None, columns, rows)


def _print_policy(row: Mapping[str, Any], indent: str = "  ") -> None:
    """All that one says, a line for each term."""
    if indent == "  ":
        typer.echo(f"{row['name']}: {row['kind']}")
    for term, value in _terms(row):
        if value:
            typer.echo(f"{indent}{term:<16}{value}")
    for other in row["when"]:
        typer.echo(f"{indent}at {other['hours']}: {other['policy']['kind']}")
        _print_policy(other["policy"], indent + "  ")


def _terms(row: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "networks", ", ".join(row["networks"]) or "all that there are" * (row["kind"] != "Block") or "none"
    yield "leave beyond", _listed(row["leave"])
    yield "go within", _listed(row["enter"])
    yield "weights", _listed({key: shown(value) for key, value in (row["weights"] or {}).items() if value})
    yield "margin", row["margin"] and f"a score {row['margin']:g} better"
    yield "bad for", f"{row['bad_for_s']:g} s, then it is left"
    yield "good for", f"{row['good_for_s']:g} s, then it is gone to"
    yield "hold", f"{row['hold_s']:g} s after a move"
    yield "penalty", f"at most {row['penalty_longest_s']:g} s, forgiven after {row['forgive_s']:g} s"
    untrusted = row["protection_untrusted"]
    yield (
        "protection",
        row["protection"] + f", {untrusted} where not trusted" * (untrusted != row["protection"]),
    )
    yield "cost limit", None if row["cost_limit"] is None else f"{row['cost_limit']:g} a gigabyte"
    yield "budgets", ", ".join(row["budgets"])
    yield "redundant", "each packet by two networks" if row["redundant"] else None
    yield "reorder", f"{1000 * row['reorder_s']:g} ms at most" if row["reorder_s"] else None
    moves = row["most_moves_per_hour"]
    yield "of its own will", f"at most {moves:g} moves an hour" if row["networks"] else None


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


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
        why = dict.fromkeys((move["cause"], move["reason"]))
        out.print(
            f"  {move['t']:>10.1f} s  {move['from'] or 'none'} -> {move['to'] or 'none'}{failed}  "
            f"{': '.join(why)}  [{move['rule']}]",
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
