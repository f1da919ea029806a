"""The phases of one size: what is asked of the anchor, and the figures that come of it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Collection
from ipaddress import ip_address
from time import monotonic

from benchmarks.places import place
from benchmarks.scale.anchor import Anchor
from benchmarks.scale.crowd import STREAM, Crowd, Pace
from benchmarks.scale.hosts import Wish
from upmt_nf.lab.topology import ANCHOR
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.identity import TerminalId

PARTS = ("keepalives", "handovers", "recovery")
FORGETTING = 34.0
"""Seconds until SIP has forgotten the answers that it keeps for copies of requests (RFC 3261, timer J)."""
PROBES = 100
"""Keepalives a second beside everything else, to see how long they wait for their answers."""
_WATCHED = 6.0
"""Seconds of keepalives whose cost is measured."""


def measure(number: int, datapath: str, parts: Collection[str] = PARTS) -> dict[str, float | str]:
    """So many hosts, in a lab of their own. Gives the figures by name."""
    with place(f"scale{os.getpid()}", daemons=False) as here:
        anchor, crowd = Anchor(here, number, datapath), Crowd(here, number)
        gc.freeze()
        try:
            return Measurement(anchor, crowd).run(parts)
        finally:
            crowd.close()


class Measurement:
    """The daemon on the first core, the hosts on the last one."""

    def __init__(self, anchor: Anchor, crowd: Crowd) -> None:
        self._anchor, self._crowd, self._number = anchor, crowd, len(crowd.hosts)
        self._figures: dict[str, float | str] = {"associations": self._number, "resent": 0, "unanswered": 0}
        self._cores = sorted(os.sched_getaffinity(0))
        self._start_seconds = 0.0

    def run(self, parts: Collection[str]) -> dict[str, float | str]:
        """Build the crowd up, then these parts."""
        anchor, crowd, figures = self._anchor, self._crowd, self._figures
        anchor.await_answer()
        self._start_seconds = anchor.cpu_seconds
        self._part_cores()
        figures["datapath"] = anchor.datapath
        anchor.wait(0.5)
        empty, empty_maps = anchor.memory, anchor.maps
        figures["daemon_mb"], figures["maps_mb"] = round(empty / 1e6, 1), round(empty_maps / 1e6, 1)
        self._phase("register", lambda: crowd.all_ask(Wish.ASSOCIATION))
        self._phase("set_up", lambda: crowd.all_ask(Wish.FIRST_TUNNEL, Wish.SECOND_TUNNEL, probes=PROBES))
        flows = self._phase("flows", crowd.begin_flows)
        figures["flows_lost"] = self._number - flows.done
        if "keepalives" in parts:
            self._keep_alive(empty, empty_maps)
        if "handovers" in parts:
            self._phase("handover", lambda: crowd.all_ask(Wish.HANDOVER, probes=PROBES))
        if "recovery" in parts:
            self._come_back(1 if "handovers" in parts else 0)
        figures["notices"] = crowd.notices
        return figures

    def _keep_alive(self, empty: int, empty_maps: int) -> None:
        """Memory and the daemon's own work are looked at when SIP has forgotten everything."""
        settings = HostSettings(TerminalId("host@bench"), ip_address(ANCHOR), ())
        anchor, crowd, figures = self._anchor, self._crowd, self._figures
        self._phase("", lambda: crowd.stay(settings.keepalive_idle, FORGETTING - 2 * _WATCHED))
        intervals = {"idle": settings.keepalive_idle, "in_use": settings.keepalive_interval}
        spent, rates = {}, {}
        for name, interval in intervals.items():
            before = anchor.cpu_seconds
            pace = self._phase(name, lambda interval=interval: crowd.stay(interval, _WATCHED))  # type: ignore[misc]
            spent[name], rates[name] = (anchor.cpu_seconds - before) / pace.seconds, pace.per_second
        figures["daemon_kb"] = round((anchor.memory - empty) / self._number / 1024, 2)
        figures["maps_kb"] = round((anchor.maps - empty_maps) / self._number / 1024, 2)
        nothing = anchor.wait(_WATCHED) / _WATCHED
        figures["nothing_percent"] = round(100 * nothing, 2)
        for name, interval in intervals.items():
            each = max(0.0, spent[name] - nothing) / rates[name]
            figures[f"{name}_us"] = round(each * 1e6, 1)
            # Where not all could be sent, those that were stand for the others.
            figures[f"{name}_percent"] = round(100 * (nothing + each * 2 * self._number / interval), 2)

    def _come_back(self, network: int) -> None:
        """The daemon is killed and started; its hosts' flows, by their tunnels there, go on meanwhile."""
        anchor, crowd, figures = self._anchor, self._crowd, self._figures
        stream = crowd.begin_stream(network)
        # Each of its flows is known before.
        crowd.pass_time(lambda: stream.back >= 2 * STREAM)
        began = monotonic()
        anchor.kill()
        for host in crowd.hosts:
            host.restart()
        anchor.start()
        crowd.pass_time(anchor.begin_to_await())
        figures["start_s"] = round(monotonic() - began, 2)
        spent = anchor.cpu_seconds - self._start_seconds
        figures["start_us"] = round(max(0.0, spent) / self._number * 1e6, 1)
        self._part_cores()
        self._phase(
            "back",
            lambda: crowd.all_ask(Wish.ASSOCIATION, Wish.FIRST_TUNNEL, Wish.SECOND_TUNNEL, probes=PROBES),
        )
        figures["back_s"] = round(monotonic() - began, 2)
        crowd.end_stream()
        figures["stream_sent"] = stream.sent
        figures["stream_lost_up"] = stream.sent - stream.came
        figures["stream_lost_down"] = stream.came - stream.back

    def _part_cores(self) -> None:
        os.sched_setaffinity(self._anchor.process.pid, {self._cores[0]})
        os.sched_setaffinity(0, {self._cores[-1]})

    def _phase(self, name: str, work: Callable[[], Pace]) -> Pace:
        """Do it; what it came to is noted below its name."""
        before = self._anchor.cpu_seconds
        pace = work()
        spent, figures = self._anchor.cpu_seconds - before, self._figures
        figures["resent"] = int(figures["resent"]) + pace.resent
        figures["unanswered"] = int(figures["unanswered"]) + pace.unanswered
        if name:
            figures[f"{name}_per_s"] = round(pace.per_second, 1)
            figures[f"{name}_us"] = round(spent / max(1, pace.done) * 1e6, 1)
            if pace.answers:
                figures[f"{name}_p50_ms"] = round(pace.answered_within(0.5), 2)
                figures[f"{name}_p99_ms"] = round(pace.answered_within(0.99), 2)
            # Very many take minutes.
            print(
                f"  {name}: {pace.done:,} in {pace.seconds:.1f} s, CPU {figures[f'{name}_us']} us each",
                file=sys.stderr,
                flush=True,
            )
        return pace
