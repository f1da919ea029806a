"""What happens to first packets that wait for the agent, with a queue in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.daemon.host_plane import _MOST_ROUNDS_BEHIND, HostPlane
from upmt_nf.model.flow import FlowBytes

JUDGED, OTHER_MARK = 0x40, 0x12000
BATCH = 64


class Waiting:
    """A packet of the queue, and its verdict."""

    def __init__(self, queue: Queue, number: int, flow: bytes, mark: int) -> None:
        self.queue, self.number, self.payload, self.mark = queue, number, flow, mark

    def hold(self) -> None:
        """It has no verdict yet."""

    def accept(self) -> None:
        self.queue.judge(self.number, "on")

    def drop(self) -> None:
        self.queue.judge(self.number, "dropped")

    def repeat_with(self, mark: int) -> None:
        self.queue.judge(self.number, mark)


class Queue:
    """As the kernel's: each packet has one verdict, and one message may judge all up to one that have none."""

    def __init__(self, *packets: tuple[bytes, int]) -> None:
        self.packets = [Waiting(self, number, *packet) for number, packet in enumerate(packets)]
        self.verdicts: dict[int, object] = {}
        self.messages = 0

    def judge(self, number: int, verdict: object) -> None:
        assert number not in self.verdicts
        self.verdicts[number] = verdict
        self.messages += 1

    def repeat_all_with(self, mark: int, last: Waiting) -> None:
        for packet in self.packets[: last.number + 1]:
            # The kernel judges in the order of the queue.
            self.verdicts.setdefault(packet.number, mark)
        self.messages += 1


def verdicts(
    queue: Queue,
    unknown: bytes = b"?",
    refused: bytes = b"!",
    *,
    is_associated: bool = True,
    rounds_behind: int = 0,
) -> list[object]:
    """Of all packets, by a forwarder that has not heard enough of the flow `unknown` and refuses `refused`."""

    def introduce(packet: bytes, mark: int, now: float) -> tuple[bool, FlowBytes | None]:
        return packet != refused, None if packet in (unknown, refused) else packet

    plane: Any = HostPlane.__new__(HostPlane)
    plane.judged, plane._waiting, plane._loop = JUDGED, [], SimpleNamespace(time=lambda: 0.0)
    plane._rounds_behind = rounds_behind
    plane._forwarder = SimpleNamespace(introduce=introduce) if is_associated else None
    batches = (queue.packets[at : at + BATCH] for at in range(0, len(queue.packets), BATCH))
    taken: list[Waiting] = []

    def drain() -> None:
        taken[:] = next(batches, ())
        for packet in taken:
            plane._keep(packet)

    def told() -> None:
        # The kernel has their flows before one of them goes on.
        assert not any(packet.number in queue.verdicts for packet in taken)

    plane.introduced = told
    plane._first_packets = SimpleNamespace(drain=drain, repeat_all_with=queue.repeat_all_with)
    while len(queue.verdicts) < len(queue.packets):
        plane._introduce()
    return [queue.verdicts[packet.number] for packet in queue.packets]


def test_known_flows_go_on_by_one_message_and_only_with_their_last_packet_that_waits() -> None:
    queue = Queue((b"a", 0), (b"b", 0), (b"a", 0), (b"?", 0), (b"!", 0), (b"c", 0))
    assert verdicts(queue) == ["on", JUDGED, JUDGED, "on", "dropped", JUDGED]
    assert queue.messages == 4


def test_packets_of_other_marks_keep_theirs() -> None:
    queue = Queue((b"a", 0), (b"b", OTHER_MARK), (b"c", 0), (b"d", OTHER_MARK), (b"e", 0))
    theirs = OTHER_MARK | JUDGED
    assert verdicts(queue) == [JUDGED, theirs, JUDGED, theirs, JUDGED]
    assert queue.messages == 3


def test_before_the_host_is_associated_the_flows_of_an_earlier_daemon_are_left_to_the_kernel() -> None:
    """The kernel asks once more about those that it let in by the rules of the earlier daemon."""
    queue = Queue((b"a", 0), (b"?", 0))
    assert verdicts(queue, is_associated=False) == ["on", "on"]


def test_a_flow_stays_with_the_queue_while_packets_of_it_wait_there() -> None:
    """As when the agent was held up: its next packet goes past the queue, and would overtake those in it."""
    queue = Queue(*[(b"a", 0)] * 100)
    assert verdicts(queue) == ["on"] * 99 + [JUDGED]
    # More than are taken together: those of the first hundreds go on without the mark.
    queue = Queue(*[(b"a", 0), (b"b", 0)] * 200)
    found = verdicts(queue)
    assert found[:-2] == ["on"] * 398
    assert found[-2:] == [JUDGED, JUDGED]


def test_a_queue_that_is_never_empty_does_not_keep_flows_for_ever() -> None:
    queue = Queue(*[(b"a", 0)] * 1000)
    found = verdicts(queue, rounds_behind=_MOST_ROUNDS_BEHIND - 2)
    assert found[255] == "on"
    assert found[511] == JUDGED


@given(
    st.lists(st.tuples(st.sampled_from((b"a", b"b", b"?", b"!")), st.sampled_from((0, OTHER_MARK, JUDGED)))),
    st.integers(0, _MOST_ROUNDS_BEHIND),
)
def test_packets_of_a_flow_go_on_in_their_order_and_each_once(
    packets: list[tuple[bytes, int]], rounds_behind: int
) -> None:
    queue = Queue(*packets * 9)
    verdicts(queue, rounds_behind=rounds_behind)
    order = list(queue.verdicts)
    for flow in (b"a", b"b"):
        mine = [number for number in order if queue.packets[number].payload == flow]
        assert mine == sorted(mine)
    assert len(order) == len(queue.packets)
