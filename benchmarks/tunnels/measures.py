"""What is measured of a contender, one figure or a few at a time."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import busy_seconds, busy_seconds_of, memory_of
from benchmarks.places import Place, wait_until
from benchmarks.tunnels.contenders import Contender
from benchmarks.tunnels.figures import percentile
from benchmarks.tunnels.search import Trial, highest_rate

IPERF_PORT, SINK_PORT, ECHO_PORT = 5201, 5301, 5302
TRIAL_SECONDS = 0.25
ASKING_SECONDS = 0.5
_trials = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of the report. Of some more is better, of others less."""

    name: str
    unit: str
    more_is_better: bool = True


class Bench:
    """Measures contenders: servers on the correspondents, `seconds` for a stream, `meter` the compiled program."""

    def __init__(self, meter: str, seconds: int) -> None:
        self._meter = meter
        self._seconds = seconds
        self._servers: dict[str, tuple[subprocess.Popen[str], subprocess.Popen[str]]] = {}
        self._rates: dict[tuple[str, int], float] = {}

    def tcp(self, contender: Contender, direction: str, streams: int) -> dict[str, float]:
        """Mbit/s received, `up`, `down` or `both`; of one stream with the processor time that each GB took."""
        options = {"up": (), "down": ("-R",), "both": ("--bidir",)}[direction]
        busy, own = busy_seconds(), busy_seconds_of(contender.daemons)
        end = self._iperf(contender, "-P", str(streams), *options)["end"]
        busy, own = busy_seconds() - busy, busy_seconds_of(contender.daemons) - own
        sums = [end["sum_received"]] + ([end["sum_received_bidir_reverse"]] if direction == "both" else [])
        name = f"TCP {direction}, {streams} stream{'s' if streams > 1 else ''}"
        found = {name: sum(each["bits_per_second"] for each in sums) / 1e6}
        if streams == 1 and direction != "both":
            gigabytes = sums[0]["bytes"] / 1e9
            found[f"CPU {direction}, machine"] = busy / gigabytes
            if contender.daemons:
                found[f"CPU {direction}, daemons"] = own / gigabytes
        return found

    def udp(self, contender: Contender, size: int) -> dict[str, float]:
        """Thousand packets/s up with `size` bytes of payload, at no more than the allowed loss."""
        key = contender.name, size
        sink = self._servers_of(contender.place)[1]
        rate = highest_rate(lambda asked: self._trial(contender, sink, size, asked), self._rates.get(key))
        if rate:
            self._rates[key] = rate
        return {f"UDP up, {size} bytes": rate / 1000}

    def latency(self, contender: Contender) -> dict[str, float]:
        """Request and response of 64 bytes, one at a time, microseconds; both ends poll."""
        with contender.place.running("ch", self._meter, "echo", contender.destination, str(ECHO_PORT)):
            words = (contender.destination, str(ECHO_PORT), contender.bound, str(ASKING_SECONDS))
            said = contender.place.run("mh", self._meter, "ask", *words)
        took = [int(line) / 1000 for line in said.split()]
        return {f"latency, p{share}": percentile(took, share / 100) for share in (50, 99)}

    def memory(self, contender: Contender) -> dict[str, float]:
        """MiB of its programs at both ends."""
        return {"memory of daemons": memory_of(contender.daemons)} if contender.daemons else {}

    def restart_servers(self, contender: Contender) -> None:
        """After a measurement that failed."""
        for server in self._servers.pop(contender.place.name, ()):
            contender.place.end(server)

    def _servers_of(self, place: Place) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
        if place.name not in self._servers:
            iperf = place.start("ch", "iperf3", "-s", "-p", str(IPERF_PORT), log="/dev/null")
            sink = place.start("ch", self._meter, "sink", str(SINK_PORT))
            assert sink.stdout is not None
            sink.stdout.readline()
            wait_until(lambda: f":{IPERF_PORT} " in place.run("ch", "ss", "-Hlnt"), "iperf3 listens")
            self._servers[place.name] = iperf, sink
        return self._servers[place.name]

    def _iperf(self, contender: Contender, *options: str) -> dict[str, Any]:
        self._servers_of(contender.place)
        bound = () if contender.bound == "0.0.0.0" else ("-B", contender.bound)
        words = ("-J", "-c", contender.destination, "-p", str(IPERF_PORT), "-t", str(self._seconds), *bound)
        said = contender.place.run("mh", "iperf3", *words, *options, timeout=self._seconds + 15)
        report: dict[str, Any] = json.loads(said)
        return report

    def _trial(self, contender: Contender, sink: subprocess.Popen[str], size: int, rate: float) -> Trial:
        number = next(_trials)
        _ask(sink, str(number))
        words = (contender.bound, str(size), f"{rate:.0f}", str(TRIAL_SECONDS), str(number))
        said = contender.place.run(
            "mh", self._meter, "blast", contender.destination, str(SINK_PORT), *words, timeout=20
        )
        done = json.loads(said)
        received = 0
        for _ in range(20):  # what still stands in queues
            time.sleep(0.03)
            before, received = received, int(_ask(sink, "?"))
            if received == done["sent"] or (received == before and received):
                break
        return Trial(done["sent"] / done["seconds"], 1 - received / done["sent"])


def _ask(program: subprocess.Popen[str], line: str) -> str:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(line + "\n")
    program.stdin.flush()
    return program.stdout.readline()


@contextmanager
def as_on_wires(places: list[Place]) -> Iterator[None]:
    """Packets of MTU size on every cable for a while, as between machines whose cards cannot merge or split them."""
    try:
        for place in places:
            place.switch_offloads("off")
        yield
    finally:
        for place in places:
            place.switch_offloads("on")


Step = Callable[[Bench, Contender], dict[str, float]]


def _tcp(direction: str, streams: int) -> Step:
    return lambda bench, contender: bench.tcp(contender, direction, streams)


def _udp(size: int) -> Step:
    return lambda bench, contender: bench.udp(contender, size)


STEPS: dict[str, Step] = {
    "tcp-up": _tcp("up", 1),
    "tcp-down": _tcp("down", 1),
    "tcp-both": _tcp("both", 1),
    "tcp-up-10": _tcp("up", 10),
    "tcp-down-10": _tcp("down", 10),
    "tcp-up-100": _tcp("up", 100),
    "tcp-down-100": _tcp("down", 100),
    "udp-64": _udp(64),
    "udp-512": _udp(512),
    "udp-1400": _udp(1400),
    "latency": lambda bench, contender: bench.latency(contender),
    "memory": lambda bench, contender: bench.memory(contender),
}
"""What `--measures` takes; each gives one row of the report or several."""
BY_DEFAULT = tuple(name for name in STEPS if name != "tcp-down-100")
"""So that five rounds of all contenders take less than a quarter of an hour."""
ON_WIRES = ("tcp-up", "tcp-down")
"""What is measured once more with packets of MTU size on every cable."""
WIRE = "MTU-size packets: "
"""What stands before the names of those rows."""


def measure_of(name: str) -> Measure:
    """The unit of a row, and whether more is better."""
    name = name.removeprefix(WIRE)
    if name.startswith("TCP"):
        return Measure(name, "Mbit/s")
    if name.startswith("UDP"):
        return Measure(name, "kpps")
    unit = "µs" if name.startswith("latency") else "s/GB" if name.startswith("CPU") else "MiB"
    return Measure(name, unit, more_is_better=False)
