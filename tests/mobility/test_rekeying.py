"""Protected tunnels get new keys by time and by packets, and both ends have each other's key at every moment."""

from random import Random
from typing import Any

import pytest
from mobility_terminal import ANCHOR, NET0, NET1
from mobility_world import World, associated, misbehave

from upmt_nf.datapath.packet import build_udp
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import PROTECTED, Cookie, Sealed
from upmt_nf.mobility.rekeying import LEAST, RETRY, Rekeying
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import NetworkName, TerminalId, TunnelId

IDENTITY, SECRET = "mh@upmt", "both know it"


def protected_tunnel(name: str = "sealed") -> Tunnel:
    tunnel = Tunnel(TunnelId(7), ANCHOR, Endpoint(ANCHOR, 1800), 1400, NET0)
    tunnel.format = PROTECTED[name](b"u" * 32, b"d" * 32)
    return tunnel


def rekeying(**settings: Any) -> Rekeying:
    chosen = HostSettings(TerminalId(IDENTITY), ANCHOR, (NET0,), **settings)
    return Rekeying(chosen, Random(1))


def test_keys_are_due_by_time_with_jitter_and_again_only_after_a_while() -> None:
    machine, tunnel = rekeying(rekey_after=3600.0), protected_tunnel()
    machine.begin(NET0, 0.0)
    due = machine.next_timeout()
    assert due is not None
    assert 3240 <= due <= 3600
    assert machine.due([tunnel], due - 1) == []
    assert machine.due([tunnel], due) == [NET0]
    assert machine.due([tunnel], due + 1) == []
    assert machine.due([tunnel], due + 1.2 * RETRY) == [NET0]
    machine.begin(NET0, due + 2 * RETRY)
    assert machine.due([tunnel], due + 3 * RETRY) == []
    assert machine.due([], due + 3 * RETRY) == []
    assert machine.next_timeout() is None, "no tunnel, no timer"


@pytest.mark.parametrize("name", PROTECTED)
def test_keys_are_due_by_packets_but_serve_a_moment_at_least(name: str) -> None:
    machine, tunnel = rekeying(rekey_after_packets=100), protected_tunnel(name)
    machine.begin(NET0, 0.0)
    packet = build_udp(ANCHOR, 1, ANCHOR, 2, b"")
    for _ in range(99):
        tunnel.format.encode(tunnel, packet)
    assert machine.due([tunnel], 10.0) == []
    tunnel.format.encode(tunnel, packet)
    assert machine.due([tunnel], LEAST / 2) == []
    assert machine.due([tunnel], 10.0) == [NET0]


def test_what_the_other_end_seals_counts_too() -> None:
    machine, tunnel, other = rekeying(rekey_after_packets=100), protected_tunnel(), protected_tunnel()
    other.format = Sealed(b"d" * 32, b"u" * 32)
    for _ in range(100):
        wire = other.format.encode(other, build_udp(ANCHOR, 1, ANCHOR, 2, b""))
        assert tunnel.format.decode(tunnel, wire) is not None
    assert machine.due([tunnel], 10.0) == [NET0]


def test_plain_tunnels_have_no_keys_to_renew() -> None:
    machine = rekeying()
    plain = Tunnel(TunnelId(7), ANCHOR, Endpoint(ANCHOR, 1800), 1400, NET0)
    assert machine.due([plain], 1e6) == []


def guarded(seed: int, **settings: Any) -> World:
    """A world whose two ends have proven themselves; net0 is sealed, net1 has cookies."""
    formats = {NET0: "sealed", NET1: "cookie"}
    return World(seed, is_guarded=True, protection=formats, probe_binding_time=False, **settings)


def assert_keys_are_known(world: World) -> None:
    """Each end opens what the other seals now."""
    for name, id in world.host.open_tunnels.items():
        here, there = world.host.paft.tunnels[id].format, world.anchor_paft.tunnels[id].format
        assert isinstance(here, Cookie | Sealed), name
        assert isinstance(there, Cookie | Sealed), name
        assert here._keys.current.id in [key.id for key in there._keys]
        assert there._keys.current.id in [key.id for key in here._keys]


def talk(world: World, name: NetworkName, loss: float) -> None:
    """Sealed packets both ways from now on, some of which are lost: so that ends hear new keys, sooner or later."""
    chance = Random(7)

    def once() -> None:
        if (id := world.host.open_tunnels.get(name)) is not None:
            here, there = world.host.paft.tunnels[id], world.anchor_paft.tunnels[id]
            for source, target in ((here, there), (there, here)):
                packet = build_udp(ANCHOR, 1, ANCHOR, 2, b"x")
                wire = source.format.encode(source, packet)
                if chance.random() >= loss:
                    assert target.format.decode(target, wire) == packet
        world.after(0.5, once)

    once()


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_keys_change_in_any_weather_and_both_ends_always_have_them(seed: int, loss: float) -> None:
    world = associated(guarded(seed, rekey_after=20.0))
    world.watchers.append(lambda: assert_keys_are_known(world))
    before = world.host.machine.counters["keys_renewed"]
    misbehave(world, loss=loss, duplication=0.2, jitter=0.3)
    for name in (NET0, NET1):
        talk(world, name, loss)
    world.run(600)
    renewed = world.host.machine.counters["keys_renewed"] - before
    assert renewed >= 2 * 600 / 20 * (0.95 if loss < 0.2 else 0.5)
    misbehave(world)
    world.run(60)
    assert {world.host.network_state(name) for name in (NET0, NET1)} == {"up"}
    if not loss:
        assert not [text for _, text in world.host.said if "is dead" in text]


def test_old_keys_are_forgotten_at_both_ends() -> None:
    world = associated(guarded(1, rekey_after=300.0))
    talk(world, NET0, 0.0)
    world.run(2000)
    for paft in (world.host.paft, world.anchor_paft):
        format = paft.tunnels[world.host.open_tunnels[NET0]].format
        assert isinstance(format, Sealed)
        world.until(lambda format=format: len(list(format._keys)) == 1, 300)  # type: ignore[misc]
