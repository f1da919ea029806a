"""SIP transactions: the timers of RFC 3261, and two endpoints joined by a link that does everything a network does."""

from collections.abc import Callable
from ipaddress import ip_address
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.sip import build
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.parser import parse
from upmt_nf.signaling.sip.transactions import (
    DatagramRefused,
    RequestReceived,
    RequestTimedOut,
    ResponseReceived,
    SipTimers,
    TransactionKey,
)

ANCHOR = Endpoint(ip_address("160.80.100.1"), 5060)
HOST = Endpoint(ip_address("192.168.0.2"), 5060)
NET0, NET1 = "net0", "net1"


def endpoint(
    prefix: str = "w",
    most: int = 65536,
    timers: Callable[[str], SipTimers] = lambda _: SipTimers(),
) -> SipEndpoint[str]:
    numbers = count()
    return SipEndpoint(token=lambda: f"{prefix}{next(numbers)}", timers=timers, max_transactions=most)


def request(number: int = 1, body: bytes = b"{}") -> Request:
    return build.message(
        anchor=ANCHOR, local=HOST, identity="mh@upmt", call_id=f"c{number}", cseq=number, tag="t", body=body
    )


def answer_to(data: bytes, status: int = 200, body: bytes = b"") -> bytes:
    message = parse(data)
    assert isinstance(message, Request)
    return bytes(build.response_to(message, status, tag="a", body=body))


def one_request(sip: SipEndpoint[str]) -> tuple[TransactionKey, bytes]:
    """Send one request at time 0: its transaction and its bytes."""
    key = sip.send_request(request(), NET0, 0.0)
    ((data, flow),) = sip.datagrams_to_send()
    assert flow == NET0
    return key, data


def sends_until_silence(sip: SipEndpoint[str]) -> list[float]:
    """The times of all further datagrams, waking up exactly when the endpoint asks for it."""
    times: list[float] = []
    for _ in range(1000):
        now = sip.next_timeout()
        if now is None:
            return times
        sip.handle_timeout(now)
        times += [now] * len(sip.datagrams_to_send())
    raise AssertionError("the endpoint never becomes silent")


# --- client ---


@pytest.mark.parametrize(
    ("timers", "sends", "end"),
    [
        (SipTimers(), [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5], 32.0),
        (SipTimers(t1=0.25, t2=1.0, give_up=4.0), [0.25, 0.75, 1.75, 2.75, 3.75], 4.0),
        (SipTimers(t1=0.5, t2=4.0, give_up=0.5), [], 0.5),
    ],
)
def test_an_unanswered_request_is_sent_again_by_the_rfcs_schedule_and_given_up_once(
    timers: SipTimers, sends: list[float], end: float
) -> None:
    sip = endpoint(timers=lambda _: timers)
    key, data = one_request(sip)
    times: list[float] = []
    while (now := sip.next_timeout()) is not None:
        assert not sip.events()
        sip.handle_timeout(now)
        for copy, flow in sip.datagrams_to_send():
            assert (copy, flow) == (data, NET0)
            times.append(now)
    assert times == sends
    assert now is None
    (event,) = sip.events()
    assert isinstance(event, RequestTimedOut)
    assert (event.transaction, event.flow) == (key, NET0)
    assert sip.counters["resent"] == len(sends)
    assert sip.counters["timed_out"] == 1
    sip.handle_timeout(end + 1000)
    assert not sip.events()
    sip.receive_datagram(answer_to(data), NET0, end + 1000)
    assert [type(event) for event in sip.events()] == [DatagramRefused]


def test_timer_f_is_not_early() -> None:
    sip = endpoint()
    one_request(sip)
    sip.handle_timeout(31.999)
    assert not sip.events()
    sip.handle_timeout(32.0)
    assert [type(event) for event in sip.events()] == [RequestTimedOut]


def test_after_a_long_sleep_the_request_is_given_up_and_not_sent_again() -> None:
    sip = endpoint()
    one_request(sip)
    sip.handle_timeout(10_000.0)
    assert not sip.datagrams_to_send()
    assert [type(event) for event in sip.events()] == [RequestTimedOut]
    assert sip.next_timeout() is None


