"""Without a network: packets are held in silence, or their sender is told, application by application."""

from ipaddress import ip_address

from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.packet import build_udp, flow_of, reverse
from upmt_nf.datapath.paft import Paft
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
