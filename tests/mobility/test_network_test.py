"""What an access network lets through: which of the anchor's ports, and how its NAT maps."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest
from mobility_terminal import NET0, NET1
from mobility_world import World, associated

from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.host_commands import CloseBindingProbe, SendBindingProbe
from upmt_nf.mobility.host_events import NetworkTestAsked
from upmt_nf.mobility.network_test import PAUSES, TRIES, Mapping, NetworkTest, TestResult
from upmt_nf.mobility.network_tests import FIRST_PAUSE, NetworkTests
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.binding_probe import BindingProbe, ProbeKind, parse_probe, probe_key

VIRTUAL = ip_address("10.99.0.1")
KEY = probe_key(b"secret")
PORTS = (1800, 443, 53)
WIFI = NetworkName("wifi")
CARE_OF = ip_address("192.168.1.7")
OUTSIDE = Endpoint(ip_address("203.0.113.9"), 40000)


def begun(ports: tuple[int, ...] = PORTS) -> NetworkTest:
    return NetworkTest(ports, VIRTUAL, KEY, 7, 0.0)


def welcome(port: int, number: int = 7) -> BindingProbe:
    return BindingProbe(ProbeKind.WELCOME, number, VIRTUAL, port)


def test_every_port_is_asked_at_once_from_one_port_of_ours() -> None:
    sent = begun().handle_timeout(0.0)
    assert [port for port, _ in sent] == list(PORTS)
    assert {parse_probe(data).kind for _, data in sent} == {ProbeKind.HELLO}


def test_it_ends_as_soon_as_all_have_answered() -> None:
    test = begun()
    test.handle_timeout(0.0)
    for at, port in ((0.02, 53), (0.03, 1800), (0.04, 443)):
        test.hear(port, welcome(40000), at)
        test.handle_timeout(at)
    assert test.result == TestResult(PORTS, ((1800, 40000), (443, 40000), (53, 40000)), 0.04, 0.02)


def test_the_silent_are_asked_again_and_only_so_often() -> None:
    test, sent, now = begun(), [], 0.0
    while test.result is None:
        sent += test.handle_timeout(now)
        test.hear(443, welcome(1), now + 0.01)
        now = max(now, test.next_at)
    assert test.result.open_ports == (443,)
    assert [port for port, _ in sent].count(1800) == TRIES
    assert [port for port, _ in sent].count(443) == 1
    assert test.result.finished_at == pytest.approx(sum(PAUSES))


@pytest.mark.parametrize(
    ("port", "probe"),
    [
        (1800, welcome(1, number=8)),
        (1801, welcome(1)),
        (1800, BindingProbe(ProbeKind.POKING, 7, VIRTUAL, 1)),
        (1800, BindingProbe(ProbeKind.WELCOME, 7, ip_address("10.99.0.2"), 1)),
    ],
)
def test_what_answers_no_question_of_this_test_is_passed_over(port: int, probe: BindingProbe) -> None:
    test = begun()
    test.handle_timeout(0.0)
    test.hear(port, probe, 0.01)
    now = 0.0
    while test.result is None:
        now = max(now, test.next_at)
        test.handle_timeout(now)
    assert test.result.seen == ()


@pytest.mark.parametrize(
    ("seen", "reflexive", "mapping"),
    [
        (((1800, 5), (443, 5)), OUTSIDE, Mapping.KEPT),
        (((1800, 5), (443, 6)), OUTSIDE, Mapping.PER_PORT),
        (((1800, 5),), OUTSIDE, None),
        ((), None, None),
        (((1800, 5), (443, 5)), Endpoint(CARE_OF, 5), Mapping.NONE),
    ],
)
def test_two_ports_tell_how_a_nat_maps(
    seen: tuple[tuple[int, int], ...], reflexive: Endpoint | None, mapping: Mapping | None
) -> None:
    assert TestResult(PORTS, seen, 0.0).mapping(CARE_OF, reflexive) is mapping


def networks_tests(*, is_up: bool = False, has_association: bool = True) -> NetworkTests:
    credentials = (VIRTUAL, b"secret") if has_association else None
    return NetworkTests(Random(1), lambda: credentials, lambda: PORTS, lambda _: is_up)


def run_in_vain(tests: NetworkTests, now: float) -> float:
    """Until the test that is due has ended without an answer."""
    while not tests.take_finished():
        due = tests.next_timeout()
        assert due is not None
        now = max(now, due)
        tests.handle_timeout(now)
    return now


def test_a_network_without_a_tunnel_is_tested_again_after_longer_and_longer_pauses() -> None:
    tests, pauses = networks_tests(), []
    tests.appear(WIFI, 0.0)
    ended = run_in_vain(tests, 0.0)
    for _ in range(3):
        due = tests.next_timeout()
        assert due is not None
        pauses.append(due - ended)
        ended = run_in_vain(tests, due)
    assert pauses == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]


def test_one_that_works_is_tested_when_somebody_asks() -> None:
    tests = networks_tests(is_up=True)
    tests.appear(WIFI, 0.0)
    now = run_in_vain(tests, 0.0)
    assert tests.next_timeout() is None
    tests.take_commands()
    tests.ask(WIFI, now)
    tests.ask(NetworkName("unknown"), now)
    tests.handle_timeout(now)
    assert tests.is_testing(WIFI)
    assert [type(command) for command in tests.take_commands()] == [SendBindingProbe] * 3


def test_without_an_association_there_is_nothing_to_prove_oneself_with() -> None:
    tests = networks_tests(has_association=False)
    tests.appear(WIFI, 0.0)
    assert tests.next_timeout() is None
    tests.handle_timeout(10.0)
    assert not tests.is_testing(WIFI)


def test_forged_answers_count_for_nothing_and_a_network_that_goes_gives_its_port_back() -> None:
    tests = networks_tests()
    tests.appear(WIFI, 0.0)
    tests.handle_timeout(0.0)
    sent = [each for each in tests.take_commands() if isinstance(each, SendBindingProbe)]
    number = parse_probe(sent[0].data).number
    for forged in (b"", b"x" * 40, bytes(welcome(1, number).sealed(probe_key(b"another")))):
        for port in PORTS:
            tests.hear(WIFI, port, forged, 0.01)
    assert tests.is_testing(WIFI)
    tests.vanish(WIFI)
    assert tests.take_commands() == [CloseBindingProbe(WIFI, (ProbeFlow.TESTING,))]
    assert tests.result(WIFI) is None


def test_a_network_that_blocks_the_first_port_is_used_by_another_within_two_seconds() -> None:
    world = World(further_tunnel_ports=(443, 53))
    world.host.links[NET0].blocked = {1800}
    world.host.appear(NET1)
    world.until(lambda: world.host.network_state(NET1) == "up", 5)
    world.host.appear(NET0)
    took = world.until(lambda: world.host.network_state(NET0) == "up", 5)
    assert took < 2.5
    status = world.host.machine.networks[NET0]
    assert status.anchor_port == 443
    assert status.test is not None
    assert status.test.open_ports == (443, 53)
    assert world.host.machine.networks[NET1].anchor_port == 0
    flow = world.host.open_flow()
    world.settle()
    world.assert_agreement()
    id = world.host.open_tunnels[NET0]
    assert world.anchor_paft.tunnels[id].port == 443
    assert world.host.paft.tunnels[id].remote.port == 443
    assert world.host.flow_network(flow) is not None


def test_the_only_network_may_block_both_ports_of_the_anchor() -> None:
    """SIP's own and that of tunnels: what is sent again goes to the further ports, too."""
    world = World(networks=1, further_tunnel_ports=(443, 53))
    world.host.links[NET0].blocked = {1800, 5060, 443}
    world.host.appear(NET0)
    world.until(lambda: world.host.network_state(NET0) == "up", 10)
    assert world.host.machine.networks[NET0].anchor_port == 53
    world.run(4000)
    assert world.host.machine.association.state == "associated", "refreshes find their way as well"


