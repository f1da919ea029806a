"""`python -m benchmarks.new_flows`: how many new flows a second come through, and what one costs (needs root).

In a lab, one datagram a flow from one program of the mobile host to ever other ports of the correspondent, at rising
rates. *CPU* is what a flow costs the daemons of the host and of the anchor, kernel work in their system calls included.
With `--process` there is a rule that needs the process behind each flow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

from benchmarks.places import Place, place
from upmt_nf.lab.topology import CORRESPONDENT

FIRST_PORT = 2000
SENDER = """
import json, os, socket, sys, time
address, first, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
began, refused, count = time.monotonic(), 0, int(rate * seconds)
for number in range(count):
    if number % 16 == 0 and (early := began + number / rate - time.monotonic()) > 0:
        time.sleep(early)
    try:
        one.sendto(number.to_bytes(4, "big"), (address, first + number))
    except OSError:
        refused += 1
print(json.dumps({"sent": count - refused, "refused": refused, "seconds": time.monotonic() - began}))
"""
COUNTER = """
import json, select, socket, sys
found = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
found.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
found.bind((sys.argv[1], 0x0800))
print("ready", flush=True)
seen = set()
while True:
    ready = select.select([found, sys.stdin], [], [], 1)[0]
    if found in ready:
        data, where = found.recvfrom(200)
        if where[2] != socket.PACKET_OUTGOING and data[9] == 17:
            seen.add(data[22:24])
    elif ready:
        if not sys.stdin.readline():
            break
        print(len(seen), flush=True)
        seen.clear()
"""


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.new_flows")
    options.add_argument("--datapath", choices=("agent", "fast"), action="append", default=[])
    options.add_argument("--rates", type=int, nargs="+", default=[5000, 10000, 20000])
    options.add_argument("--seconds", type=float, default=1.5)
    options.add_argument("--process", action="store_true")
    options.add_argument("--json", type=Path, metavar="FILE")
    chosen = options.parse_args()
    found = []
    print(f"load average {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")
    _print_row("datapath", "asked/s", "sent/s", "came/s", "came %", "host us", "anchor us", "dropped")
    for datapath in chosen.datapath or ["fast", "agent"]:
        with place(f"flows{os.getpid()}", datapath, daemons=True) as here:
            if chosen.process:
                here.ask("assign", matches=[{"command": "no-such-command"}], to="net1")
            # What the sender's packets would be answered with is not what is measured.
            here.run(
                "ch", "iptables-legacy", "-w", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "-j", "DROP"
            )
            with here.running("ch", "/usr/bin/python3", "-c", COUNTER, "eth0") as counter:
                for rate in chosen.rates:
                    found.append(_burst(here, datapath, counter, rate, chosen.seconds))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


def _burst(
    here: Place, datapath: str, counter: subprocess.Popen[str], rate: int, seconds: float
) -> dict[str, float | str]:
    spent = [_cpu_seconds(here.name, role) for role in ("mobile-host", "anchor")]
    dropped = _dropped(here)
    words = ("/usr/bin/python3", "-c", SENDER, CORRESPONDENT, str(FIRST_PORT), str(rate), str(seconds))
    sent = json.loads(here.run("mh", *words, timeout=120))
    time.sleep(1.5)
    assert counter.stdin is not None
    assert counter.stdout is not None
    counter.stdin.write("report\n")
    counter.stdin.flush()
    came = int(counter.stdout.readline())
    host, anchor = (
        1e6 * (_cpu_seconds(here.name, role) - before) / max(1, came)
        for role, before in zip(("mobile-host", "anchor"), spent, strict=True)
    )
    figures: dict[str, float | str] = {
        "datapath": datapath,
        "asked_per_s": rate,
        "sent_per_s": round(sent["sent"] / sent["seconds"]),
        "came_per_s": round(came / sent["seconds"]),
        "came_percent": round(100 * came / max(1, sent["sent"]), 2),
        "host_us": round(host, 1),
        "anchor_us": round(anchor, 1),
        "dropped": _dropped(here) - dropped,
    }
    _print_row(*(str(figure) for figure in figures.values()))
    return figures


def _dropped(here: Place) -> int:
    """Packets that the queues at the host and the tunnels' sockets had no room for."""
    counters = here.ask("status")["counters"]
    return sum(count for name, count in counters.items() if name in ("queue_dropped", "queue_overruns"))


def _cpu_seconds(lab: str, role: str) -> float:
    """What a daemon has used of the CPU."""
    words = f"{role}\0run\0--config\0/run/upmt/lab-{lab}/"
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if words in (directory / "cmdline").read_text():
                return int((directory / "schedstat").read_text().split()[0]) / 1e9
        except OSError:
            continue
    raise LookupError(f"no {role} runs in lab {lab}")


def _print_row(*columns: str) -> None:
    print(" ".join(f"{column:>10}" for column in columns), flush=True)


if __name__ == "__main__":
    main()
