"""What both ends want done alike. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How loud a line is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Announce:
    """One line about a change that a human cares about."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing more will be said; end."""
