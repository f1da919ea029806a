"""The paper's match syntax: conditions within their ranges, or a PeerError; spacing and repetition change nothing."""

from __future__ import annotations

from ipaddress import ip_address

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import ICMPV6, TCP, FlowKey
from upmt_nf.signaling.iptables_match import parse_match

_FLOWS = (
    FlowKey(TCP, ip_address("1.2.3.4"), 2000, ip_address("160.80.81.1"), 80),
    FlowKey(ICMPV6, ip_address("2001:db8::4"), 0, ip_address("2001:db8::1"), 0),
)


def check(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        match = parse_match(text)
    except PeerError as reason:
        assert len(str(reason)) < 8 * 512 + 200
        return
    assert match == parse_match("\t " + "  ".join(text.split()))
    assert match.protocol is None or 0 < match.protocol < 256
    for span in (match.source_ports, match.destination_ports):
        assert span is None or 0 <= span[0] <= span[1] <= 65535
    for flow in _FLOWS:
        assert match.matches(flow) in (True, False)


def seeds() -> list[bytes]:
    return [
        b"-p tcp -destination 160.80.81.1 -destination-port 80",
        b"--protocol UDP --source 10.0.0.0/8 --dport 1000:2000 --sport :53",
        b"-p 58 -s 2001:db8::/32 -d ::1",
        b"-p icmp6 -src 10.0.0.0/255.0.0.0 -dst 1.2.3.4 -source-port 0 -destination-port 65535:",
        b"-p 0x6",
        b"-d fe80::1%eth0",
    ]
