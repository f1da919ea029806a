"""The mobile host's agent plane: packets from the virtual interface through the forwarder to the tunnels, and back.

With a tun interface netfilter's queue gives the first packets of a flow only. Without one it gives every packet, both
ways. Performs what the forwarder decides; decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from upmt_nf.daemon.tunnel_sockets import Arriving, TunnelSockets
from upmt_nf.datapath.gathering import Gathering
from upmt_nf.datapath.host_forwarder import HostForwarder
from upmt_nf.datapath.packet import dscp_of, flow_of, source_of
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.verdict import Outbound, TunnelSignal
from upmt_nf.linux.inject import inject
from upmt_nf.linux.packet_queue import Packet, PacketQueue
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.model.flow import FlowBytes, IPAddress
from upmt_nf.model.names import (
    MARK_MASK,
    MARK_NATIVE,
    QUEUE_FIRST,
    QUEUE_INBOUND,
    QUEUE_OUTBOUND,
)

log = logging.getLogger(__name__)

_BATCH = 64
"""Packets read from one side before the other has its turn."""
_LOOKS = 4
"""Batches of first packets that are taken together."""
_MOST_ROUNDS_BEHIND = 100
"""So often in a row flows stay with the queue because it is never empty: no longer, or it would never be."""


class HostPlane:
    """Owns the queues and the agent's side of the virtual interface; `sockets` are the tunnels' ends.

    `heard` is called with each signal from inside a tunnel. `is_left_alone` tells from a flow's key,
    mark and DSCP whether it is to go on as if UPMT were not there. `judged` is the mark that a flow gets once
    it is known, 0 for none: then netfilter's queue goes on giving all of its packets. `introduced` is called when flows
    have become known, before their packets go on.
    """

    judged = 0

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tun: TunDevice | None,
        sockets: TunnelSockets,
        *,
        heard: Callable[[TunnelSignal], None],
        is_left_alone: Callable[[FlowBytes, int, int], bool] = lambda key, mark, dscp: False,
    ) -> None:
        self._loop = loop
        self._heard = heard
        self._is_left_alone = is_left_alone
        self.backlog = sockets.backlog
        self._rounds_behind = 0
        self.introduced: Callable[[], None] = lambda: None
        self._sockets = sockets
        self.others: dict[IPAddress, TunnelSockets] = {}
        """The ends of tunnels to other anchors than the usual one, by anchor."""
        self._forwarder: HostForwarder | None = None
        self._gathering = Gathering(self._send_all)
        self._tun = tun
        self._waiting: list[Packet] = []
        self._untold = PacketQueue(QUEUE_FIRST, self._tell)
        loop.add_reader(self._untold.fileno(), self._untold.drain)
        if tun is not None:
            self._first_packets = PacketQueue(QUEUE_OUTBOUND, self._keep)
            self._queues: tuple[PacketQueue, ...] = (self._untold, self._first_packets)
            loop.add_reader(self._first_packets.fileno(), self._introduce)
            loop.add_reader(tun.fileno(), self._read_tun, tun)
            return
        self._queues = (
            self._untold,
            PacketQueue(QUEUE_OUTBOUND, self._take_outbound),
            PacketQueue(QUEUE_INBOUND, self._take_inbound),
        )
        for queue in self._queues[1:]:
            loop.add_reader(queue.fileno(), queue.drain)

    def use(self, forwarder: HostForwarder | None) -> None:
        """Decide by this forwarder from now on; without one every packet is dropped."""
        self._forwarder = forwarder
        self._sockets.use(forwarder)

    def counters(self) -> dict[str, int]:
        """What the kernel did not take or give, by reason."""
        return {
            "queue_overruns": sum(queue.overruns for queue in self._queues),
            "queue_dropped": sum(queue.dropped for queue in self._queues),
            "send_failures": sum(each.dropped for each in (self._sockets, *self.others.values())),
            "delivery_failures": self._tun.dropped if self._tun is not None else 0,
        }

    def stop(self) -> None:
        """Close everything. Packets that still come are dropped by the kernel."""
        for queue in self._queues:
            self._loop.remove_reader(queue.fileno())
            queue.close()
        if self._tun is not None:
            self._loop.remove_reader(self._tun.fileno())
            self._tun.close()
        for sockets in (self._sockets, *self.others.values()):
            sockets.close_all()

    def _tell(self, packet: Packet) -> None:
        """A first packet before it is routed for good: whether its flow is left alone shows in its process only."""
        key = flow_of(packet.payload)
        if key is not None and self._is_left_alone(key, packet.mark, dscp_of(packet.payload)):
            packet.repeat_with(packet.mark & ~MARK_MASK | MARK_NATIVE)
        else:
            packet.accept()

    # --- with a tun interface ---

    def _read_tun(self, tun: TunDevice) -> None:
        """What left by the virtual interface, on to the tunnels."""
        forwarder, now, is_drained = self._forwarder, self._loop.time(), False
        for _ in range(_BATCH):
            if (left := tun.read()) is None:
                is_drained = True
                break
            if forwarder is not None:
                packet, offload = left
                verdict = forwarder.outbound(packet, 0, now, offload)
                self._gathering.add(verdict)
                self._hand_back(verdict)
        self._gathering.flush()
        self.backlog.note(tun.fileno(), is_drained=is_drained)

    def _introduce(self) -> None:
        """Packets of flows that the agent may not know yet, on to the tun interface.

        A flow's later packets pass the queue by from its mark on: it gets it with the last packet that waits, when no
        other one does, so that none overtakes another. Only what comes between that look and the verdict can.
        """
        last: dict[FlowBytes, Packet] = {}
        for _ in range(_LOOKS):
            self._first_packets.drain()
            waiting, self._waiting = self._waiting, []
            if not waiting:
                self._rounds_behind = 0
                break
            judged = list(self._judge(waiting))
            self.introduced()
            for packet, may_go_on, key in judged:
                if key is not None and (before := last.pop(key, None)) is not None:
                    before.accept()
                if not may_go_on:
                    packet.drop()
                elif key is not None and self.judged and packet.mark & MARK_MASK != self.judged:
                    last[key] = packet
                else:
                    # Marked and here again: the rules in place are not ours.
                    packet.accept()
        else:
            self._rounds_behind += 1
            if self._rounds_behind < _MOST_ROUNDS_BEHIND:
                for packet in last.values():
                    packet.accept()
                return
        self._let_pass_the_queue(list(last.values()))

    def _let_pass_the_queue(self, last: list[Packet]) -> None:
        """Their flows' later packets, from now on; these in the order of their arrival, all others have verdicts."""
        known: dict[int, list[Packet]] = {}
        for packet in last:
            known.setdefault(packet.mark & ~MARK_MASK | self.judged, []).append(packet)
        # One message judges all that still wait: those of the mark that most get, when the others have theirs.
        by_number = sorted(known.items(), key=lambda each: len(each[1]))
        for mark, packets in by_number[:-1]:
            for packet in packets:
                packet.repeat_with(mark)
        for mark, packets in by_number[-1:]:
            self._first_packets.repeat_all_with(mark, packets[-1])

    def _judge(self, waiting: list[Packet]) -> Iterator[tuple[Packet, bool, FlowBytes | None]]:
        """Whether each may go on, and its flow if that is known from now on."""
        forwarder, now = self._forwarder, self._loop.time()
        for packet in waiting:
            if forwarder is None:
                # Not associated yet: an earlier daemon's flows go on in the kernel, all else ends at the tun device.
                yield packet, True, None
            else:
                yield packet, *forwarder.introduce(packet.payload, packet.mark, now)

    def _keep(self, packet: Packet) -> None:
        packet.hold()
        self._waiting.append(packet)

    # --- without one: netfilter's queues have every packet ---

    def _take_outbound(self, packet: Packet) -> None:
        forwarder = self._forwarder
        if forwarder is None:
            packet.drop()
            return
        if forwarder.has_ended_flows:
            forwarder.introduce(packet.payload, packet.mark, self._loop.time())
        verdict = forwarder.outbound(packet.payload, packet.mark, self._loop.time())
        if verdict.tunnel is None:
            packet.drop()
            self._hand_back(verdict)
            return
        # The original goes on to the virtual interface, where it ends: so conntrack knows the flow, and the
        # interface counts it. The verdict comes first, or TCP's small queues would hold the sender up.
        packet.accept()
        self._gathering.add(verdict)
        self._gathering.flush()

    def _take_inbound(self, packet: Packet) -> None:
        forwarder: Arriving | None = self._forwarder
        if self.others and (other := self.others.get(ip_address(source_of(packet.payload)))) is not None:
            forwarder = other.forwarder
        if forwarder is None:
            packet.drop()
            return
        verdict = forwarder.inbound(packet.payload, self._loop.time())
        if verdict.deliver is not None:
            packet.accept_with(verdict.deliver)
            return
        packet.drop()
        if verdict.signal is not None:
            self._heard(verdict.signal)

    def _hand_back(self, verdict: Outbound) -> None:
        if verdict.error is not None:
            inject(verdict.error)

    def _send_all(self, tunnel: Tunnel, payloads: bytes, tos: int, size: int) -> None:
        sockets = self.others.get(tunnel.remote.address, self._sockets) if self.others else self._sockets
        sockets.send(tunnel.network, payloads, tos, size)
