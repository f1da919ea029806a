"""One running handover: flows that the anchor must be told of, what it confirmed, and when the old path is left.

One machine: `TRANSITIONS` is all that can happen. Knows neither SIP nor PAFT: it gives requests and takes answers.

    make before break   ASKING: the old path still carries -> all confirmed -> the new path carries -> the flows
                        that began meanwhile are CONFIRMING -> DONE
    break before make   the new path carries at once, CONFIRMING -> DONE
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from upmt_nf.mobility.handover_steps import steps_of_signalling
from upmt_nf.mobility.host_commands import Mode, Receipt
from upmt_nf.mobility.tallies import Tally
from upmt_nf.model.flow import FlowBytes, FlowKey, is_stand_in
from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.events import Decision
from upmt_nf.signaling.flow_room import FlowRoom

BATCH = 256
"""Flows that are made into requests at a time: with thousands the first requests do not wait for the last."""
WINDOW = 32
"""Requests on their way at a time."""
ATTEMPTS = 5
"""Rounds of retransmission that a request gets once the new path carries."""


class HandoverPhase(Enum):
    """Where a handover stands."""

    ASKING = auto()
    CONFIRMING = auto()
    DONE = auto()
    FAILED = auto()


class HandoverInput(Enum):
    """What the machine reacts to."""

    ALL_CONFIRMED = auto()
    REFUSED = auto()
    UNANSWERED = auto()
    EXHAUSTED = auto()
    SOURCE_LOST = auto()
    TARGET_LOST = auto()
    SUPERSEDED = auto()


P, I = HandoverPhase, HandoverInput  # noqa: E741  (a table is read by its columns)
TRANSITIONS: dict[tuple[HandoverPhase, HandoverInput], HandoverPhase] = {
    (P.ASKING, I.ALL_CONFIRMED): P.CONFIRMING,
    (P.ASKING, I.REFUSED): P.FAILED,
    (P.ASKING, I.UNANSWERED): P.FAILED,
    (P.ASKING, I.SOURCE_LOST): P.CONFIRMING,
    (P.ASKING, I.TARGET_LOST): P.FAILED,
    (P.ASKING, I.SUPERSEDED): P.FAILED,
    (P.CONFIRMING, I.ALL_CONFIRMED): P.DONE,
    (P.CONFIRMING, I.REFUSED): P.FAILED,
    (P.CONFIRMING, I.UNANSWERED): P.CONFIRMING,
    (P.CONFIRMING, I.EXHAUSTED): P.FAILED,
    (P.CONFIRMING, I.TARGET_LOST): P.FAILED,
    (P.CONFIRMING, I.SUPERSEDED): P.FAILED,
}


@dataclass(eq=False, slots=True)
class FlowRequest:
    """Ask the anchor, inside the tunnel of the handover's target, to answer these flows there."""

    handover: Handover
    flows: tuple[FlowKey, ...]
    attempt: int = 1
    is_alone: bool = False
    """Not together with those of other handovers: that was refused, and each is to have an answer of its own."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be moved, and why. `token` None: automatic. `flow` None: all flows of the application."""

    application: ApplicationName
    source: NetworkName | None
    target: NetworkName
    cause: str
    token: int | None = None
    flow: FlowKey | None = None
    is_repair: bool = False
    """Takes back what a failed handover had moved: no receipt."""
    decision: Decision | None = None
    """The policy's, when it was one."""


