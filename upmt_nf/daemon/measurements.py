"""The mobile host's measurements over time (MM-ME of the paper): what each network carries, costs and was like.

Passive: counters are looked at once a second; nothing is sent for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from upmt_nf.config.mobile_host import MobileHostConfig
from upmt_nf.daemon.event_log import EventLog
from upmt_nf.daemon.wall_clock import local_offset
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.linux.measurement_store import MeasurementStore
from upmt_nf.linux.radio_signal import RadioSignal, radio_signal
from upmt_nf.mobility.history import SAMPLE_EVERY, History, Measurements, Sample
from upmt_nf.mobility.host_associations import HostAssociations
from upmt_nf.mobility.host_status import NetworkStatus
from upmt_nf.mobility.traffic import OwnTraffic, TrafficMeter
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.identity import NetworkName
from upmt_nf.policy.civil_time import CivilClock, CivilTime
from upmt_nf.policy.usage import Usage, UsageBook

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
SAVE_EVERY = 5.0
"""Seconds between two savings of what was carried: a daemon that is killed forgets so much at most."""
_USABLE = ("up", "suspect")


class HostMeasurements:
    """`own` counts what the daemon itself says, `tunnels` gives all that there are; `count` brings their counters up to
    date.
    """

    def __init__(
        self,
        config: MobileHostConfig,
        own: OwnTraffic,
        tunnels: Callable[[], Sequence[Tunnel]],
        count: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = config.mobile_host.records
        self._sections = {NetworkName(section.name): section for section in config.network}
        self._tunnels = tunnels
        self._count = count
        now = self._loop.time()
        self._meters = {name: TrafficMeter(name, own, now) for name in self._sections}
        self._signals: dict[NetworkName, RadioSignal | None] = {}
        self._histories = {name: History() for name in self._sections}
        self._store = self._open()
        self._book = self._read()
        self._sample_at = now + SAMPLE_EVERY
        self._save_at = now + SAVE_EVERY
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, machine: HostAssociations, events: EventLog) -> None:
        """Look from now on."""
        self._machine, self._events = machine, events
        self._timer = self._loop.call_later(LOOK_EVERY, self._tick)

    def redescribe(self, config: MobileHostConfig) -> None:
        """Networks cost something else from now on."""
        self._look()
        self._sections = {NetworkName(section.name): section for section in config.network}

    def close(self) -> None:
        """Look and save for the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._look()
        if self._store is not None:
            self._store.keep_used(self._book.take_changed())
            self._store.close()

    # --- views ---

    def report(self, network: NetworkName) -> dict[str, Any]:
        """Part of one of `networks`: throughput in bit/s, bytes and cost of today and this month, signal."""
        meter, now = self._meters[network], self._time()
        signal = self._signals.get(network)
        return {
            "throughput": {
                "up": _rounded(meter.up.used),
                "down": _rounded(meter.down.used),
                "offered_up": _rounded(meter.up.offered),
                "offered_down": _rounded(meter.down.offered),
                "limit": _rounded(self._machine.networks[network].limit),
            },
            "signal": {"dbm": signal.dbm, "bitrate": signal.bitrate} if signal is not None else None,
            "carried": {"up": meter.total.up, "down": meter.total.down},
            "usage": {
                "day": usage_report(self._book.of_day(network, now)),
                "month": usage_report(self._book.of_month(network, now)),
            },
        }

    def usage(self) -> list[dict[str, Any]]:
        """The answer to `usage`: every network's days and months, oldest first."""
        return [
            {
                "network": name,
                "days": [
                    {"date": CivilTime(each.day, 0.0).iso_date, **usage_report(each.usage)}
                    for each in self._book.days(name)
                ],
                "months": [
                    {"month": f"{month // 12:04}-{month % 12 + 1:02}", **usage_report(usage)}
                    for month, usage in self._book.months(name).items()
                ],
            }
            for name in self._sections
        ]

    def history(self, network: NetworkName, seconds: float) -> list[dict[str, Any]]:
        """The answer to `networks history`: what was measured within the last `seconds`. Raises UpmtError."""
        if self._store is None:
            raise UpmtError(f"there is no history: {self._path} could not be opened")
        now = time.time()
        return [sample_report(each) for each in self._store.history(network, now - seconds, now)]

    # --- every second ---

    def _tick(self) -> None:
        self._look()
        self._events.look_at_budgets(self._machine, self._loop.time())
        self._timer = self._loop.call_later(LOOK_EVERY, self._tick)

    def _look(self) -> None:
        self._count()
        now, wall = self._loop.time(), self._time()
        present = self._tunnels()
        for name, meter in self._meters.items():
            new = meter.look((tunnel for tunnel in present if tunnel.network == name), now)
            self._book.add(name, new.up, new.down, self._sections[name].cost, wall)
        if self._store is None:
            return
        if now >= self._save_at:
            self._save_at = now + SAVE_EVERY
            self._store.keep_used(self._book.take_changed())
        if now >= self._sample_at:
            self._sample_at = now + SAMPLE_EVERY
            self._sample(self._store, time.time())

    def _sample(self, store: MeasurementStore, at: float) -> None:
        for name, status in self._machine.networks.items():
            signal = self._signals[name] = radio_signal(self._sections[name].interface)
            measured = measurements(status, self._meters[name], signal)
            store.keep_samples(name, self._histories[name].take(measured, at), at)

    def _time(self) -> CivilTime:
        now = self._loop.time()
        return CivilClock(local_offset(now)).at(now)

    def _open(self) -> MeasurementStore | None:
        try:
            return MeasurementStore(Path(self._path))
        except UpmtError as reason:
            log.warning("%s: what networks carry and are like is not kept", reason)
            return None

    def _read(self) -> UsageBook:
        try:
            return UsageBook(self._store.used() if self._store is not None else ())
        except UpmtError as reason:
            log.warning("%s", reason)
            return UsageBook()


def measurements(status: NetworkStatus, meter: TrafficMeter, signal: RadioSignal | None) -> Measurements:
    """What is known of a network now, for its history. A network that carries nothing has no delay and no loss."""
    strength = float(signal.dbm) if signal is not None else None
    if status.state not in _USABLE:
        return Measurements(0.0, used_up=meter.up.used, used_down=meter.down.used, signal=strength)
    variations = [each for each in (status.variation_up_ms, status.variation_down_ms) if each is not None]
    return Measurements(
        1.0,
        None if status.rtt_ms is None else status.rtt_ms / 1000,
        status.loss,
        max(variations) / 1000 if variations else None,
        meter.up.used,
        meter.down.used,
        strength,
    )


def usage_report(usage: Usage) -> dict[str, Any]:
    """Bytes of each direction on the wire, and the cost."""
    return {"bytes_up": usage.up, "bytes_down": usage.down, "cost": round(usage.cost, 6)}


def sample_report(sample: Sample) -> dict[str, Any]:
    """One of `history`; `at` in seconds since 1970."""
    measured = sample.measured
    return {
        "at": sample.at,
        "for_s": sample.step,
        "up": measured.up,
        "rtt_ms": _milliseconds(measured.round_trip),
        "loss": measured.loss,
        "delay_variation_ms": _milliseconds(measured.variation),
        "throughput_up": _rounded(measured.used_up),
        "throughput_down": _rounded(measured.used_down),
        "signal_dbm": measured.signal,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
