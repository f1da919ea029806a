"""Whose all flows of a process are, wherever they go: what the kernel can be told beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from upmt_nf.classify.facts import ProcessFacts
from upmt_nf.classify.rules import ApplicationRule


class Verdict(NamedTuple):
    """The rule that decides, or that none does."""

    rule: ApplicationRule | None


def verdict_of(
    rules: Iterable[ApplicationRule], process: ProcessFacts, by_netfilter: int = 0
) -> Verdict | None:
    """What `first_match` says of each flow of a process that netfilter left unmarked; None when it depends on the flow.

    `by_netfilter`: so many rules netfilter has tried before. Those that are about the flow only have not matched then.
    """
    for place, rule in enumerate(rules):
        if place < by_netfilter and not rule.asks_for_process:
            continue
        if rule.matches_process(process):
            return None if rule.asks_for_flow else Verdict(rule)
    return Verdict(None)
