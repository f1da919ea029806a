"""With proofs on both sides, whoever reads and writes on the path cannot end what the two ends have."""

from dataclasses import replace

import pytest
from mobility_terminal import ANCHOR, NET0, NET1, Packet
from mobility_world import World, associated

from upmt_nf.mobility.anchor_events import SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.events import StopAsked
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import DEFAULT_APPLICATION
from upmt_nf.model.names import SIGNALLING_PORT
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AnchorNotice
from upmt_nf.signaling.sip.build import message
from upmt_nf.signaling.sip.message import Request
from upmt_nf.signaling.sip.parser import parse

STRANGER = Endpoint(ANCHOR + 99, 5060)


def guarded(seed: int = 0, **options: object) -> World:
    return associated(World(seed, is_guarded=True, **options))  # type: ignore[arg-type]


def answered_with(world: World, status: str) -> None:
    """From now on somebody on the path answers each request of the host first, and without proof."""
    host = world.host

    def forge(packet: Packet) -> bool:
        if packet.is_up and packet.kind in ("sip", "signal") and packet.port in (0, SIGNALLING_PORT):
            request = parse(packet.payload)
            if isinstance(request, Request):
                echoed = [
                    f"{name}: {value}"
                    for name, value in request.headers
                    if name in ("Via", "From", "To", "Call-ID", "CSeq")
                ]
                if status.startswith("401"):
                    echoed.append(
                        'WWW-Authenticate: Digest realm="upmt", qop="auth-int", algorithm=SHA-256, nonce="bogus"'
                    )
                data = "\r\n".join((f"SIP/2.0 {status}", *echoed, "Content-Length: 0", "", "")).encode()
                answer = replace(packet, is_up=False, payload=data)
                world.after(0.001, lambda: host.hear(answer))
        return False

    for link in host.links.values():
        link.drops = forge


@pytest.mark.parametrize(
    "status", ["403 Forbidden", "481 Gone", "503 Busy", "423 Brief", "400 Bad", "200 OK"]
)
def test_forged_answers_do_not_end_an_association_nor_stop_a_handover(status: str) -> None:
    world = guarded(lifetime=30)
    flow = world.host.open_flow()
    states = set()
    world.watchers.append(lambda: states.add(world.host.state))
    answered_with(world, status)
    for target in (NET1, NET0):
        assert world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, target)).target == target
    world.run(120)
    assert states == {"associated", "refreshing"}
    assert world.ended == []
    assert world.host.network_state(NET0) == world.host.network_state(NET1) == "up"
    assert world.host.machine.counters["unproven"] > 4
    world.host.send(flow)
    world.run(1)
    world.assert_agreement()


def test_forged_challenges_cost_no_association() -> None:
    world = guarded(lifetime=60)
    answered_with(world, "401 Unauthorized")
    world.run(40)
    assert world.host.state in ("associated", "refreshing")
    for link in world.host.links.values():
        link.drops = lambda _: False
    world.run(120)
    assert world.host.state in ("associated", "refreshing")
    assert world.ended == []


def notice_request(call_id: str = "forged") -> Request:
    address = ANCHOR
    return message(
        anchor=Endpoint(address, SIGNALLING_PORT),
        local=Endpoint(address, SIGNALLING_PORT),
        identity="anchor@upmt",
        call_id=call_id,
        cseq=1,
        tag="t",
        body=encode(AnchorNotice("going-down", "says who?")),
    )


def hear_inside(world: World, data: bytes) -> None:
    host = world.host
    assert host.virtual_address is not None
    link = host.links[NET0]
    inner = Endpoint(host.virtual_address, SIGNALLING_PORT)
    host.hear(Packet("signal", False, link, link.reflexive, inner, SIGNALLING_PORT, data, world.now))


def with_branch(request: Request, branch: str) -> bytes:
    (name, via), *rest = request.headers
    via = via.partition(";branch=")[0]
    return bytes(replace(request, headers=((name, f"{via};branch=z9hG4bK{branch}"), *rest)))


