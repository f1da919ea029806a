"""A replay as a picture (SVG): each network's delay and loss, and below, where each application was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.canvas import Canvas
from upmt_nf.policy.quality import Quality
from upmt_nf.policy.replay import Course, Report

_LEFT = 120
_BAND, _LANE, _GAP = 70, 26, 14
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#17becf", "#bcbd22", "#7f7f7f")
_BAD = "#d62728"
_LEAST_SCALE = 0.1
"""Seconds of delay at the top of a band, at least."""


def svg(report: Report) -> str:
    """One picture, as text."""
    return _Picture(report).draw()


class _Picture:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._canvas = Canvas(0.0, report.duration, _LEFT)
        self._names = list(report.quality)
        self._colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(self._names)}
        delays = [quality.delay or 0.0 for course in report.quality.values() for _, _, quality in course]
        self._scale = max([_LEAST_SCALE, *delays])

    def draw(self) -> str:
        courses = list(self._report.courses.values())
        networks_end = 30 + len(self._names) * (_BAND + _GAP)
        height = networks_end + len(courses) * (_LANE + _GAP) + 30
        lines: list[str] = []
        for place, name in enumerate(self._names):
            lines += self._band(name, 30 + place * (_BAND + _GAP))
        for place, course in enumerate(courses):
            lines += self._lane(course, networks_end + place * (_LANE + _GAP))
        lines += self._canvas.axis(height - 8, lambda at: f"{at:g} s")
        return self._canvas.page(height, lines)

    def _band(self, name: NetworkName, top: int) -> Iterator[str]:
        course, colour = self._report.quality[name], self._colours[name]
        bottom = top + _BAND
        yield f'<text x="8" y="{top + 16}" fill="{colour}" font-weight="bold">{escape(name)}</text>'
        yield f'<text x="8" y="{top + 32}" fill="#555">delay, 0-{1000 * self._scale:.0f} ms</text>'
        yield f'<text x="8" y="{top + 48}" fill="{_BAD}">loss, 0-10 %</text>'
        yield self._canvas.ground(top, _BAND)
        for begin, end, is_up, quality in _pieces(course, self._report.duration):
            if not is_up:
                yield self._canvas.stretch(begin, end, top, _BAND, 'fill="#ddd"')
                continue
            x = self._canvas.x(begin)
            width = self._canvas.x(end) - x
            if quality.loss:
                tall = _BAND * min(1.0, quality.loss / 0.1)
                yield (
                    f'<rect x="{x:.1f}" y="{bottom - tall:.1f}" width="{width:.1f}" height="{tall:.1f}" '
                    f'fill="{_BAD}" opacity="0.3"/>'
                )
            if quality.delay is not None:
                y = bottom - _BAND * quality.delay / self._scale
                yield f'<path d="M{x:.1f} {y:.1f}h{width:.1f}" stroke="{colour}" stroke-width="2"/>'

    def _lane(self, course: Course, top: int) -> Iterator[str]:
        yield f'<text x="8" y="{top + 17}">{escape(course.name)}</text>'
        for stay in course.stays:
            fill = self._colours[stay.network] if stay.network is not None else "white"
            mark = f' stroke="{_BAD}" stroke-dasharray="3"' if stay.network is None else ""
            yield self._canvas.stretch(stay.begin, stay.end, top, _LANE, f'fill="{fill}"{mark}')
            if stay.is_bad:
                yield self._canvas.stretch(stay.begin, stay.end, top + _LANE - 5, 5, f'fill="{_BAD}"')
        for move in course.moves:
            decision, x = move.decision, self._canvas.x(move.at)
            title = f"{move.at:.1f} s: {decision.source or 'none'} to {decision.target or 'none'}: {decision.reason}"
            yield (
                f'<path d="M{x:.1f} {top - 4}v{_LANE + 8}" stroke="black" stroke-width="2">'
                f"<title>{escape(title)}</title></path>"
            )


def _pieces(
    course: Sequence[tuple[float, bool, Quality]], duration: float
) -> Iterator[tuple[float, float, bool, Quality]]:
    for place, (at, is_up, quality) in enumerate(course):
        end = course[place + 1][0] if place + 1 < len(course) else duration
        if end > at:
            yield at, end, is_up, quality
