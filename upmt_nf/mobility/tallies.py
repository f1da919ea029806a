"""What a handover cost its flows: both ends' counts compared, before it where the old path still works, and after.

Without sequence numbers: the question for the anchor's counts travels behind the packets that we counted, its answer
behind those that the anchor counted. Where a kernel forwards, some packets behind the question or the answer are
counted, too: but none that we sent after the answer was here, and of what the anchor sent at least what had come before
we asked. So what was lost is between two bounds. Knows neither SIP nor PAFT's tunnels' formats.

    begun --(old path works: asked by it)--> ... handover done --SETTLE--> asked by the new path --> Counted
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from upmt_nf.datapath.arrivals import Arrivals, Seen
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.handover_steps import Step, steps_of_packets
from upmt_nf.model.flow import FlowBytes, FlowKey
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.messages import MOST_COUNTED, FlowCount

SETTLE = 1.0
"""Seconds after a handover until all that was on its way has come."""
PATIENCE = 8.0
"""Seconds after which no answer comes any more."""
EXACT_WITHIN = 0.05
"""A question that was answered later (seconds, beyond the round trip) may have been resent: packets went between."""
TRIES = 3
MOST_OPEN = 64
"""Handovers that wait for their counts at a time."""


@dataclass(frozen=True, slots=True)
class Course:
    """One direction, in packets. More arrived than were sent: `duplicated`, None where it cannot be told."""

    sent: int
    lost: int
    """So many at least."""
    lost_at_most: int
    duplicated: int | None
    late: int
    gap_ms: int


@dataclass(frozen=True, slots=True)
class Counted:
    """Of handover `number`: `up` is from the host; counted from `seconds` before the count. Or why it is not known."""

    number: int
    flows: int = 0
    seconds: float = 0.0
    up: Course | None = None
    down: Course | None = None
    reason: str | None = None
    steps: tuple[Step, ...] = ()
    """What the packets on their way down tell of the time of its steps."""


@dataclass(frozen=True, slots=True)
class _Here:
    """One flow at our end."""

    out: int
    come: int
    seen: Seen | None
    """By the kernel, which forwards it."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Both ends of one flow at one moment of the stream.

    The anchor counted what came of the first `out` packets, and maybe of some more up to `out_at_most`; and of what it
    had sent then, from `come_at_least` to `come` had come to us.
    """

    at: float
    out: int
    out_at_most: int
    come_at_least: int
    come: int
    anchor: FlowCount
    seen: Seen | None


@dataclass(frozen=True, slots=True)
class _Loss:
    """Of one flow in one direction: what was sent, and less what came of it, at least and at most."""

    sent: int
    least: int
    most: int


@dataclass(eq=False, slots=True)
class CountRequest:
    """Ask the anchor by a network what it has of some flows."""

    tally: Tally
    network: NetworkName
    flows: tuple[FlowKey, ...]
    is_last: bool
    paft: Paft
    asked_at: float = 0.0
    here: tuple[_Here | None, ...] = ()
    """Our end of each when the question left."""

    def leave(self, now: float) -> None:
        """The question leaves now, for the first time or anew."""
        self.asked_at = now
        self.here = tuple(_here(self.paft, flow.packed()) for flow in self.flows)


@dataclass(eq=False, slots=True)
class Tally:
    """One handover's account."""

    number: int
    target: NetworkName
    flows: tuple[FlowKey, ...]
    before: dict[FlowBytes, _Sample] = field(default_factory=dict)
    count_at: float | None = None
    give_up_at: float | None = None
    tries: int = 0