def test_a_forged_notice_inside_a_tunnel_is_not_believed() -> None:
    world = guarded()
    hear_inside(world, with_branch(notice_request(), "1"))
    proof = replace(notice_request(), headers=(*notice_request().headers, ("UPMT-Proof", "0" * 64)))
    hear_inside(world, with_branch(proof, "2"))
    assert world.host.state == "associated"
    assert world.host.machine.counters["unproven_notice"] == 2


def test_a_true_notice_is_believed_once() -> None:
    world = guarded()
    world.take(StopAsked())
    world.until(lambda: world.host.state == "lost", 1.0)
    sent = [packet for packet in world.packets if not packet.is_up and packet.payload.startswith(b"MESSAGE")]
    (notice,) = sent
    world.run(3)
    anchor_was = world.anchor
    world.start_anchor()
    world.settle(within=60)
    assert world.anchor is not anchor_was
    request = parse(notice.payload)
    assert isinstance(request, Request)
    hear_inside(world, with_branch(request, "again"))
    assert world.host.state == "associated"
    assert world.host.machine.counters["unproven_notice"] == 1


def test_a_notice_is_not_believed_twice_under_one_key() -> None:
    world = guarded()
    anchor = world.anchor
    world.take(StopAsked())
    world.until(lambda: world.host.state == "lost", 1.0)
    (notice,) = (
        packet for packet in world.packets if packet.payload.startswith(b"MESSAGE") and not packet.is_up
    )
    # The anchor changed its mind: its keys are those of before.
    anchor._stop_at, anchor._is_stopped, world.anchor_has_stopped = None, False, False
    world.settle(within=60)
    request = parse(notice.payload)
    assert isinstance(request, Request)
    hear_inside(world, with_branch(request, "again"))
    assert world.host.state == "associated"


def register_on_the_wire(world: World) -> Request:
    """The newest REGISTER with a proof."""
    found = [packet.payload for packet in world.packets if packet.payload.startswith(b"REGISTER")]
    request = parse(next(data for data in reversed(found) if b"Authorization" in data))
    assert isinstance(request, Request)
    return request


def status_of(world: World, data: bytes) -> int:
    before = len(world.packets)
    commands = world.take(SipDatagramReceived(STRANGER, data))
    del world.packets[before:]
    (answer,) = (getattr(command, "data", b"") for command in commands if hasattr(command, "data"))
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("CSeq", "9999 REGISTER"),
        ("Call-ID", "another-process"),
        ("To", "<sip:mh@upmt>;x=y"),
        ("Expires", "0"),
        ("VIpAddr", "10.99.0.9"),
    ],
)
def test_headers_on_which_the_anchor_acts_are_under_the_proof(header: str, value: str) -> None:
    """The path holds a request back, and sends another header with its proof."""
    world = guarded(lifetime=60)
    tunnels, token = set(world.anchor_paft.tunnels), world.host.machine._association.token
    for link in world.host.links.values():
        link.drops = lambda packet: packet.payload.startswith(b"REGISTER")
    before = len(world.packets)
    world.until(lambda: any(p.payload.startswith(b"REGISTER") for p in world.packets[before:]), 60)
    held = register_on_the_wire(world)
    names = [name for name, _ in held.headers]
    headers = [(name, value if name == header else old) for name, old in held.headers]
    if header not in names:
        headers.append((header, value))
    assert status_of(world, bytes(replace(held, headers=tuple(headers)))) in (400, 403)
    assert set(world.anchor_paft.tunnels) == tunnels
    assert status_of(world, with_branch(held, "true")) == 200, "its count was not used up"
    for link in world.host.links.values():
        link.drops = lambda _: False
    world.run(10)
    assert world.host.machine._association.token == token
    assert world.ended == []


