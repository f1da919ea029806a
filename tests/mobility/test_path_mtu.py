"""The search for the largest packet of a path: one question where all is well, few where it is not."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mobility_terminal import NET0
from mobility_world import World, associated

from upmt_nf.mobility.host_events import NetworkTestAsked
from upmt_nf.mobility.path_mtu import FLOOR, PRECISION, TRIES, PathMtuSearch


def searched(path: int, ceiling: int, loss: float = 0.0, seed: int = 0) -> tuple[PathMtuSearch, int]:
    """A search over a path that carries packets of so many bytes, and how many questions it took."""
    search, random, now, asked = PathMtuSearch(ceiling, lambda: 0.5, 0.0), Random(seed), 0.0, 0
    while (due := search.next_timeout()) is not None:
        now = max(now, due)
        size = search.handle_timeout(now)
        asked += size is not None
        if size is not None and size <= path and random.random() >= loss:
            search.answer(size, now + 0.05)
            now += 0.05
    return search, asked


def test_a_path_that_takes_all_is_asked_once() -> None:
    search, asked = searched(1472, 1472)
    assert (search.found, asked, search.sent) == (1472, 1, 1472)


@given(st.integers(FLOOR, 1500), st.integers(FLOOR, 1500))
def test_what_is_found_passes_and_little_more_would(path: int, ceiling: int) -> None:
    search, asked = searched(path, ceiling)
    assert search.found is not None
    assert min(path, ceiling) - PRECISION <= search.found <= min(path, ceiling)
    assert asked <= TRIES * 8
    assert search.sent < 40_000


@given(st.integers(0, FLOOR - 1))
def test_a_path_that_answers_nothing_large_tells_nothing(path: int) -> None:
    search, asked = searched(path, 1472)
    assert search.found is None
    assert asked == 2 * TRIES


@given(st.integers(0, 1000))
def test_loss_makes_it_smaller_at_most_and_never_too_large(seed: int) -> None:
    search, _ = searched(1400, 1472, loss=0.3, seed=seed)
    assert search.found is None or search.found <= 1400


def test_late_double_and_foreign_answers_end_nothing() -> None:
    search = PathMtuSearch(1472, lambda: 0.5, 0.0)
    assert search.handle_timeout(0.0) == 1472
    search.answer(1473, 0.1)
    for now in (0.5, 1.0, 1.5):
        search.handle_timeout(now)
    search.answer(1472, 2.0)
    assert (search.found, search.is_finished) == (1472, True), "a late answer is one"
    search.answer(1472, 2.1)
    assert search.found == 1472


@pytest.mark.parametrize(("mtu", "inner"), [(1500, 1472), (1400, 1372)])
def test_a_tunnel_learns_the_path_of_its_network_without_icmp(mtu: int, inner: int) -> None:
    world = World(networks=1, search_path_mtu=True)
    world.host.links[NET0].mtu = mtu
    associated(world)
    world.run(20)
    status = world.host.machine.networks[NET0]
    assert status.path_mtu is not None
    assert inner - PRECISION <= status.path_mtu <= inner
    assert status.mtu == status.path_mtu
    assert world.host.paft.tunnels[world.host.open_tunnels[NET0]].mtu == status.mtu
    assert status.loss_up in (None, 0.0), "what tries the size of packets says nothing about loss"
    assert status.loss_down in (None, 0.0)
    assert status.state == "up"


def test_it_costs_one_packet_each_way_and_nothing_after() -> None:
    world = associated(World(networks=1, search_path_mtu=True))
    large = [packet for packet in world.packets if packet.size > 1000]
    assert [packet.is_up for packet in large] == [True, False]
    world.packets.clear()
    world.run(600)
    assert not [packet for packet in world.packets if packet.size > 1000]
    world.host.take(NetworkTestAsked(NET0))
    world.run(5)
    assert len([packet for packet in world.packets if packet.size > 1000]) == 2


def test_what_was_found_outlives_news_of_the_interface_and_a_short_death() -> None:
    world = World(networks=1, search_path_mtu=True)
    link = world.host.links[NET0]
    link.mtu = 1400
    associated(world)
    world.run(20)
    found = world.host.machine.networks[NET0].mtu
    assert found < 1400
    world.host.appear(NET0)
    assert world.host.machine.networks[NET0].mtu == found, "the interface's own MTU is no news of the path"
    world.packets.clear()
    link.is_black_hole = True
    world.until(lambda: world.host.network_state(NET0) == "dead", 60)
    link.is_black_hole = False
    world.until(lambda: world.host.network_state(NET0) == "up", 60)
    world.run(20)
    assert world.host.machine.networks[NET0].mtu == found
    assert not [packet for packet in world.packets if packet.size > 1000], "no search each time it returns"


def test_a_path_that_has_become_wider_is_found_when_somebody_asks() -> None:
    world = World(networks=1, search_path_mtu=True)
    world.host.links[NET0].mtu = 1400
    associated(world)
    world.run(20)
    world.host.links[NET0].mtu = 1500
    world.host.take(NetworkTestAsked(NET0))
    world.run(5)
    assert world.host.machine.networks[NET0].mtu == 1472
