"""Packets of flows that a correspondent begins, at both ends: by which tunnel, and whose they are."""

from ipaddress import ip_address

from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.packet import build_udp
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.reach import Reach
from upmt_nf.model.flow import UDP, Endpoint, FlowBytes, FlowKey
from upmt_nf.model.identity import ApplicationId, NetworkName, TunnelId

VIRTUAL, CORRESPONDENT, ANCHOR = map(ip_address, ("1.2.3.4", "86.0.0.1", "45.0.0.1"))
CARE_OF = {NetworkName("net0"): ip_address("192.168.1.2"), NetworkName("net1"): ip_address("192.168.2.2")}
FLOW = FlowKey(UDP, VIRTUAL, 514, CORRESPONDENT, 4000)
DOWN = build_udp(CORRESPONDENT, 4000, VIRTUAL, 514, b"news")
LOGS = ApplicationId(7)


def outer(network: str, inner: bytes) -> bytes:
    return build_udp(ANCHOR, 1800, CARE_OF[NetworkName(network)], 1500, inner)


class Host:
    """A host with two tunnels whose application LOGS is on net1."""

    def __init__(self) -> None:
        self.paft = Paft()
        self.strays: list[FlowBytes] = []
        self.forwarder = HostForwarder(
            self.paft,
            VIRTUAL,
            ANCHOR,
            lambda key, mark, dscp=0: Classified(LOGS, 42, "rsyslogd"),
            stray=self.strays.append,
        )
        for number, (network, address) in enumerate(CARE_OF.items(), start=1):
            tunnel = Tunnel(TunnelId(number), VIRTUAL, Endpoint(ANCHOR, 1800), 1472, network)
            self.paft.add_tunnel(tunnel)
            self.forwarder.open_path(network, Endpoint(address, 1500), tunnel.remote)
            self.forwarder.use_tunnel(network, tunnel)
        self.paft.steer(LOGS, TunnelId(2))


def test_the_host_knows_whose_an_incoming_flow_is_before_it_answers() -> None:
    host = Host()
    assert host.forwarder.inbound(outer("net0", DOWN), 1.0).deliver == DOWN
    entry = host.paft.flows[FLOW.packed()]
    assert (entry.application_id, entry.pid, entry.command) == (LOGS, 42, "rsyslogd")
    assert (entry.packets_in, entry.packets_out) == (1, 0)
    answer = host.forwarder.outbound(build_udp(VIRTUAL, 514, CORRESPONDENT, 4000, b"thanks"), 0, 1.1)
    assert answer.tunnel is host.paft.tunnels[TunnelId(2)]


def test_a_flow_that_is_never_answered_is_reported_once_when_it_comes_by_another_tunnel() -> None:
    host = Host()
    for number in range(20):
        host.forwarder.inbound(outer("net0", DOWN), float(number))
    assert host.strays == [FLOW.packed()]


def test_a_flow_on_its_own_tunnel_or_with_answers_is_not_reported() -> None:
    host = Host()
    for _ in range(20):
        host.forwarder.inbound(outer("net1", DOWN), 1.0)
    assert host.strays == []
    host = Host()
    for _ in range(20):
        host.forwarder.inbound(outer("net0", DOWN), 1.0)
        host.forwarder.outbound(build_udp(VIRTUAL, 514, CORRESPONDENT, 4000, b"thanks"), 0, 1.0)
    assert host.strays == []


def test_the_anchor_sends_what_it_never_saw_where_the_host_wants_it() -> None:
    paft = Paft()
    forwarder = AnchorForwarder(paft, ANCHOR, Reach())
    one, other = (
        Tunnel(TunnelId(number), VIRTUAL, Endpoint(ip_address("160.80.100.1"), 33000 + number), 1472)
        for number in (1, 2)
    )
    for tunnel in (one, other):
        paft.add_tunnel(tunnel)
    up = build_udp(VIRTUAL, 9, CORRESPONDENT, 9, b"data")
    forwarder.uplink(build_udp(other.remote.address, other.remote.port, ANCHOR, 1800, up), 1.0)
    assert forwarder.downlink(DOWN, 1.0).tunnel is other
    assert forwarder.counters.as_dict()["guessed_tunnel"] == 1
    paft.newcomers[VIRTUAL.packed] = one
    assert forwarder.downlink(DOWN, 1.0).tunnel is one
    assert forwarder.downlink(build_udp(CORRESPONDENT, 9, VIRTUAL, 9, b"data"), 1.0).tunnel is other
    paft.remove_tunnel(one.id)
    assert forwarder.downlink(DOWN, 1.0).tunnel is other
    assert paft.newcomers == {}
    assert packed_endpoint(other.remote) in paft.tunnels_by_remote
