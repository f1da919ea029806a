"""What is known of an access network without measuring it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.budget import Budget

Kind = Literal["wired", "wifi", "cellular", "satellite", "other"]


class Protection(IntEnum):
    """Tunnel formats in the order of what they protect against (design, section 6)."""

    PLAIN = 0
    COOKIE = 1
    SEALED = 2

    @property
    def label(self) -> str:
        """As the configuration writes it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """One access network. `cost` of a gigabyte in the administrator's unit; `throughput` in bit/s, both ways together.

    `budgets` are of all applications together.
    """

    name: NetworkName
    kind: Kind = "other"
    cost: float = 0.0
    is_metered: bool = False
    is_trusted: bool = True
    protection: Protection = Protection.PLAIN
    throughput: float | None = None
    budgets: tuple[Budget, ...] = ()

    @property
    def is_free(self) -> bool:
        """Nobody pays by the byte."""
        return self.cost == 0 and not self.is_metered

    @property
    def is_wired(self) -> bool:
        """A cable."""
        return self.kind == "wired"