def test_an_answer_ends_the_retransmissions_and_is_told_once() -> None:
    sip = endpoint()
    key, data = one_request(sip)
    for now in (0.2, 0.3, 5.1):
        sip.receive_datagram(answer_to(data), NET1, now)
    (event,) = sip.events()
    assert isinstance(event, ResponseReceived)
    assert (event.transaction, event.response.status, event.flow) == (key, 200, NET1)
    assert event.request.header("call-id") == "c1"
    assert sip.counters["answer_again"] == 2
    assert sip.next_timeout() == 5.2
    assert sends_until_silence(sip) == []
    assert not sip.events()
    sip.receive_datagram(answer_to(data), NET0, 5.3)
    assert [type(event) for event in sip.events()] == [DatagramRefused]


def test_a_provisional_answer_slows_down_and_timer_f_still_ends() -> None:
    sip = endpoint()
    _, data = one_request(sip)
    sip.receive_datagram(answer_to(data, 100), NET0, 0.2)
    assert not sip.events()
    assert sends_until_silence(sip) == [0.5, 4.5, 8.5, 12.5, 16.5, 20.5, 24.5, 28.5]
    assert [type(event) for event in sip.events()] == [RequestTimedOut]


def test_a_final_answer_after_a_provisional_one_is_told() -> None:
    sip = endpoint()
    _, data = one_request(sip)
    sip.receive_datagram(answer_to(data, 100), NET0, 0.2)
    sip.receive_datagram(answer_to(data, 404), NET0, 0.3)
    (event,) = sip.events()
    assert isinstance(event, ResponseReceived)
    assert event.response.status == 404
    assert sends_until_silence(sip) == []


def test_a_cancelled_request_is_forgotten_without_an_event() -> None:
    sip = endpoint()
    key, data = one_request(sip)
    other = sip.send_request(request(2), NET0, 0.0)
    sip.datagrams_to_send()
    sip.cancel(key)
    sip.cancel(key)
    sip.receive_datagram(answer_to(data), NET0, 0.1)
    assert [type(event) for event in sip.events()] == [DatagramRefused]
    assert len(sends_until_silence(sip)) == 10
    assert [event.transaction for event in sip.events() if isinstance(event, RequestTimedOut)] == [other]
    assert sip.next_timeout() is None


def test_every_flow_has_its_own_timers() -> None:
    sip = endpoint(timers=lambda flow: SipTimers(t1=0.125, t2=0.25) if flow == NET1 else SipTimers(t1=1.0))
    sip.send_request(request(1), NET0, 0.0)
    sip.send_request(request(2), NET1, 0.0)
    sip.datagrams_to_send()
    assert sip.next_timeout() == 0.125
    sip.handle_timeout(0.99)
    assert [flow for _, flow in sip.datagrams_to_send()] == [NET1]
    sip.handle_timeout(1.0)
    assert [flow for _, flow in sip.datagrams_to_send()] == [NET0]
    sip.handle_timeout(8.0)
    timed_out = [event.flow for event in sip.events() if isinstance(event, RequestTimedOut)]
    assert timed_out == [NET1]


def test_every_request_has_a_branch_of_its_own_and_answers_are_told_apart_by_it() -> None:
    sip = endpoint()
    keys = [sip.send_request(request(), NET0, 0.0) for _ in range(50)]
    datagrams = [data for data, _ in sip.datagrams_to_send()]
    assert len(set(keys)) == 50
    for number in (30, 7):
        sip.receive_datagram(answer_to(datagrams[number], 200, b"%d" % number), NET0, 0.1)
    told = [event for event in sip.events() if isinstance(event, ResponseReceived)]
    assert [(event.transaction, event.response.body) for event in told] == [
        (keys[30], b"30"),
        (keys[7], b"7"),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"z9hG4bKw0", b"z9hG4bKw1"), (b"192.168.0.2:5060", b"192.168.0.3:5060"), (b"1 MESSAGE", b"1 REGISTER")],
)
def test_an_answer_with_another_branch_sender_or_method_is_refused(old: bytes, new: bytes) -> None:
    sip = endpoint()
    _, data = one_request(sip)
    right = answer_to(data)
    assert old in right
    sip.receive_datagram(right.replace(old, new), NET0, 0.1)
    (event,) = sip.events()
    assert event == DatagramRefused(NET0, "an answer to nothing")
    assert sip.counters["refused"] == 1
    sip.receive_datagram(right, NET0, 0.2)
    assert [type(event) for event in sip.events()] == [ResponseReceived]


