"""Numbered packets come to the application in order, if those before them come soon; and all of them come once."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from upmt_nf.datapath.copies import Number
from upmt_nf.datapath.reordering import MOST, Resequencer


def packet(number: int) -> bytes:
    return number.to_bytes(4, "big")


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0.001, 0.05), st.floats(0, 0.2))
def test_what_is_late_by_less_than_the_window_comes_in_order(seed: int, window: float, loss: float) -> None:
    noise, order = Random(seed), Resequencer()
    sent = [
        (number * 0.001 + noise.random() * window * 0.9, number)
        for number in range(1, 200)
        if noise.random() >= loss
    ]
    # The first that comes is where counting begins.
    arrivals = sorted([(-1.0, 0), *sent])
    out: list[tuple[float, bytes]] = []
    for at, number in arrivals:
        while (due := order.due) is not None and due <= at:
            out += [(due, each) for each in order.release(due)]
        out += [(at, each) for each in order.take(Number(1, number), packet(number), window, at)]
    while (due := order.due) is not None:
        out += [(due, each) for each in order.release(due)]
    came = {packet(number): at for at, number in arrivals}
    assert [each for _, each in out] == sorted(came)
    # Nobody waited longer than was asked for.
    assert all(at - came[each] <= window + 1e-9 for at, each in out)


@settings(deadline=None)
@given(st.permutations(range(40)), st.floats(0, 1))
def test_in_any_order_every_packet_comes_once(numbers: list[int], pause: float) -> None:
    order, out = Resequencer(), list[bytes]()
    for place, number in enumerate(numbers):
        out += order.release(place * pause)
        out += order.take(Number(7, number), packet(number), 0.5, place * pause)
    out += order.release(1e9)
    assert sorted(out) == [packet(number) for number in range(40)]
    assert order.due is None


def test_who_does_not_wait_is_not_waited_for() -> None:
    order = Resequencer()
    assert order.take(Number(1, 0), b"a", 0.02, 0.0) == [b"a"]
    assert order.take(Number(1, 2), b"c", 0.0, 0.0) == [b"c"], "another application's"
    assert order.due is None
    assert order.take(Number(1, 3), b"d", 0.02, 0.0) == []
    assert order.take(Number(1, 1), b"", 0.0, 0.001) == [b"d"], "a fragment fills a gap as well"
    assert order.take(Number(1, 0), b"late", 0.02, 0.002) == [b"late"]


def test_another_run_ends_the_wait_and_what_waits_is_bounded() -> None:
    order = Resequencer()
    order.take(Number(1, 0), b"a", 0.02, 0.0)
    order.take(Number(1, 5), b"f", 0.02, 0.0)
    assert order.take(Number(2, 9), b"x", 0.02, 0.0) == [b"f", b"x"]
    out = [each for number in range(11, 12 + MOST) for each in order.take(Number(2, number), b"y", 0.02, 0.0)]
    assert len(out) == MOST + 1, "the gap at 10 is given up, and nothing waits any more"
