"""The anchor's notices, by whichever tunnel lives, and what the host does about them."""

import json
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise

import pytest
from mobility_terminal import ANCHOR, NET0, NET1, Link, Packet
from mobility_world import World, associated, misbehave, network_at_anchor, settle, with_flows
from wire_schema import body_of

from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.anchor_events import LeaseRevoked
from upmt_nf.mobility.anchor_notices import LOOK_PAUSE, PATIENCE, REPEAT_AFTER, TRIES, AnchorNotices
from upmt_nf.mobility.events import StopAsked
from upmt_nf.model.flow import Endpoint, FlowKey
from upmt_nf.model.identity import TerminalId
from upmt_nf.model.names import MEASUREMENT_PORT, SIGNALLING_PORT
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AnchorNotice
from upmt_nf.signaling.sip.build import message
from upmt_nf.signaling.sip.message import Request

HOST = TerminalId("mh@upmt")


def notices(world: World, kind: str) -> list[Packet]:
    """All copies that were sent."""
    return [
        packet
        for packet in world.packets
        if not packet.is_up and b"AnchorNotice" in packet.payload and kind.encode() in packet.payload
    ]


def answers(world: World) -> list[Packet]:
    return [packet for packet in world.packets if packet.is_up and b"NoticeAnswer" in packet.payload]


def probes(world: World, link: Link) -> list[float]:
    return [
        packet.sent_at
        for packet in world.packets
        if packet.is_up and packet.link is link and packet.port == MEASUREMENT_PORT
    ]


def keep_sending_down(world: World, flow: FlowKey, seconds: float) -> None:
    """The correspondent sends a packet each half second."""
    for step in range(int(2 * seconds)):
        world.after(step / 2, lambda: world.send_down(flow))


# --- tunnel-unheard ---


def deaf_anchor() -> tuple[World, FlowKey]:
    """Nothing of the host's reaches the anchor by net0, where a flow is, and the host will not look for long."""
    world = World(keepalive_interval=60.0, keepalive_idle=60.0)
    (flow,) = with_flows(world, 1)
    assert network_at_anchor(world, flow) == NET0
    world.host.links[NET1].drops = lambda packet: False
    world.host.links[NET0].drops = lambda packet: packet.is_up
    return world, flow


def hear(world: World, name: str) -> None:
    """Something of the host came by a network a moment ago, and goes on doing so."""

    def beat() -> None:
        for tunnel in world.anchor_paft.tunnels.values():
            if tunnel.network == name:
                world.anchor_paft.hear(tunnel, world.now)
        world.after(1.0, beat)

    beat()


def test_a_tunnel_with_waiting_packets_that_is_not_heard_is_told_by_another_and_probed_at_once() -> None:
    world, flow = deaf_anchor()
    hear(world, NET1)
    keep_sending_down(world, flow, 30)
    world.packets.clear()
    world.until(lambda: bool(notices(world, "tunnel-unheard")), 15)
    (notice,) = notices(world, "tunnel-unheard")
    assert notice.link.name == NET1
    body = json.loads(body_of(notice.payload))
    assert body["tunnelID"] == str(world.host.open_tunnels[NET0])
    world.run(0.1)
    assert answers(world)[0].link.name == NET1
    (probe,) = probes(world, world.host.links[NET0])
    assert probe == pytest.approx(notice.sent_at + 0.02)
    # A burst is not answered either: the tunnel dies long before a keepalive is due, and its flow moves.
    assert world.until(lambda: network_at_anchor(world, flow) == NET1, 45) < 4
    world.host.links[NET0].drops = lambda packet: False
    settle(world)


