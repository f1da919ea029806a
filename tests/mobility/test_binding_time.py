"""Binding times: found by trials on flows of their own, remembered, and enough to keep every mapping at little cost."""

from ipaddress import ip_address
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mobility_terminal import ANCHOR, NET0, NET1
from mobility_world import OUTER_BYTES, World, associated

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.protected import Sealed
from upmt_nf.mobility.binding_answers import BindingAnswers
from upmt_nf.mobility.binding_time import LEAST_SILENCE, PRECISION, SAFE, BindingSearch, BindingTime
from upmt_nf.mobility.leases import LeaseAsked, LeaseGiven, Leases
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TerminalId
from upmt_nf.signaling.binding_probe import (
    UNSUMMED,
    BindingProbe,
    ProbeKind,
    is_proven,
    parse_probe,
    probe_key,
)

FIRST, LONGEST = 35.0, 150.0
HOUR = 3600.0


def search(
    binding_time: float, known: BindingTime | None = None, *, chance: Random | None = None
) -> list[float]:
    """The silences that are tried until the end; with `chance`, a tenth of the answers is lost."""
    machine = BindingSearch(FIRST, LONGEST, known)
    tried: list[float] = []
    while (silence := machine.next_silence()) is not None:
        tried.append(silence)
        assert len(tried) < 60
        if silence <= binding_time and (chance is None or chance.random() > 0.1):
            machine.survive(silence)
        else:
            machine.die(silence)
    searches[tuple(tried)] = machine
    return tried


searches: dict[tuple[float, ...], BindingSearch] = {}


# --- the search ---


@given(st.floats(LEAST_SILENCE + 0.5, 1000))
def test_every_binding_time_is_found_in_few_trials_and_never_overestimated(binding_time: float) -> None:
    tried = search(binding_time)
    known = searches[tuple(tried)].known
    assert len(tried) <= 14
    assert known.survived is not None
    assert known.survived <= binding_time
    if known.died is None:
        assert known.survived == LONGEST
    else:
        assert binding_time < known.died <= known.survived * PRECISION
    assert searches[tuple(tried)].keepalive(28, 120) <= SAFE * binding_time


def test_silences_grow_until_one_is_too_long_and_then_close_in() -> None:
    assert [round(silence) for silence in search(1000)] == [35, 56, 90, 143, 150]
    assert [round(silence) for silence in search(60)] == [35, 56, 90, 90, 71, 71, 63, 63]
    assert [round(silence) for silence in search(20)] == [35, 35, 18, 25, 25, 21, 21]


def test_a_nat_that_forgets_at_once_ends_the_search() -> None:
    tried = search(0.1)
    machine = searches[tuple(tried)]
    assert machine.known.survived is None
    assert machine.keepalive(28, 120) < 1.1 * LEAST_SILENCE


def test_one_death_is_not_believed() -> None:
    machine = BindingSearch(FIRST, LONGEST)
    assert not machine.die(35.0)
    assert machine.next_silence() == 35.0
    machine.survive(35.0)
    assert machine.known == BindingTime(35.0, None)
    assert machine.die(56.0) is False
    assert machine.die(56.0)
    assert machine.known == BindingTime(35.0, 56.0)


@given(st.floats(2, 500), st.integers(0, 2**32))
def test_with_losses_the_result_is_cautious_never_bold(binding_time: float, seed: int) -> None:
    tried = search(binding_time, chance=Random(seed))
    known = searches[tuple(tried)].known
    assert known.survived is None or known.survived <= binding_time


def test_what_is_remembered_is_checked_by_one_trial_and_until_then_only_makes_it_more_careful() -> None:
    known = BindingTime(100.0, 115.0)
    machine = BindingSearch(FIRST, LONGEST, known)
    assert machine.keepalive(28, 120) == 28
    assert BindingSearch(FIRST, LONGEST, BindingTime(10.0, 12.0)).keepalive(28, 120) == 6
    assert search(105, known) == [100.0]
    assert searches[100.0,].keepalive(28, 120) == 80
    # Another NAT, that forgets sooner: both deaths, and the search goes down.
    assert search(40, known)[:3] == [100.0, 100.0, 50.0]


def test_a_nat_that_became_more_patient_is_found_out_at_the_next_check_of_its_bound() -> None:
    machine = BindingSearch(FIRST, LONGEST, BindingTime(30.0, 40.0))
    machine.survive(45.0)
    assert machine.known == BindingTime(45.0, None)


# --- the anchor's part ---


