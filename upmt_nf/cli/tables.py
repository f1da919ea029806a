"""Values -> tables for people. Knows how things look, not what they mean."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

from upmt_nf.policy.quality import rate_said


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def console() -> Console:
    """Where tables go. Wide enough not to fold when the output is a file or a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)


def print_table(title: str | None, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table of `rows`; `columns` maps each heading to the key below it."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(shown(row.get(key)) for key in columns.values()))
    console().print(table)


def shown(value: Any) -> str:
    """A value as people read it: nothing is `-`, a fraction has three digits."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        case list() | tuple():
            return ", ".join(shown(item) for item in value) or "-"
        case _:
            return str(value)


def data_size(count: int) -> str:
    """Bytes with a unit: 1536 is `1.5 kB` (steps of 1000)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def data_rate(bits: float | None) -> str:
    """Bit/s with a unit: 2500000 is `2.5 Mbit/s`; what is not known is `-`."""
    return "-" if bits is None else rate_said(bits)


def carriers(row: Mapping[str, Any]) -> str | None:
    """Where an application is; a redundant one is on two networks."""
    network, other = row["network"], row.get("copies_on")
    return f"{network} + {other}" if network and other else network
