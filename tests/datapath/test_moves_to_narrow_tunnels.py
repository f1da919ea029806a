"""A flow that moves to a tunnel of smaller packets: its senders are told so at both ends, with the new size."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.packet import build_udp
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.reach import Reach
from upmt_nf.datapath.verdict import Outbound
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import ApplicationId, NetworkName, TunnelId

OWNER, CORRESPONDENT = ip_address("1.2.3.4"), ip_address("86.0.0.1")
ANCHOR = Endpoint(ip_address("45.0.0.1"), 1800)
WIDE, NARROW = TunnelId(1), TunnelId(2)
MTUS = {WIDE: 1472, NARROW: 1272}
APPLICATION = ApplicationId(5)
DF = 0x40


class Ends:
    """A host and its anchor with two tunnels."""

    def __init__(self) -> None:
        self.here, self.there = Paft(), Paft()
        self.host = HostForwarder(
            self.here, OWNER, ANCHOR.address, lambda key, mark, dscp=0: Classified(APPLICATION, 7, "call")
        )
        self.anchor = AnchorForwarder(self.there, ANCHOR.address, Reach((), own=(ANCHOR.address,)))
        for id, mtu in MTUS.items():
            network, remote = NetworkName(f"net{id}"), Endpoint(ip_address("160.80.0.1"), 1500 + id)
            tunnel = Tunnel(id, OWNER, ANCHOR, mtu, network)
            self.here.add_tunnel(tunnel)
            self.there.add_tunnel(Tunnel(id, OWNER, remote, mtu))
            self.host.open_path(network, Endpoint(ip_address("192.168.1.2"), 1500 + id), ANCHOR)
            self.host.use_tunnel(network, tunnel)
        self.move(WIDE)

    def move(self, id: TunnelId) -> None:
        self.here.steer(APPLICATION, id)
        for key in self.here.flows:
            self.there.move(key, self.there.tunnels[id], 1.0)

    def send(self, size: int, way: str, *, may_split: bool = False) -> Outbound:
        """A packet of so many bytes: what its end does with it."""
        ends = (OWNER, 4000, CORRESPONDENT, 5004) if way == "up" else (CORRESPONDENT, 5004, OWNER, 4000)
        packet = bytearray(build_udp(*ends, bytes(size - 28)))
        assert packet[6] & DF
        if may_split:
            packet[6] &= ~DF
        if way == "up":
            return self.host.outbound(bytes(packet), 0, 2.0)
        return self.anchor.downlink(bytes(packet), 2.0)


def told_mtu(verdict: Outbound) -> int | None:
    """The MTU in an ICMP "fragmentation needed" (RFC 1191), if that is what the sender is told."""
    if verdict.error is None:
        return None
    error = verdict.error[(verdict.error[0] & 15) * 4 :]
    assert (error[0], error[1]) == (3, 4)
    return int.from_bytes(error[6:8], "big")


@pytest.mark.parametrize("way", ["up", "down"])
def test_the_sender_is_told_the_size_of_the_tunnel_that_its_flow_has_moved_to(way: str) -> None:
    ends = Ends()
    ends.send(100, "up")
    ends.move(WIDE)
    assert len(ends.send(1400, way).payloads) == 1
    ends.move(NARROW)
    verdict = ends.send(1400, way)
    assert (list(verdict.payloads), told_mtu(verdict)) == ([], MTUS[NARROW])
    assert len(ends.send(MTUS[NARROW], way).payloads) == 1
    # Who allows it is split, and told nothing.
    split = ends.send(1400, way, may_split=True)
    assert (len(split.payloads), split.error) == (2, None)
    ends.move(WIDE)
    back = ends.send(1400, way)
    assert (len(back.payloads), back.error) == (1, None)
