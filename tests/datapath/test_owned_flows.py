"""Flows by owner: which of them leaves so that another one can come."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.owned_flows import OwnedFlows
from upmt_nf.model.flow import TCP, UDP, FlowKey
from upmt_nf.model.identity import ApplicationId


def flow(owner: int, port: int, seen: float = 0.0, protocol: int = UDP) -> FlowEntry:
    key = FlowKey(protocol, ip_address(f"10.9.0.{owner}"), port, ip_address("86.0.0.1"), 53).packed()
    return FlowEntry(key, ApplicationId(1), seen, 0, "")


def owner(number: int) -> bytes:
    return ip_address(f"10.9.0.{number}").packed


def filled(owned: OwnedFlows, *flows: FlowEntry) -> list[FlowEntry]:
    for entry in flows:
        owned.enter(entry)
    return list(flows)


def test_nobody_is_in_the_way_while_there_is_room() -> None:
    owned = OwnedFlows(4, 2)
    filled(owned, flow(1, 1), flow(2, 1))
    assert owned.in_the_way(owner(1), 1.0) is None
    assert owned.in_the_way(owner(3), 1.0) is None


def test_an_owner_at_its_own_bound_loses_its_longest_silent_flow() -> None:
    owned = OwnedFlows(100, 2)
    mine = filled(owned, flow(1, 1, seen=5.0), flow(1, 2, seen=4.0))
    filled(owned, flow(2, 1, seen=1.0))
    assert owned.in_the_way(owner(1), 6.0) is mine[1]


def test_in_a_full_table_a_newcomer_takes_from_who_has_most() -> None:
    owned = OwnedFlows(4, 4)
    filled(owned, flow(1, 1, seen=0.0))
    many = filled(owned, *(flow(2, port, seen=float(port)) for port in (1, 2, 3)))
    assert owned.in_the_way(owner(3), 10.0) is many[0]


def test_in_a_full_table_who_has_a_fair_share_takes_from_itself() -> None:
    owned = OwnedFlows(4, 4)
    mine = filled(owned, flow(1, 1, seen=8.0), flow(1, 2, seen=9.0))
    filled(owned, flow(2, 1), flow(2, 2))
    assert owned.in_the_way(owner(1), 10.0) is mine[0]


def test_what_is_past_its_time_leaves_before_what_was_silent_longer() -> None:
    owned = OwnedFlows(2, 2)
    filled(owned, flow(1, 1, seen=0.0, protocol=TCP))
    (over,) = filled(owned, flow(1, 2, seen=50.0))
    assert owned.in_the_way(owner(1), 300.0) is over


def test_a_silent_flow_behind_many_busy_ones_is_found() -> None:
    owned = OwnedFlows(200, 200)
    filled(owned, *(flow(1, port, seen=99.95) for port in range(100)))
    (silent,) = filled(owned, flow(1, 100, seen=50.0))
    filled(owned, *(flow(1, port, seen=99.95) for port in range(101, 200)))
    assert owned.in_the_way(owner(1), 100.0) is silent


def test_one_that_was_chosen_to_go_and_is_heard_again_stays() -> None:
    owned = OwnedFlows(100, 100)
    flows = filled(owned, *(flow(1, port, seen=float(port)) for port in range(1, 101)))
    assert owned.in_the_way(owner(1), 200.0) is flows[0]
    owned.leave(flows[0])
    owned.enter(flow(1, 200, seen=200.0))
    flows[1].last_seen = 199.0
    assert owned.in_the_way(owner(1), 200.0) is flows[2]


def test_a_flood_looks_at_a_few_flows_for_each_that_leaves() -> None:
    class Seen(FlowEntry):
        """Counts how often it is looked at."""

        looks = 0

        def is_idle(self, now: float, share: float = 1.0) -> bool:
            Seen.looks += 1
            return super().is_idle(now, share)

    owned, most = OwnedFlows(4096, 4096), 4096
    now = 100.0
    for number in range(3 * most):
        # All of them are busy: they began within the last moment.
        now += 0.00001
        key = FlowKey(UDP, ip_address("10.9.0.1"), 1 + number, ip_address("86.0.0.1"), 53).packed()
        entry = Seen(key, ApplicationId(1), now, 0, "")
        if (leaving := owned.in_the_way(entry.owner, now)) is not None:
            owned.leave(leaving)
        owned.enter(entry)
    assert owned.number_of(owner(1)) == most
    assert 2 * most < Seen.looks < 20 * most


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), max_size=120))
def test_neither_bound_is_ever_passed_and_only_known_flows_leave(course: list[tuple[int, int]]) -> None:
    owned, known = OwnedFlows(12, 5), dict[bytes, FlowEntry]()
    for now, (number, port) in enumerate(course):
        entry = flow(number, port, seen=float(now))
        if (old := known.pop(entry.key, None)) is not None:
            owned.leave(old)
        if (leaving := owned.in_the_way(entry.owner, float(now))) is not None:
            owned.leave(known.pop(leaving.key))
        owned.enter(entry)
        known[entry.key] = entry
        numbers = [owned.number_of(owner(each)) for each in range(1, 5)]
        assert sum(numbers) == len(known) <= 12
        assert max(numbers) <= 5
        for each in range(1, 5):
            assert {one.key for one in owned.of(owner(each))} == {
                key for key, one in known.items() if one.owner == owner(each)
            }
