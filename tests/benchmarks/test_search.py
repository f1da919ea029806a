"""The bisecting search, against things of which the limit is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tunnels.search import ALLOWED_LOSS, FLAT_OUT, Trial, highest_rate


class Tunnel:
    """Bears `limit` packets/s; the sender can do `sender`."""

    def __init__(self, limit: float, sender: float) -> None:
        self.limit, self.sender = limit, sender
        self.asked: list[float] = []

    def __call__(self, rate: float) -> Trial:
        self.asked.append(rate)
        offered = self.sender if rate == FLAT_OUT else min(rate, self.sender)
        return Trial(offered, max(0.0, 1 - self.limit / offered))


@given(limit=st.floats(1000, 200_000), sender=st.floats(5_000, 300_000))
def test_it_comes_near_the_limit_from_below(limit: float, sender: float) -> None:
    ceiling = min(limit, sender)
    assert 0.9 * ceiling <= highest_rate(Tunnel(limit, sender)) <= 1.002 * ceiling


def test_a_sender_that_is_the_limit_ends_it_at_once() -> None:
    tunnel = Tunnel(limit=1e9, sender=80_000)
    assert highest_rate(tunnel) == 80_000
    assert tunnel.asked == [FLAT_OUT]


@pytest.mark.parametrize("guess", [20_000.0, 50_000.0, 90_000.0])
def test_an_earlier_answer_is_where_it_begins(guess: float) -> None:
    tunnel = Tunnel(limit=50_000, sender=100_000)
    assert highest_rate(tunnel, guess) == pytest.approx(50_000, rel=0.1)
    assert tunnel.asked[0] == guess


def test_nothing_borne_is_zero() -> None:
    assert highest_rate(lambda rate: Trial(rate or 1000.0, 0.5)) == 0


def test_the_allowed_loss_itself_is_borne() -> None:
    assert Trial(1000, ALLOWED_LOSS).is_borne
    assert not Trial(1000, 1.01 * ALLOWED_LOSS).is_borne