def answering() -> tuple[BindingAnswers, bytes, Counters]:
    settings = AnchorSettings(address=ANCHOR, pool=(ip_address("1.2.3.4"),))
    leases, counters = Leases(settings, lambda: "token"), Counters()
    given = leases.ask(LeaseAsked(TerminalId("mh@upmt"), "call", 1, 100), 0.0)
    assert isinstance(given, LeaseGiven)
    return BindingAnswers(leases, counters), probe_key(b"token"), counters


def test_the_anchor_pokes_only_the_address_that_asks_and_says_no_more_than_it_heard() -> None:
    answers, key, _ = answering()
    asking = Endpoint(ip_address("203.0.113.9"), 5000)
    data = BindingProbe(ProbeKind.POKE, 7, ip_address("1.2.3.4"), 6000).sealed(key)
    said = answers.answer(asking, data)
    assert [each.remote for each in said] == [Endpoint(asking.address, 6000), asking]
    assert [parse_probe(each.data).kind for each in said] == [ProbeKind.POKED, ProbeKind.POKING]
    assert all(len(each.data) == len(data) for each in said)


@pytest.mark.parametrize("size", [40, 41, 1600, 2048])
def test_an_echo_is_as_long_and_as_odd_as_its_question_and_says_how_that_came(size: int) -> None:
    answers, key, _ = answering()
    asking = Endpoint(ip_address("203.0.113.9"), 5000)
    question = BindingProbe(ProbeKind.ECHO, 7, ip_address("1.2.3.4"), UNSUMMED | 0xB8).sealed(key, size)
    (said,) = answers.answer(asking, question, 0x20)
    assert (said.remote, said.tos, said.has_checksum, len(said.data)) == (asking, 0xB8, False, size)
    assert is_proven(said.data, key)
    assert parse_probe(said.data) == BindingProbe(ProbeKind.ECHOED, 7, ip_address("1.2.3.4"), UNSUMMED | 0x20)


def test_nothing_but_an_echo_is_longer_than_it_has_to_be() -> None:
    answers, key, counters = answering()
    remote = Endpoint(ip_address("203.0.113.9"), 5000)
    hello = BindingProbe(ProbeKind.HELLO, 7, ip_address("1.2.3.4")).sealed(key)
    assert answers.answer(remote, hello + b"\0") == []
    echo = BindingProbe(ProbeKind.ECHO, 7, ip_address("1.2.3.4")).sealed(key, 2049)
    assert answers.answer(remote, echo) == []
    assert counters.as_dict() == {"malformed_probe": 2}


def test_strangers_get_nothing() -> None:
    answers, key, counters = answering()
    remote = Endpoint(ip_address("203.0.113.9"), 5000)
    for address, known in (("1.2.3.4", b"guessed"), ("1.2.3.5", key)):
        hello = BindingProbe(ProbeKind.HELLO, 7, ip_address(address)).sealed(known)
        assert answers.answer(remote, hello) == []
    assert answers.answer(remote, b"\x30" + bytes(39)) == []
    for kind in set(ProbeKind) - {ProbeKind.HELLO, ProbeKind.ECHO}:
        # The anchor's own words, sent back to it; and a poke at no port.
        assert answers.answer(remote, BindingProbe(kind, 7, ip_address("1.2.3.4")).sealed(key)) == []
    assert counters.as_dict() == {"unproven_probe": 2, "malformed_probe": 7}


# --- in the world ---


def nat(binding_time: float, seed: int = 0, **settings: Any) -> World:
    world = World(seed, networks=1, **settings)
    world.host.links[NET0].binding_time = binding_time
    return associated(world)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("binding_time", [18.0, 30.0, 45.0, 100.0, 140.0, inf])
def test_an_idle_tunnels_mapping_is_kept_and_its_binding_time_found(binding_time: float, seed: int) -> None:
    world = nat(binding_time, seed)
    link = world.host.links[NET0]
    world.run(HOUR)
    shown = world.host.machine.networks[NET0]
    assert shown.binding_time is not None
    assert min(binding_time, 150.0) / PRECISION <= shown.binding_time <= binding_time
    assert shown.keepalive == pytest.approx(min(SAFE * shown.binding_time, 120.0))
    forgotten = link.forgotten
    assert forgotten <= (3 if binding_time < 28 else 0), "only what is shorter than the first guess"
    world.run(3 * HOUR)
    assert link.forgotten == forgotten
    assert shown.state == "up"


