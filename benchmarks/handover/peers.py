"""Others on the same cut: MPTCP (the kernel's), and wireguard-go with a script that watches the link.

MPTCP has a subflow by each network, as its path manager makes them by default. Being TCP it loses nothing: its gap
counts, and as lost counts what has not come within LATE seconds of the end of a cut.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.handover.analysis import RECORD, Felt, worst
from benchmarks.handover.moves import SETTLE, WATCHED, Course, cut
from benchmarks.handover.streams import Logs, stream
from benchmarks.places import Place
from benchmarks.tunnels.peers import SET_UP
from upmt_nf.lab.topology import ANCHOR, CORRESPONDENT

PORT = 5500
LATE = 2.0
WATCHING = f"""
ip -o monitor link | while read -r line; do
  case "$line" in
    *if0*NO-CARRIER*) ip route replace {ANCHOR} via 10.10.10.1 dev if1 ;;
    *if0*LOWER_UP*) ip route delete {ANCHOR} ;;
  esac
done
"""
"""What an administrator would put beside wireguard-go, which follows its routes but not its links."""
_MESSAGES = (sys.executable, "-m", "benchmarks.handover.mptcp_stream")


def wireguard_courses(
    place: Place, meter: str, directory: Path, events: tuple[str, ...], rate: int, count: int
) -> Iterator[Course]:
    """One course an event. Raises NotHereError."""
    way = SET_UP["wireguard-go"](place, directory)
    place.start("mh", "sh", "-c", WATCHING, log="/dev/null")
    for event in events:
        times = []
        with stream(place, meter, directory, rate, 1, way.bound) as running:
            for _ in range(count):
                time.sleep(SETTLE)
                times.append(_happen(place, event))
        yield _course("wireguard-go, watched", event, rate, running.logs(), times)


def mptcp_courses(
    place: Place, directory: Path, events: tuple[str, ...], rate: int, count: int
) -> Iterator[Course]:
    """One course an event, a connection for each cut: a subflow that has been lost does not come back by itself."""
    for host in ("mh", "ch"):
        place.run(host, "ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    place.run("mh", *["ip", "route", "add", "default", "via", "10.10.10.1", "dev", "if1", "table", "301"])
    place.run("mh", *["ip", "rule", "add", "from", "10.10.10.25", "lookup", "301", "priority", "301"])
    place.run("mh", *["ip", "mptcp", "endpoint", "add", "10.10.10.25", "dev", "if1", "subflow"])
    for event in (event for event in events if event != "planned"):
        each: list[tuple[Felt, Felt]] = []
        all_along: list[Felt] = []
        for _ in range(count):
            with _connection(place, directory, rate) as logs:
                time.sleep(2 * SETTLE)
                at = _happen(place, event)
                time.sleep(LATE)
            found = logs()
            each.append(found.around(at, WATCHED[event]))
            all_along += found.of_all()
        yield Course("MPTCP", event, 1, rate, found.rate, 1, tuple(each), worst(all_along))


@contextmanager
def _connection(place: Place, directory: Path, rate: int) -> Iterator[Callable[[], Logs]]:
    log = str(directory / "mptcp")
    with place.running("ch", *_MESSAGES, "answer", CORRESPONDENT, str(PORT), log):
        talker = place.start("mh", *_MESSAGES, "talk", CORRESPONDENT, str(PORT), str(rate), log)
        try:
            assert talker.stdout is not None
            said = talker.stdout.readline()
            if not said:
                raise subprocess.CalledProcessError(talker.wait(), _MESSAGES)
            json.loads(said)
            yield lambda: Logs(
                *(np.fromfile(f"{log}.{end}", dtype=RECORD) for end in ("sent", "there", "back"))
            )
        finally:
            place.end(talker)


def _happen(place: Place, event: str) -> int:
    if event in ("down", "blackhole"):
        return cut(place, event)
    at = time.monotonic_ns()
    if event == "planned":
        place.run("mh", "ip", "route", "replace", ANCHOR, "via", "10.10.10.1", "dev", "if1")
        time.sleep(WATCHED[event])
        place.run("mh", "ip", "route", "delete", ANCHOR)
    else:
        time.sleep(WATCHED[event])
    return at


def _course(who: str, event: str, rate: int, logs: Logs, times: list[int]) -> Course:
    each = tuple(logs.around(at, WATCHED[event]) for at in times)
    return Course(who, event, 1, rate, logs.rate, 1, each, worst(logs.of_all()))
