"""Two SIP endpoints and a link that loses, repeats, reorders and delays, on a clock of its own."""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.sip.build import message, response_to
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.message import Request
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
NETWORKS = ("net0", "net1")
INSIDE = SipTimers(t1=0.1, t2=1.0, t4=2.0, give_up=16.0)
LONGEST_DELAY = 0.45
"""Seconds. A copy that takes longer than from the last one sent to the end of timer J (0.5 s) is a new request."""


@dataclass
class World:
    """A host (the client) and an anchor (the server), what is on its way between them, and what became of it."""

    chance: Random
    loss: float = 0.0
    twice: float = 0.0
    longest_delay: float = 0.0
    thinking: float = 0.0
    mute: float = 0.0
    timers: SipTimers = field(default_factory=SipTimers)
    most: int = 65536
    now: float = 0.0
    sent: dict[TransactionKey, bytes] = field(default_factory=dict)
    told: Counter[TransactionKey] = field(default_factory=Counter)
    answers: dict[TransactionKey, tuple[int, bytes]] = field(default_factory=dict)
    timed_out: set[TransactionKey] = field(default_factory=set)
    seen: Counter[bytes] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    carried: int = 0

    def __post_init__(self) -> None:
        tokens = count()

        def endpoint() -> SipEndpoint[str]:
            return SipEndpoint(
                token=lambda: f"t{next(tokens)}", timers=lambda _: self.timers, max_transactions=self.most
            )

        self.host, self.anchor = endpoint(), endpoint()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), work))

    def ask(self, number: int, network: str = "net0") -> TransactionKey:
        """The host sends a request with a body of its own."""
        body = b"question %d" % number
        request = message(
            anchor=ANCHOR, local=HOST, identity="mh@upmt", call_id=f"c{number}", cseq=1, tag="t", body=body
        )
        key = self.host.send_request(request, network, self.now)
        self.sent[key] = body
        self.settle()
        return key

    def settle(self) -> None:
        """Take what both endpoints have to say."""
        for event in self.host.events():
            match event:
                case ResponseReceived():
                    self.told[event.transaction] += 1
                    self.answers[event.transaction] = (event.response.status, event.response.body)
                case RequestTimedOut():
                    self.told[event.transaction] += 1
                    self.timed_out.add(event.transaction)
                case DatagramRefused():
                    self.refused[event.reason] += 1
                case RequestReceived():
                    raise AssertionError("the anchor asks nothing here")
        for asked in self.anchor.events():
            assert isinstance(asked, RequestReceived)
            self.seen[asked.request.body] += 1
            if self.chance.random() >= self.mute:
                self.think_about(asked)
        for sip, other in ((self.host, self.anchor), (self.anchor, self.host)):
            for data, flow in sip.datagrams_to_send():
                self.carry(data, flow, other)

    def think_about(self, asked: RequestReceived[str]) -> None:
        answer = response_to(asked.request, 200, tag="a", body=b"re: " + asked.request.body)

        def answer_now() -> None:
            self.anchor.respond(asked.transaction, answer, self.now)

        if self.thinking:
            self.later(self.chance.uniform(0, self.thinking), answer_now)
        else:
            answer_now()

    def carry(self, data: bytes, flow: str, to: SipEndpoint[str]) -> None:
        self.carried += 1
        if self.chance.random() < self.loss:
            return
        for _ in range(2 if self.chance.random() < self.twice else 1):
            delay = self.chance.uniform(0, self.longest_delay)
            self.later(delay, lambda: to.receive_datagram(data, flow, self.now))

    def run(self, until: float = float("inf")) -> None:
        """Let time pass until then, or until nothing more will ever happen."""
        for _ in range(100_000):
            timers = (self.host.next_timeout(), self.anchor.next_timeout())
            times = [time for time in timers if time is not None] + [due[0] for due in self._due[:1]]
            if min(times, default=until) >= until or not times:
                self.now = until if until != float("inf") else self.now
                return
            self.now = max(self.now, min(times))
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
                self.settle()
            for sip in (self.host, self.anchor):
                sip.handle_timeout(self.now)
                following = sip.next_timeout()
                assert following is None or following > self.now, "an endpoint asks to be woken without end"
            self.settle()
        raise AssertionError("the endpoints never become silent")


def assert_all_is_well(world: World) -> None:
    """Everything was told exactly once, seen at most once, answered rightly; and nothing is kept."""
    assert world.told == dict.fromkeys(world.sent, 1)
    assert world.timed_out | set(world.answers) == set(world.sent)
    again = sum(times - 1 for times in world.seen.values())
    # What a full server forgot early may come again.
    assert again <= world.anchor.counters["forgotten_early"]
    assert set(world.seen) <= set(world.sent.values())
    for key, (status, body) in world.answers.items():
        if status == 200:
            assert body == b"re: " + world.sent[key]
            assert world.seen[world.sent[key]] == 1 or again
    assert set(world.refused) <= {"an answer to nothing"}
    for sip in (world.host, world.anchor):
        assert sip.next_timeout() is None
        assert not sip._clients
        assert not sip._servers
        assert not sip._due


@given(
    seed=st.integers(0, 2**32),
    requests=st.integers(1, 8),
    loss=st.floats(0, 0.95),
    twice=st.floats(0, 0.6),
    delay=st.floats(0, LONGEST_DELAY),
    thinking=st.sampled_from((0.0, 0.3, 20.0)),
    mute=st.sampled_from((0.0, 0.0, 0.4)),
    timers=st.sampled_from((SipTimers(), INSIDE, SipTimers(t1=0.2))),
)
@settings(max_examples=150)
def test_on_any_link_every_request_is_told_once_and_seen_at_most_once(
    seed: int,
    requests: int,
    loss: float,
    twice: float,
    delay: float,
    thinking: float,
    mute: float,
    timers: SipTimers,
) -> None:
    world = World(Random(seed), loss, twice, delay, thinking, mute, timers)
    for number in range(requests):
        world.ask(number, world.chance.choice(NETWORKS))
        world.run(world.now + world.chance.uniform(0, 3))
    world.run()
    assert_all_is_well(world)
    if not mute and not thinking and loss < 0.05:
        assert not world.timed_out


