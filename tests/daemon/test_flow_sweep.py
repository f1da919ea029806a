"""Rounds over the kernel's flows: those that had a packet are found, the others cost nothing."""

from pretend_kernel import PretendMap

from upmt_nf.daemon.flow_sweep import ROUND, FlowSweep
from upmt_nf.datapath.fast_layout import FLOW, FLOW_KEY, FlowRow

SECOND = 1_000_000_000
WHOLE = 16


class Sweeping:
    def __init__(self, flows: int) -> None:
        self.now = 100 * SECOND
        self.table = PretendMap(FLOW_KEY.size, FLOW.size)
        self.keys = [bytes([number]) * FLOW_KEY.size for number in range(flows)]
        for key in self.keys:
            self.packet(key)
        table: object = self.table
        self.sweep = FlowSweep(table, lambda: self.now)  # type: ignore[arg-type]

    def packet(self, key: bytes) -> None:
        self.table.rows[key] = FlowRow(0, last_seen=self.now).packed()

    def round(self) -> list[bytes]:
        self.now += int(ROUND * SECOND)
        found = self.sweep.some(is_urgent=False)
        assert all(self.table.rows[key] == row for key, row in found)
        assert self.sweep.some(is_urgent=False) == []
        return [key for key, _ in found]


def test_the_first_round_finds_all_and_later_ones_what_had_a_packet() -> None:
    world = Sweeping(20)
    assert world.round() == world.keys
    for _ in range(4):
        world.round()
    assert world.round() == []
    world.packet(world.keys[7])
    assert world.round() == [world.keys[7]]


def test_a_flow_that_one_round_missed_is_found_by_the_next() -> None:
    world = Sweeping(3)
    for _ in range(5):
        world.round()
    world.packet(world.keys[1])
    missed = world.table.rows.pop(world.keys[1])
    assert world.round() == []
    world.table.rows[world.keys[1]] = missed
    assert world.round() == [world.keys[1]]


def test_a_round_looks_at_all_now_and_then() -> None:
    world = Sweeping(3)
    found = [world.round() for _ in range(2 * WHOLE)]
    assert [number for number, keys in enumerate(found) if len(keys) == 3][-1] == WHOLE


def test_while_it_is_urgent_rounds_follow_each_other() -> None:
    world = Sweeping(3)
    world.round()
    world.packet(world.keys[2])
    assert world.keys[2] in [key for key, _ in world.sweep.some(is_urgent=True)]
    assert world.sweep.some(is_urgent=False) == []
