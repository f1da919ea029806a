"""`upmt watch`: networks, applications, flows and the last handovers of a mobile host, live, in 80 columns."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upmt_nf.cli.tables import carriers, data_rate, data_size, shown
from upmt_nf.daemon.control_client import call
from upmt_nf.model.errors import UpmtError, UsageError

if TYPE_CHECKING:
    from rich.console import Group

_MOST_FLOWS, _MOST_HANDOVERS = 8, 5
_HEADINGS = 5
"""Lines that are always there: the first, and one of each table."""
_COLOURS = {"up": "green", "suspect": "yellow", "setup": "yellow", "dead": "red", "down": "red"}


def register(app: typer.Typer) -> None:
    """Add `watch` to `app`."""
    app.command()(watch)


def watch(
    every: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
) -> None:
    """Watch this mobile host live; Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    if once or not sys.stdout.isatty():
        Console(width=None if sys.stdout.isatty() else 80).print(_look(None))
        return
    out = Console()
    with (
        suppress(KeyboardInterrupt),
        Live(_look(out.height), console=out, screen=True, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(every)
            live.update(_look(out.height), refresh=True)


def _look(height: int | None) -> Group:
    status = call("status")
    if status["role"] != "mobile-host":
        raise UsageError("this is an anchor: `upmt status` shows its hosts")
    try:
        handovers = call("handovers", most=_MOST_HANDOVERS)
    except UpmtError:
        handovers = []
    return screen(status, call("flows"), handovers, height)


def screen(
    status: Mapping[str, Any],
    flows: Sequence[Mapping[str, Any]],
    handovers: Sequence[Mapping[str, Any]],
    height: int | None = None,
) -> Group:
    """All of it, from the answers of `status`, `flows` and `handovers`; in so many lines, if they are given."""
    from rich.console import Group
    from rich.text import Text

    association = status["association"]
    head = f"{association['state']} with {association['anchor']} as {association['virtual_address'] or '-'}"
    applications = status["applications"]
    wanted = (len(applications), min(len(flows), _MOST_FLOWS), len(handovers))
    room = None if height is None else height - _HEADINGS - len(status["networks"])
    most = wanted if room is None else _shares(room, wanted)
    # With the busiest first, what does not fit is what nobody looks for.
    shown_ones = sorted(applications, key=lambda row: -row["flows"]) if most[0] < wanted[0] else applications
    heaviest = sorted(flows, key=lambda row: row["bytes"], reverse=True)[: most[1]]
    parts = [
        Text(f"upmt  {head}", style="bold", no_wrap=True, overflow="ellipsis"),
        _table(
            ("NETWORK", "STATE", "RTT ms", "VAR. ms", "LOSS up", "down", "SENDS", "RECEIVES", "TODAY"),
            [_network(row) for row in status["networks"]],
        ),
        _table(
            (_part_of("APPLICATION", most[0], wanted[0]), "NETWORK", "POLICY", "FLOWS"),
            [_application(row) for row in shown_ones[: most[0]]],
        ),
        _table(
            (f"FLOW ({len(heaviest)} of {len(flows)})", "APPLICATION", "NETWORK", "BYTES"),
            [_flow(row) for row in heaviest],
        ),
        _table(
            ("HANDOVER", "WHAT", "FROM", "TO", "CAUSE"),
            [_handover(row) for row in list(reversed(handovers))[: most[2]]],
        ),
    ]
    return Group(*parts)


def _shares(room: int, wanted: Sequence[int]) -> list[int]:
    """Lines for each table: row by row in turn, until all have what they want or there is no more room."""
    given = [0] * len(wanted)
    while room > 0 and given != list(wanted):
        for place, most in enumerate(wanted):
            if room > 0 and given[place] < most:
                given[place] += 1
                room -= 1
    return given


def _part_of(heading: str, count: int, total: int) -> str:
    return heading if count == total else f"{heading} ({count} of {total})"


def _network(row: Mapping[str, Any]) -> tuple[str, ...]:
    variation = [value for value in (row.get("delay_variation_ms") or {}).values() if value is not None]
    colour = _COLOURS.get(row["state"], "white")
    return (
        row["name"],
        f"[{colour}]{row['state']}[/]",
        shown(row["rtt_ms"]),
        shown(max(variation, default=None)),
        _share(row.get("loss_up")),
        _share(row.get("loss_down")),
        _rate(row, "up"),
        _rate(row, "down"),
        _today(row),
    )


def _application(row: Mapping[str, Any]) -> tuple[str, ...]:
    policy = row["policy_name"] or ", ".join(row["policy"])
    if row["locked"]:
        policy += f" (locked to {row['locked']})"
    return row["name"], carriers(row) or "[red]none[/]", policy, str(row["flows"])


def _flow(row: Mapping[str, Any]) -> tuple[str, ...]:
    what = f"{row['protocol']} {row['source_port']} > {row['destination']}:{row['destination_port']}"
    return what, shown(row["application"]), row["network"] or "[red]none[/]", data_size(row["bytes"])


def _handover(row: Mapping[str, Any]) -> tuple[str, ...]:
    why = row["failure"] if row["outcome"] != "done" else row["cause"]
    what = row["flow"] or row["application"]
    return row["time"][11:19], shown(what), shown(row["from"]), shown(row["to"]), shown(why)


def _rate(row: Mapping[str, Any], way: str) -> str:
    return data_rate((row.get("throughput") or {}).get(way)).replace("bit/s", "b/s")


def _today(row: Mapping[str, Any]) -> str:
    day = (row.get("usage") or {}).get("day")
    return "-" if day is None else data_size(day["bytes_up"] + day["bytes_down"])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"


def _table(headings: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", expand=True, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*row)
    return table