class Handover:
    """The machine of one order. `started` in seconds."""

    def __init__(self, order: Order, mode: Mode, started: float) -> None:
        self.order = order
        self.mode = mode
        self.started = started
        self.answered = started
        """When the last answer came."""
        self.phase = P.ASKING if mode is Mode.MAKE_BEFORE_BREAK else P.CONFIRMING
        self.has_steered = False
        self.steered: float | None = None
        """When the new path began to carry."""
        self.heard: float | None = None
        """When the old tunnel was heard last."""
        self.asked_at: float | None = None
        """When the first request left."""
        self.tally: Tally | None = None
        """What it costs; nobody counts repairs."""
        self.failure: str | None = None
        self.touched: set[FlowBytes] = set()
        """Flows that the anchor was asked about: they may be there or here until the handover ends."""
        self.known: set[FlowBytes] = set()
        self.members = 0
        """Flows that the application has, those included that the anchor knows by its name."""
        self._unsent: deque[FlowRequest] = deque()
        self._asked: set[FlowRequest] = set()

    @property
    def target(self) -> NetworkName:
        """Where to."""
        return self.order.target

    @property
    def is_running(self) -> bool:
        """Neither done nor failed."""
        return self.phase in (P.ASKING, P.CONFIRMING)

    @property
    def asked(self) -> list[FlowRequest]:
        """Requests without an answer yet."""
        return list(self._asked)

    def add(self, flows: Iterable[FlowKey], confirmed: set[FlowBytes] = frozenset()) -> None:  # type: ignore[assignment]
        """More flows to be moved, and which of them the anchor has confirmed already (in a tunnel setup)."""
        fresh = [flow for flow in flows if flow.packed() not in self.known]
        self.known.update(flow.packed() for flow in fresh)
        open_flows = tuple(flow for flow in fresh if flow.packed() not in confirmed)
        self._unsent.extend(FlowRequest(self, flows) for flows in _batches(open_flows))

    def take_requests(
        self, is_ours: Callable[[FlowBytes], bool], room: FlowRoom, now: float
    ) -> list[FlowRequest]:
        """What to send now, with no more flows in one request than there is `room` for, and at least one.

        `is_ours` is false for flows that ended, or that another handover moves by `now`.
        """
        found: list[FlowRequest] = []
        while self.is_running and self._unsent and len(self._asked) < WINDOW:
            request = self._unsent.popleft()
            request.flows = tuple(flow for flow in request.flows if is_ours(flow.packed()))
            if request.flows:
                # Only now, as the path may have become narrower since the request was made.
                request.flows, *others = room.groups(request.flows)
                self._unsent.extendleft(replace(request, flows=flows) for flows in reversed(others))
                self.touched.update(flow.packed() for flow in request.flows)
                self._asked.add(request)
                found.append(request)
        if found and self.asked_at is None:
            self.asked_at = now
        self._conclude()
        return found

    def confirm(self, request: FlowRequest, now: float) -> None:
        """The anchor has moved the flows of a request."""
        if request in self._asked:
            self._asked.discard(request)
            self.answered = now
            self._conclude()

    def refuse(self, request: FlowRequest, reason: str, now: float) -> None:
        """The anchor will not move the flows of a request."""
        if request in self._asked:
            self._asked.discard(request)
            self.answered = now
            self.fail(HandoverInput.REFUSED, f"the anchor refused: {reason}")

    def ask_again(self, request: FlowRequest, *, is_alone: bool) -> None:
        """What was asked together with others is to be asked once more."""
        if request in self._asked:
            self._asked.discard(request)
            self._unsent.appendleft(replace(request, is_alone=is_alone))

    def give_up(self, request: FlowRequest) -> None:
        """A request was not answered. On a path that carries already it is sent again, so that both ends agree."""
        if request not in self._asked:
            return
        self._asked.discard(request)
        if self.phase is P.CONFIRMING and request.attempt < ATTEMPTS:
            self._enter(HandoverInput.UNANSWERED)
            self._unsent.append(FlowRequest(self, request.flows, request.attempt + 1))
        elif self.phase is P.CONFIRMING:
            self.fail(HandoverInput.EXHAUSTED, "the anchor did not answer")
        else:
            self.fail(HandoverInput.UNANSWERED, "the anchor did not answer")

    def lose_source(self) -> None:
        """The old path is gone: do not wait for the anchor."""
        if self._enter(HandoverInput.SOURCE_LOST):
            self.mode = Mode.BREAK_BEFORE_MAKE

    def fail(self, input: HandoverInput, reason: str) -> None:
        """End without a receipt."""
        if self._enter(input):
            self.failure = reason

    def receipt(self) -> Receipt:
        """What was done."""
        return Receipt(
            application=self.order.application,
            source=self.order.source,
            target=self.order.target,
            mode=self.mode,
            flows=max(self.members, sum(not is_stand_in(key) for key in self.known)),
            signalling_ms=round(1000 * (self.answered - self.started), 3),
            cause=self.order.cause,
            flow=self.order.flow,
            decision=self.order.decision,
            started=self.started,
            moved_ms=None if self.steered is None else round(1000 * (self.steered - self.started), 3),
            steps=steps_of_signalling(self.heard, self.started, self.asked_at, self.steered, self.answered),
        )

    def _conclude(self) -> None:
        """All flows are confirmed: ASKING waits for nothing more; CONFIRMING is done once the new path carries."""
        if self._unsent or self._asked:
            return
        if self.phase is P.ASKING or (self.phase is P.CONFIRMING and self.has_steered):
            self._enter(HandoverInput.ALL_CONFIRMED)

    def _enter(self, input: HandoverInput) -> bool:
        target = TRANSITIONS.get((self.phase, input))
        if target is None:
            return False
        self.phase = target
        return True


def _batches(flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, ...]]:
    return (tuple(flows[start : start + BATCH]) for start in range(0, len(flows), BATCH))
