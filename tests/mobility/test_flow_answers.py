"""What the anchor's answers about flows do: to the handover, the tally or the names that were asked for."""

from types import SimpleNamespace
from typing import Any

import pytest

from upmt_nf.mobility.flow_requests import hear_flow_answer
from upmt_nf.mobility.host_signalling import Counting, Moving, Naming
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import FlowCount, FlowCountsResponse, HandoverResponse, HandoverResult
from upmt_nf.signaling.sip.message import Response

WIFI, NOW = NetworkName("wifi"), 7.0
ASKED: Any = object()


def ok(body: HandoverResponse | FlowCountsResponse) -> Response:
    return Response((), body=encode(body), status=200, reason="OK")


MOVED = ok(HandoverResponse((HandoverResult(True, flows=3), HandoverResult(True, flows=2))))
REFUSED = ok(
    HandoverResponse((HandoverResult(True, flows=3), HandoverResult(False, reason="too many flows")))
)
UNKNOWN = Response((), status=481, reason="No such association")


def heard(
    purpose: Moving | Counting | Naming, response: Response | None, rtt: float | None = None
) -> tuple[list[tuple[object, ...]], str | None]:
    """What was called, with what; and what was given."""
    calls: list[tuple[object, ...]] = []

    def note(name: str) -> Any:
        return lambda *arguments: calls.append((name, *arguments))

    running: Any = SimpleNamespace(
        **{name: note(name) for name in ("confirm", "refuse", "give_up")},
        tallies=SimpleNamespace(answer=note("counts")),
        naming=SimpleNamespace(answer=note("names")),
    )
    tunnels: Any = {WIFI: SimpleNamespace(rtt=rtt)}
    return calls, hear_flow_answer(running, purpose, response, tunnels, NOW)


@pytest.mark.parametrize(
    ("response", "call", "ended"),
    [
        (None, ("give_up", ASKED, NOW), None),
        (MOVED, ("confirm", ASKED, 5, NOW), None),
        (REFUSED, ("refuse", ASKED, "too many flows", NOW), None),
        (UNKNOWN, ("refuse", ASKED, "481 No such association", NOW), "481 No such association"),
    ],
)
def test_a_move_is_confirmed_refused_or_given_up(
    response: Response | None, call: tuple[object, ...], ended: str | None
) -> None:
    assert heard(Moving(WIFI, ASKED), response) == ([call], ended)


@pytest.mark.parametrize(
    ("response", "is_done", "is_refused"),
    [(None, False, False), (MOVED, True, False), (REFUSED, False, True), (UNKNOWN, False, True)],
)
def test_names_are_taken_refused_or_unanswered_and_never_end_the_association(
    response: Response | None, is_done: bool, is_refused: bool
) -> None:
    assert heard(Naming(WIFI, ASKED), response) == ([("names", ASKED, is_done, is_refused, NOW)], None)


def test_counts_come_with_the_round_trip_of_their_network() -> None:
    count = FlowCount(10, 20)
    response = ok(FlowCountsResponse((count, None)))
    assert heard(Counting(WIFI, ASKED), response, 0.25) == (
        [("counts", ASKED, (count, None), 0.25, NOW)],
        None,
    )


@pytest.mark.parametrize("response", [None, UNKNOWN, MOVED])
def test_no_counts_and_no_round_trip_are_none_and_zero(response: Response | None) -> None:
    assert heard(Counting(WIFI, ASKED), response) == ([("counts", ASKED, (), 0.0, NOW)], None)
