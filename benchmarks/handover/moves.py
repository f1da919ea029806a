"""The events (planned handovers, a lost carrier, a black hole, or none) while a stream runs over a datapath."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from benchmarks.handover.analysis import Felt, worst
from benchmarks.handover.streams import APPLICATION, stream
from benchmarks.places import Place, wait_until
from upmt_nf.lab.links import change_link, network_named
from upmt_nf.lab.topology import LinkAction

EVENTS = ("none", "planned", "down", "blackhole")
SETTLE = 0.5
"""Seconds of stream before the first event and between two."""
WATCHED = {"none": 1.0, "planned": 0.1, "down": 1.0, "blackhole": 2.5}
"""Seconds after an event in which what is lost is its work."""
NAMING_PATIENCE = 6.0
"""Seconds without another flow named."""
_NAMED_AT_MOST, _SECONDS_A_PACKET = 20_000, 2.5
"""Packets/s while flows are named, and how long each waits for its next packet there, if that is not more of them."""
_CUTS = {"down": (LinkAction.DOWN, LinkAction.UP), "blackhole": (LinkAction.BLACKHOLE, LinkAction.RESTORE)}


@dataclass(frozen=True, slots=True)
class Course:
    """A stream and the events of one kind that it went through."""

    who: str
    event: str
    flows: int
    asked_rate: int
    rate: float
    known: int
    """Flows that were answered before the stream began."""
    each: tuple[tuple[Felt, Felt], ...]
    """Up and down, an event a row."""
    all_along: Felt
    """Both directions over the whole stream, also between events."""
    move_ms: tuple[float, ...] = field(default=())
    """How long each planned handover took, asked for and confirmed."""

    @property
    def felt(self) -> Felt:
        """Both directions, all events."""
        return worst([one for pair in self.each for one in pair])

    @property
    def kind(self) -> tuple[str, str, int, int]:
        """What courses of several rounds have in common."""
        return self.who, self.event, self.flows, self.asked_rate


def joined(courses: Iterable[Course]) -> list[Course]:
    """Those of a kind as one, in the order of their first."""
    kinds: dict[tuple[str, str, int, int], list[Course]] = {}
    for course in courses:
        kinds.setdefault(course.kind, []).append(course)
    return [
        replace(
            rounds[0],
            rate=statistics.mean(one.rate for one in rounds),
            known=min(one.known for one in rounds),
            each=tuple(chain.from_iterable(one.each for one in rounds)),
            all_along=worst([one.all_along for one in rounds]),
            move_ms=tuple(chain.from_iterable(one.move_ms for one in rounds)),
        )
        for rounds in kinds.values()
    ]


def run_course(
    who: str, place: Place, meter: str, directory: Path, event: str, rate: int, flows: int, events: int
) -> Course:
    """One stream by one datapath's lab. Leaves the application on net0 and both networks up."""
    _come_home(place)
    if event == "planned" and flows > 1:
        _name_ahead(place, meter, directory, rate, flows)
    times: list[int] = []
    took: list[float] = []
    with stream(place, meter, directory, rate, flows) as running:
        time.sleep(SETTLE)
        if event == "planned":
            _await_names(place, running.known)
        for number in range(events):
            match event:
                case "none":
                    times.append(time.monotonic_ns())
                    time.sleep(WATCHED["none"])
                case "planned":
                    times.append(time.monotonic_ns())
                    place.ask("handover", subject=APPLICATION, to="net1" if number % 2 == 0 else "net0")
                    took.append((time.monotonic_ns() - times[-1]) / 1e6)
                    time.sleep(WATCHED["planned"])
                case _:
                    times.append(cut(place, event))
                    _come_home(place)
                    time.sleep(SETTLE)
    logs = running.logs()
    return Course(
        who, event, flows, rate, logs.rate, running.known,
        tuple(logs.around(at, WATCHED[event]) for at in times), worst(logs.of_all()), tuple(took),
    )  # fmt: skip


def _name_ahead(place: Place, meter: str, directory: Path, rate: int, flows: int) -> None:
    """Have the flows named while a slower stream runs: a full one would leave no time for it on a small machine."""
    slow = min(rate, _NAMED_AT_MOST, max(1000, round(flows / _SECONDS_A_PACKET)))
    if slow < rate and place.ask("status")["counters"].get("flows_named", 0) < flows:
        with stream(place, meter, directory, slow, flows) as running:
            _await_names(place, running.known)


def _await_names(place: Place, flows: int) -> None:
    """A move costs by what the anchor does not know by its application yet: wait for what is named in the background.

    Where nothing more is named (an older anchor, flows that are too quiet) that is how it stays.
    """
    best, since = -1, time.monotonic()
    while best < flows and time.monotonic() - since < NAMING_PATIENCE:
        named = place.ask("status")["counters"].get("flows_named", 0)
        if named > best:
            best, since = named, time.monotonic()
        time.sleep(0.5)


def cut(place: Place, event: str) -> int:
    """Take net0 away for as long as is watched, and give it back; when it was taken, in nanoseconds."""
    take, give = _CUTS[event]
    network = network_named("net0")
    if take is LinkAction.DOWN:
        at = time.monotonic_ns()
        change_link(place.name, network, take)
    else:
        # Two runs of iptables stand before the drop: the moment is when the call has returned.
        change_link(place.name, network, take)
        at = time.monotonic_ns()
    try:
        time.sleep(WATCHED[event])
    finally:
        change_link(place.name, network, give)
    return at


def _come_home(place: Place) -> None:
    """Both networks up and the application on net0."""

    def up() -> bool:
        return all(network["state"] == "up" for network in place.ask("status")["networks"])

    wait_until(up, "both networks are up", 30)
    place.ask("assign", application=APPLICATION, match={}, networks=["net0", "any"], save=False)
    if any(
        one["name"] == APPLICATION and one["network"] != "net0" for one in place.ask("status")["applications"]
    ):
        place.ask("handover", subject=APPLICATION, to="net0")
