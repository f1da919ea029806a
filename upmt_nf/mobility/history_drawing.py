"""A network's history as a picture (SVG): throughput, round trip and loss over time; grey where it carried nothing.

The charts of the authors' graphical client (MMGUI), of any span that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, tzinfo
from html import escape
from itertools import pairwise

from upmt_nf.mobility.history import Measurements, Sample
from upmt_nf.policy.canvas import Canvas
from upmt_nf.policy.quality import rate_said

_LEFT, _TOP = 150, 34
_BAND, _GAP = 90, 16
_UP, _DOWN, _BAD = "#1f77b4", "#ff7f0e", "#d62728"

_Value = Callable[[Measurements], float | None]
_Band = tuple[str, float, Callable[[float], str], tuple[tuple[str, str, _Value], ...]]
"""Title, least scale, how its top is written, and curves: name, colour, value."""


_BANDS: tuple[_Band, ...] = (
    (
        "throughput",
        1e3,
        rate_said,
        (("up", _UP, lambda each: each.used_up), ("down", _DOWN, lambda each: each.used_down)),
    ),
    (
        "round trip",
        0.02,
        lambda value: f"{1000 * value:.3g} ms",
        (("", _UP, lambda each: each.round_trip), ("variation", _DOWN, lambda each: each.variation)),
    ),
    ("loss", 0.05, lambda value: f"{100 * value:.3g} %", (("", _BAD, lambda each: each.loss),)),
    (
        "signal",
        0.0,
        lambda value: f"{value - 100:.0f} dBm",
        (("", _UP, lambda each: None if each.signal is None else each.signal + 100),),
    ),
)


def draw_history(name: str, samples: Sequence[Sample], zone: tzinfo | None = None) -> str:
    """One picture, as text, without bands that have no value. Times are shown in `zone`, by default the machine's."""
    return _Picture(name, samples, zone).draw()


class _Picture:
    def __init__(self, name: str, samples: Sequence[Sample], zone: tzinfo | None) -> None:
        self._name = name
        self._samples = samples
        self._zone = zone
        begin, end = (samples[0].at, samples[-1].at + samples[-1].step) if samples else (0, 1)
        self._canvas = Canvas(begin, end, _LEFT)

    def draw(self) -> str:
        bands = [band for band in _BANDS if any(self._values(value) for _, _, value in band[3])]
        height = _TOP + max(1, len(bands)) * (_BAND + _GAP) + 24
        lines = [f'<text x="8" y="20" font-weight="bold">{escape(self._name)}</text>']
        if not bands:
            lines.append(f'<text x="{_LEFT}" y="{_TOP + 20}">nothing was measured</text>')
        for place, band in enumerate(bands):
            lines += self._band(band, _TOP + place * (_BAND + _GAP))
        return self._canvas.page(height, (*lines, *self._canvas.axis(height - 8, self._said)))

    def _values(self, value: _Value) -> list[float]:
        return [found for each in self._samples if (found := value(each.measured)) is not None]

    def _band(self, band: _Band, top: int) -> Iterator[str]:
        title, least, written, curves = band
        scale = max([least, *(found for _, _, value in curves for found in self._values(value))]) or 1.0
        yield f'<text x="8" y="{top + 14}">{title}</text>'
        yield f'<text x="8" y="{top + 30}" fill="#555">0 - {written(scale)}</text>'
        for place, (curve, colour, _) in enumerate(each for each in curves if each[0]):
            yield f'<text x="8" y="{top + 48 + 16 * place}" fill="{colour}">{curve}</text>'
        yield self._canvas.ground(top, _BAND)
        for begin, end in self._absences():
            yield self._canvas.stretch(begin, end, top, _BAND, 'fill="#ddd"')
        for _, colour, value in curves:
            for points in self._pieces(value):
                path = " ".join(
                    f"{self._canvas.x(at):.1f},{top + _BAND * (1 - min(1.0, found / scale)):.1f}"
                    for at, found in points
                )
                yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    def _absences(self) -> Iterator[tuple[float, float]]:
        """When it carried nothing, or nobody measured."""
        for one, next_one in pairwise(self._samples):
            if next_one.at > one.at + 2 * one.step:
                yield one.at + one.step, next_one.at
        for each in self._samples:
            if each.measured.up < 0.5:
                yield each.at, each.at + each.step

    def _pieces(self, value: _Value) -> Iterator[list[tuple[float, float]]]:
        piece: list[tuple[float, float]] = []
        last: Sample | None = None
        for each in self._samples:
            found = value(each.measured)
            is_gap = last is not None and each.at > last.at + 2 * last.step
            if (found is None or is_gap) and piece:
                yield piece
                piece = []
            if found is not None:
                piece += [(each.at, found), (each.at + each.step, found)]
            last = each
        if piece:
            yield piece

    def _said(self, at: float) -> str:
        form = "%H:%M:%S" if self._canvas.end - self._canvas.begin < 3600 else "%d %b %H:%M"
        return datetime.fromtimestamp(at, self._zone).strftime(form)
