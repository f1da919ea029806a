"""`python -m benchmarks.scale [NUMBER...]`: what very many hosts cost one anchor (needs root).

In a bare lab: the real daemon on the first core, all hosts in this process on the last one, each with two networks and
addresses of its own. They register with Digest, set two tunnels up, begin a flow, keep their tunnels alive, move the
flow; then the daemon is killed and started again, and all come back. *CPU* is the daemon's alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.scale.measurement import TITLES, measure


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    options.add_argument("numbers", type=int, nargs="*", default=[1000, 10000])
    options.add_argument("--datapath", choices=("agent", "fast"), default="fast")
    options.add_argument("--json", type=Path, metavar="FILE")
    chosen = options.parse_args()
    cores = os.sched_getaffinity(0)
    print(f"load average {os.getloadavg()[0]:.1f}, {len(cores)} cores", flush=True)
    found = []
    for number in chosen.numbers:
        print(f"{number:,} associations", file=sys.stderr, flush=True)
        found.append(measure(number, chosen.datapath))
        os.sched_setaffinity(0, cores)
    for title, name in (("associations", "associations"), ("datapath", "datapath"), *_rows()):
        print(f"{title:64}" + "".join(f"{figures.get(name, '-'):>12}" for figures in found))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


def _rows() -> list[tuple[str, str]]:
    return [(title, name) for name, title in TITLES.items()]


if __name__ == "__main__":
    main()
