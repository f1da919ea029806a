"""Whether work takes time in proportion to its input, measured so that a busy machine does not matter.

CPU time, the best of some runs, at one size and at four times that size: linear work takes four times as long,
quadratic work sixteen times.
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import TypeVar

T = TypeVar("T")

LARGE = 64_000
"""Bytes or characters of hostile input."""
GROWTH = 4
MOST = 9.0
"""Between linear (4) and quadratic (16)."""
UNNOTICED = 0.002
"""Seconds of CPU for the large input that nobody needs to look into."""


def is_linear(work: Callable[[T], object], made: Callable[[int], T], large: int = LARGE) -> tuple[bool, str]:
    """Whether `work(made(size))` grows as `size` does; and the figures. Tries again before it says no."""
    small_input, large_input = made(large // GROWTH), made(large)
    small = long = float("inf")
    for _ in range(6):
        long = min(long, _seconds(work, large_input))
        if long < UNNOTICED:
            return True, f"{long:.5f} s"
        small = min(small, _seconds(work, small_input))
        if long < MOST * small:
            return True, f"{small:.5f} s, {long:.5f} s"
    return (
        False,
        f"{GROWTH} times the input takes {long / small:.1f} times as long: {small:.4f} s, {long:.4f} s",
    )


def _seconds(work: Callable[[T], object], given: T) -> float:
    began = process_time()
    work(given)
    return process_time() - began