class Tallies:
    """The accounts of the handovers of this host. `requests` and `counted` are taken by the owner."""

    def __init__(self, paft: Paft) -> None:
        self.requests: list[CountRequest] = []
        self.counted: list[Counted] = []
        self._paft = paft
        self._open: list[Tally] = []
        self._known: dict[FlowBytes, _Sample] = {}
        self._numbers = 0
        self._since = 0.0
        """What began earlier is not known to the anchor from its beginning."""

    def begin(
        self,
        entries: Iterable[FlowEntry],
        source: Tunnel | None,
        target: NetworkName,
        target_tunnel: Tunnel | None,
        now: float,
        *,
        by: NetworkName | None,
    ) -> Tally:
        """A handover begins; `by`: the network that carries these flows yet, if any does."""
        busiest = sorted(entries, key=lambda entry: -(entry.packets_in + entry.packets_out))[:MOST_COUNTED]
        self._numbers += 1
        tally = Tally(self._numbers, target, tuple(entry.flow for entry in busiest))
        for entry in busiest:
            entry.arrivals = Arrivals(target_tunnel, now if source is None else source.heard)
            known = self._known.get(entry.key)
            if known is not None and known.out <= entry.packets_out and known.come <= entry.packets_in:
                tally.before[entry.key] = known
        if self._paft.mirror is not None:
            self._paft.mirror.watch(busiest, target_tunnel, source, now)
        if by is not None and tally.flows:
            self.requests.append(CountRequest(tally, by, tally.flows, False, self._paft))
        return tally

    def finish(self, tally: Tally, now: float) -> None:
        """The handover is done: count when all has come."""
        if len(self._open) >= MOST_OPEN:
            self._close(Counted(self._open[0].number, reason="too many handovers at once"), self._open[0])
        self._open.append(tally)
        tally.count_at, tally.give_up_at = now + SETTLE, now + SETTLE + PATIENCE

    def start_over(self, now: float) -> None:
        """Another association: the anchor counts from the beginning."""
        self._known.clear()
        self._since = now
        for tally in list(self._open):
            self._close(Counted(tally.number, reason="the association ended"), tally)

    def answer(
        self, request: CountRequest, counts: tuple[FlowCount | None, ...], round_trip: float, now: float
    ) -> None:
        """The anchor's counts; `round_trip` (seconds) of the path by which it was asked."""
        samples: dict[FlowBytes, _Sample] = {}
        if now - request.asked_at <= round_trip * 2 + EXACT_WITHIN:
            for flow, left, count in zip(request.flows, request.here, counts, strict=False):
                back = _here(self._paft, flow.packed())
                if count is not None and left is not None and back is not None:
                    samples[flow.packed()] = _sample(now, left, back, count)
        if not request.is_last:
            request.tally.before.update(samples)
            return
        tally = request.tally
        if tally not in self._open:
            return
        if not counts:
            self._close(Counted(tally.number, reason="the anchor told no counts"), tally)
            return
        if not samples and any(count is not None for count in counts) and tally.tries < TRIES:
            tally.count_at = now
            return
        self._close(self._account(tally, samples, now), tally)
        self._known.update(samples)
        if len(self._known) > 4 * MOST_COUNTED + 2 * len(self._paft.flows):
            self._known = {key: known for key, known in self._known.items() if key in self._paft.flows}

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        times = [at for tally in self._open for at in (tally.count_at, tally.give_up_at) if at is not None]
        return min(times, default=None)

    def handle_timeout(self, is_usable: Mapping[NetworkName, bool], now: float) -> None:
        """Ask for what is due; give up what is not answered."""
        for tally in list(self._open):
            if not is_usable.get(tally.target) or (tally.give_up_at is not None and now >= tally.give_up_at):
                self._close(Counted(tally.number, reason="its network went before it was counted"), tally)
            elif tally.count_at is not None and now >= tally.count_at:
                tally.count_at = None
                tally.tries += 1
                self.requests.append(CountRequest(tally, tally.target, tally.flows, True, self._paft))

    def _close(self, counted: Counted, tally: Tally) -> None:
        self._open.remove(tally)
        self.counted.append(counted)

    def _account(self, tally: Tally, samples: dict[FlowBytes, _Sample], now: float) -> Counted:
        if not samples:
            return Counted(tally.number, reason="no flow could be counted at both ends")
        up: list[_Loss] = []
        down: list[_Loss] = []
        counted: list[FlowEntry] = []
        late_down, gap_down, since = 0, 0.0, now
        firsts: list[float] = []
        lasts: list[float] = []
        for key, after in samples.items():
            entry, before = self._paft.flows[key], tally.before.get(key)
            if before is None and entry.created < self._since:
                continue
            begun = before or _Sample(entry.created, 0, 0, 0, 0, FlowCount(0, 0), None)
            since = min(since, begun.at)
            up.append(_lost_up(begun, after))
            down.append(_lost_down(begun, after))
            seen = _seen(entry, after.seen)
            late_down += seen.late
            gap_down = max(gap_down, seen.gap)
            firsts += [] if seen.first is None else [seen.first]
            lasts += [] if seen.last_elsewhere is None else [seen.last_elsewhere]
            entry.arrivals = None
            counted.append(entry)
        if self._paft.mirror is not None:
            self._paft.mirror.watch(counted, None, None, now)
        if not up:
            return Counted(tally.number, reason="the flows are older than the association")
        anchor = [sample.anchor for sample in samples.values()]
        return Counted(
            tally.number,
            len(up),
            now - since,
            _course(up, sum(count.late for count in anchor), max(count.gap_ms for count in anchor)),
            _course(down, late_down, round(1000 * gap_down)),
            steps=steps_of_packets(firsts, lasts, now),
        )


