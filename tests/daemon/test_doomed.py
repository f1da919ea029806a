"""What ends in a while unless it comes back."""

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.daemon.doomed import Doomed

OWNERS = (b"one", b"other")


def test_what_is_due_stands_in_front_and_stays_until_it_is_discarded() -> None:
    doomed: Doomed[int] = Doomed()
    for number in range(10):
        doomed.add(number, OWNERS[number % 2], 100.0 + number)
    assert doomed.due(103.0, 100) == [0, 1, 2, 3]
    assert doomed.due(103.0, 2) == [0, 1]
    doomed.discard(0)
    assert doomed.due(103.0, 2) == [1, 2]
    assert sorted(doomed.of(b"one")) == [2, 4, 6, 8]


def test_what_is_doomed_anew_waits_anew() -> None:
    doomed: Doomed[int] = Doomed()
    doomed.add(1, b"one", 100.0)
    doomed.add(2, b"one", 101.0)
    doomed.add(1, b"other", 102.0)
    assert doomed.due(101.0, 9) == [2]
    assert (doomed.of(b"one"), doomed.of(b"other"), len(doomed)) == ([2], [1], 2)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from((*OWNERS, None)))))
def test_in_any_order_it_is_what_a_plain_table_says(steps: list[tuple[int, bytes | None]]) -> None:
    doomed: Doomed[int] = Doomed()
    plain: dict[int, tuple[float, bytes]] = {}
    for now, (key, owner) in enumerate(steps):
        if owner is None:
            doomed.discard(key)
            plain.pop(key, None)
        else:
            doomed.add(key, owner, now + 3.0)
            plain[key] = now + 3.0, owner
        assert sorted(doomed.due(now, 99)) == sorted(key for key, (until, _) in plain.items() if until <= now)
        for each in OWNERS:
            assert sorted(doomed.of(each)) == sorted(key for key, (_, of) in plain.items() if of == each)
        assert len(doomed) == len(plain)
        assert all((key in doomed) is (key in plain) for key in range(6))
