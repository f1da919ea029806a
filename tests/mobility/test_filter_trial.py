"""What a network's filters do to unusual packets is told apart from what is lost by chance, and heeded at both ends."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mobility_terminal import NET0
from mobility_world import World, associated, misbehave

from upmt_nf.datapath.fast_layout import FORMAT_AGENT, FORMAT_PLAIN, TUNNEL, tunnel_row
from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.filter_trial import ROUNDS, FilterTrial, Oddity, Passing, Question
from upmt_nf.mobility.host_events import NetworkTestAsked
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.binding_probe import UNSUMMED, BindingProbe, ProbeKind, parse_probe, probe_key

VIRTUAL = ip_address("10.99.0.1")
KEY = probe_key(b"secret")
PUBLIC = ip_address("203.0.113.9")
SHORT = {Oddity.ZERO_CHECKSUM, Oddity.DSCP, Oddity.ECN}
ALL = SHORT | {Oddity.FRAGMENTS, Oddity.HAIRPIN, Oddity.IPV6}


def begun(*, is_thorough: bool = True) -> FilterTrial:
    return FilterTrial(
        VIRTUAL,
        KEY,
        2**32 - 3,
        0.0,
        lambda: 0.0,
        public=PUBLIC if is_thorough else None,
        large=1600 if is_thorough else 0,
        tries_ipv6=is_thorough,
    )


def answer_to(question: Question, bleach: int = 0xFF) -> tuple[BindingProbe, ProbeFlow, int]:
    """What comes back for a question, by a path that leaves of the traffic class what `bleach` has."""
    asked = parse_probe(question.data)
    match asked.kind:
        case ProbeKind.HELLO:
            said, tos = BindingProbe(ProbeKind.WELCOME, asked.number, VIRTUAL, 40000), 0
        case ProbeKind.HAIRPIN:
            assert question.to == Endpoint(PUBLIC, 40000)
            return asked, ProbeFlow.FILTERS, 0
        case _:
            tos = question.tos & bleach
            port = asked.port & UNSUMMED | tos
            said = BindingProbe(ProbeKind.ECHOED, asked.number, VIRTUAL, port)
    return said, question.flow, tos


def finish(
    trial: FilterTrial,
    passes: Callable[[Question], bool] = lambda question: True,
    bleach: int = 0xFF,
) -> list[Question]:
    """Let a trial run on a network; gives all that it sent."""
    sent: list[Question] = []
    now = 0.0
    while trial.result is None:
        questions = trial.handle_timeout(now)
        sent += questions
        for question in questions:
            if passes(question):
                probe, flow, tos = answer_to(question, bleach)
                trial.hear(probe, flow, tos, len(question.data), now + 0.01)
        now = max(now + 0.01, trial.next_at)
    return sent


def oddity_of(question: Question) -> str:
    if parse_probe(question.data).kind is not ProbeKind.ECHO:
        return parse_probe(question.data).kind.name
    if not question.has_checksum:
        return "zero-checksum"
    return {(0, 40): "usual", (0, 1600): "fragments"}.get(
        (question.tos, len(question.data)), "dscp" if question.tos > 3 else "ecn"
    )


def test_where_all_passes_a_short_trial_is_one_round_of_four_packets() -> None:
    trial = begun(is_thorough=False)
    sent = finish(trial)
    assert trial.result is not None
    assert trial.result.found == dict.fromkeys(SHORT, Passing.PASSES)
    assert trial.result.avoid == ()
    assert sorted(map(oddity_of, sent)) == ["dscp", "ecn", "usual", "zero-checksum"]
    assert sum(len(question.data) + OVERHEAD[4] for question in sent) == 272


def test_somebody_who_asks_hears_of_all_of_it() -> None:
    trial = begun()
    finish(trial)
    assert trial.result is not None
    assert trial.result.found == dict.fromkeys(ALL, Passing.PASSES)


@pytest.mark.parametrize("dropped", ["zero-checksum", "dscp", "ecn", "fragments", "HAIRPIN"])
def test_what_is_never_answered_while_the_usual_is_is_dropped(dropped: str) -> None:
    trial = begun()
    sent = finish(trial, lambda question: oddity_of(question) != dropped)
    assert trial.result is not None
    gone = {oddity.value for oddity, found in trial.result.found.items() if found is Passing.DROPPED}
    assert gone == {dropped.lower()}
    assert trial.result.avoid == ((dropped,) if dropped in ("zero-checksum", "dscp", "ecn") else ())
    assert len([question for question in sent if oddity_of(question) == dropped]) <= ROUNDS


def test_where_nothing_is_answered_nothing_is_known() -> None:
    trial = begun()
    finish(trial, lambda question: False)
    assert trial.result is not None
    assert trial.result.found == {}


def test_an_anchor_that_does_not_know_the_question_is_no_filter() -> None:
    trial = begun()
    finish(trial, lambda question: parse_probe(question.data).kind is not ProbeKind.ECHO)
    assert trial.result is not None
    assert trial.result.found == {Oddity.HAIRPIN: Passing.PASSES, Oddity.IPV6: Passing.PASSES}
    assert trial.result.avoid == ()


@pytest.mark.parametrize(
    ("bleach", "bleached"),
    [(0x03, {Oddity.DSCP}), (0xFC, {Oddity.ECN}), (0, {Oddity.DSCP, Oddity.ECN})],
)
def test_marks_that_get_lost_on_the_way_are_told_of(bleach: int, bleached: set[Oddity]) -> None:
    trial = begun()
    finish(trial, bleach=bleach)
    assert trial.result is not None
    found = {oddity for oddity, passing in trial.result.found.items() if passing is Passing.BLEACHED}
    assert found == bleached
    assert trial.result.avoid == (), "it passes"


@given(st.integers(0, 2**32), st.floats(0, 0.9))
def test_what_is_lost_by_chance_ends_in_a_result_within_some_packets(seed: int, loss: float) -> None:
    random, trial = Random(seed), begun()
    sent = finish(trial, lambda question: random.random() >= loss)
    assert len(sent) <= ROUNDS * (1 + len(ALL))
    assert sum(len(question.data) for question in sent) <= ROUNDS * (1600 + 40 * len(ALL))


def test_what_answers_no_question_of_this_trial_is_passed_over() -> None:
    trial = begun()
    trial.handle_timeout(0.0)
    for number in (0, 5, 2**32 - 4, 2**31):
        for kind in ProbeKind:
            stranger = BindingProbe(kind, number, ip_address("10.99.0.2"), 40000)
            trial.hear(stranger, ProbeFlow.FILTERS, 0, 40, 0.1)
    trial.hear(BindingProbe(ProbeKind.ECHOED, 2**31, VIRTUAL, 0), ProbeFlow.FILTERS, 0, 40, 0.1)
    sent = [trial.handle_timeout(at) for at in (0.3, 0.9, 1.9, 3.0)]
    assert len(sent[0]) == 7
    assert trial.result is not None
    assert trial.result.found == {}


# --- both ends ---


def anchors_tunnel(world: World) -> Tunnel:
    return next(tunnel for tunnel in world.anchor_paft.tunnels.values() if tunnel.network == NET0)


def hosts_tunnel(world: World) -> Tunnel:
    return next(tunnel for tunnel in world.host.paft.tunnels.values() if tunnel.network == NET0)


def format_of(tunnel: Tunnel) -> int:
    row = tunnel_row(tunnel, Endpoint(ip_address("10.0.0.1"), 1500), 1, 2, 3, 4)
    assert row is not None
    return int(TUNNEL.unpack(row.value)[11])


@pytest.mark.parametrize(
    ("dropped", "mask", "needs_checksums"),
    [
        ({"zero-checksum"}, 0xFF, True),
        ({"dscp"}, 0x03, False),
        ({"ecn", "dscp"}, 0, False),
        (set(), 0xFF, False),
    ],
)
def test_what_a_path_drops_neither_end_sends(dropped: set[str], mask: int, *, needs_checksums: bool) -> None:
    world = World(probe_filters=True, is_guarded=True)
    world.host.links[NET0].dropped = dropped
    associated(world)
    world.run(10)
    for tunnel in (hosts_tunnel(world), anchors_tunnel(world)):
        assert (tunnel.tos_mask, tunnel.needs_checksums) == (mask, needs_checksums)
        assert format_of(tunnel) == (FORMAT_AGENT if dropped else FORMAT_PLAIN)
    found = world.host.machine.networks[NET0].filters
    assert found is not None
    assert set(found.avoid) == dropped


def test_a_path_that_is_mended_is_used_as_others_are_when_somebody_has_asked() -> None:
    world = World(probe_filters=True)
    link = world.host.links[NET0]
    link.dropped = {"zero-checksum"}
    associated(world)
    world.run(10)
    assert anchors_tunnel(world).needs_checksums
    link.dropped = set()
    world.host.take(NetworkTestAsked(NET0))
    world.run(10)
    assert not anchors_tunnel(world).needs_checksums
    assert not hosts_tunnel(world).needs_checksums


def test_a_place_is_tried_once_and_what_it_drops_heeded_at_once_when_it_is_back() -> None:
    world = World(probe_filters=True, probe_binding_time=False)
    world.host.links[NET0].dropped = {"ecn"}
    associated(world)
    world.run(10)
    world.probe_bytes = 0
    for _ in range(3):
        world.host.vanish(NET0)
        world.run(1)
        world.host.appear(NET0)
        world.until(lambda: world.host.network_state(NET0) == "up", 30)
        assert hosts_tunnel(world).tos_mask == 0xFC
        world.run(5)
        assert anchors_tunnel(world).tos_mask == 0xFC
    assert world.probe_bytes == 0


def test_loss_alone_is_no_filter() -> None:
    for seed in range(20):
        world = World(seed, probe_filters=True)
        associated(world)
        misbehave(world, loss=0.1)
        world.host.take(NetworkTestAsked(NET0))
        world.run(15)
        misbehave(world)
        found = world.host.machine.networks[NET0].filters
        assert found is not None
        assert found.avoid == (), seed
