"""The anchor's table of tunnels: what falls silent is forgotten, by little work at a time."""

from ipaddress import IPv4Address
from random import Random

from mobility_terminal import ANCHOR

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.anchor_tunnels import LEAST_LOOKS, AnchorTunnels
from upmt_nf.mobility.leases import LeaseAsked, LeaseGiven, Leases
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TerminalId

TIMEOUT = 300.0


def test_silent_tunnels_go_and_heard_ones_stay_with_bounded_work_a_sweep() -> None:
    count = 3 * LEAST_LOOKS
    first = IPv4Address("10.64.0.1")
    settings = AnchorSettings(ANCHOR, AddressPool(first, first + count), tunnel_timeout=TIMEOUT)
    leases, paft = Leases(settings, iter(map(str, range(count))).__next__), Paft()
    table = AnchorTunnels(paft, settings, Random(0))
    tunnels: list[Tunnel] = []
    for number in range(count):
        given = leases.ask(LeaseAsked(TerminalId(str(number)), str(number), 1, 3600), 0.0)
        assert isinstance(given, LeaseGiven)
        tunnel = table.set_up(given.lease, "net0", Endpoint(IPv4Address("203.0.113.1"), number + 1), 2, 0.0)
        assert isinstance(tunnel, Tunnel)
        tunnels.append(tunnel)
    for tunnel in tunnels[::2]:
        tunnel.heard = 250.0
    assert table.expire(TIMEOUT) == [], "not longer than the timeout yet"
    forgotten: list[Tunnel] = []
    sweeps = 0
    while forgotten_now := table.expire(TIMEOUT + 1 + sweeps):
        assert len(forgotten_now) <= LEAST_LOOKS
        forgotten += forgotten_now
        sweeps += 1
    assert sweeps >= 2
    assert {tunnel.id for tunnel in forgotten} == {tunnel.id for tunnel in tunnels[1::2]}
    assert set(paft.tunnels) == {tunnel.id for tunnel in tunnels[::2]}
    for tunnel in tunnels[::4]:
        table.remove(tunnel)
    gone = [tunnel for sweep in range(5) for tunnel in table.expire(551 + sweep)]
    assert {tunnel.id for tunnel in gone} == {tunnel.id for tunnel in tunnels[2::4]}
    assert not paft.tunnels


def test_a_setup_request_that_was_overtaken_moves_nothing_and_gets_no_keys() -> None:
    first = IPv4Address("10.64.0.1")
    settings = AnchorSettings(ANCHOR, AddressPool(first, first))
    paft = Paft()
    table = AnchorTunnels(paft, settings, Random(0))
    given = Leases(settings, lambda: "token").ask(LeaseAsked(TerminalId("mh"), "call", 1, 3600), 0.0)
    assert isinstance(given, LeaseGiven)
    old, new = (Endpoint(IPv4Address("203.0.113.1"), port) for port in (1, 2))
    tunnel = table.set_up(given.lease, "net0", old, 5, 0.0)
    assert isinstance(tunnel, Tunnel)
    assert table.set_up(given.lease, "net0", new, 7, 0.0) is tunnel
    assert isinstance(table.set_up(given.lease, "net0", old, 6, 0.0), str)
    assert tunnel.remote == new
