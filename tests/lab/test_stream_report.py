"""The arithmetic of a numbered stream."""

import random

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.lab.stream_report import Arrival, report


def arrivals(*numbers: int) -> list[Arrival]:
    return [Arrival(number, 0.02 * place) for place, number in enumerate(numbers)]


def test_a_whole_stream_has_nothing_to_report() -> None:
    result = report(arrivals(0, 1, 2, 3), 0, 3)
    assert (result.sent, result.received, result.lost, result.duplicated, result.reordered) == (4, 4, 0, 0, 0)
    assert abs(result.longest_gap_ms - 20) < 1e-6


def test_loss_duplication_and_reordering_are_told_apart() -> None:
    result = report(arrivals(0, 2, 1, 2, 5), 0, 5)
    assert (result.lost, result.duplicated, result.reordered) == (2, 1, 1)


def test_packets_outside_the_stretch_do_not_count() -> None:
    assert report(arrivals(0, 1, 2, 3, 4), 1, 3).received == 3


@given(st.integers(1, 50), st.lists(st.integers(0, 49)), st.integers(0, 2**32))
def test_received_is_sent_less_lost_plus_duplicated(count: int, extra: list[int], seed: int) -> None:
    numbers = [*range(0, count, 2), *(number for number in extra if number < count)]
    random.Random(seed).shuffle(numbers)
    result = report(arrivals(*numbers), 0, count - 1)
    assert result.received == result.sent - result.lost + result.duplicated
