"""One SIP endpoint, sans-IO: datagrams in, datagrams and events out, the clock an argument.

Drive it with `send_request`, `respond`, `receive_datagram`, `handle_timeout`; after each, take
`datagrams_to_send`, `events` and `next_timeout`.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Generic

from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.sip.build import response_to, with_source
from upmt_nf.signaling.sip.message import Header, Request, Response, canonical
from upmt_nf.signaling.sip.parser import KEEPALIVES, SipParseError, parse
from upmt_nf.signaling.sip.transactions import (
    ClientState,
    ClientTransaction,
    DatagramRefused,
    Flow,
    RequestReceived,
    RequestTimedOut,
    ResponseReceived,
    ServerTransaction,
    SipEvent,
    SipTimers,
    TransactionKey,
    client_key,
    server_key,
)
from upmt_nf.signaling.sip.unamplified import unamplified

_CANCELLED = ("INVITE", "REGISTER", "MESSAGE", "OPTIONS")


class SipEndpoint(Generic[Flow]):
    """Client and server transactions over any number of flows.

    `token` gives a new unguessable word a call; `timers` gives the timers of a flow; at most `max_transactions`
    requests of theirs are kept: when there are more, answers are forgotten before timer J, but not before T4 (a later
    copy of the request is then a new one), and when none is so old, further ones are told 503. A final answer that
    `is_proven` does not believe is passed over, as if it had never come: the true one may still be on its way.
    `source_of` gives the address behind a flow, which answers name in `received` and `rport`; None: nobody needs to
    know. What is refused unread and what is answered `and_forget` gets no answer larger than itself: where even the
    least would be, it gets none.
    """

    def __init__(
        self,
        *,
        token: Callable[[], str],
        timers: Callable[[Flow], SipTimers] = lambda _: SipTimers(),
        max_transactions: int = 65536,
        is_proven: Callable[[TransactionKey, Response], bool] = lambda _, __: True,
        source_of: Callable[[Flow], Endpoint | None] = lambda _: None,
    ) -> None:
        self._token = token
        self._timers = timers
        self._max = max_transactions
        self._is_proven = is_proven
        self._source_of = source_of
        self._clients: dict[TransactionKey, ClientTransaction[Flow]] = {}
        self._due: list[tuple[float, int, TransactionKey]] = []
        """When which client wants something, and some times that are no longer true."""
        self._servers: OrderedDict[TransactionKey, ServerTransaction[Flow]] = OrderedDict()
        """In the order of their last change, which is that of their ends where timer J is the same."""
        self._order = 0
        self._out: list[tuple[bytes, Flow]] = []
        self._events: deque[SipEvent[Flow]] = deque()
        self.counters: Counter[str] = Counter()

    # --- what the owner asks ---

    def send_request(self, request: Request, flow: Flow, now: float) -> TransactionKey:
        """Send a request of ours by `flow`, with a branch of its own in the topmost Via, until it is answered."""
        request = self._with_branch(request)
        key = client_key(request)
        timers = self._timers(flow)
        data = bytes(request)
        self._watch(key, now + min(timers.t1, timers.timer_f))
        self._clients[key] = ClientTransaction(
            key=key,
            request=request,
            data=data,
            flow=flow,
            timers=timers,
            state=ClientState.TRYING,
            interval=timers.t1,
            resend_at=now + timers.t1,
            end_at=now + timers.timer_f,
        )
        self._out.append((data, flow))
        return key

    def respond(
        self, transaction: TransactionKey, response: Response, now: float, *, and_forget: bool = False
    ) -> None:
        """Answer a request of theirs; nothing happens when its transaction has ended meanwhile.

        `and_forget`: a copy of the request will be a new one; nothing is kept for a stranger.
        """
        server = self._servers.get(transaction)
        if server is None:
            return None
        if and_forget:
            del self._servers[transaction]
            return self._answer_briefly(response, server.flow, server.size)
        data = bytes(response)
        self._out.append((data, server.flow))
        if response.status >= 200:
            server.response = data
            server.end_at = now + self._timers(server.flow).timer_j
            self._servers.move_to_end(transaction)
        return None

    def cancel(self, transaction: TransactionKey) -> None:
        """Give a request of ours up without an event."""
        self._clients.pop(transaction, None)

    # --- what the world brings ---

    def receive_datagram(self, data: bytes, flow: Flow, now: float) -> None:
        """Take one datagram that came by `flow`. Never raises for what it contains."""
        if data in KEEPALIVES:
            self.counters["keepalive"] += 1
            return
        try:
            message = parse(data)
        except SipParseError as reason:
            self._refuse(flow, str(reason))
            if reason.partial is not None and reason.partial.method != "ACK":
                self._answer_at_once(reason.partial, reason.status, flow, len(data))
            return
        match message:
            case Request():
                self._receive_request(message, flow, len(data), now)
            case Response():
                self._receive_response(message, flow, now)

    def _receive_request(self, request: Request, flow: Flow, size: int, now: float) -> None:
        if request.method == "ACK":
            return self._refuse(flow, "ACK without INVITE")
        if request.method == "CANCEL":
            return self._receive_cancel(request, flow, size)
        key = server_key(request)
        server = self._servers.get(key)
        if server is not None:
            self.counters["request_again"] += 1
            # The host may have moved since: the answer goes where the latest copy came from.
            server.flow = flow
            if server.response is not None:
                self._out.append((server.response, flow))
            return None
        if len(self._servers) >= self._max and not self._has_made_room(now):
            self.counters["too_many_transactions"] += 1
            return self._answer_at_once(request, 503, flow, size, (("Retry-After", "5"),))
        self._servers[key] = ServerTransaction(flow, size, None, now + self._timers(flow).timer_j)
        self._events.append(RequestReceived(key, self._with_source(request, flow), flow))
        return None

    def _receive_cancel(self, request: Request, flow: Flow, size: int) -> None:
        """RFC 3261 section 9.2: what is not an INVITE is not given up, whatever is said."""
        branch, sent_by, _ = server_key(request)
        is_known = any(TransactionKey(branch, sent_by, method) in self._servers for method in _CANCELLED)
        self._answer_at_once(request, 200 if is_known else 481, flow, size)

    def _answer_at_once(
        self, request: Request, status: int, flow: Flow, size: int, headers: tuple[Header, ...] = ()
    ) -> None:
        """Without a transaction: a copy of the request is answered like a new one."""
        source = self._source_of(flow)
        answer = response_to(request, status, tag=self._token()[:8], source=source, headers=headers)
        self._answer_briefly(answer, flow, size)

    def _answer_briefly(self, response: Response, flow: Flow, size: int) -> None:
        data = unamplified(response, size)
        if data is None:
            self.counters["too_small_to_answer"] += 1
        else:
            self._out.append((data, flow))

    def _with_source(self, request: Request, flow: Flow) -> Request:
        """RFC 3261 section 18.2.1: the topmost Via says where the request came from, and so do all answers."""
        source = self._source_of(flow)
        if source is None:
            return request
        headers = list(request.headers)
        place = next(n for n, (name, _) in enumerate(headers) if canonical(name) == "via")
        headers[place] = (headers[place][0], with_source(headers[place][1], source))
        return Request(tuple(headers), method=request.method, uri=request.uri, body=request.body)

    def _has_made_room(self, now: float) -> bool:
        """Forget the oldest answer, if any copy of its request should have come by now (T4)."""
        key, server = next(iter(self._servers.items()), (None, None))
        if key is None or server is None:
            return False
        timers = self._timers(server.flow)
        if server.response is None or now < server.end_at - timers.timer_j + timers.t4:
            return False
        del self._servers[key]
        self.counters["forgotten_early"] += 1
        return True

    def _receive_response(self, response: Response, flow: Flow, now: float) -> None:
        if len(list(response.all("via"))) != 1 or "," in (response.header("via") or ""):
            # RFC 3261 section 8.1.3.3: it was meant for somebody before us.
            return self._refuse(flow, "an answer with several Vias")
        key = client_key(response)
        client = self._clients.get(key)
        if client is None:
            return self._refuse(flow, "an answer to nothing")
        if client.state is ClientState.COMPLETED:
            self.counters["answer_again"] += 1
        elif response.status < 200:
            client.state = ClientState.PROCEEDING
            client.interval = client.timers.t2
        elif not self._is_proven(key, response):
            self.counters["unproven"] += 1
        else:
            client.state = ClientState.COMPLETED
            client.resend_at = None
            # Timer K: until then further copies of the answer are recognised.
            client.end_at = now + client.timers.t4
            self._watch(key, client.end_at)
            self._events.append(ResponseReceived(key, client.request, response, flow))
        return None

    def _refuse(self, flow: Flow, reason: str) -> None:
        self.counters["refused"] += 1
        self._events.append(DatagramRefused(flow, reason))

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `handle_timeout` should be called at the latest, or None."""
        while self._due and not self._is_true(*self._due[0]):
            heapq.heappop(self._due)
        oldest = next(iter(self._servers.values()), None)
        if oldest is None:
            return self._due[0][0] if self._due else None
        return min(oldest.end_at, self._due[0][0]) if self._due else oldest.end_at

    def handle_timeout(self, now: float) -> None:
        """Resend and give up what is due."""
        while self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)
            if self._is_true(*entry):
                self._advance(self._clients[entry[2]], now)
        while self._servers and next(iter(self._servers.values())).end_at <= now:
            self._servers.popitem(last=False)

    def _advance(self, client: ClientTransaction[Flow], now: float) -> None:
        """Timer E, F or K of a request of ours has run out."""
        if now >= client.end_at:
            del self._clients[client.key]
            if client.state is not ClientState.COMPLETED:
                self.counters["timed_out"] += 1
                self._events.append(RequestTimedOut(client.key, client.request, client.flow))
            return
        self.counters["resent"] += 1
        self._out.append((client.data, client.flow))
        if client.state is ClientState.TRYING:
            client.interval = min(2 * client.interval, client.timers.t2)
        client.resend_at = now + client.interval
        self._watch(client.key, client.due)

    def _watch(self, key: TransactionKey, when: float) -> None:
        self._order += 1
        heapq.heappush(self._due, (when, self._order, key))

    def _is_true(self, when: float, _: int, key: TransactionKey) -> bool:
        client = self._clients.get(key)
        return client is not None and client.due == when

    # --- results ---

    def datagrams_to_send(self) -> list[tuple[bytes, Flow]]:
        """What is to be sent now, and by which flow; each is given once."""
        out, self._out = self._out, []
        return out

    def events(self) -> list[SipEvent[Flow]]:
        """What happened since the last call."""
        events = list(self._events)
        self._events.clear()
        return events

    def _with_branch(self, request: Request) -> Request:
        (name, via), *others = request.headers
        return replace(request, headers=((name, f"{via};branch=z9hG4bK{self._token()}"), *others))
