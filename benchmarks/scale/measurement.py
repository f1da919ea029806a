"""The phases of one size: what is asked of the anchor, and the figures that come of it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from ipaddress import ip_address
from time import monotonic

from benchmarks.places import place
from benchmarks.scale.anchor import Anchor
from benchmarks.scale.crowd import Crowd, Pace
from benchmarks.scale.hosts import Wish
from upmt_nf.lab.topology import ANCHOR
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.identity import TerminalId

FORGETTING = 34.0
"""Seconds until SIP has forgotten the answers that it keeps for copies of requests (RFC 3261, timer J)."""
PROBES = 100
"""Keepalives a second beside everything else, to see how long they wait for their answers."""
TITLES = {
    "register_per_s": "registrations/s, by the clock",
    "register_us": "CPU of a registration (REGISTER, 401, REGISTER, 200), us",
    "set_up_per_s": "hosts that set both tunnels up/s, by the clock",
    "set_up_us": "CPU of both setups (each MESSAGE, 401, MESSAGE, 200), us",
    "set_up_p50_ms": "a keepalive's answer meanwhile, p50, ms",
    "set_up_p99_ms": "the same, p99",
    "flows_per_s": "new flows/s learnt and translated, by the clock",
    "flows_us": "CPU of a new flow, us",
    "flows_lost": "new flows that did not come through",
    "daemon_kb": "memory of the daemon an association, kB",
    "maps_kb": "maps an association, kB",
    "daemon_mb": "memory of the daemon without hosts, MB",
    "maps_mb": "maps without hosts, MB",
    "nothing_percent": "CPU when nothing is asked, %",
    "idle_percent": "CPU of keepalives of idle tunnels, %",
    "in_use_percent": "CPU of keepalives of tunnels in use, %",
    "keepalive_us": "CPU of a keepalive (every second one is answered), us",
    "keepalive_p50_ms": "a keepalive's answer, p50, ms",
    "keepalive_p99_ms": "the same, p99",
    "handover_per_s": "handovers of one flow/s, by the clock",
    "handover_us": "CPU of a handover, us",
    "handover_p99_ms": "a keepalive's answer meanwhile, p99, ms",
    "start_s": "kill -9 and start, until the daemon answers, s",
    "back_s": "until all hosts have association and tunnels again, s",
    "back_us": "CPU of that a host, us",
    "back_p50_ms": "a keepalive's answer meanwhile, p50, ms",
    "back_p99_ms": "the same, p99",
    "resent": "requests sent again in all",
    "unanswered": "keepalives that were not answered",
    "notices": "notices of the anchor",
}
"""What there is to tell, in the order of the table."""


def measure(number: int, datapath: str) -> dict[str, float | str]:
    """So many hosts, in a lab of their own. Gives the figures by name."""
    with place(f"scale{os.getpid()}", daemons=False) as here:
        anchor, crowd = Anchor(here, number, datapath), Crowd(here, number)
        gc.freeze()
        try:
            return Measurement(anchor, crowd).run()
        finally:
            crowd.close()


class Measurement:
    """The daemon on the first core, the hosts on the last one."""

    def __init__(self, anchor: Anchor, crowd: Crowd) -> None:
        self._anchor, self._crowd, self._number = anchor, crowd, len(crowd.hosts)
        self._figures: dict[str, float | str] = {"associations": self._number, "resent": 0, "unanswered": 0}
        self._cores = sorted(os.sched_getaffinity(0))

    def run(self) -> dict[str, float | str]:
        """All phases."""
        anchor, crowd, figures = self._anchor, self._crowd, self._figures
        self._await_anchor()
        figures["datapath"] = anchor.datapath
        anchor.wait(0.5)
        empty, empty_maps = anchor.memory, anchor.maps
        figures["daemon_mb"], figures["maps_mb"] = round(empty / 1e6, 1), round(empty_maps / 1e6, 1)
        self._phase("register", lambda: crowd.all_ask(Wish.ASSOCIATION))
        self._phase("set_up", lambda: crowd.all_ask(Wish.FIRST_TUNNEL, Wish.SECOND_TUNNEL, probes=PROBES))
        flows = self._phase("flows", crowd.begin_flows)
        figures["flows_lost"] = self._number - flows.done
        self._keep_alive(empty, empty_maps)
        self._phase("handover", lambda: crowd.all_ask(Wish.HANDOVER, probes=PROBES))
        self._come_back()
        figures["notices"] = crowd.notices
        return figures

    def _keep_alive(self, empty: int, empty_maps: int) -> None:
        settings = HostSettings(TerminalId("host@bench"), ip_address(ANCHOR), ())
        anchor, crowd, figures = self._anchor, self._crowd, self._figures
        self._phase("", lambda: crowd.stay(settings.keepalive_idle, FORGETTING))
        figures["daemon_kb"] = round((anchor.memory - empty) / self._number / 1024, 2)
        figures["maps_kb"] = round((anchor.maps - empty_maps) / self._number / 1024, 2)
        figures["nothing_percent"] = round(100 * anchor.wait(6.0) / 6.0, 2)
        for name, interval in (("idle", settings.keepalive_idle), ("in_use", settings.keepalive_interval)):
            before = anchor.cpu_seconds
            pace = self._phase("keepalive", lambda interval=interval: crowd.stay(interval, 8.0))  # type: ignore[misc]
            figures[f"{name}_percent"] = round(100 * (anchor.cpu_seconds - before) / pace.seconds, 2)

    def _come_back(self) -> None:
        anchor, crowd, figures = self._anchor, self._crowd, self._figures
        anchor.kill()
        for host in crowd.hosts:
            host.restart()
        began = monotonic()
        anchor.start()
        self._await_anchor()
        figures["start_s"] = round(monotonic() - began, 2)
        self._phase(
            "back",
            lambda: crowd.all_ask(Wish.ASSOCIATION, Wish.FIRST_TUNNEL, Wish.SECOND_TUNNEL, probes=PROBES),
        )
        figures["back_s"] = round(monotonic() - began, 2)

    def _await_anchor(self) -> None:
        self._anchor.await_answer()
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
        return pace
