"""SIP's non-INVITE transactions (RFC 3261 section 17) as values with timers; the endpoint drives them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, NamedTuple, TypeVar

from upmt_nf.signaling.sip.fields import parse_address, parse_cseq, parse_via
from upmt_nf.signaling.sip.message import Message, Request, Response

Flow = TypeVar("Flow")
"""Where bytes come from and go to; any hashable value."""


@dataclass(frozen=True, slots=True)
class SipTimers:
    """In seconds (RFC 3261 table 4). `give_up` is timer F, 64 x T1 by default."""

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0
    give_up: float | None = None

    @property
    def timer_f(self) -> float:
        """How long a request is tried."""
        return 64 * self.t1 if self.give_up is None else self.give_up

    @property
    def timer_j(self) -> float:
        """How long an answer is kept for retransmissions of its request."""
        return max(64 * self.t1, self.timer_f)


class TransactionKey(NamedTuple):
    """Branch, sent-by and method; or, without a branch of RFC 3261, the fields of RFC 2543 joined."""

    branch: str
    sent_by: str
    method: str


def server_key(request: Request) -> TransactionKey:
    """RFC 3261 section 17.2.3."""
    via = parse_via(request.header("via") or "")
    if via.branch is not None:
        return TransactionKey(via.branch, via.sent_by, request.method)
    number, _ = parse_cseq(request.header("cseq") or "")
    tag = parse_address(request.header("from") or "").tag or ""
    old = "\n".join(
        (request.uri, request.header("call-id") or "", tag, str(number), request.header("via") or "")
    )
    return TransactionKey(old, via.sent_by, request.method)


def client_key(message: Message) -> TransactionKey:
    """RFC 3261 section 17.1.3: what a response is matched by."""
    via = parse_via(message.header("via") or "")
    _, method = parse_cseq(message.header("cseq") or "")
    return TransactionKey(via.branch or "", via.sent_by, method)


class ClientState(Enum):
    """RFC 3261 figure 6; a transaction that is terminated is forgotten."""

    TRYING = auto()
    PROCEEDING = auto()
    COMPLETED = auto()


@dataclass(slots=True)
class ClientTransaction(Generic[Flow]):
    """A request of ours. `resend_at` is timer E, `end_at` timer F or K, `due` the earlier of them (seconds)."""

    key: TransactionKey
    request: Request
    data: bytes
    flow: Flow
    timers: SipTimers
    state: ClientState
    interval: float
    resend_at: float | None
    end_at: float

    @property
    def due(self) -> float:
        """When there is something to do for it."""
        return self.end_at if self.resend_at is None else min(self.resend_at, self.end_at)


@dataclass(slots=True)
class ServerTransaction(Generic[Flow]):
    """A request of theirs. `flow` is where its latest copy came from; `response` is resent for each copy.

    `size` is that of its datagram in bytes.
    """

    flow: Flow
    size: int
    response: bytes | None
    end_at: float


@dataclass(frozen=True, slots=True)
class RequestReceived(Generic[Flow]):
    """A new request; answer it with `SipEndpoint.respond`."""

    transaction: TransactionKey
    request: Request
    flow: Flow


@dataclass(frozen=True, slots=True)
class ResponseReceived(Generic[Flow]):
    """The final answer to a request of ours."""

    transaction: TransactionKey
    request: Request
    response: Response
    flow: Flow


@dataclass(frozen=True, slots=True)
class RequestTimedOut(Generic[Flow]):
    """Nobody answered a request of ours within timer F."""

    transaction: TransactionKey
    request: Request
    flow: Flow


@dataclass(frozen=True, slots=True)
class DatagramRefused(Generic[Flow]):
    """Bytes that are no SIP message, or an answer to nothing."""

    flow: Flow
    reason: str


SipEvent = RequestReceived[Flow] | ResponseReceived[Flow] | RequestTimedOut[Flow] | DatagramRefused[Flow]
