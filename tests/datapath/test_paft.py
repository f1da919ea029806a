"""PAFT: two levels, learning, explicit handovers, bounds; and its invariants under any sequence of all of them."""

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import Endpoint, FlowBytes, FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationId, NetworkName, TunnelId

HOST, OTHER_HOST = ip_address("1.2.3.4"), ip_address("1.2.3.5")
VOICE, VIDEO = ApplicationId(2), ApplicationId(3)
NET0, NET1 = TunnelId(10), TunnelId(11)


def tunnel(id: int, owner: IPAddress = HOST, port: int = 0) -> Tunnel:
    remote = Endpoint(ip_address("160.80.100.1"), port or 1000 + id)
    return Tunnel(TunnelId(id), owner, remote, 1472, NetworkName(f"net{id}"))


def flow(port: int, owner: IPAddress = HOST, protocol: int = 17) -> FlowBytes:
    correspondent = ip_address("86.0.0.1" if owner.version == 4 else "2001:db8::86")
    return FlowKey(protocol, owner, port, correspondent, 3000).packed()


@pytest.fixture
def paft() -> Paft:
    table = Paft()
    table.add_tunnel(tunnel(NET0))
    table.add_tunnel(tunnel(NET1))
    return table


def test_one_write_moves_all_flows_of_an_application_and_no_other(paft: Paft) -> None:
    paft.steer(VOICE, NET0)
    paft.steer(VIDEO, NET0)
    voice = [paft.insert(flow(port), VOICE, 0.0) for port in range(100)]
    video = [paft.insert(flow(port), VIDEO, 0.0) for port in range(100, 200)]
    paft.steer(VOICE, NET1)
    assert {paft.tunnel_of(entry) for entry in voice} == {paft.tunnels[NET1]}
    assert {paft.tunnel_of(entry) for entry in video} == {paft.tunnels[NET0]}
    assert paft.flows_of(VOICE) == voice
    paft.steer(VOICE, None)
    assert {paft.tunnel_of(entry) for entry in voice} == {None}


def test_a_pinned_flow_stays_when_its_application_moves(paft: Paft) -> None:
    paft.steer(VOICE, NET0)
    pinned, free = paft.insert(flow(1), VOICE, 0.0), paft.insert(flow(2), VOICE, 0.0)
    paft.pin(flow(1), NET1)
    paft.steer(VOICE, None)
    assert paft.tunnel_of(pinned) is paft.tunnels[NET1]
    assert paft.tunnel_of(free) is None
    paft.unpin(flow(1))
    assert paft.tunnel_of(pinned) is None


def test_what_is_unknown_is_a_key_error(paft: Paft) -> None:
    paft.insert(flow(1), VOICE, 0.0)
    wrongs: tuple[Callable[[], None], ...] = (
        lambda: paft.steer(VOICE, TunnelId(99)),
        lambda: paft.pin(flow(1), TunnelId(99)),
        lambda: paft.pin(flow(2), NET0),
        lambda: paft.unpin(flow(2)),
    )
    for wrong in wrongs:
        with pytest.raises(KeyError):
            wrong()


def test_a_flow_that_is_there_keeps_its_counts_and_its_pin(paft: Paft) -> None:
    entry = paft.insert(flow(1), VOICE, 0.0, 42, "voip")
    entry.packets_out = 7
    paft.pin(flow(1), NET1)
    assert paft.insert(flow(1), VIDEO, 5.0, 43, "film") is entry
    assert (entry.application_id, entry.pid, entry.command, entry.packets_out) == (VIDEO, 43, "film", 7)
    assert paft.tunnel_of(entry) is paft.tunnels[NET1]
    assert len(paft.flows_owned_by(HOST)) == 1


def test_removing_a_tunnel_leaves_flows_without_one(paft: Paft) -> None:
    paft.steer(VOICE, NET0)
    entry = paft.insert(flow(1), VOICE, 0.0)
    learnt = paft.learn(flow(2), paft.tunnels[NET0], 0.0)
    paft.remove_tunnel(NET0)
    assert paft.tunnel_of(entry) is None
    assert paft.tunnel_of(learnt) is None
    assert paft.learn(flow(2), paft.tunnels[NET1], 1.0).pinned is paft.tunnels[NET1]
    paft.remove_tunnel(NET0)


