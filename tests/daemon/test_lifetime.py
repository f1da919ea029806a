"""The clock that a daemon goes by, and how it makes way for the next one."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from upmt_nf.daemon import lifetime


def test_the_loop_counts_the_time_that_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = 0.0
    clock = time.clock_gettime

    def read(which: int) -> float:
        return clock(time.CLOCK_MONOTONIC) + (asleep if which == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", read)
    loop = lifetime.SleeplessLoop()
    rang: list[str] = []
    try:
        loop.call_later(3600, rang.append, "the lease has ended")
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
        assert rang == []
        asleep = 7200.0
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
        assert rang == ["the lease has ended"]
    finally:
        loop.close()


DAEMON = """
import asyncio, os, sys
from upmt_nf.daemon import lifetime
class Daemon:
    async def start(self): pass
    async def run(self):
        print("up", flush=True)
        try:
            await asyncio.sleep(60)
        finally:
            print("put back", flush=True)
    def ask_to_stop(self): pass
    def write_down(self):
        print("written", flush=True)
        if sys.argv[1:]:
            raise OSError(sys.argv[1])
os.geteuid = lambda: 0
lifetime.run_daemon(Daemon())
"""


@pytest.mark.parametrize("trouble", [(), ("no space left on device",)])
def test_one_that_makes_way_saves_what_it_knows_and_puts_nothing_back(trouble: tuple[str, ...]) -> None:
    """And ends by the signal, whatever becomes of the saving: the next one is waiting."""
    with subprocess.Popen(
        (sys.executable, "-c", DAEMON, *trouble), stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "up\n"
        daemon.send_signal(lifetime.MAKE_WAY)
        assert daemon.wait(10) == -lifetime.MAKE_WAY
        assert daemon.stdout.read() == "written\n"


@pytest.mark.parametrize("role", ["anchor", "mobile-host"])
def test_the_service_manager_restarts_by_that_signal_and_stops_by_another(role: str) -> None:
    unit = (Path(__file__).parents[2] / f"packaging/systemd/upmt-{role}.service").read_text()
    assert f"\nRestartKillSignal={lifetime.MAKE_WAY.name}\n" in unit
    assert "\nKillSignal=" not in unit
    assert lifetime.MAKE_WAY is not signal.SIGTERM
