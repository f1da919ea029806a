"""Figures of interleaved rounds: medians, percentiles, ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Figures = dict[str, dict[str, list[float]]]
"""measure -> contender -> one figure a round; a round that failed has none."""


def median(figures: Sequence[float]) -> float | None:
    """None of no figures."""
    return statistics.median(figures) if figures else None


def percentile(figures: Sequence[float], share: float) -> float:
    """The nearest-rank percentile (`share` from 0 to 1) of at least one figure."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ratio(medians: Mapping[str, float | None], contender: str, to: str) -> float | None:
    """How many times the figure of `to`; None when one of them is missing or there is nothing to divide by."""
    value, base = medians.get(contender), medians.get(to)
    return None if value is None or not base else value / base


def spread(figures: Sequence[float]) -> float | None:
    """(Largest - smallest) / median: how far the rounds disagree."""
    middle = median(figures)
    return None if not middle else (max(figures) - min(figures)) / middle