def test_a_tunnel_with_the_same_id_takes_over_flows_and_applications(paft: Paft) -> None:
    paft.steer(VOICE, NET0)
    entry, pinned = paft.insert(flow(1), VOICE, 0.0), paft.insert(flow(2), VOICE, 0.0)
    paft.pin(flow(2), NET0)
    newer = tunnel(NET0, port=7777)
    paft.add_tunnel(newer)
    assert paft.tunnel_of(entry) is newer
    assert paft.tunnel_of(pinned) is newer
    assert paft.tunnel_from(packed_endpoint(newer.remote), HOST.packed) is newer
    assert len(paft.tunnels_by_remote) == 2


def test_an_id_that_goes_to_another_owner_takes_no_flows_along(paft: Paft) -> None:
    entry = paft.learn(flow(1), paft.tunnels[NET0], 0.0)
    paft.add_tunnel(tunnel(NET0, OTHER_HOST))
    assert paft.tunnel_of(entry) is None


def test_tunnels_that_share_an_endpoint_are_told_apart_by_their_owner(paft: Paft) -> None:
    shared = packed_endpoint(paft.tunnels[NET0].remote)
    paft.add_tunnel(tunnel(20, OTHER_HOST, port=1000 + NET0))
    assert paft.tunnel_from(shared, HOST.packed) is paft.tunnels[NET0]
    assert paft.tunnel_from(shared, OTHER_HOST.packed) is paft.tunnels[TunnelId(20)]
    assert paft.tunnel_from(shared, ip_address("1.2.3.6").packed) is None
    paft.remove_tunnel(NET0)
    assert paft.tunnel_from(shared, HOST.packed) is None
    assert paft.tunnel_from(shared, OTHER_HOST.packed) is paft.tunnels[TunnelId(20)]


def test_the_newest_of_an_owners_tunnels_at_an_endpoint_counts(paft: Paft) -> None:
    shared = packed_endpoint(paft.tunnels[NET0].remote)
    paft.add_tunnel(tunnel(20, port=1000 + NET0))
    assert paft.tunnel_from(shared, HOST.packed) is paft.tunnels[TunnelId(20)]
    paft.remove_tunnel(TunnelId(20))
    assert paft.tunnel_from(shared, HOST.packed) is paft.tunnels[NET0]


def test_a_moved_endpoint_is_found_at_the_new_place_only(paft: Paft) -> None:
    old, new = paft.tunnels[NET0].remote, Endpoint(ip_address("2001:db8::1"), 4)
    paft.move_endpoint(paft.tunnels[NET0], new)
    assert paft.tunnel_from(packed_endpoint(old), HOST.packed) is None
    assert paft.tunnel_from(packed_endpoint(new), HOST.packed) is paft.tunnels[NET0]


def test_the_anchor_learns_the_way_back_from_uplink_packets(paft: Paft) -> None:
    first, second = paft.tunnels[NET0], paft.tunnels[NET1]
    assert paft.learn(flow(1), first, 0.0).pinned is first
    assert paft.learn(flow(1), second, 0.1).pinned is second
    assert paft.learn(flow(1), first, 0.2).pinned is first


def test_late_packets_do_not_undo_a_handover(paft: Paft) -> None:
    first, second = paft.tunnels[NET0], paft.tunnels[NET1]
    paft.learn(flow(1), first, 0.0)
    paft.move(flow(1), second, 10.0)
    assert paft.learn(flow(1), first, 12.9).pinned is second
    assert paft.learn(flow(1), second, 12.95).pinned is second
    assert paft.learn(flow(1), first, 13.0).pinned is first


def test_late_packets_do_not_undo_a_handover_that_data_ran_ahead_of(paft: Paft) -> None:
    first, second = paft.tunnels[NET0], paft.tunnels[NET1]
    paft.learn(flow(1), first, 0.0)
    paft.learn(flow(1), second, 10.0)
    paft.move(flow(1), second, 10.1)
    assert paft.learn(flow(1), first, 10.2).pinned is second


def test_a_flow_moved_twice_heeds_neither_old_path_and_comes_back_when_told(paft: Paft) -> None:
    first, second, third = paft.tunnels[NET0], paft.tunnels[NET1], tunnel(12)
    paft.add_tunnel(third)
    paft.learn(flow(1), first, 0.0)
    paft.move(flow(1), second, 1.0)
    paft.move(flow(1), third, 1.5)
    assert paft.learn(flow(1), first, 1.6).pinned is third
    assert paft.learn(flow(1), second, 1.7).pinned is third
    paft.move(flow(1), first, 2.0)
    assert paft.learn(flow(1), first, 2.1).pinned is first
    assert paft.learn(flow(1), third, 2.2).pinned is first