def bytes_of(world: World) -> int:
    """On the access network, sealed, both ways."""
    tunnelled = OUTER_BYTES + Sealed.extra
    sizes = (
        len(packet.payload) + OUTER_BYTES + (tunnelled if packet.kind == "signal" else 0)
        for packet in world.packets
    )
    return sum(sizes) + world.probe_bytes


@pytest.mark.parametrize("binding_time", [8.0, 20.0, 29.0, 45.0, 120.0, inf])
def test_an_idle_metered_network_costs_less_than_50_kb_an_hour(binding_time: float) -> None:
    world = World(networks=1, probe_filters=True)
    world.host.links[NET0].binding_time = binding_time
    world.host.appear(NET0)
    world.run(HOUR)
    # Who forgets in less than the first guess costs some tunnel setups until that is known.
    assert bytes_of(world) < (50_000 if binding_time > 10 else 80_000)
    world.packets.clear()
    world.probe_bytes = 0
    world.run(HOUR)
    assert bytes_of(world) < (40_000 if binding_time < 60 else 20_000)


def test_a_tunnel_in_use_is_probed_as_ever() -> None:
    world = associated(World())
    flow = world.host.open_flow()

    def talk() -> None:
        world.host.send(flow)
        world.after(20.0, talk)

    talk()
    world.run(300)
    world.packets.clear()
    world.run(300)
    probes = [packet for packet in world.packets if packet.port == 862 and packet.is_up]
    by_link = {name: [each for each in probes if each.link.name == name] for name in (NET0, NET1)}
    assert 57 <= len(by_link[NET0]) <= 64
    assert len(by_link[NET1]) <= 12, "nothing uses this one"


@pytest.mark.parametrize("phase", [0.0, 1.3, 2.9, 4.8])
@pytest.mark.parametrize("delay", [0.005, 0.3])
def test_a_black_hole_that_came_while_nothing_was_said_is_found_in_time_by_the_first_flow(
    phase: float, delay: float
) -> None:
    world = World()
    world.host.links[NET0].delay = delay
    associated(world)
    flow = world.host.open_flow()
    world.run(400 + phase)
    # Just after a keepalive, so that the next one is far away.
    world.packets.clear()
    world.until(
        lambda: any(p.link.name == NET0 and p.port == 862 and not p.is_up for p in world.packets), 200
    )
    world.run(phase + delay)
    world.host.links[NET0].is_black_hole = True
    world.run(6)
    assert world.host.network_state(NET0) == "up", "nobody asked"
    world.host.send(flow)
    took = world.until(lambda: world.host.network_state(NET0) == "dead", 40)
    assert took <= 3 * 5.0
    assert world.host.flow_network(flow) == NET1


def test_a_black_hole_on_an_idle_network_is_found_at_the_next_keepalive() -> None:
    world = associated(World())
    world.run(HOUR)
    world.host.links[NET1].is_black_hole = True
    took = world.until(lambda: world.host.network_state(NET1) == "dead", 200)
    assert took <= 120 + 2 * 5.0 + 1


def test_a_host_that_restarts_remembers_the_place_and_checks_it_by_one_trial() -> None:
    world = nat(100.0)
    world.run(HOUR)
    found = world.host.machine.networks[NET0].binding_time
    assert found is not None
    world.host.restart()
    assert world.host.machine.networks[NET0].binding_time == found
    world.settle()
    assert world.host.machine.networks[NET0].keepalive == 28.0, "not trusted yet"
    world.probe_bytes = 0
    world.run(400)
    assert world.host.machine.networks[NET0].keepalive == pytest.approx(SAFE * found)
    assert 9 * (OUTER_BYTES + 40) <= world.probe_bytes <= 10 * (OUTER_BYTES + 40), (
        "three exchanges and a poke"
    )


def test_without_probing_nothing_is_sent_beyond_the_keepalives() -> None:
    world = nat(100.0, probe_binding_time=False)
    world.run(HOUR)
    assert world.probe_bytes <= HOUR / 25 * 29, "single octets"
    assert world.host.machine.networks[NET0].binding_time is None
    assert world.host.machine.networks[NET0].keepalive == 28.0


def test_an_anchor_that_does_not_answer_probes_is_left_alone_more_and_more() -> None:
    world = World(networks=1)
    world.carry_probe = lambda link, probe: trials.append(world.now)  # type: ignore[method-assign]
    trials: list[float] = []
    associated(world)
    world.run(HOUR)
    assert len(trials) <= 3 * 7
    assert world.host.machine.networks[NET0].state == "up"