def test_a_success_that_is_not_proven_is_passed_over_and_the_true_one_still_heard() -> None:
    sip: SipEndpoint[str] = SipEndpoint(token=lambda: "w", is_proven=lambda _, answer: answer.body == b"true")
    _, data = one_request(sip)
    sip.receive_datagram(answer_to(data, 200, b"forged"), NET0, 0.1)
    assert not sip.events()
    assert (sip.counters["unproven"], sip.next_timeout()) == (1, 0.5)
    sip.receive_datagram(answer_to(data, 200, b"true"), NET0, 0.2)
    assert [type(event) for event in sip.events()] == [ResponseReceived]


# --- server ---


def received(sip: SipEndpoint[str]) -> list[RequestReceived[str]]:
    events = sip.events()
    assert all(isinstance(event, RequestReceived) for event in events)
    return [event for event in events if isinstance(event, RequestReceived)]


def incoming(number: int = 1) -> bytes:
    """The bytes of a request of somebody else's."""
    client = endpoint(f"client{number}-")
    client.send_request(request(number), NET0, 0.0)
    return client.datagrams_to_send()[0][0]


def answer(sip: SipEndpoint[str], event: RequestReceived[str], now: float, body: bytes = b"") -> None:
    sip.respond(event.transaction, build.response_to(event.request, 200, tag="s", body=body), now)


def test_a_request_is_seen_once_and_its_copies_get_the_same_answer_where_they_came_from() -> None:
    sip, data = endpoint(), incoming()
    sip.receive_datagram(data, NET0, 0.0)
    sip.receive_datagram(data, NET0, 0.5)
    assert not sip.datagrams_to_send()
    (event,) = received(sip)
    assert (event.flow, event.request.body) == (NET0, b"{}")
    sip.receive_datagram(data, NET1, 1.5)
    answer(sip, event, 2.0, b'{"n":1}')
    ((first, flow),) = sip.datagrams_to_send()
    assert flow == NET1
    sip.receive_datagram(data, NET0, 3.5)
    assert sip.datagrams_to_send() == [(first, NET0)]
    assert not sip.events()
    assert sip.counters["request_again"] == 3


def test_an_answer_is_kept_for_timer_j_and_then_forgotten() -> None:
    sip, data = endpoint(), incoming()
    sip.receive_datagram(data, NET0, 0.0)
    (event,) = received(sip)
    answer(sip, event, 10.0)
    sip.datagrams_to_send()
    sip.handle_timeout(41.9)
    sip.receive_datagram(data, NET0, 41.9)
    assert len(sip.datagrams_to_send()) == 1
    assert not sip.events()
    sip.handle_timeout(42.0)
    assert sip.next_timeout() is None
    answer(sip, event, 42.0)
    assert not sip.datagrams_to_send()
    sip.receive_datagram(data, NET0, 42.1)
    assert len(received(sip)) == 1


def test_a_request_that_is_never_answered_is_forgotten_too() -> None:
    sip = endpoint(most=1)
    sip.receive_datagram(incoming(1), NET0, 0.0)
    assert sip.next_timeout() == 32.0
    sip.handle_timeout(32.0)
    assert sip.next_timeout() is None
    sip.receive_datagram(incoming(2), NET0, 32.1)
    assert [event.request.header("call-id") for event in received(sip)] == ["c1", "c2"]


def test_requests_without_a_branch_of_rfc_3261_are_told_apart_by_their_fields() -> None:
    sip = endpoint()
    old = bytes(request()).replace(b";rport", b";branch=z9h;rport")
    for data in (old, old, old.replace(b"CSeq: 1", b"CSeq: 2"), old.replace(b"tag=t", b"tag=u")):
        sip.receive_datagram(data, NET0, 0.0)
    assert len(received(sip)) == 3


def test_the_same_branch_from_another_sender_or_with_another_method_is_another_request() -> None:
    sip, data = endpoint(), incoming()
    sip.receive_datagram(data, NET0, 0.0)
    sip.receive_datagram(data.replace(b"UDP 192.168.0.2", b"UDP 192.168.0.3"), NET0, 0.0)
    sip.receive_datagram(data.replace(b"MESSAGE", b"OPTIONS"), NET0, 0.0)
    assert len({event.transaction for event in received(sip)}) == 3


