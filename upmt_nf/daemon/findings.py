"""What `upmt doctor` says: one thing looked at, how it stands, what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class State(Enum):
    """How it stands."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `remedy` is what to do about it, when there is something."""

    check: str
    state: State
    detail: str
    remedy: str | None = None
    is_fixable: bool = False
    """`upmt doctor --fix` does it."""

    def report(self) -> dict[str, Any]:
        """As `upmt doctor --json` prints it."""
        return {**asdict(self), "state": self.state.value}
