"""A path is slow when it was full and carried little, and not because it carries little."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.mobility.path_capacity import BELIEVED, LONGEST_WINDOW, PathCapacity

BASE = 0.04
MBIT = 1e6


class Course:
    """A path with a probe every `every` seconds, and what was found."""

    def __init__(self, every: float = 0.5) -> None:
        self.capacity, self.now, self.carried, self.every = PathCapacity(), 100.0, 0, every

    def go(self, seconds: float, rate: float, trip: float = BASE) -> float | None:
        for _ in range(round(seconds / self.every)):
            self.now += self.every
            self.carried += round(rate * self.every / 8)
            self.capacity.note(self.carried, trip, self.now)
        return self.capacity.limit(self.now)


def test_an_idle_path_is_unknown() -> None:
    assert Course().go(600, 0.0) is None


@pytest.mark.parametrize("every", [0.1, 0.5, 1.0, 5.0])
@pytest.mark.parametrize(("rate", "growth"), [(1 * MBIT, 0.3), (20 * MBIT, 0.05), (0.2 * MBIT, 1.0)])
def test_a_full_path_carries_at_most_what_it_carries(rate: float, growth: float, every: float) -> None:
    course = Course(every)
    course.go(60, rate / 4)
    assert course.go(40, rate, BASE + growth) == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("rate", [0.1 * MBIT, 1 * MBIT, 50 * MBIT])
def test_a_path_that_carries_much_without_a_queue_has_no_limit(rate: float) -> None:
    assert Course().go(120, rate) is None


def test_a_call_on_a_path_whose_round_trip_grows_tells_nothing() -> None:
    """The authors' procedure: one way 100, 200, 300, 200 ms."""
    course = Course()
    for trip in (0.2, 0.4, 0.6, 0.4, 0.2):
        assert course.go(30, 0.09 * MBIT, trip) is None


def test_single_late_probes_tell_nothing() -> None:
    course, random = Course(0.25), Random(7)
    for _ in range(2000):
        late = random.random() < 0.3
        assert course.go(0.25, 5 * MBIT, BASE + (0.5 if late else 0.0)) is None


def test_it_is_believed_for_a_while_and_not_when_more_passes() -> None:
    course = Course()
    course.go(10, 0.1 * MBIT)
    assert course.go(10, 1 * MBIT, 0.4) is not None
    assert course.go(BELIEVED - 1, 0.1 * MBIT) == pytest.approx(1 * MBIT)
    assert course.go(3, 0.1 * MBIT) is None
    course.go(10, 1 * MBIT, 0.4)
    assert course.go(3, 3 * MBIT) is None, "three times as much passes, and nothing waits"


def test_a_path_that_was_full_from_the_first_probe_on_is_known_once_it_was_not() -> None:
    course = Course()
    assert course.go(20, 1 * MBIT, 0.4) is None
    course.go(5, 0.1 * MBIT)
    assert course.go(5, 1 * MBIT, 0.4) == pytest.approx(1 * MBIT)


def test_what_was_between_two_probes_that_are_far_apart_is_not_known() -> None:
    course = Course()
    course.go(10, 0.1 * MBIT)
    slow = Course(LONGEST_WINDOW + 1)
    slow.capacity, slow.now, slow.carried = course.capacity, course.now, course.carried
    assert slow.go(120, 1 * MBIT, 0.4) is None


def test_another_tunnel_counts_from_nothing() -> None:
    course = Course()
    course.go(10, 0.1 * MBIT)
    course.go(1, 1 * MBIT, 0.4)
    course.carried = 0
    course.go(1, 1 * MBIT, 0.4)
    assert course.go(4, 1 * MBIT, 0.4) == pytest.approx(1 * MBIT)


@given(st.lists(st.tuples(st.floats(0.01, 30), st.integers(0, 10**8), st.floats(0, 5)), max_size=80))
def test_a_limit_is_never_more_than_what_passed_in_a_window(steps: list[tuple[float, int, float]]) -> None:
    capacity, now, carried = PathCapacity(), 0.0, 0
    for seconds, count, trip in steps:
        now, carried = now + seconds, carried + count
        capacity.note(carried, trip, now)
        limit = capacity.limit(now)
        assert limit is None or 0 < limit <= 8 * carried