def test_a_flow_whose_new_tunnel_is_gone_takes_the_old_one_at_once(paft: Paft) -> None:
    paft.learn(flow(1), paft.tunnels[NET0], 0.0)
    paft.move(flow(1), paft.tunnels[NET1], 1.0)
    paft.remove_tunnel(NET1)
    assert paft.learn(flow(1), paft.tunnels[NET0], 1.1).pinned is paft.tunnels[NET0]


def test_a_handover_may_come_before_the_first_packet_but_not_for_anothers_flow(paft: Paft) -> None:
    assert paft.move(flow(1), paft.tunnels[NET0], 0.0).pinned is paft.tunnels[NET0]
    with pytest.raises(UsageError, match=r"udp:1\.2\.3\.5:1>86\.0\.0\.1:3000 is not a flow of 1\.2\.3\.4"):
        paft.move(flow(1, OTHER_HOST), paft.tunnels[NET0], 0.0)
    assert flow(1, OTHER_HOST) not in paft.flows


@pytest.mark.parametrize(("protocol", "limit"), [(6, 7440), (17, 180), (1, 30), (58, 30), (47, 600)])
def test_silent_flows_age_by_protocol(protocol: int, limit: int) -> None:
    paft = Paft()
    paft.insert(flow(1, protocol=protocol), VOICE, 100.0)
    assert paft.age(100.0 + limit) == 0
    assert paft.age(100.1 + limit) == 1
    assert not paft.flows
    assert paft.counters["aged"] == 1


def test_ageing_of_a_large_table_comes_round_in_bounded_steps() -> None:
    paft = Paft()
    for port in range(5000):
        paft.insert(flow(port), VOICE, 0.0)
    steps = [paft.age(1000.0) for _ in range(3)]
    assert steps == [2000, 2000, 1000]
    assert not paft.flows


def test_a_full_table_lets_go_of_what_was_silent_longest() -> None:
    paft = Paft(max_flows=3)
    for port in range(3):
        paft.insert(flow(port), VOICE, float(port))
    paft.flows[flow(0)].last_seen = 10.0
    paft.insert(flow(3), VOICE, 11.0)
    assert set(paft.flows) == {flow(0), flow(2), flow(3)}
    assert paft.counters["evicted"] == 1


def test_what_is_past_its_time_goes_before_what_was_silent_longer() -> None:
    paft = Paft(max_flows=2)
    paft.insert(flow(1, protocol=6), VOICE, 0.0)
    paft.insert(flow(2, protocol=1), VOICE, 50.0)
    paft.insert(flow(3), VOICE, 100.0)
    assert set(paft.flows) == {flow(1, protocol=6), flow(3)}


def test_busy_old_flows_survive_a_flood_of_short_ones() -> None:
    paft = Paft(max_flows=500)
    busy = [paft.insert(flow(port, protocol=6), VOICE, 0.0) for port in range(100)]
    for number in range(5000):
        now = 1.0 + number / 1000
        for entry in busy:
            entry.last_seen = now
        paft.insert(flow(1000 + number), VIDEO, now)
    assert len(paft.flows) == 500
    assert paft.flows_of(VOICE) == busy


def test_a_host_that_floods_evicts_only_its_own_flows() -> None:
    for paft in (Paft(max_flows=1000, max_flows_per_owner=50), Paft(max_flows=60)):
        quiet = [paft.insert(flow(port), VOICE, 0.0) for port in range(20)]
        for port in range(2000):
            paft.insert(flow(port, OTHER_HOST), VOICE, 1.0 + port)
        assert paft.flows_owned_by(HOST) == quiet
        assert len(paft.flows_owned_by(OTHER_HOST)) in (40, 50)
        # And the quiet one gets its share when it wants it.
        for port in range(20, 30):
            paft.insert(flow(port), VOICE, 5000.0)
        assert len(paft.flows_owned_by(HOST)) == 30


@given(st.lists(st.integers(0, 40), max_size=80))
def test_flows_stay_in_the_order_of_their_first_packet(order: list[int]) -> None:
    paft = Paft()
    for now, port in enumerate(order):
        paft.insert(flow(port), VOICE, float(now))
    expected = [flow(port) for port in dict.fromkeys(order)]
    assert list(paft.flows) == expected
    assert [entry.key for entry in paft.flows_owned_by(HOST)] == expected


