"""What a mobile host remembers over restarts, in one JSON file: the binding times of the NATs that it has met.

A file that cannot be read is passed over and replaced when something is learnt: all of it can be learnt anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from upmt_nf.mobility.binding_time import BindingTime

log = logging.getLogger(__name__)

_MOST_PLACES = 256
"""The last ones that something was learnt of."""


class HostState:
    """The file. Never raises for it: a host without a memory works."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, dict[str, float | None]] = {}
        for place, known in self._read().items():
            if isinstance(known, dict) and (times := _times_in(known)) is not None:
                self._places[str(place)] = times

    def binding_times(self) -> dict[str, BindingTime]:
        """By place."""
        return {
            place: BindingTime(times["survived_s"], times["died_s"]) for place, times in self._places.items()
        }

    def keep_binding_time(self, place: str, known: BindingTime) -> None:
        """Remember this of a place, and forget the place that is longest ago when there are too many."""
        self._places.pop(place, None)
        self._places[place] = {"survived_s": known.survived, "died_s": known.died}
        while len(self._places) > _MOST_PLACES:
            del self._places[next(iter(self._places))]
        self._write()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as reason:
            log.warning("%s cannot be read, and begins anew: %s", self._path, reason)
            return {}
        places = found.get("binding_times") if isinstance(found, dict) else None
        return places if isinstance(places, dict) else {}

    def _write(self) -> None:
        """Whole or not at all: a power cut leaves the old file."""
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps({"version": 1, "binding_times": self._places}, indent=1) + "\n")
            beside.chmod(0o600)
            beside.replace(self._path)
        except OSError as reason:
            log.warning("%s cannot be written: %s", self._path, reason)
            with contextlib.suppress(OSError):
                beside.unlink()


def _times_in(known: dict[str, Any]) -> dict[str, float | None] | None:
    found: dict[str, float | None] = {}
    for key in ("survived_s", "died_s"):
        value = known.get(key)
        if value is None:
            found[key] = None
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            return None
        found[key] = float(value)
    return found
