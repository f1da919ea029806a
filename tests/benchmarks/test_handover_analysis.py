"""What a stream felt, from logs made by hand."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.handover.analysis import BEFORE, RECORD, Felt, Log, answers_sent, felt, worst
from benchmarks.handover.moves import Course, joined
from benchmarks.handover.report import as_json, as_markdown, row

MS = 1_000_000


def log(*lines: tuple[int, int, int]) -> Log:
    """(millisecond, number, flow)"""
    return np.array([(at * MS, number, flow) for at, number, flow in lines], dtype=RECORD)


SENT = log(*((at, at, at % 2) for at in range(200)))


def test_all_came() -> None:
    assert felt(SENT, SENT, 0, 200 * MS) == Felt(0, 0, 0, 1.0)


def test_lost_and_the_gap_that_they_leave() -> None:
    came = SENT[(SENT["number"] < 100) | (SENT["number"] >= 110)]
    assert felt(SENT, came, 100 * MS - BEFORE, 150 * MS) == Felt(10, 0, 0, 11.0)


def test_what_was_lost_at_another_time_does_not_count() -> None:
    came = SENT[(SENT["number"] < 100) | (SENT["number"] >= 110)]
    assert felt(SENT, came, 120 * MS, 190 * MS).lost == 0


def test_duplicated() -> None:
    came = np.sort(np.concatenate((SENT, SENT[50:53])), order="at", kind="stable")
    assert felt(SENT, came, 0, 200 * MS).duplicated == 3


def test_only_within_a_flow_is_late_reordered() -> None:
    crossed = log((0, 1, 1), (1, 0, 0), (2, 3, 1), (3, 2, 0))
    assert felt(crossed, crossed, 0, 10 * MS).reordered == 0
    late = log((0, 2, 0), (1, 0, 0), (2, 4, 0))
    assert felt(late, late, 0, 10 * MS).reordered == 1


def test_silence_to_the_end_is_a_gap() -> None:
    assert felt(SENT, SENT[:100], 100 * MS - BEFORE, 200 * MS).gap_ms == 101.0


def test_nothing_sent_is_nothing_felt() -> None:
    assert felt(SENT, SENT, 500 * MS, 600 * MS) == Felt(0, 0, 0, 0.0)


def test_answers_are_numbered_in_the_order_of_arrival() -> None:
    assert list(answers_sent(log((0, 7, 1), (1, 3, 0)))["number"]) == [0, 1]


def test_courses_become_rows() -> None:
    one, two = Felt(1, 0, 2, 5.0), Felt(0, 1, 0, 9.0)
    course = Course(
        "fast", "planned", 100, 1000, 999.6, 98, ((one, two), (one, one)), worst([one]), (1.0, 3.0)
    )
    assert row(course) == (
        "fast", "planned", "100 (98 known)", "1,000", "2", "3", "1", "6", "7.0", "9.0", "2.00", "3.00",
    )  # fmt: skip
    text = as_markdown("command", {"kernel": "6.1"}, (0.1, 1.0), [course], ["this: that"])
    assert text.count("\n| ") == 2
    assert "Failed: this: that." in text
    assert (
        json.loads(as_json("command", {}, (0.1, 1.0), [course], []))["courses"][0]["all_along"]["lost"] == 1
    )


def test_rounds_of_a_kind_become_one_course_and_what_a_move_costs_is_compared() -> None:
    calm, shaken = Felt(0, 0, 0, 1.0), Felt(2, 0, 1, 4.0)

    def course(flows: int, *moves: float, felt: Felt = calm, known: int | None = None) -> Course:
        known = flows if known is None else known
        each = ((felt, calm),) * len(moves)
        return Course("fast", "planned", flows, 1000, 998.0, known, each, felt, moves)

    rounds = [
        course(1, 2.0, 4.0), course(10_000, 4.0, 5.0), course(1, 3.0), course(10_000, 99.0, felt=shaken, known=9_999)
    ]  # fmt: skip
    one, many = joined(rounds)
    assert (one.flows, one.move_ms, len(one.each)) == (1, (2.0, 4.0, 3.0), 3)
    assert (many.felt, many.all_along, many.known) == (Felt(2, 0, 1, 4.0), shaken, 9_999)
    text = as_markdown("command", {}, (0.1, 1.0), [one, many], [])
    assert "a move with 10,000 flows costs 1.67 x what it costs with 1 (medians of 3 and 3 moves)" in text
    assert "costs" not in as_markdown("command", {}, (0.1, 1.0), [one], [])
