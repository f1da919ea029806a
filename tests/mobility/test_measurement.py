"""The estimators against traces whose variation and loss are known, and in the pretend world."""

import itertools
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mobility_terminal import NET0, Packet
from mobility_world import World, associated

from upmt_nf.mobility.measurement import LOSS_WINDOW, DelayVariation, LossWindow, PathMeasurement
from upmt_nf.signaling.stamp import ReflectorPacket


def variation(delays: Iterable[float], *, offset: float = 0.0, pause: float = 5.0) -> float | None:
    """Of packets sent every `pause` seconds that took so long, by a clock that is ahead by `offset`."""
    estimator = DelayVariation()
    for number, delay in enumerate(delays):
        estimator.take(number * pause, number * pause + delay + offset)
    return estimator.value


@pytest.mark.parametrize("offset", [0.0, 1e6, -1000.0])
def test_a_steady_delay_does_not_vary_whatever_the_clocks_say(offset: float) -> None:
    assert variation([0.02] * 100, offset=offset) == pytest.approx(0.0, abs=1e-6)


def test_before_two_packets_nothing_is_known() -> None:
    assert variation([]) is None
    assert variation([0.5]) is None


@pytest.mark.parametrize("count", [2, 3, 17, 200])
def test_delays_that_alternate_vary_by_their_difference(count: int) -> None:
    assert variation([0.020 + 0.006 * (number % 2) for number in range(count)]) == pytest.approx(0.006)


def test_the_first_sixteen_differences_count_alike() -> None:
    delays = [0.0, 0.004, 0.004, 0.016]
    assert variation(delays) == pytest.approx((0.004 + 0 + 0.012) / 3)


def test_one_spike_fades_by_a_sixteenth_a_packet() -> None:
    quiet = [0.01] * 100
    assert variation([*quiet, 0.17]) == pytest.approx(0.16 / 16)
    later = variation([*quiet, *[0.17] * 11])
    assert later == pytest.approx(0.16 / 16 * (15 / 16) ** 10)


def test_clocks_that_part_show_as_the_little_that_they_part_between_two_packets() -> None:
    drifting = [0.02 + 20e-6 * 5 * number for number in range(100)]
    assert variation(drifting) == pytest.approx(1e-4, rel=1e-6)


def test_times_that_wrap_around_are_no_variation() -> None:
    estimator = DelayVariation()
    for number in range(10):
        sent = 2.0**32 - 20 + 5 * number
        estimator.take(sent % 2**32, (sent + 0.03) % 2**32)
    assert estimator.value == pytest.approx(0.0, abs=1e-5)


def run_losses(
    lost_up: Iterable[int], lost_down: Iterable[int], count: int, *, first: int = 0, reflected: int = 0
) -> LossWindow:
    window, up, down = LossWindow(), set(lost_up), set(lost_down)
    for number in range(count):
        sequence = (first + number) % 2**32
        window.send(sequence)
        if number not in up:
            if number not in down:
                window.answer(sequence, reflected % 2**32)
            reflected += 1
    return window


def test_the_drawing_of_the_module_is_so() -> None:
    assert run_losses({2}, {3}, 6, first=1, reflected=1).losses() == pytest.approx((1 / 5, 1 / 4))


@pytest.mark.parametrize(("first", "reflected"), [(0, 0), (2**32 - 10, 7), (5, 2**32 - 10)])
def test_losses_are_told_apart_also_where_counters_wrap_around(first: int, reflected: int) -> None:
    window = run_losses({3, 4, 9}, {6}, 21, first=first, reflected=reflected)
    assert window.losses() == pytest.approx((3 / 20, 1 / 17))


def test_as_long_as_nothing_was_heard_twice_nothing_is_told() -> None:
    assert run_losses((), (), 0).losses() == (None, None)
    assert run_losses(range(1, 30), (), 30).losses() == (None, None)
    assert run_losses((), (), 2).losses() == (0.0, 0.0)