def test_a_goodbye_that_was_held_back_does_not_end_the_next_association() -> None:
    world = guarded()
    goodbyes: list[bytes] = []

    def hold(packet: Packet) -> bool:
        if packet.payload.startswith(b"REGISTER") and b"\r\nExpires: 0\r\n" in packet.payload:
            goodbyes.append(packet.payload)
            return True
        return False

    world.host.links[NET1].drops = hold
    world.host.stop()
    world.until(lambda: world.host.has_stopped, 3)
    world.host.start()
    world.host.appear(NET0, NET1)
    world.settle()
    granted = len(world.ended)
    assert goodbyes
    assert status_of(world, goodbyes[0]) in (200, 500)
    world.run(3)
    assert len(world.ended) == granted
    assert world.host.state == "associated"
    world.assert_agreement()


def test_a_register_of_an_earlier_process_does_not_look_like_a_restart() -> None:
    world = guarded(lifetime=60)
    for link in world.host.links.values():
        link.drops = lambda packet: packet.payload.startswith(b"REGISTER")
    before = len(world.packets)
    world.until(lambda: any(p.payload.startswith(b"REGISTER") for p in world.packets[before:]), 60)
    held = register_on_the_wire(world)
    for link in world.host.links.values():
        link.drops = lambda _: False
    world.host.restart()
    world.settle()
    tunnels = set(world.anchor_paft.tunnels)
    assert status_of(world, bytes(held)) == 500
    assert set(world.anchor_paft.tunnels) == tunnels
    world.assert_agreement()


def test_a_second_host_takes_nothing_of_the_first() -> None:
    """It has a proof of its own, and the first one's token."""
    world = guarded()
    second = world.add_host("second@upmt")
    second.appear(*second.links)
    world.settle(second)
    first_address = world.host.virtual_address
    assert first_address is not None
    flow = world.host.open_flow()
    world.run(1)
    second.machine._association.token = world.host.machine._association.token
    second.machine._association.virtual_address = first_address
    second.virtual_address = first_address
    second.hand_over(DEFAULT_APPLICATION, NET1)
    second.machine._setups.ask(second.machine._tunnels[NET0], False, world.now)
    world.run(5)
    assert {
        tunnel.remote.address
        for tunnel in world.anchor_paft.tunnels.values()
        if tunnel.owner == first_address
    } == {link.public for link in world.host.links.values()}
    assert flow.packed() in world.anchor_paft.flows
    world.assert_agreement()


def test_measurement_from_nowhere_is_counted() -> None:
    world = guarded()
    inner = Endpoint(ANCHOR + 1, 862)
    assert world.take(TunnelSignalReceived(None, STRANGER, inner, 862, bytes(44))) == []
    assert world.anchor.counters["measurement_without_tunnel"] == 1


def test_handovers_and_setups_of_many_flows_fit_into_a_datagram_with_their_proof() -> None:
    """The world refuses longer ones."""
    world = guarded(keepalive_interval=2.0)
    for _ in range(100):
        world.host.open_flow()
    world.run(1)
    assert world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1)).flows == 100
    for link in world.host.links.values():
        link.is_black_hole = True
    world.run(30)
    for link in world.host.links.values():
        link.is_black_hole = False
    world.settle()
    world.assert_agreement()


def test_a_register_of_an_earlier_process_that_was_never_heard_does_not_lock_the_present_one_out() -> None:
    """Held back before the anchor knew of that process at all."""
    world = guarded(lifetime=60)
    held: list[bytes] = []

    def hold(packet: Packet) -> bool:
        if packet.payload.startswith(b"REGISTER") and b"Authorization" in packet.payload:
            held.append(packet.payload)
            return True
        return False

    for link in world.host.links.values():
        link.drops = hold
    world.host.restart()
    world.run(0.2)
    for link in world.host.links.values():
        link.drops = lambda _: False
    world.host.restart()
    world.settle()
    tunnels = set(world.anchor_paft.tunnels)
    assert held
    assert {status_of(world, data) for data in held} == {500}
    world.run(120)
    assert world.host.state in ("associated", "refreshing")
    assert set(world.anchor_paft.tunnels) == tunnels
    world.assert_agreement()