def _here(paft: Paft, key: FlowBytes) -> _Here | None:
    """Our end as it stands, the kernel's part included; None: the flow is over."""
    if (entry := paft.flows.get(key)) is None:
        return None
    seen = paft.mirror.look_at(entry) if paft.mirror is not None else None
    return _Here(entry.packets_out, entry.packets_in, seen)


def _sample(now: float, left: _Here, back: _Here, count: FlowCount) -> _Sample:
    """When the question left and when the answer was back. Where agents forward, at both ends, they count in order."""
    if left.seen is None and back.seen is None and not count.is_reading:
        return _Sample(now, left.out, left.out, back.come, back.come, count, None)
    return _Sample(now, left.out, back.out, left.come, back.come, count, back.seen)


def _lost_up(before: _Sample, after: _Sample) -> _Loss:
    came = after.anchor.received - before.anchor.received
    return _Loss(
        after.out - before.out, after.out - before.out_at_most - came, after.out_at_most - before.out - came
    )


def _lost_down(before: _Sample, after: _Sample) -> _Loss:
    sent = after.anchor.sent - before.anchor.sent
    return _Loss(sent, sent - (after.come - before.come_at_least), sent - (after.come_at_least - before.come))


def _seen(entry: FlowEntry, seen: Seen | None) -> Seen:
    """How its packets came: the gap is told by who forwards them now, and each has its own late ones."""
    arrivals = entry.arrivals
    ours = Seen(0, 0.0)
    if arrivals is not None:
        ours = Seen(arrivals.late, arrivals.gap, arrivals.first, arrivals.last_elsewhere)
    if seen is None:
        return ours
    firsts = [at for at in (ours.first, seen.first) if at is not None]
    lasts = [at for at in (ours.last_elsewhere, seen.last_elsewhere) if at is not None]
    return Seen(ours.late + seen.late, seen.gap, min(firsts, default=None), max(lasts, default=None))


def _course(flows: list[_Loss], late: int, gap_ms: int) -> Course:
    is_exact = all(flow.least == flow.most for flow in flows)
    return Course(
        sum(flow.sent for flow in flows),
        sum(max(0, flow.least) for flow in flows),
        sum(max(0, flow.most) for flow in flows),
        sum(max(0, -flow.least) for flow in flows) if is_exact else None,
        late,
        gap_ms,
    )
