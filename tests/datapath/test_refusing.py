"""Without a network: packets are held in silence, or their sender is told, application by application."""

from ipaddress import ip_address

import pytest

from upmt_nf.datapath.checksum import transport_checksum
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.packet import build_udp, flow_of, ip_packet, reverse
from upmt_nf.datapath.paft import Paft
from upmt_nf.model.flow import TCP
from upmt_nf.model.identity import ApplicationId

VIRTUAL, CORRESPONDENT, ANCHOR = map(ip_address, ("1.2.3.4", "86.0.0.1", "45.0.0.1"))
HOLDS, REJECTS = ApplicationId(2), ApplicationId(3)
PACKET = build_udp(VIRTUAL, 514, CORRESPONDENT, 4000, b"news")


def forwarder(application: ApplicationId) -> HostForwarder:
    classified = Classified(application, 42, "rsyslogd")
    return HostForwarder(Paft(), VIRTUAL, ANCHOR, lambda key, mark, dscp=0: classified, refusing={REJECTS})


def test_a_held_packet_ends_in_silence() -> None:
    verdict = forwarder(HOLDS).outbound(PACKET, 0, 1.0)
    assert verdict.tunnel is None
    assert verdict.error is None


def test_the_sender_of_a_rejected_packet_is_told_that_it_was_filtered() -> None:
    verdict = forwarder(REJECTS).outbound(PACKET, 0, 1.0)
    assert verdict.tunnel is None
    assert verdict.error is not None
    assert verdict.error[20:22] == b"\x03\x0d"
    key = flow_of(PACKET)
    assert key is not None
    assert flow_of(verdict.error) == reverse(key)


def tcp(flags: int) -> bytes:
    ports = (514).to_bytes(2, "big") + (4000).to_bytes(2, "big")
    segment = ports + b"\0\0\0\7" + b"\1\2\3\4" + bytes((0x50, flags)) + bytes(6) + b"news"
    return ip_packet(VIRTUAL, CORRESPONDENT, TCP, segment)


def test_a_running_connection_that_is_rejected_is_reset_at_once() -> None:
    packet = tcp(0x18)
    reset = forwarder(REJECTS).outbound(packet, 0, 1.0).error
    assert reset is not None
    key = flow_of(packet)
    assert key is not None
    assert flow_of(reset) == reverse(key)
    assert reset[24:28] == b"\1\2\3\4"
    assert reset[33] == 0x04
    assert transport_checksum(reset[12:16], reset[16:20], TCP, reset[20:]) == 0
    assert forwarder(HOLDS).outbound(packet, 0, 1.0).error is None


@pytest.mark.parametrize("flags", [0x02, 0x04, 0x14])
def test_openings_are_refused_by_icmp_and_no_reset_answers_a_reset(flags: int) -> None:
    error = forwarder(REJECTS).outbound(tcp(flags), 0, 1.0).error
    assert error is not None
    assert error[9] == 1
