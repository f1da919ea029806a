"""The clock on the wall, as the pure rooms want it: an offset to the clock that everything else goes by."""

from __future__ import annotations

import time
from datetime import datetime


def local_offset(now: float) -> float:
    """What to add to `now` to have seconds since 1970-01-01 00:00 local time."""
    wall = time.time()
    zone = datetime.fromtimestamp(wall).astimezone().utcoffset()
    return wall + (zone.total_seconds() if zone is not None else 0.0) - now
