"""`make bench`: both datapaths beside other tunnels, in the lab, in one run.

`direct` is the way without an anchor, `relay` the way through the anchor's NAT without a tunnel: what a tunnel
can reach. Every measure goes round all contenders before the next one, round by round; the report has the medians.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path

from benchmarks import machine, meter
from benchmarks.tunnels.contenders import NAMES, contenders
from benchmarks.tunnels.measures import BY_DEFAULT, STEPS, Bench
from benchmarks.tunnels.plot import svg
from benchmarks.tunnels.report import Result, as_json, as_markdown
from benchmarks.tunnels.rounds import run_rounds


def main() -> None:
    chosen = _options().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the labs go, too
    begun = time.monotonic()
    load = os.getloadavg()[0]
    with contenders(f"b{os.getpid()}", chosen.contenders, _say) as (ready, missing):
        with tempfile.TemporaryDirectory(prefix="upmt-meter-") as directory:
            bench = Bench(meter.build(Path(directory)), chosen.seconds)
            figures = run_rounds(bench, ready, chosen.measures, chosen.rounds, wires=chosen.wires, say=_say)
        result = Result(
            command=shlex.join(("python", "-m", "benchmarks", *sys.argv[1:])),
            machine=machine.describe(),
            load=(load, os.getloadavg()[0]),
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            set_up={contender.name: contender.commands for contender in ready},
            missing=missing,
            figures=figures,
        )
    print(as_markdown(result))
    for file, text in ((chosen.json, as_json(result)), (chosen.svg, svg(result))):
        if file is not None:
            file.write_text(text)
    _say(f"took {time.monotonic() - begun:.0f} s")


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").split("\n\n")[0]
    )
    options.add_argument(
        "--contenders", type=_some_of(NAMES), default=NAMES, metavar="A,B,...", help=", ".join(NAMES)
    )
    options.add_argument(
        "--measures", type=_some_of(STEPS), default=list(BY_DEFAULT), metavar="A,B,...", help=", ".join(STEPS)
    )
    options.add_argument("--no-wires", dest="wires", action="store_false", help="leave out MTU-size packets")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=int, default=1, help="of each TCP measurement")
    options.add_argument("--json", type=Path, help="write every single figure there")
    options.add_argument("--svg", type=Path, help="write a plot of the medians there")
    return options


def _some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := [name for name in asked if name not in known]:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}")
        return [name for name in known if name in asked]

    return read


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
