"""Budgets in force: what the ledger has, what may pass unseen until the next count, and so who may go where.

A budget is barred before it is broken: what may still pass is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.budget import Budget, Ledger
from upmt_nf.policy.candidates import Application, Path
from upmt_nf.policy.civil_time import CivilClock

NEAR = 3
"""A budget is nearly spent when the rest is less than this many guards: time for a planned move."""


class Spending:
    """`paths` are shared with their owner; `count_every`: the longest time between two counts, seconds."""

    def __init__(
        self, paths: Mapping[NetworkName, Path], clock: CivilClock, ledger: Ledger, count_every: float
    ) -> None:
        self.clock = clock
        self.ledger = ledger
        self._paths = paths
        self._count_every = count_every
        self.note_facts()

    def note_facts(self) -> None:
        """What is known of the networks is another now."""
        self._costs = {name: path.facts.cost for name, path in self._paths.items()}
        self.has_network_budgets = any(path.facts.budgets for path in self._paths.values())
        """Whether any network has a budget of its own, which holds for every application."""

    def add(self, name: ApplicationName, network: NetworkName, count: float, now: float) -> None:
        """An application sent and received this many bytes by a network."""
        self.ledger.add(name, network, count, self.clock.at(now))
        self._paths[network].note_peak(count)

    def guards(self) -> dict[NetworkName, float]:
        """Bytes that may pass by each network until the next count."""
        return {name: path.guard(self._count_every) for name, path in self._paths.items()}

    def bar(self, application: Application, path: Path, now: float) -> str | None:
        """Which budget keeps an application from a network; None when none does."""
        return next((f"{budget} is spent" for budget in self._within(application, path, now, 1)), None)

    def near(self, application: Application, path: Path, now: float) -> Budget | None:
        """A budget of an application on a network that is nearly spent."""
        return next(self._within(application, path, now, NEAR), None)

    def spent_networks(self, now: float) -> frozenset[NetworkName]:
        """Networks with a budget of their own, of all applications together, that is spent."""
        return frozenset(
            name
            for name, path in self._paths.items()
            for budget in path.facts.budgets
            if self._rest(budget, None, now) < self._set_aside(budget, path)
        )

    def spent_budgets(
        self, applications: Iterable[Application], now: float
    ) -> dict[tuple[ApplicationName, NetworkName], str]:
        """Which budgets keep whom from where."""
        return {
            (application.name, path.facts.name): reason
            for application in applications
            for path in self._paths.values()
            if (reason := self.bar(application, path, now)) is not None
        }

    def _within(self, application: Application, path: Path, now: float, guards: int) -> Iterator[Budget]:
        """Budgets of which less is left than so many times what is set aside."""
        for budget, owner in _budgets(application, path):
            if self._rest(budget, owner, now) < guards * self._set_aside(budget, path):
                yield budget

    def _rest(self, budget: Budget, owner: ApplicationName | None, now: float) -> float:
        return budget.limit - self.ledger.spent(budget, owner, self.clock.at(now), self._costs)

    def _set_aside(self, budget: Budget, path: Path) -> float:
        """What may pass before the next count; of all networks when it is a budget of all."""
        paths = [path] if budget.network is not None else list(self._paths.values())
        if not budget.is_cost:
            return sum(item.guard(self._count_every) for item in paths)
        return sum(item.guard(self._count_every) * item.facts.cost / 1e9 for item in paths)


def _budgets(application: Application, path: Path) -> Iterator[tuple[Budget, ApplicationName | None]]:
    """Those that hold for an application on a network, each with whose spending counts (None: everybody's)."""
    name = path.facts.name
    for budget in application.policy.budgets:
        if budget.network in (None, name) and not (budget.is_cost and not path.facts.cost):
            yield budget, application.name
    for budget in path.facts.budgets:
        yield budget, None
