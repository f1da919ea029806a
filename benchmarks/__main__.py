"""`make bench`: the agent plane against the direct path (through the gateways' NAT), interleaved, as medians.

The direct path is a socket bound to a care-of address, which the routing rules send out untunnelled.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
CORRESPONDENT, CARE_OF = "86.0.0.1", "192.168.100.25"
PORT = 5201


def main() -> None:
    options = argparse.ArgumentParser(prog="make bench")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=int, default=3)
    chosen = options.parse_args()
    lab = f"bench{os.getpid()}"
    _run("lab", "up", "--name", lab)
    try:
        server = subprocess.Popen(
            (*UPMT, "lab", "exec", "--name", lab, "ch", "--", "iperf3", "-s", "-p", str(PORT)),
            stdout=subprocess.DEVNULL,
        )
        time.sleep(1.5)
        try:
            _compare(lab, chosen.rounds, chosen.seconds)
        finally:
            server.terminate()
            server.wait()
    finally:
        _run("lab", "down", "--name", lab)


def _compare(lab: str, rounds: int, seconds: int) -> None:
    measures: dict[str, tuple[str, Callable[[str, list[str]], float]]] = {
        "TCP up": ("Mbit/s", lambda lab, bound: _throughput(lab, seconds, bound)),
        "TCP down": ("Mbit/s", lambda lab, bound: _throughput(lab, seconds, [*bound, "-R"])),
        "ping": ("ms", _round_trip),
    }
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, (_, measure) in measures.items():
            for path, address in (("direct", CARE_OF), ("agent", None)):
                option = "-I" if name == "ping" else "-B"
                found.setdefault((name, path), []).append(measure(lab, [option, address] if address else []))
    print(f"medians of {rounds} interleaved rounds; ratio of medians, agent to direct")
    for name, (unit, _) in measures.items():
        direct, agent = (statistics.median(found[name, path]) for path in ("direct", "agent"))
        print(
            f"{name:9} direct {direct:10.2f} {unit:6}  agent {agent:10.2f} {unit:6}  ratio {agent / direct:.3f}"
        )


def _throughput(lab: str, seconds: int, options: list[str]) -> float:
    words = ("iperf3", "-J", "-c", CORRESPONDENT, "-p", str(PORT), "-t", str(seconds), *options)
    report = json.loads(_run("lab", "exec", "--name", lab, "mh", "--", *words))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def _round_trip(lab: str, options: list[str]) -> float:
    words = ("ping", "-q", "-c", "100", "-i", "0.005", *options, CORRESPONDENT)
    said = _run("lab", "exec", "--name", lab, "mh", "--", *words)
    matched = re.search(r"= [\d.]+/([\d.]+)/", said)
    assert matched is not None, said
    return float(matched[1])


def _run(*words: str) -> str:
    return subprocess.run((*UPMT, *words), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