def test_a_network_that_moves_to_another_place_takes_the_port_that_passes_there() -> None:
    world = World(further_tunnel_ports=(443,))
    world.host.links[NET0].blocked = {1800}
    associated(world)
    assert world.host.machine.networks[NET0].anchor_port == 443
    world.host.links[NET0].blocked = {443}
    world.host.vanish(NET0)
    world.run(1)
    world.host.appear(NET0)
    world.until(lambda: world.host.network_state(NET0) == "up", 5)
    assert world.host.machine.networks[NET0].anchor_port == 0


def test_a_network_that_begins_to_block_the_port_in_use_goes_on_by_another() -> None:
    world = associated(World(further_tunnel_ports=(443,)))
    world.host.links[NET0].blocked = {1800}
    world.until(lambda: world.host.network_state(NET0) == "dead", 20)
    assert world.until(lambda: world.host.network_state(NET0) == "up", 5) < 2.5
    assert world.host.machine.networks[NET0].anchor_port == 443


def test_asked_for_a_test_runs_also_with_one_port_and_disturbs_no_tunnel() -> None:
    world = associated(World())
    before = world.host.open_tunnels.copy()
    world.host.take(NetworkTestAsked(NET0))
    assert world.host.machine.is_testing(NET0)
    world.run(3)
    result = world.host.machine.networks[NET0].test
    assert result is not None
    assert result.open_ports == (1800,)
    assert world.host.open_tunnels == before


@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_gateway_that_rewrites_sip_is_told_of_and_harms_nothing(*, is_guarded: bool) -> None:
    world = World(is_guarded=is_guarded)
    link = world.host.links[NET0]
    own, seen = f"@{link.care_of}".encode(), f"@{link.public}".encode()
    link.rewrites = lambda data: data.replace(own, seen)
    associated(world)
    assert world.host.machine.networks[NET0].is_sip_changed is True
    link.rewrites = lambda data: data
    world.run(3600)
    assert world.host.machine.networks[NET0].is_sip_changed is False
    assert world.host.state == "associated"