def test_very_many_tunnels_are_looked_at_some_at_a_time_and_none_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here one at a time; an anchor of 100,000 hosts was deaf to packets for half a second every five."""
    monkeypatch.setattr("upmt_nf.mobility.anchor_notices.MOST_LOOKS", 1)
    looked_at: list[float] = []
    judge = AnchorNotices._look

    def look(self: AnchorNotices, tunnel: Tunnel, now: float) -> None:
        looked_at.append(now)
        judge(self, tunnel, now)

    monkeypatch.setattr(AnchorNotices, "_look", look)
    world, flow = deaf_anchor()
    hear(world, NET1)
    keep_sending_down(world, flow, 30)
    world.until(lambda: bool(notices(world, "tunnel-unheard")), 20)
    assert len(looked_at) >= 4
    assert all(later - earlier >= 0.99 * LOOK_PAUSE for earlier, later in pairwise(looked_at))


def test_tunnels_that_nothing_came_out_of_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are idle, a round costs nothing for them."""
    looked_at: list[str] = []
    monkeypatch.setattr(AnchorNotices, "_look", lambda self, heard, now: looked_at.append(heard.network))
    world, flow = deaf_anchor()
    keep_sending_down(world, flow, 60)
    world.host.links[NET1].drops = lambda packet: packet.is_up
    world.run(10)
    looked_at.clear()
    world.run(40)
    assert looked_at == []
    hear(world, NET1)
    world.run(20)
    assert set(looked_at) == {NET1}


def test_flows_alone_take_longer_to_be_told_of() -> None:
    world, _ = deaf_anchor()
    hear(world, NET1)
    world.packets.clear()
    start = world.now
    world.until(lambda: bool(notices(world, "tunnel-unheard")), 30)
    assert 15 <= world.now - start < 26


def test_a_tunnel_without_flows_is_nobodys_concern() -> None:
    world = associated(World(keepalive_interval=60.0))
    hear(world, NET1)
    world.packets.clear()
    world.run(50)
    assert notices(world, "tunnel-unheard") == []


def test_a_host_that_is_not_heard_at_all_is_not_told_of_one_tunnel() -> None:
    world, flow = deaf_anchor()
    keep_sending_down(world, flow, 40)
    world.packets.clear()
    world.run(40)
    assert notices(world, "tunnel-unheard") == []


def test_false_alarms_become_rarer() -> None:
    """Downlink only, with keepalives that are far apart: the tunnel lives, and answers each time."""
    world = World(keepalive_interval=60.0)
    (flow,) = with_flows(world, 1)
    hear(world, NET1)
    keep_sending_down(world, flow, 300)
    world.packets.clear()
    world.run(300)
    told = notices(world, "tunnel-unheard")
    assert 2 <= len(told) <= 10
    gaps = [later.sent_at - earlier.sent_at for earlier, later in pairwise(told)]
    assert gaps[-1] > 2 * gaps[0]
    assert world.host.network_state(NET0) == "up"


def test_a_silent_tunnel_is_told_of_again_after_a_while_only() -> None:
    world, flow = deaf_anchor()
    hear(world, NET1)
    # The host hears of it and can do nothing: it goes on believing in the tunnel.
    world.host.machine._tunnels[NET0].doubt = lambda now: None  # type: ignore[method-assign]
    keep_sending_down(world, flow, 55)
    world.packets.clear()
    world.run(50)
    assert len({packet.payload for packet in notices(world, "tunnel-unheard")}) == 1
    assert REPEAT_AFTER > 50


@pytest.mark.parametrize("seed", range(5))
def test_loss_and_duplication_of_notices_end_in_agreement(seed: int) -> None:
    world = World(seed)
    with_flows(world, 10)
    misbehave(world, loss=0.3, duplication=0.3, jitter=0.1)
    for _ in range(4):
        world.host.links[NET0].drops = lambda packet: packet.is_up
        for flow in [entry.flow for entry in world.host.paft.flows.values()]:
            keep_sending_down(world, flow, 20)
        world.run(30)
        world.host.links[NET0].drops = lambda packet: False
        world.run(15)
    settle(world)
    assert world.host.releases == 0
    assert world.anchor._notices.waiting == 0


# --- lease-ended ---


def test_a_lease_that_an_administrator_ends_is_asked_for_again_at_once() -> None:
    world = World()
    flows = with_flows(world, 5)
    before = world.host.machine._association.token
    world.take(LeaseRevoked(HOST))
    assert [ended.reason for ended in world.ended] == ["an administrator ended it"]
    assert world.anchor_paft.tunnels == {}
    assert world.until(lambda: world.host.state == "lost", 1) == pytest.approx(0.02)
    world.settle(within=30)
    assert world.host.machine._association.token != before
    assert world.host.virtual_address == flows[0].source
    assert len(world.granted) == 2
    world.assert_agreement()


def test_who_has_no_lease_loses_none() -> None:
    world = associated(World())
    assert world.take(LeaseRevoked(TerminalId("nobody@upmt"))) == []
    assert world.host.state == "associated"