def test_when_full_an_answer_older_than_t4_makes_room_for_a_new_request() -> None:
    sip = endpoint(most=2)
    datagrams = [incoming(number) for number in range(4)]
    for number in (0, 1):
        sip.receive_datagram(datagrams[number], NET0, 0.0)
    for event in received(sip):
        answer(sip, event, 0.0)
    sip.receive_datagram(datagrams[2], NET0, 4.9)
    assert not received(sip)
    sip.receive_datagram(datagrams[2], NET0, 5.0)
    assert len(received(sip)) == 1
    # The younger of the two is still known; the third waits for an answer and is not forgotten.
    sip.datagrams_to_send()
    sip.receive_datagram(datagrams[1], NET0, 5.1)
    assert b" 200 " in sip.datagrams_to_send()[0][0]
    sip.receive_datagram(datagrams[3], NET0, 5.2)
    assert len(received(sip)) == 1
    sip.receive_datagram(datagrams[0], NET0, 20.0)
    assert not received(sip)
    assert sip.counters["forgotten_early"] == 2


def test_what_is_answered_and_forgotten_leaves_nothing_behind() -> None:
    sip = endpoint()
    for number in range(1000):
        sip.receive_datagram(incoming(number), NET0, 0.0)
        (event,) = received(sip)
        sip.respond(event.transaction, build.response_to(event.request, 401, tag="a"), 0.0, and_forget=True)
        sip.datagrams_to_send()
    assert sip.next_timeout() is None
    assert not sip._servers
    assert not sip._due


def test_when_full_further_requests_are_answered_503_and_copies_of_known_ones_are_not() -> None:
    sip = endpoint(most=2)
    datagrams = [incoming(number) for number in range(5)]
    for data in datagrams:
        sip.receive_datagram(data, NET0, 0.0)
    first, second = received(sip)
    refusals = [parse(data) for data, _ in sip.datagrams_to_send()]
    assert [(m.status, m.header("retry-after")) for m in refusals if isinstance(m, Response)] == [
        (503, "5")
    ] * 3
    assert [message.header("call-id") for message in refusals] == ["c2", "c3", "c4"]
    assert sip.counters["too_many_transactions"] == 3
    answer(sip, first, 0.1)
    answer(sip, second, 0.1)
    sip.datagrams_to_send()
    sip.receive_datagram(datagrams[0], NET0, 0.5)
    assert b" 200 " in sip.datagrams_to_send()[0][0]
    sip.handle_timeout(32.1)
    sip.receive_datagram(datagrams[4], NET0, 32.2)
    assert len(received(sip)) == 1


# --- what is no request ---


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r\n", b"\0", b"\0\0\0\0"])
def test_keepalives_are_counted_and_nothing_else(data: bytes) -> None:
    sip = endpoint()
    sip.receive_datagram(data, NET0, 0.0)
    assert sip.counters == {"keepalive": 1}
    assert not sip.events()
    assert not sip.datagrams_to_send()
    assert sip.next_timeout() is None


def test_a_wrong_request_is_answered_when_it_says_enough() -> None:
    for old, new, status in ((b"1 MESSAGE", b"1 OTHER", 400), (b" SIP/2.0\r", b" SIP/9.0\r", 505)):
        sip = endpoint()
        sip.receive_datagram(incoming().replace(old, new, 1), NET1, 0.0)
        ((data, flow),) = sip.datagrams_to_send()
        assert (data[:12], flow) == (b"SIP/2.0 %d " % status, NET1)
        assert [type(event) for event in sip.events()] == [DatagramRefused]
        assert sip.next_timeout() is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 nonsense",
        b"x" * 9000,
        bytes(request()).replace(b"MESSAGE", b"ACK"),
        bytes(request()).replace(b"MESSAGE", b"ACK", 1),
        bytes(request()).replace(b"Via", b"Viva"),
        answer_to(incoming()),
        answer_to(incoming()).replace(b" 200 ", b" 2000 "),
        answer_to(incoming()).replace(b"Call-ID", b"Call"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_silence(data: bytes) -> None:
    sip = endpoint()
    sip.receive_datagram(data, NET0, 0.0)
    assert [type(event) for event in sip.events()] == [DatagramRefused]
    assert not sip.datagrams_to_send()
    assert sip.next_timeout() is None


@given(st.binary(max_size=100), st.integers(0, 500), st.integers(0, 20), st.binary(max_size=6))
@settings(max_examples=300)
def test_no_datagram_raises_or_is_answered_more_than_once(
    noise: bytes, place: int, cut: int, other: bytes
) -> None:
    right = incoming()
    place %= len(right)
    for data in (noise, right[:place] + other + right[place + cut :]):
        sip = endpoint()
        sip.receive_datagram(data, NET0, 0.0)
        assert len(sip.events()) + sip.counters["keepalive"] == 1
        assert len(sip.datagrams_to_send()) <= 1