@given(st.integers(0, 2**32), st.floats(0, LONGEST_DELAY), st.floats(0, 0.5))
@settings(max_examples=50)
def test_every_request_is_answered_on_a_link_that_loses_a_tenth(
    seed: int, delay: float, twice: float
) -> None:
    world = World(Random(seed), loss=0.0, twice=twice, longest_delay=delay)
    for number in range(10):
        world.ask(number)
        world.loss = world.chance.uniform(0, 0.1)
    world.run()
    assert_all_is_well(world)
    assert len(world.answers) == len(world.seen) == 10


def test_with_much_loss_most_requests_are_answered_and_the_rest_time_out() -> None:
    world = World(Random(2009), loss=0.7, twice=0.2, longest_delay=0.4)
    for number in range(500):
        world.ask(number)
    world.run()
    assert_all_is_well(world)
    # One try succeeds with 0.3 * 0.3 or a little more for what comes twice: 1 - 0.91**11 is 0.65.
    assert 325 <= len(world.answers) <= 480
    assert world.timed_out
    assert world.host.counters["resent"] > 1000
    assert world.anchor.counters["request_again"] > 100


@pytest.mark.parametrize("loss", [0.0, 1.0])
def test_a_perfect_and_a_dead_link(loss: float) -> None:
    world = World(Random(1), loss=loss, longest_delay=0.05)
    for number in range(20):
        world.ask(number)
    world.run()
    assert_all_is_well(world)
    if loss:
        assert len(world.timed_out) == 20
        assert world.carried == 20 * 11
        assert not world.seen
    else:
        assert len(world.answers) == len(world.seen) == 20
        assert world.carried == 40
    assert 32.0 <= world.now <= 32.2


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> tuple[int, int, int, float]:
        world = World(Random(seed), loss=0.6, twice=0.3, longest_delay=0.4)
        for number in range(20):
            world.ask(number)
        world.run()
        return world.carried, len(world.answers), world.host.counters["resent"], world.now

    assert run(5) == run(5)
    assert len({run(seed) for seed in range(8)}) > 1


def test_a_slow_server_is_waited_for_and_asked_again_without_seeing_it() -> None:
    world = World(Random(3), thinking=25.0, longest_delay=0.1)
    for number in range(20):
        world.ask(number)
    world.run()
    assert_all_is_well(world)
    assert len(world.answers) == 20
    assert world.anchor.counters["request_again"] > 40


def test_a_mute_server_is_given_up_and_forgets() -> None:
    world = World(Random(3), mute=1.0, most=5)
    for turn in range(3):
        for number in range(5):
            world.ask(10 * turn + number)
        world.run()
    assert_all_is_well(world)
    assert len(world.timed_out) == len(world.seen) == 15
    assert world.anchor.counters["too_many_transactions"] == 0


@given(st.integers(0, 2**32), st.floats(0, 0.6), st.floats(0, 0.5), st.integers(1, 4))
@settings(max_examples=50)
def test_a_full_server_refuses_and_every_request_is_still_told_once(
    seed: int, loss: float, twice: float, most: int
) -> None:
    world = World(Random(seed), loss=loss, twice=twice, longest_delay=LONGEST_DELAY, most=most)
    for number in range(8):
        world.ask(number)
    world.run()
    assert_all_is_well(world)
    statuses = Counter(status for status, _ in world.answers.values())
    assert set(statuses) <= {200, 503}
    assert len(world.seen) <= most + world.anchor.counters["forgotten_early"]
    if not loss:
        assert statuses == {200: most, 503: 8 - most}


def test_a_full_server_takes_requests_again_when_timer_j_has_passed() -> None:
    world = World(Random(4), most=3)
    for turn in range(3):
        for number in range(5):
            world.ask(10 * turn + number)
        world.run()
    assert_all_is_well(world)
    assert Counter(status for status, _ in world.answers.values()) == {200: 9, 503: 6}
    assert world.anchor.counters["too_many_transactions"] == 6


def test_a_cancelled_request_is_not_told_and_its_late_answer_is_refused() -> None:
    world = World(Random(6), thinking=10.0)
    given_up, kept = world.ask(1), world.ask(2)
    world.run(0.7)
    world.host.cancel(given_up)
    before = world.carried
    world.run()
    assert world.told == {kept: 1}
    assert world.seen == {b"question 1": 1, b"question 2": 1}
    assert world.refused == {"an answer to nothing": 1}
    assert world.carried - before < 12
    assert world.host.next_timeout() is None
    assert world.anchor.next_timeout() is None


def test_an_answer_follows_a_host_that_asks_again_by_another_network() -> None:
    world = World(Random(7), mute=1.0)
    world.ask(1, "net0")
    world.run(0.2)
    data = bytes(next(iter(world.host._clients.values())).request)
    world.anchor.receive_datagram(data, "net1", world.now)
    key = next(iter(world.anchor._servers))
    asked = parse(data)
    assert isinstance(asked, Request)
    world.anchor.respond(key, response_to(asked, 200, tag="a"), world.now)
    assert [flow for _, flow in world.anchor.datagrams_to_send()] == ["net1"]
    assert world.seen == {b"question 1": 1}