def test_an_unanswered_notice_is_tried_by_the_next_tunnel() -> None:
    world = associated(World())
    world.packets.clear()
    best = max(world.anchor_paft.tunnels.values(), key=lambda tunnel: tunnel.heard).network
    other = NET1 if best == NET0 else NET0
    world.host.links[best].drops = lambda packet: not packet.is_up and b"AnchorNotice" in packet.payload
    world.take(LeaseRevoked(HOST))
    took = world.until(lambda: world.host.state == "lost", 5)
    assert took == pytest.approx(PATIENCE + 0.02)
    assert {packet.link.name for packet in notices(world, "lease-ended")} == {best, other}
    world.run(1)
    assert world.anchor._notices.waiting == 0


def test_notices_to_nobody_end() -> None:
    world = associated(World())
    misbehave(world, loss=1.0)
    world.take(LeaseRevoked(HOST))
    assert world.anchor._notices.waiting == 1
    world.run(TRIES * PATIENCE + 1)
    assert world.anchor._notices.waiting == 0
    sent = len(notices(world, "lease-ended"))
    assert sent < 40
    world.run(60)
    assert len(notices(world, "lease-ended")) == sent


def test_a_late_copy_does_not_end_the_next_association() -> None:
    world = associated(World())
    world.packets.clear()
    world.take(LeaseRevoked(HOST))
    world.settle(within=30)
    copy = notices(world, "lease-ended")[0]
    # Under another branch, so that it is no repetition to SIP.
    late = replace(copy, payload=copy.payload.replace(b"branch=z9hG4bK", b"branch=z9hG4bKlate"))
    world.carry(late)
    world.run(1)
    assert world.host.state == "associated"
    assert len(world.ended) == 1


@pytest.mark.parametrize("token", ["", "0" * 32])
@pytest.mark.parametrize("kind", ["lease-ended", "going-down"])
def test_a_notice_that_does_not_know_the_association_is_not_believed(token: str, kind: str) -> None:
    """From somebody who sends with the anchor's address, and has not read the path."""
    world = associated(World())
    link = world.host.links[NET0]
    address = world.host.virtual_address
    assert address is not None
    good = notice_of(AnchorNotice(kind, "says who?", token), str(address))
    inner = replace(
        next(packet for packet in world.packets if packet.kind == "signal" and not packet.is_up),
        payload=good,
        port=SIGNALLING_PORT,
        link=link,
        host=link.reflexive,
    )
    world.carry(inner)
    world.run(1)
    assert world.host.state == "associated"
    assert not any("says who" in text for _, text in world.host.said)


def notice_of(body: AnchorNotice, address: str) -> bytes:
    inner, anchor = Endpoint(ip_address(address), SIGNALLING_PORT), Endpoint(ANCHOR, SIGNALLING_PORT)
    request: Request = message(
        anchor=inner, local=anchor, identity="anchor@upmt", call_id="c", cseq=1, tag="t", body=encode(body)
    )
    (name, via), *rest = request.headers
    return bytes(replace(request, headers=((name, f"{via};branch=z9hG4bKforged"), *rest)))


def test_a_lease_that_ran_out_is_told_to_a_host_that_is_still_heard() -> None:
    world = World(anchor={"lifetime": 60})
    associated(world)
    world.host.links[NET0].drops = world.host.links[NET1].drops = lambda packet: packet.kind == "sip"
    world.packets.clear()
    world.until(lambda: bool(world.ended), 120)
    assert len(notices(world, "lease-ended")) == 1
    world.run(1)
    assert len(answers(world)) >= 1


def test_a_host_that_leaves_is_told_nothing() -> None:
    world = associated(World())
    world.packets.clear()
    world.host.stop()
    world.run(2)
    assert world.host.has_stopped
    assert notices(world, "lease") == []


# --- going-down ---


def test_a_stopping_anchor_tries_every_tunnel_of_a_host() -> None:
    world = associated(World())
    best = max(world.anchor_paft.tunnels.values(), key=lambda tunnel: tunnel.heard).network
    world.host.links[best].is_black_hole = True
    world.take(StopAsked())
    took = world.until(lambda: world.anchor_has_stopped, 2.0)
    assert took == pytest.approx(0.5 + 0.04)
    assert world.host.state == "lost"
