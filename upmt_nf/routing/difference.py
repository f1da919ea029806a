"""Wanted routing against present routing: what to add, then what to delete. Applying it twice changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from upmt_nf.routing.plan import RouteSpec, Routing, RuleSpec


@dataclass(frozen=True, slots=True)
class Change:
    """One addition or deletion."""

    is_addition: bool
    what: RouteSpec | RuleSpec

    def __str__(self) -> str:
        """As an administrator would type it."""
        noun = "route" if isinstance(self.what, RouteSpec) else "rule"
        return f"ip {noun} {'add' if self.is_addition else 'del'} {self.what}"


def difference(wanted: Routing, present: Routing) -> list[Change]:
    """Additions before deletions, so that nothing is without a way in between.

    Routes come before the rules that lead to them, and rules go before the routes they led to. A route that
    differs from a present one of the same destination, table and metric replaces it, so the old one is not deleted.
    """
    wanted_places = {_place(route) for route in wanted.routes}
    return [
        *(Change(True, route) for route in wanted.routes if route not in present.routes),
        *(Change(True, rule) for rule in wanted.rules if rule not in present.rules),
        *(Change(False, rule) for rule in present.rules if rule not in wanted.rules),
        *(
            Change(False, route)
            for route in present.routes
            if route not in wanted.routes and _place(route) not in wanted_places
        ),
    ]


def _place(route: RouteSpec) -> tuple[object, ...]:
    """What the kernel takes as the same route (the key of `ip route replace`)."""
    return route.destination, route.table, route.metric
