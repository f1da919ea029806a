"""`python -m benchmarks.handover`: what streams feel of handovers, on both datapaths and on others.

A stream there and back, spread over many flows, goes through events of one kind: `none` (what the machine itself
does to it), `planned`, `down` (carrier lost), `blackhole` (dropped without a sound). With several rounds the numbers of
flows take turns, each in a lab of its own that stays: so is compared what a move costs with many.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from benchmarks import machine, meter
from benchmarks.handover.moves import EVENTS, Course, joined, run_course
from benchmarks.handover.peers import mptcp_courses, wireguard_courses
from benchmarks.handover.report import as_json, as_markdown, row
from benchmarks.handover.streams import prepare
from benchmarks.places import Place, place
from benchmarks.tunnels.peers import NotHereError
from upmt_nf.model.errors import UpmtError

WHO = ("fast", "agent", "mptcp", "wireguard-go")
PEER_RATE = 1000
_MOVES_FOR_ONE_CUT = 10


def main() -> None:
    chosen = _options().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun, load = time.monotonic(), os.getloadavg()[0]
    courses: list[Course] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="upmt-handover-") as name:
        directory = Path(name)
        program = meter.build(directory)
        for who in chosen.who:
            try:
                for course in _courses(who, chosen, program, directory, failures):
                    courses.append(course)
                    _say("  ".join(row(course)))
            except (NotHereError, TimeoutError, UpmtError, subprocess.SubprocessError, OSError) as reason:
                _say(f"{who}: not measured any further: {reason}")
                failures.append(f"{who}: not measured any further: {reason}")
    courses = joined(courses)
    command = shlex.join(("python", "-m", "benchmarks.handover", *sys.argv[1:]))
    facts, loads = machine.describe(), (load, os.getloadavg()[0])
    print(as_markdown(command, facts, loads, courses, failures))
    if chosen.json is not None:
        chosen.json.write_text(as_json(command, facts, loads, courses, failures))
    _say(f"took {time.monotonic() - begun:.0f} s")


def _courses(
    who: str, chosen: argparse.Namespace, program: str, directory: Path, failures: list[str]
) -> Iterator[Course]:
    name = f"h{os.getpid()}{who[0]}"
    if who not in ("fast", "agent"):
        with place(name, daemons=False) as bare:
            prepare(bare)
            if who == "mptcp":
                yield from mptcp_courses(bare, directory, chosen.events, PEER_RATE, chosen.count)
            else:
                yield from wireguard_courses(bare, program, directory, chosen.events, PEER_RATE, chosen.count)
        return
    rates = chosen.fast_rates if who == "fast" else chosen.agent_rates
    labs: dict[int, Place] = {}
    with contextlib.ExitStack() as all_labs:
        for _, flows in product(range(chosen.rounds), chosen.flows):
            # A lab for each: flows that a stream has left behind are moved with the next one's.
            with contextlib.ExitStack() if chosen.rounds == 1 else contextlib.nullcontext(all_labs) as kept:
                if (lab := labs.get(flows)) is None:
                    lab = kept.enter_context(place(f"{name}{flows}", who, chosen.protection, daemons=True))
                    prepare(lab)
                    if chosen.rounds > 1:
                        labs[flows] = lab
                yield from _own_courses(who, lab, chosen, program, directory, rates, flows, failures)


def _own_courses(
    who: str,
    lab: Place,
    chosen: argparse.Namespace,
    program: str,
    directory: Path,
    rates: Sequence[int],
    flows: int,
    failures: list[str],
) -> Iterator[Course]:
    for event, rate in product(chosen.events, rates):
        # A cut takes seconds: of most pairs of flows and rate only the planned ones are worth it.
        if event != "planned" and (
            flows not in chosen.cut_flows or (rate != rates[0] and flows != chosen.flows[0])
        ):
            continue
        count = {"none": 1, "planned": _MOVES_FOR_ONE_CUT * chosen.count}.get(event, chosen.count)
        try:
            yield run_course(who, lab, program, directory, event, rate, flows, count)
        except (TimeoutError, UpmtError, subprocess.SubprocessError) as reason:
            _say(f"{who}, {event}, {rate}/s, {flows} flows: {reason}")
            failures.append(f"{who}, {event}, {rate} packets/s, {flows} flows: {reason}")


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.handover", description=__doc__.split("\n\n")[0]
    )
    options.add_argument("--who", nargs="+", choices=WHO, default=WHO)
    options.add_argument("--events", nargs="+", choices=EVENTS, default=EVENTS)
    options.add_argument("--flows", nargs="+", type=int, default=(1, 100, 10_000, 100_000))
    options.add_argument(
        "--cut-flows", nargs="+", type=int, default=(1, 10_000), help="those of them for cuts"
    )
    options.add_argument(
        "--fast-rates", nargs="+", type=int, default=(1000, 60_000), help="packets/s each way"
    )
    options.add_argument(
        "--agent-rates", nargs="+", type=int, default=(1000, 5000), help="packets/s each way"
    )
    options.add_argument(
        "--count", type=int, default=2, help="cuts of each kind; of planned handovers ten times as many"
    )
    options.add_argument("--rounds", type=int, default=1, help="how often the numbers of flows take turns")
    options.add_argument("--protection", choices=("plain", "cookie"), default="cookie")
    options.add_argument("--json", type=Path, help="write every event there")
    return options


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
