"""Medians -> bars as SVG, a panel a measure. Pure; no library, so that the text can be read and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.tunnels.measures import measure_of
from benchmarks.tunnels.report import Result, medians

ROW, LABEL, BAR, VALUE, TITLE = 16, 100, 190, 60, 30
COLUMNS = 3
_COLOURS = {"direct": "#888888", "relay": "#555555", "fast": "#0868ac", "agent": "#43a2ca"}
_PEER = "#d9a441"


def svg(result: Result) -> str:
    """Every measure of the result, in the order of the table."""
    panels = list(medians(result).items())
    contenders = list(result.set_up)
    width = LABEL + BAR + VALUE
    height = TITLE + ROW * len(contenders) + 12
    rows = -(-len(panels) // COLUMNS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * width}" height="{rows * height}" '
        'font-family="sans-serif" font-size="10">',
        f'<rect width="{COLUMNS * width}" height="{rows * height}" fill="white"/>',
    ]
    for number, (name, row) in enumerate(panels):
        left, top = number % COLUMNS * width, number // COLUMNS * height
        parts.append(f'<g transform="translate({left},{top})">')
        parts += _panel(name, row, contenders)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(name: str, row: Mapping[str, float | None], contenders: Sequence[str]) -> list[str]:
    measure = measure_of(name)
    largest = max((value for value in row.values() if value), default=1.0)
    better = "more" if measure.more_is_better else "less"
    title = escape(f"{name}, {measure.unit} ({better} is better)")
    parts = [f'<text x="6" y="18" font-size="11" font-weight="bold">{title}</text>']
    for number, contender in enumerate(contenders):
        y = TITLE + ROW * number
        parts.append(f'<text x="{LABEL - 6}" y="{y + 11}" text-anchor="end">{escape(contender)}</text>')
        value = row.get(contender)
        if value is None:
            continue
        colour = _COLOURS.get(contender.split("-")[0], _PEER)
        length = BAR * value / largest
        parts.append(
            f'<rect x="{LABEL}" y="{y + 2}" width="{length:.1f}" height="{ROW - 4}" fill="{colour}"/>'
        )
        parts.append(f'<text x="{LABEL + length + 4:.1f}" y="{y + 11}">{value:,.4g}</text>')
    return parts
