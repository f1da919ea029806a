"""Which network an application should use: policy and candidates in, a network out. No time passes here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

from upmt_nf.model.identity import NetworkName

ANY = "any"


class Fitness(IntEnum):
    """What can be said of a network as a candidate; more is better."""

    UNUSABLE = 0
    DOUBTFUL = 1
    """Its tunnel is suspect: stay, but do not go there while there is another."""
    RETURNING = 2
    """Works, but not long enough since it failed to leave a working network for it."""
    GOOD = 3


def ranked(policy: Sequence[str], configured: Sequence[NetworkName]) -> tuple[NetworkName, ...]:
    """A policy with `any` spelled out as all other networks in the order of the configuration; each name once."""
    others = [name for name in configured if name not in policy]
    found: dict[NetworkName, None] = {}
    for name in policy:
        found |= dict.fromkeys(others if name == ANY else [NetworkName(name)])
    return tuple(name for name in found if name in configured)


def preferring(target: NetworkName, policy: Sequence[str]) -> tuple[str, ...]:
    """The policy after an administrator asked for `target`: that first, the rest as it was."""
    return (target, *(name for name in policy if name != target))


def select(
    order: Iterable[NetworkName], fitness: dict[NetworkName, Fitness], current: NetworkName | None
) -> NetworkName | None:
    """The network to be on: the first good one in order, but a working current one is only left for a GOOD one.

    None when no network of the order works.
    """
    order = list(order)
    if current in order and fitness.get(current, Fitness.UNUSABLE) > Fitness.UNUSABLE:
        better = order[: order.index(current)]
        return next((name for name in better if fitness.get(name) is Fitness.GOOD), current)
    working = [name for name in order if fitness.get(name, Fitness.UNUSABLE) > Fitness.UNUSABLE]
    certain = [name for name in working if fitness[name] > Fitness.DOUBTFUL]
    return next(iter(certain or working), None)
