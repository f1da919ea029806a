"""How soon a lost network is left: `python -m benchmarks.reaction`. Both planes, interleaved, as medians.

A stream of numbered packets, there and back or one way only, on a network that loses its carrier or becomes a black
hole without a word. The longest gap is the far end's for one way, the sender's for both; `baseline` is the longest
gap of the second before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from upmt_nf.lab.stream_report import report
from upmt_nf.lab.voice_stream import read_log

UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")
CORRESPONDENT, PORT, APPLICATION = "86.0.0.1", 5004, "reaction"
CUTS = {"link down": ("down", "up"), "black hole": ("blackhole", "restore")}


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.reaction")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--rate", type=int, default=1000, help="packets a second")
    options.add_argument("--datapath", choices=("agent", "fast"), action="append")
    options.add_argument("--json", type=Path, help="write every single figure there")
    chosen = options.parse_args()
    labs = {datapath: f"react{os.getpid()}{datapath}" for datapath in chosen.datapath or ("agent", "fast")}
    found: list[dict[str, object]] = []
    try:
        for datapath, lab in labs.items():
            _run("lab", "up", "--name", lab, "--datapath", datapath)
            _on(lab, "mh", *UPMT, "assign", "--app", APPLICATION, "--to", "any")
        for number in range(chosen.rounds):
            for datapath, lab in labs.items():
                for cut in CUTS:
                    for way in ("both ways", "one way"):
                        figures = _cut_once(lab, cut, way, chosen.rate)
                        found.append(
                            {"round": number, "datapath": datapath, "cut": cut, "way": way} | figures
                        )
                        print(json.dumps(found[-1]), flush=True)
    finally:
        for lab in labs.values():
            _run("lab", "down", "--name", lab)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1))
    _table(found)


def _table(found: list[dict[str, object]]) -> None:
    print(f"{'':34}{'lost':>12}{'gap ms':>16}{'baseline ms':>13}   (median, worst)")
    for kind in dict.fromkeys((each["datapath"], each["cut"], each["way"]) for each in found):
        same = [each for each in found if (each["datapath"], each["cut"], each["way"]) == kind]

        def of(name: str, same: list[dict[str, object]] = same) -> list[float]:
            return [float(str(each[name])) for each in same]

        lost, gap, before = of("lost"), of("gap_ms"), of("baseline_ms")
        print(
            f"{' '.join(map(str, kind)):34}{statistics.median(lost):6.0f}{max(lost):6.0f}"
            f"{statistics.median(gap):9.1f}{max(gap):7.1f}{statistics.median(before):13.1f}"
        )


def _cut_once(lab: str, cut: str, way: str, rate: int) -> dict[str, object]:
    cause, cure = CUTS[cut]
    with tempfile.TemporaryDirectory() as directory:
        there, back = Path(directory, "there"), Path(directory, "back")
        far = _start(lab, "ch", *STREAM, "echo" if way == "both ways" else "sink", str(PORT), str(there))
        _await(there.exists, "the correspondent listens")
        seconds = 8
        near = _start(
            lab, "mh", *UPMT, "run", "--app", APPLICATION, "--",
            *STREAM, "send", CORRESPONDENT, str(PORT), str(rate), str(seconds), str(back),
        )  # fmt: skip
        try:
            _await(lambda: there.stat().st_size > 16 * rate, "the stream runs")
            network = _network_of(lab)
            began = time.monotonic()
            _run("lab", "link", "--name", lab, network, cause)
            near.wait(timeout=60)
        finally:
            far.terminate()
            far.wait()
            near.terminate()
            near.wait()
        arrivals = read_log(back if way == "both ways" else there)
    _run("lab", "link", "--name", lab, network, cure)
    _await(lambda: _states(lab)[network] == "up", f"{network} is back", 60)
    before = [arrival for arrival in arrivals if began - 1 < arrival.at < began]
    after = [arrival for arrival in arrivals if arrival.at >= began - 0.01]
    return {
        "lost": report(arrivals, 0, rate * seconds - 1).lost,
        "gap_ms": round(report(after, 0, rate * seconds).longest_gap_ms, 1),
        "baseline_ms": round(report(before, 0, rate * seconds).longest_gap_ms, 1),
        "moved": _network_of(lab) != network,
    }


def _network_of(lab: str) -> str:
    applications = json.loads(_on(lab, "mh", *UPMT, "apps", "--json"))
    return next(str(each["network"]) for each in applications if each["name"] == APPLICATION)


def _states(lab: str) -> dict[str, str]:
    return {each["name"]: each["state"] for each in json.loads(_on(lab, "mh", *UPMT, "networks", "--json"))}


def _await(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def _start(lab: str, host: str, *command: str) -> subprocess.Popen[bytes]:
    words = (*UPMT, "lab", "exec", "--name", lab, host, "--", *command)
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def _on(lab: str, host: str, *command: str) -> str:
    return _run("lab", "exec", "--name", lab, host, "--", *command)


def _run(*arguments: str) -> str:
    return subprocess.run((*UPMT, *arguments), check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