def test_only_the_newest_probes_count() -> None:
    window = run_losses(range(1, 30), (), 1000)
    assert window.losses() == (0.0, 0.0)
    late = run_losses(range(1000 - LOSS_WINDOW // 2, 1000 - 1), (), 1000)
    assert late.losses()[0] == pytest.approx((LOSS_WINDOW // 2 - 1) / (LOSS_WINDOW - 1))


def test_copies_on_the_way_are_neither_loss_nor_gain() -> None:
    window, reflected = LossWindow(), 0
    for sequence in range(40):
        window.send(sequence)
        if sequence % 4 == 1:
            continue
        for _ in range(2 if sequence % 3 == 0 else 1):
            window.answer(sequence, reflected)
            # And the network copies the answer.
            assert not window.answer(sequence, reflected)
            reflected += 1
    assert window.losses() == pytest.approx((10 / 39, 0.0))


def test_a_reflector_that_begins_anew_does_not_look_like_loss() -> None:
    window = run_losses((), (), 40, reflected=1000)
    for sequence in range(40, 50):
        window.send(sequence)
        window.answer(sequence, sequence - 40)
    assert window.losses() == (0.0, 0.0)


def test_a_stateless_reflector_makes_all_loss_the_way_downs() -> None:
    window = LossWindow()
    for sequence in range(21):
        window.send(sequence)
        if sequence not in (4, 5):
            window.answer(sequence, sequence)
    assert window.losses() == pytest.approx((0.0, 0.1))


def test_answers_to_nothing_are_passed_over() -> None:
    window = run_losses((), (), 10)
    assert not window.answer(99, 12345)
    assert window.losses() == (0.0, 0.0)


@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.sampled_from("uds"), st.integers(0, 3)), min_size=2, max_size=LOSS_WINDOW),
)
def test_whatever_is_lost_or_overtaken_losses_are_shares(seed: int, fates: list[tuple[str, int]]) -> None:
    window, chance = LossWindow(), Random(seed)
    arriving: list[tuple[float, int]] = []
    for sequence, (fate, lag) in enumerate(fates):
        window.send(sequence)
        if fate != "u":
            arriving.append((sequence + lag * chance.random(), sequence))
    for number, (_, sequence) in enumerate(sorted(arriving)):
        if fates[sequence][0] == "s":
            window.answer(sequence, number)
    for share in window.losses():
        assert share is None or 0.0 <= share <= 1.0


def test_an_overtaken_answer_counts_for_loss_only() -> None:
    measured = PathMeasurement()
    for sequence in range(4):
        measured.send(sequence)
    for sequence, number, received_at in ((0, 0, 0.1), (2, 1, 2.1), (1, 2, 2.2), (3, 3, 3.1)):
        answer = ReflectorPacket(number, received_at, 1, received_at, sequence, float(sequence), 255)
        measured.take(answer, received_at + 0.1)
    assert measured.up.value == pytest.approx(0.0)
    assert measured.losses == (0.0, 0.0)


# --- both machines together ---


@pytest.mark.parametrize("is_up", [True, False])
def test_both_ends_together_tell_on_which_way_probes_are_lost(is_up: bool) -> None:
    world = associated(World(5, keepalive_interval=1.0))
    link, chance = world.host.links[NET0], Random(7)
    link.drops = lambda packet: packet.is_up is is_up and packet.port == 862 and chance.random() < 0.25
    world.run(120)
    shown = world.host.machine.networks[NET0]
    assert shown.loss_up is not None
    assert shown.loss_down is not None
    lossy, clean = (shown.loss_up, shown.loss_down) if is_up else (shown.loss_down, shown.loss_up)
    assert 0.1 < lossy < 0.45
    assert clean == 0.0


@pytest.mark.parametrize("is_up", [True, False])
def test_both_ends_together_tell_which_way_varies(is_up: bool) -> None:
    world = associated(World(5, keepalive_interval=1.0))
    link = world.host.links[NET0]
    world.run(10)
    assert world.host.machine.networks[NET0].variation_up_ms == pytest.approx(0.0, abs=0.01)

    turns = itertools.cycle((0.028, 0.020))

    def sway(packet: Packet) -> bool:
        link.delay = next(turns) if packet.is_up is is_up else 0.020
        return False

    link.drops = sway
    world.run(200)
    shown = world.host.machine.networks[NET0]
    varying, steady = shown.variation_up_ms, shown.variation_down_ms
    if not is_up:
        varying, steady = steady, varying
    assert varying == pytest.approx(8.0, rel=0.1)
    assert steady == pytest.approx(0.0, abs=0.01)
