"""`python -m benchmarks.scale [NUMBER...]`: what very many hosts cost one anchor (needs root).

In a bare lab: the real daemon on the first core, all hosts in this process on the last one, each with two networks and
addresses of its own. They register with Digest, set two tunnels up, begin a flow; then the parts: they keep their
tunnels alive, move the flow, come back when the daemon was killed and started again. *CPU* is the daemon's alone.
Beside each cost stands how many times that of the first NUMBER it is, an association.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from benchmarks.scale.figures import FIGURES, FLAT, Found, growth, table, verdicts
from benchmarks.scale.measurement import PARTS, measure


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    options.add_argument("numbers", type=int, nargs="*", default=[1000, 10000])
    options.add_argument("--parts", metavar="A,B", help=f"of {', '.join(PARTS)}; without: all")
    options.add_argument("--datapath", choices=("agent", "fast"), default="fast")
    options.add_argument("--json", type=Path, metavar="FILE")
    options.add_argument(
        "--beside", type=Path, metavar="FILE", help="compare with the first crowd of an earlier --json"
    )
    chosen = options.parse_args()
    parts = PARTS if chosen.parts is None else tuple(chosen.parts.split(","))
    if unknown := set(parts) - set(PARTS):
        options.error(f"there is no part {', '.join(sorted(unknown))}")
    # Whoever has waited long enough does not leave a lab behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cores = os.sched_getaffinity(0)
    print(f"load average {os.getloadavg()[0]:.1f}, {len(cores)} cores", flush=True)
    found = [] if chosen.beside is None else json.loads(chosen.beside.read_text())[:1]
    for number in chosen.numbers:
        print(f"{number:,} associations", file=sys.stderr, flush=True)
        found.append(measure(number, chosen.datapath, parts))
        os.sched_setaffinity(0, cores)
        if chosen.json is not None:
            _write(found, chosen.json)
    print("\n".join(table(found)))
    said = verdicts(found)
    print(
        "\n".join(said) or f"all that was asked, and no cost of an association above {FLAT} times the first"
    )


def _write(found: list[Found], file: Path) -> None:
    """The figures, and beside them how the cost of an association grew."""
    written = []
    for each in found:
        ratios = {figure.name: growth(figure, each, found[0]) for figure in FIGURES}
        written.append(
            {**each, "growth": {name: ratio for name, ratio in ratios.items() if ratio is not None}}
        )
    file.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
