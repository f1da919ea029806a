"""`upmt networks`, `upmt networks test|history NAME`, `upmt usage`: the access networks, now and in the past."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from upmt_nf.cli.reading import Json, print_networks
from upmt_nf.cli.tables import data_rate, data_size, print_json, print_table
from upmt_nf.daemon.control_client import call
from upmt_nf.model.errors import UpmtError, UsageError

networks_app = typer.Typer(help="The access networks of this host.", invoke_without_command=True)
Network = Annotated[str, typer.Argument(help="One of the configured networks.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(networks_app, name="networks")
    app.command()(usage)


@networks_app.callback()
def networks(context: typer.Context, json: Json = False) -> None:
    """The access networks of this host: state, quality, throughput and what they carried today."""
    if context.invoked_subcommand is not None:
        return
    value = call("networks")
    print_json(value) if json else print_networks(value)


@networks_app.command("test")
def try_network(name: Network, json: Json = False) -> None:
    """Find out what a network lets through to the anchor; ends with 1 when applications may not be there."""
    trial = call("network-test", network=name)
    if json:
        print_json(trial)
    else:
        print_table(None, {"CHECK": "check", "STATE": "state", "DETAIL": "detail"}, trial["checks"])
    if not trial["passed"]:
        raise typer.Exit(1)


@networks_app.command()
def history(
    name: Network,
    since: Annotated[str, typer.Option("--since", help="How far back, such as `90 min` or `7 d`.")] = "1 h",
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw it into this file.")] = None,
    json: Json = False,
) -> None:
    """What a network was like: the last hour every 10 s, the last day every minute, 30 days every 10 minutes."""
    rows = call("network-history", network=name, seconds=_seconds(since))
    if svg is not None:
        _draw(name, rows, svg)
    if json:
        print_json(rows)
    elif svg is None:
        _print_history(rows)


def _seconds(text: str) -> float:
    from upmt_nf.config.quantities import read_time

    try:
        return read_time(text)
    except ValueError as reason:
        raise UsageError(f"--since: {reason}") from reason


def _draw(name: str, rows: list[dict[str, Any]], file: Path) -> None:
    from upmt_nf.mobility.history import Measurements, Sample
    from upmt_nf.mobility.history_drawing import draw_history

    def seconds(value: float | None) -> float | None:
        return None if value is None else value / 1000

    samples = [
        Sample(
            row["at"],
            row["for_s"],
            Measurements(
                row["up"],
                seconds(row["rtt_ms"]),
                row["loss"],
                seconds(row["delay_variation_ms"]),
                row["throughput_up"],
                row["throughput_down"],
                row["signal_dbm"],
            ),
        )
        for row in rows
    ]
    try:
        file.write_text(draw_history(name, samples), encoding="utf-8")
    except OSError as reason:
        raise UpmtError(f"{file}: cannot be written: {reason.strerror}") from reason


def _print_history(rows: list[dict[str, Any]]) -> None:
    columns = {
        "TIME": "time",
        "FOR (s)": "for_s",
        "UP": "share",
        "RTT (ms)": "rtt_ms",
        "LOSS": "loss",
        "VARIATION (ms)": "delay_variation_ms",
        "SENT": "sent",
        "RECEIVED": "received",
    }
    shown = [
        {
            **row,
            "time": datetime.fromtimestamp(row["at"]).strftime("%Y-%m-%d %H:%M:%S"),
            "share": f"{100 * row['up']:.0f} %",
            "sent": data_rate(row["throughput_up"]),
            "received": data_rate(row["throughput_down"]),
        }
        for row in rows
    ]
    print_table(None, columns, shown)


def usage(json: Json = False) -> None:
    """What every network carried and cost, by day and month; kept for 400 days."""
    value = call("usage")
    if json:
        print_json(value)
        return
    columns = {"NETWORK": "network", "WHEN": "when", "SENT": "sent", "RECEIVED": "received", "COST": "cost"}
    rows = [
        {
            **each,
            "network": row["network"],
            "when": each.get("month") or each["date"],
            "sent": data_size(each["bytes_up"]),
            "received": data_size(each["bytes_down"]),
        }
        for row in value
        for each in (*row["months"], *row["days"][-31:])
    ]
    print_table(None, columns, rows)
