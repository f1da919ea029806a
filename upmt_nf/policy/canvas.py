"""A drawing (SVG) of something over time: the page, the axis of time, and grey bands on it. Knows not what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

WIDTH, _RIGHT = 960, 20
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Canvas:
    """From `begin` to `end` (seconds, of any clock); names stand in the `left` pixels."""

    begin: float
    end: float
    left: int

    def page(self, height: int, lines: Iterable[str]) -> str:
        """The whole drawing, as text."""
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
                'font-family="sans-serif" font-size="12">',
                f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
                *lines,
                "</svg>",
                "",
            )
        )

    def x(self, at: float) -> float:
        """Where a time is."""
        return self.left + (WIDTH - self.left - _RIGHT) * (at - self.begin) / ((self.end - self.begin) or 1.0)

    def ground(self, top: int, height: int) -> str:
        """What curves are drawn on."""
        width = WIDTH - self.left - _RIGHT
        return f'<rect x="{self.left}" y="{top}" width="{width}" height="{height}" fill="#f6f6f6"/>'

    def stretch(self, begin: float, end: float, top: int, height: int, look: str) -> str:
        """A rectangle from one time to another; `look`: attributes such as `fill="#ddd"`."""
        x, width = self.x(begin), self.x(end) - self.x(begin)
        return f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{height}" {look}/>'

    def axis(self, y: int, said: Callable[[float], str]) -> Iterator[str]:
        """Times along the foot."""
        for tick in range(_TICKS):
            at = self.begin + (self.end - self.begin) * tick / (_TICKS - 1)
            yield f'<text x="{self.x(at):.1f}" y="{y}" text-anchor="middle" fill="#555">{said(at)}</text>'
