"""The rounds that bring the flows' counts back: nothing waits for them, and nothing is left out."""

from __future__ import annotations

from collections.abc import Iterator

from mirrored_paft import World
from pretend_kernel import PretendMap

from upmt_nf.daemon.flow_sweep import ROUND
from upmt_nf.datapath.fast_layout import FLOW, FLOW_KEY, FlowRow, flow_bytes, flow_key
from upmt_nf.model.flow import FlowBytes


def seen(world: World, port: int, seconds: float) -> FlowBytes:
    """A flow with a packet in the kernel at that time."""
    entry = world.add_flow(port, now=seconds)
    row = world.row(entry)
    world.kernel_counts(entry, packets_out=row.packets_out + 1, last_seen=int(seconds * 1e9))
    return entry.key


def count_of(world: World, key: FlowBytes) -> int:
    return world.paft.flows[key].packets_out


def test_a_part_takes_so_long_at_most_however_many_flows_there_are() -> None:
    world = World()
    keys = [seen(world, port, 100.0) for port in range(1, 3000)]
    looked_at: list[int] = []

    class Slow(PretendMap):
        """Reading a part takes as long as it does in fact."""

        def parts(self, most: int) -> Iterator[tuple[bytes, bytes]]:
            for part in super().parts(most):
                looked_at.append(len(part[0]) // self.key_size)
                world.loop.now += 0.0008
                yield part

    slow = Slow(FLOW_KEY.size, FLOW.size, 100_000)
    slow.rows = world.maps["flows"].rows
    world.fast._sweep._flows = slow  # type: ignore[assignment]
    parts = 0
    while any(count_of(world, key) == 0 for key in keys):
        before, began = len(looked_at), world.loop.now
        world.loop.tick()
        assert world.loop.now - began < 0.002
        assert len(looked_at) - before <= 2
        parts += 1
    assert parts >= len(keys) // 512
    assert {count_of(world, key) for key in keys} == {1}


def test_a_round_looks_at_what_had_a_packet_since_the_last_and_every_few_rounds_at_all() -> None:
    world = World()
    busy, silent = seen(world, 1, 100.0), seen(world, 2, 100.0)
    world.loop.tick()
    assert (count_of(world, busy), count_of(world, silent)) == (1, 1)
    world.loop.now = 120.0
    world.loop.tick()
    # A count that no packet explains shows what is looked at.
    row = world.row(world.paft.flows[silent])
    world.kernel_counts(world.paft.flows[silent], packets_out=row.packets_out + 1)
    rounds = 0
    while count_of(world, silent) == 1:
        seen(world, 1, world.loop.now + ROUND - 0.1)
        before = count_of(world, busy)
        world.pass_time(ROUND)
        assert count_of(world, busy) > before
        rounds += 1
        assert rounds < 10
    assert rounds > 1


def test_a_packet_of_just_before_a_round_is_not_missed() -> None:
    world = World()
    key = seen(world, 1, 99.0)
    for _ in range(20):
        # Written a moment after the round had begun, by a clock that goes in steps.
        world.pass_time(ROUND)
        before = count_of(world, key)
        entry = world.paft.flows[key]
        world.kernel_counts(entry, packets_out=before + 1, last_seen=int((world.loop.now - 0.004) * 1e9))
        world.pass_time(ROUND)
        assert count_of(world, key) == before + 1


def test_a_flow_that_paft_never_knew_is_told_of_again_though_it_is_silent() -> None:
    world = World()
    told: list[FlowBytes] = []
    world.fast.tell_let_in(lambda key, row: told.append(key))
    key = seen(world, 1, 100.0)
    packed = flow_key(key) or b""
    stranger = packed[:8] + b"\1\1" + packed[10:]
    world.maps["flows"].rows[stranger] = FlowRow(1, socket=7, last_seen=int(90e9)).packed()
    for _ in range(30):
        world.pass_time(ROUND)
    assert len(told) > 1
    assert set(told) == {flow_bytes(stranger)}


def test_rounds_over_very_many_flows_leave_the_time_to_others() -> None:
    """Urgent or not: from one round to the next many times what a round takes."""
    world = World()
    key = seen(world, 1, 100.0)
    begun: list[float] = []

    class Slow(PretendMap):
        """As of very many flows: each round takes 50 ms."""

        def parts(self, most: int) -> Iterator[tuple[bytes, bytes]]:
            begun.append(world.loop.now)
            world.loop.now += 0.05
            yield from super().parts(most)

    slow = Slow(FLOW_KEY.size, FLOW.size, 100_000)
    slow.rows = world.maps["flows"].rows
    world.fast._sweep._flows = slow  # type: ignore[assignment]

    def rounds(is_urgent: bool) -> float:
        """Seconds between the beginnings of two, on the average."""
        world.fast._sweep._is_urgent = lambda: is_urgent
        begun.clear()
        while len(begun) < 4:
            world.loop.now += 0.01
            world.loop.tick()
        return (begun[-1] - begun[1]) / 2

    assert 5.0 <= rounds(False) < 5.2
    assert 1.0 <= rounds(True) < 1.2
    assert count_of(world, key) == 1
