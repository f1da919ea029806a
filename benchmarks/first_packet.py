"""`python -m benchmarks.first_packet`: what classification adds to the time of a flow's first packet.

Two labs side by side carry the same flows in turns. One host has no application rules, so that nobody asks whose a
flow is; the other has rules that need the process. The first answer on a new UDP socket is timed, block by block in
turns, on a quiet host and then on one with many processes. `--crowd RATE` then asks for as many new flows a second
from fifty programs at once, and looks by which network each one's packet left. What a flow costs the daemon in CPU time
says where its ceiling is, also on a machine that others use (`most/s`: that of a core of its own).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
PROGRAMS = Path(__file__).parents[1] / "tests" / "lab"
FAR, PORT = "86.0.0.1", 6010
RULES = (("--command", "odd*"), ("--executable", "/opt/none"), ("--unit", "none.service"))
FIRST_PACKETS = """
import json, socket, sys, time
took = []
for _ in range(int(sys.argv[3])):
    one = socket.socket(type=socket.SOCK_DGRAM)
    one.settimeout(2)
    one.connect((sys.argv[1], int(sys.argv[2])))
    began = time.perf_counter()
    one.send(b"x")
    try:
        one.recv(10)
        took.append(time.perf_counter() - began)
    except TimeoutError:
        pass
    one.close()
    time.sleep(0.001)
print(json.dumps(took))
"""
SLEEPERS = """
import os, signal, sys
for _ in range(int(sys.argv[1])):
    if not os.fork():
        signal.pause()
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, signal.SIGKILL)
"""


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.first_packet")
    options.add_argument("--blocks", type=int, default=20)
    options.add_argument("--flows", type=int, default=200, help="first packets of a block")
    options.add_argument("--processes", type=int, default=10_000)
    options.add_argument("--datapath", default="auto", choices=("auto", "agent", "fast"))
    options.add_argument("--crowd", type=int, action="append", default=[], help="new flows a second")
    chosen = options.parse_args()
    with contextlib.ExitStack() as running:
        without, with_rules = (running.enter_context(_lab(name, chosen.datapath)) for name in ("w", "r"))
        for rule in RULES:
            _upmt("lab", "exec", "--name", with_rules, "mh", "--", *UPMT, "assign", *rule, "--to", "net1")
        print(f"first packet and its answer, {chosen.blocks} blocks of {chosen.flows} in turns, ms")
        _print_row("host", "rules", "p50", "p90", "p99", "lost")
        _compare("quiet", without, with_rules, chosen.blocks, chosen.flows)
        with _sleepers(chosen.processes if chosen.blocks else 0):
            _compare(f"{chosen.processes} processes", without, with_rules, chosen.blocks, chosen.flows)
        if chosen.crowd:
            print(f"fifty programs at once, {chosen.processes} processes")
            _print_row(
                "rules",
                "asked/s",
                "flows/s",
                "answered",
                "wrong",
                "unfound",
                "dropped",
                "p99 ms",
                "CPU us/flow",
                "most/s",
            )
        for rate in chosen.crowd:
            _crowd("none", without, rate, chosen.processes)
            _crowd("process", with_rules, rate, chosen.processes)


def _compare(title: str, without: str, with_rules: str, blocks: int, flows: int) -> None:
    took: dict[str, list[float]] = {without: [], with_rules: []}
    for _ in range(blocks):
        for lab, found in took.items():
            words = ("/usr/bin/python3", "-c", FIRST_PACKETS, FAR, str(PORT), str(flows))
            found += json.loads(_upmt("lab", "exec", "--name", lab, "mh", "--", *words))
    percentiles = {}
    for lab, said in ((without, "none"), (with_rules, "process")):
        row = percentiles[lab] = [_at(took[lab], share) * 1e3 for share in (0.5, 0.9, 0.99)]
        _print_row(title, said, *(f"{value:.3f}" for value in row), str(blocks * flows - len(took[lab])))
    added = [late - early for early, late in zip(percentiles[without], percentiles[with_rules], strict=True)]
    _print_row(title, "added", *(f"{value:+.3f}" for value in added), "")


def _crowd(title: str, lab: str, rate: int, idle: int) -> None:
    sniffer = subprocess.Popen(
        (*UPMT, "lab", "exec", "--name", lab, "mh", "--", "/usr/bin/python3", str(PROGRAMS / "inner_sniffer.py"),
         "1800", "if0", "if1"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sniffer.stdin is not None
    assert sniffer.stdout is not None
    sniffer.stdout.readline()
    before, spent = _counters(lab), _cpu_seconds(lab)
    words = ("/usr/bin/python3", str(PROGRAMS / "crowd.py"), FAR, str(PORT), "50", str(rate), "10", str(idle))
    result = json.loads(_upmt("lab", "exec", "--name", lab, "mh", "--", *words))
    time.sleep(1.0)
    sniffer.stdin.write("report\n")
    sniffer.stdin.flush()
    seen: dict[str, dict[str, int]] = json.loads(sniffer.stdout.readline())
    sniffer.stdin.close()
    sniffer.wait()
    wrong = seen.get("@e", {}).get("if1", 0) + seen.get("@o", {}).get("if0", 0)
    after, spent = _counters(lab), _cpu_seconds(lab) - spent
    cost = spent / max(1, result["flows"])
    dropped = sum(after[name] - before[name] for name in ("queue_dropped", "queue_overruns"))
    unfound = after["processes_not_found"] - before["processes_not_found"]
    share = 100 * result["answered"] / max(1, result["flows"])
    _print_row(
        title,
        str(rate),
        f"{result['flows'] / result['seconds']:.0f}",
        f"{share:.2f} %",
        str(wrong) if title != "none" else "-",
        str(unfound),
        str(dropped),
        f"{result['late_us'][1] / 1e3:.1f}",
        f"{cost * 1e6:.0f}",
        f"{1 / cost:.0f}",
    )


def _cpu_seconds(lab: str) -> float:
    """What the mobile host's daemon has used of the CPU."""
    words = f"mobile-host\0run\0--config\0/run/upmt/lab-{lab}/"
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words in (directory / "cmdline").read_text():
                return int((directory / "schedstat").read_text().split()[0]) / 1e9
    return float("nan")


def _counters(lab: str) -> dict[str, int]:
    status: dict[str, Any] = json.loads(
        _upmt("lab", "exec", "--name", lab, "mh", "--", *UPMT, "status", "--json")
    )
    counters: dict[str, int] = status["counters"]
    return counters


@contextlib.contextmanager
def _lab(letter: str, datapath: str) -> Iterator[str]:
    name = f"first{letter}{os.getpid()}"
    _upmt("lab", "up", "--name", name, "--datapath", datapath)
    echo = subprocess.Popen(
        (
            *UPMT,
            "lab",
            "exec",
            "--name",
            name,
            "ch",
            "--",
            sys.executable,
            str(PROGRAMS / "echo.py"),
            f"{FAR}:{PORT}",
        )
    )
    try:
        time.sleep(1.5)
        yield name
    finally:
        echo.terminate()
        echo.wait()
        _upmt("lab", "down", "--name", name)


@contextlib.contextmanager
def _sleepers(count: int) -> Iterator[None]:
    parent = subprocess.Popen(
        ("/usr/bin/python3", "-c", SLEEPERS, str(count)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        parent.stdout.readline()
        yield
    finally:
        parent.stdin.close()
        parent.wait()


def _at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def _print_row(*columns: str) -> None:
    print(" ".join(f"{column:>15}" for column in columns), flush=True)


def _upmt(*words: str) -> str:
    return subprocess.run((*UPMT, *words), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
