"""`python -m benchmarks.flood`: what flood of strangers an anchor survives while 100 hosts work (needs root).

In the lab: 1,000 forged sources send at rising rates from the anchor's router; 100 simulated hosts refresh every 8 s
or so and send 5 datagrams a second each. One line a rate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from upmt_nf.lab.daemons import state_of
from upmt_nf.linux.users import write_private
from upmt_nf.signaling.digest import REALM, secret_hash

UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
HERE = Path(__file__).parent
HOSTS = 100
ECHO = (
    "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('65.0.0.1', 7000))\n"
    "while True:\n    d, a = s.recvfrom(100)\n    s.sendto(d, a)\n"
)


def main() -> None:
    options = argparse.ArgumentParser(prog="flood")
    options.add_argument("--rates", default="0,1000,5000,10000,20000,40000", help="packets a second")
    options.add_argument("--kinds", default="register,garbage,unknown,signal")
    options.add_argument("--seconds", type=int, default=12)
    chosen = options.parse_args()
    lab = f"flood{os.getpid()}"
    programs: list[subprocess.Popen[str]] = []
    _upmt("lab", "up", "--name", lab, "--no-daemons")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            anchor = _prepare(lab, Path(scratch), programs)
            for rate in chosen.rates.split(","):
                print(_round(lab, anchor, Path(scratch), int(rate), chosen.seconds, chosen.kinds), flush=True)
    finally:
        for program in programs:
            program.terminate()
            program.wait()
        _upmt("lab", "down", "--name", lab)


def _prepare(lab: str, scratch: Path, programs: list[subprocess.Popen[str]]) -> int:
    """Gives the anchor's pid: `lab exec` becomes what it starts."""
    secrets = [token_urlsafe(24) for _ in range(HOSTS)]
    names = [f"crowd{number}@crowd.example" for number in range(HOSTS)]
    hashes = (f"{n}:{REALM}:{secret_hash(n, REALM, s)}\n" for n, s in zip(names, secrets, strict=True))
    write_private(scratch / "users", "".join(hashes))
    write_private(scratch / "secrets", "\n".join(secrets))
    config = (state_of(lab) / "anchor.toml").read_text().replace(f"{state_of(lab)}/users", f"{scratch}/users")
    (scratch / "anchor.toml").write_text(config + "minimum_lease_time = 10\n")
    addresses = "; ".join(f"ip addr add 86.0.0.{number}/24 dev eth0" for number in range(101, 251))
    _upmt("lab", "exec", "--name", lab, "ch", "--", "sh", "-ec", addresses)
    programs.append(_start(lab, "gw1", sys.executable, "-c", ECHO))
    programs.append(_start(lab, "an", *UPMT, "anchor", "run", "--config", str(scratch / "anchor.toml")))
    while _counters(lab) is None:
        time.sleep(0.1)
    return programs[-1].pid


def _round(lab: str, anchor: int, scratch: Path, rate: int, seconds: int, kinds: str) -> str:
    words = (
        "--hosts",
        str(HOSTS),
        "--seconds",
        str(seconds),
        "--secrets",
        str(scratch / "secrets"),
        "--wait",
    )
    crowd = _start(lab, "ch", sys.executable, str(HERE / "crowd.py"), *words)
    assert crowd.stdin is not None
    assert crowd.stdout is not None
    crowd.stdout.readline()
    before, used = _counters(lab) or {}, _processor_seconds(anchor)
    crowd.stdin.write("go\n")
    crowd.stdin.flush()
    sent: dict[str, Any] = {"per_second": 0}
    if rate:
        options = ("--rate", str(rate), "--seconds", str(seconds), "--kinds", kinds)
        flood = _start(lab, "inet", sys.executable, str(HERE / "stranger_flood.py"), *options)
        sent = json.loads(flood.communicate()[0])
    report = json.loads(crowd.communicate()[0])
    used = _processor_seconds(anchor) - used
    after = _counters(lab) or {}
    said = {
        name: after[name] - before.get(name, 0)
        for name in sorted(after)
        if after[name] != before.get(name, 0)
    }
    return (
        f"strangers {sent['per_second']:6}/s  hosts ready {report['ready']:3}  datagrams {report['sent']:5} "
        f"lost {report['lost']:4}  SIP resent {report['resent']:3} failed {report['timed_out']:2}  "
        f"anchor's processor {used / seconds:4.0%}  {said}"
    )


def _counters(lab: str) -> dict[str, int] | None:
    words = (*UPMT, "lab", "exec", "--name", lab, "an", "--", *UPMT, "status", "--json")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found: dict[str, int] | None = json.loads(done.stdout)["counters"] if done.returncode == 0 else None
    return found


def _processor_seconds(pid: int) -> float:
    """Of a process, so far."""
    found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(found[11]) + int(found[12])) / os.sysconf("SC_CLK_TCK")


def _start(lab: str, host: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (*UPMT, "lab", "exec", "--name", lab, host, "--", *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _upmt(*words: str) -> None:
    subprocess.run((*UPMT, *words), check=True, capture_output=True)


if __name__ == "__main__":
    main()
