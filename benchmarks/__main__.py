"""`make bench`: both datapaths against the direct path (through the gateways' NAT), interleaved, as medians.

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
from pathlib import Path

UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
CORRESPONDENT, CARE_OF = "86.0.0.1", "192.168.100.25"
PORT = 5201
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = argparse.ArgumentParser(prog="make bench")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=int, default=3)
    options.add_argument("--protection", choices=("plain", "cookie"), default="plain")
    options.add_argument("--json", type=Path, help="write every single figure there")
    chosen = options.parse_args()
    labs = {datapath: f"bench{os.getpid()}{datapath}" for datapath in ("agent", "fast")}
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for datapath, lab in labs.items():
            _run("lab", "up", "--name", lab, "--datapath", datapath, "--protection", chosen.protection)
            words = (*UPMT, "lab", "exec", "--name", lab, "ch", "--", "iperf3", "-s", "-p", str(PORT))
            servers.append(subprocess.Popen(words, stdout=subprocess.DEVNULL))
        time.sleep(1.5)
        found = _compare(labs, chosen.rounds, chosen.seconds)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        for lab in labs.values():
            _run("lab", "down", "--name", lab)


def _compare(labs: dict[str, str], rounds: int, seconds: int) -> dict[str, dict[str, list[float]]]:
    measures: dict[str, tuple[str, Callable[[str, list[str]], float]]] = {
        "TCP up": ("Mbit/s", lambda lab, bound: _throughput(lab, seconds, bound)),
        "TCP down": ("Mbit/s", lambda lab, bound: _throughput(lab, seconds, [*bound, "-R"])),
        "TCP up, 10 streams": ("Mbit/s", lambda lab, bound: _throughput(lab, seconds, [*bound, "-P", "10"])),
        "UDP 64 bytes up": ("kpps", lambda lab, bound: _packets(lab, seconds, bound)),
        "CPU up": ("s/GB", lambda lab, bound: _processor_time(lab, seconds, bound)),
        "ping": ("ms", _round_trip),
    }
    paths = (("direct", labs["fast"], CARE_OF), ("agent", labs["agent"], None), ("fast", labs["fast"], None))
    found: dict[str, dict[str, list[float]]] = {name: {path: [] for path, _, _ in paths} for name in measures}
    for _ in range(rounds):
        for name, (_, measure) in measures.items():
            for path, lab, address in paths:
                option = "-I" if name == "ping" else "-B"
                found[name][path].append(measure(lab, [option, address] if address else []))
    load = os.getloadavg()[0]
    print(
        f"medians of {rounds} interleaved rounds, ratio to the direct path; load average at the end {load:.1f}"
    )
    for name, (unit, _) in measures.items():
        medians = {path: statistics.median(figures) for path, figures in found[name].items()}
        said = "".join(
            f"  {path} {value:10.2f} ({value / medians['direct']:5.2f})" for path, value in medians.items()
        )
        print(f"{name:19}{unit:7}{said}")
    return found


def _throughput(lab: str, seconds: int, options: list[str]) -> float:
    received: float = _iperf(lab, seconds, options)["end"]["sum_received"]["bits_per_second"]
    return received / 1e6


def _packets(lab: str, seconds: int, options: list[str]) -> float:
    """Received a second, thousands, when as many are sent as can be."""
    total = _iperf(lab, seconds, ["-u", "-b", "0", "-l", "64", *options])["end"]["sum"]
    return float(total["packets"] - total["lost_packets"]) / float(total["seconds"]) / 1000


def _processor_time(lab: str, seconds: int, options: list[str]) -> float:
    """Of the whole machine, others' work included."""
    before = _busy()
    received = _iperf(lab, seconds, options)["end"]["sum_received"]["bytes"]
    return (_busy() - before) / (received / 1e9)


def _busy() -> float:
    user, nice, system, _, _, interrupts, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + interrupts + soft) / _TICKS


def _iperf(lab: str, seconds: int, options: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    words = ("iperf3", "-J", "-c", CORRESPONDENT, "-p", str(PORT), "-t", str(seconds), *options)
    report: dict[str, dict[str, dict[str, float]]] = json.loads(
        _run("lab", "exec", "--name", lab, "mh", "--", *words)
    )
    return report


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
