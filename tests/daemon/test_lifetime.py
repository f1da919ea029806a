"""The clock that a daemon goes by."""

import time

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