OWNERS = (HOST, OTHER_HOST, ip_address("2001:db8::4"))
IDS = st.integers(1, 5)
KEYS = st.builds(flow, st.integers(1, 8), st.sampled_from(OWNERS), st.sampled_from((6, 17, 1)))


class PaftUnderAnySequence(RuleBasedStateMachine):
    """Whatever is done in whatever order, nothing points to what is not there, and bounds hold."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.paft = Paft(max_flows=12, max_flows_per_owner=6)
        self.steered: dict[ApplicationId, TunnelId | None] = {}

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(id=IDS, owner=st.sampled_from(OWNERS), port=st.integers(1, 3))
    def tunnel_added(self, id: int, owner: IPAddress, port: int) -> None:
        self.paft.add_tunnel(tunnel(id, owner, port))

    @rule(id=IDS)
    def tunnel_removed(self, id: int) -> None:
        self.paft.remove_tunnel(TunnelId(id))

    @precondition(lambda self: self.paft.tunnels)
    @rule(data=st.data(), port=st.integers(1, 3))
    def endpoint_moved(self, data: st.DataObject, port: int) -> None:
        moved = data.draw(st.sampled_from(list(self.paft.tunnels.values())))
        self.paft.move_endpoint(moved, Endpoint(ip_address("65.0.0.1"), port))

    @rule(key=KEYS, application=st.integers(1, 3))
    def flow_began(self, key: FlowBytes, application: int) -> None:
        self.paft.insert(key, ApplicationId(application), self.now)

    @precondition(lambda self: self.paft.tunnels)
    @rule(data=st.data(), port=st.integers(1, 8), explicit=st.booleans())
    def flow_came_by_a_tunnel(self, data: st.DataObject, port: int, explicit: bool) -> None:
        by = data.draw(st.sampled_from(list(self.paft.tunnels.values())))
        key = flow(port, by.owner)
        entry = (self.paft.move if explicit else self.paft.learn)(key, by, self.now)
        assert self.paft.flows[key] is entry
        if explicit:
            assert entry.pinned is by

    @precondition(lambda self: self.paft.tunnels)
    @rule(data=st.data(), application=st.integers(1, 3))
    def application_steered(self, data: st.DataObject, application: int) -> None:
        to = data.draw(st.sampled_from([None, *self.paft.tunnels]))
        self.paft.steer(ApplicationId(application), to)
        for entry in self.paft.flows_of(ApplicationId(application)):
            expected = entry.pinned or (self.paft.tunnels[to] if to is not None else None)
            assert self.paft.tunnel_of(entry) is expected

    @rule()
    def aged(self) -> None:
        self.paft.age(self.now)
        assert not any(entry.is_idle(self.now) for entry in self.paft.flows.values())

    @rule(key=KEYS)
    def flow_forgotten(self, key: FlowBytes) -> None:
        self.paft.forget(key)
        assert key not in self.paft.flows

    @invariant()
    def nothing_points_to_a_tunnel_that_is_not_there(self) -> None:
        there = list(self.paft.tunnels.values())
        for entry in self.paft.flows.values():
            for mentioned in (entry.pinned, entry.previous, *(left for left, _ in entry.left)):
                assert mentioned is None or mentioned in there
            pinned = entry.pinned
            assert pinned is None or pinned.owner_packed == entry.owner
        assert all(steered is None or steered in there for steered in self.paft.applications.values())

    @invariant()
    def every_tunnel_is_found_at_its_endpoint_and_no_other(self) -> None:
        listed = [
            (remote, found) for remote, tunnels in self.paft.tunnels_by_remote.items() for found in tunnels
        ]
        assert sorted(found.id for _, found in listed) == sorted(self.paft.tunnels)
        assert all(found.remote_packed == remote == packed_endpoint(found.remote) for remote, found in listed)

    @invariant()
    def bounds_hold_and_owners_add_up(self) -> None:
        assert len(self.paft.flows) <= 12
        owned: list[FlowEntry] = []
        for owner in OWNERS:
            assert len(self.paft.flows_owned_by(owner)) <= 6
            owned += self.paft.flows_owned_by(owner)
        assert {entry.key for entry in owned} == set(self.paft.flows)


TestPaftUnderAnySequence = PaftUnderAnySequence.TestCase
TestPaftUnderAnySequence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
