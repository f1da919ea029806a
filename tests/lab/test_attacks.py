"""Attacks on the wire, while a download and two voice streams of the victim run: they lose nothing, and it is counted.

mh if0 (sealed) - gw0 -+
                       inet (the attacker, who reads, writes and meddles) - an
mh if1 (cookie) - gw1 -+
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from lab_attacker import ANCHOR, SIP, TUNNEL, Meddler, Seen, icmp_error, newest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until
from lab_siege import (
    CORRESPONDENT,
    ENDS,
    VICTIM,
    Siege,
    besieged,
    keeps_working,
    other_branch,
    put_inside,
    says,
    sip,
    uplink,
)

from upmt_nf.datapath.packet import build_udp, parse_udp
from upmt_nf.lab.voice_stream import read_log
from upmt_nf.model.flow import UDP, Endpoint, FlowKey
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.messages import HandoverPair, HandoverRequest, TunnelSetupRequest
from upmt_nf.signaling.sip.message import Request
from upmt_nf.signaling.sip.parser import parse

pytestmark = [pytest.mark.lab, pytest.mark.alone]

ELSEWHERE = Endpoint(ip_address("45.0.0.254"), 41000)


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    with besieged(lab, {"net0": "sealed", "net1": "cookie"}) as made:
        yield made


@pytest.fixture
def unharmed(siege: Siege) -> Iterator[Siege]:
    """The siege; the victim loses nothing."""
    with keeps_working(siege):
        yield siege


# --- repeats ---


def test_repeated_registers_and_goodbyes_change_nothing_wherever_they_come_from(unharmed: Siege) -> None:
    siege = unharmed
    hello = newest(siege.seen, says(b"REGISTER", b"Authorization"))
    goodbye = newest(siege.seen, says(b"REGISTER", b"Authorization", b"Expires: 0"))
    repeats = 0
    with siege.counting("an", "challenged", by=8):
        for packet in (hello, goodbye):
            for source in (None, Endpoint(ELSEWHERE.address, SIP)):
                siege.reader.send(packet.again(source=source))
                for number in range(2):
                    word = b"again%d%d" % (number, repeats)
                    siege.reader.send(packet.again(source=source, payload=other_branch(packet.payload, word)))
                    repeats += 1
    associations = {entry["identity"]: entry for entry in siege.status("an")["associations"]}
    assert associations[siege.identity]["tunnels"] == 2


@pytest.mark.parametrize("words", [b"TunnelSetupRequest", b"HandoverRequest"])
def test_repeated_messages_move_neither_tunnels_nor_flows(unharmed: Siege, words: bytes) -> None:
    siege = unharmed
    packet = newest(siege.seen, says(b"MESSAGE", b"Authorization", words))
    before = {flow["source_port"]: flow["tunnel_id"] for flow in siege.flows()}
    word = words[:4]
    with siege.counting("an", "challenged", by=4):
        for source in (ELSEWHERE, *ENDS.values()):
            inside = put_inside(packet, other_branch(sip(packet), word + b"%d" % source.port))
            siege.reader.send(packet.again(source=source))
            siege.reader.send(packet.again(source=source, payload=inside))
        outside = other_branch(sip(packet), word + b"out")
        siege.reader.send(build_udp(ELSEWHERE.address, 41001, ANCHOR, SIP, outside))
    after = {flow["source_port"]: flow["tunnel_id"] for flow in siege.flows()}
    assert {port: after[port] for port in before if port in after} == {
        port: id for port, id in before.items() if port in after
    }


def test_repeated_sealed_packets_are_dropped_at_both_ends(unharmed: Siege) -> None:
    siege = unharmed
    up = siege.reader.read(uplink("net0", 2), 50)
    with siege.counting("an", "malformed_inner", by=100):
        for packet in up * 2:
            siege.reader.send(packet.again())
    with siege.counting("an", "unknown_tunnel", by=50):
        for packet in up:
            siege.reader.send(packet.again(source=ELSEWHERE))
    down = siege.reader.read(
        # No longer than one on a wire: a lab's interfaces also hand on several in one.
        lambda packet: (
            packet.destination == ENDS["net0"]
            and packet.payload[:1] == b"\x20"
            and len(packet.payload) < 1473
        ),
        50,
    )
    with siege.counting("mh", "malformed_inner", by=100):
        for packet in down * 2:
            siege.reader.send(packet.again())
    echoes = [arrival.number for arrival in read_log(siege.logs["net0"])]
    assert len(echoes) == len(set(echoes)), "the application got nothing twice"


def test_repeated_cookie_packets_come_through_from_the_tunnels_own_end_only(unharmed: Siege) -> None:
    """As documented: `cookie` stops whoever cannot read the path; who can may repeat, and no more than that."""
    siege = unharmed
    (packet,) = siege.reader.read(
        lambda packet: uplink("net1", 1)(packet) and len(packet.payload) == 12 + 28 + 160, 1
    )
    with siege.counting("an", "unknown_tunnel", by=20):
        for _ in range(20):
            siege.reader.send(packet.again(source=ELSEWHERE))
    echo = siege.logs["net1"].with_suffix(".echo")
    number = int.from_bytes(packet.payload[40:48], "big")
    # Without the inner checksum: in a lab it may be one that an interface would still have to finish.
    repeated = packet.payload[:38] + b"\0\0" + packet.payload[40:]
    for _ in range(5):
        siege.reader.send(packet.again(payload=repeated))
    wait_until(
        lambda: [arrival.number for arrival in read_log(echo)].count(number) == 6, "the repeats arrived"
    )


# --- forgery ---


def test_guessed_cookies_and_unsealed_packets_from_the_tunnels_own_ends_are_refused(unharmed: Siege) -> None:
    siege = unharmed
    (cookie,) = siege.reader.read(uplink("net1", 1), 1)
    (sealed,) = siege.reader.read(uplink("net0", 2), 1)
    with siege.counting("an", "malformed_inner", by=64 + 64):
        for _ in range(64):
            guess = cookie.payload[:4] + os.urandom(8) + cookie.payload[12:]
            siege.reader.send(cookie.again(payload=guess))
            siege.reader.send(sealed.again(payload=sealed.payload[:16] + os.urandom(200)))
    inner = build_udp(VICTIM, 9, CORRESPONDENT, 7777, b"forged")
    with siege.counting("an", "forged_source", by=2):
        for end in ENDS.values():
            siege.reader.send(build_udp(end.address, end.port, ANCHOR, TUNNEL, inner))
    down = build_udp(CORRESPONDENT, 5004, VICTIM, 9, b"forged")
    with siege.counting("mh", "unprotected", by=2):
        for end in ENDS.values():
            siege.reader.send(build_udp(ANCHOR, TUNNEL, end.address, end.port, down))


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        ("1.2.3.4", "86.0.0.1", "forged_source"),
        ("192.168.100.25", "86.0.0.1", "forged_source"),
        ("45.0.0.1", "86.0.0.1", "forged_source"),
        ("127.0.0.1", "86.0.0.1", "forged_source"),
        ("0.0.0.0", "86.0.0.1", "forged_source"),
        ("own", "1.2.3.4", "refused_host"),
        ("own", "127.0.0.1", "refused_special"),
        ("own", "45.0.0.1", "to_the_anchor"),
    ],
)
def test_an_associated_host_sends_as_itself_only_and_not_to_others(
    siege: Siege, source: str, destination: str, reason: str
) -> None:
    rogue = siege.rogue
    body = TunnelSetupRequest(rogue.token, rogue.address, NetworkName("wan"))
    answer = rogue.ask(rogue.message(body), inside=True)
    assert answer is not None
    assert answer.status == 200
    origin = rogue.address if source == "own" else ip_address(source)
    with siege.counting("an", reason, by=10):
        for _ in range(10):
            rogue.send_inner(build_udp(origin, 9, ip_address(destination), 7777, b"forged"))


def test_a_second_host_gets_nothing_of_the_first_even_with_its_token(unharmed: Siege) -> None:
    siege, rogue = unharmed, unharmed.rogue
    token = next(
        match[1].decode()
        for packet in reversed(siege.seen)
        if (match := re.search(rb"UPMT-Association: (\w+)", sip_of_anchor(packet)))
    )
    assert len(token) == 32
    # The lease: by name, by address.
    taken = rogue.ask(rogue.register(identity=siege.identity))
    assert taken is not None
    assert taken.status == 403
    gone = rogue.ask(rogue.register(0, identity=siege.identity))
    assert gone is not None
    assert gone.status == 403
    wanted = rogue.ask(rogue.register(wanted=VICTIM))
    assert wanted is not None
    assert wanted.header("vipaddr") == str(rogue.address) != str(VICTIM)
    # The tunnels: with its token and address, from its inner address or ours.
    for claimed in (VICTIM, rogue.address):
        for source in (VICTIM, rogue.address):
            body = TunnelSetupRequest(token, claimed, NetworkName("net0"))
            answer = rogue.ask(rogue.message(body), inside=True, source=source)
            assert answer is not None
            assert answer.status == 403, (claimed, source, answer)
    # The flows: by its name, in a tunnel of ours.
    own = TunnelSetupRequest(rogue.token, rogue.address, NetworkName("wan"))
    answer = rogue.ask(rogue.message(own), inside=True)
    assert answer is not None
    assert answer.status == 200
    flow = next(flow for flow in siege.flows() if flow["destination_port"] == 5004)
    stolen = FlowKey(UDP, VICTIM, flow["source_port"], CORRESPONDENT, 5004)
    for said, status in ((rogue.token, 200), (token, 481)):
        answer = rogue.ask(rogue.message(HandoverRequest(said, (HandoverPair((stolen,)),))), inside=True)
        assert answer is not None
        assert answer.status == status
        if status == 200:
            assert b'"accepted":false' in answer.body
    for misplaced, inside in ((rogue.register(), True), (rogue.message(own), False)):
        answer = rogue.ask(misplaced, inside=inside)
        assert answer is not None
        assert answer.status == 403


def sip_of_anchor(packet: Seen) -> bytes:
    return packet.payload if packet.source == Endpoint(ANCHOR, SIP) else b""


def test_a_stolen_nonce_is_of_no_use(unharmed: Siege) -> None:
    """With another body, by somebody else; nor can its counts be used up."""
    siege, rogue = unharmed, unharmed.rogue
    captured = newest(siege.seen, says(b"REGISTER", b"Authorization"))
    request = parse(captured.payload)
    assert isinstance(request, Request)
    other = bytes(replace(request, body=request.body.replace(b'"expires":8,', b'"expires":9,')))
    with siege.counting("an", "refused_403"):
        siege.reader.send(captured.again(payload=other_branch(other, b"body")))
    given = request.header("authorization") or ""
    nonce = re.search(r'nonce="([^"]+)"', given)
    assert nonce is not None
    rogue.digest._nonce, rogue.digest._count = nonce[1], 2**32 - 2
    answer = rogue.ask(rogue.register())
    assert answer is not None
    assert answer.status == 200, "a nonce is nobody's in particular"
    challenged = siege.count("an", "challenged")
    wait_for_refresh(siege)
    assert siege.count("an", "challenged") == challenged, "the victim's counts are its own"


def wait_for_refresh(siege: Siege) -> None:
    siege.reader.read(lambda packet: says(b"REGISTER", b"Authorization")(packet), 1, 15)


# --- bit flips and cuts ---


SEALED_REGIONS = {"type": 0, "key": 2, "reserved": 3, "id": 5, "counter": 15, "text": 20, "tag": -1}
COOKIE_REGIONS = {"type": 0, "id": 3, "secret": 7, "inner version": 12, "inner length": 15}


@pytest.mark.parametrize(
    ("network", "kind", "regions"), [("net0", 2, SEALED_REGIONS), ("net1", 1, COOKIE_REGIONS)]
)
def test_flipped_and_cut_packets_are_refused_before_the_true_one_comes(
    unharmed: Siege, network: str, kind: int, regions: dict[str, int]
) -> None:
    """Held back in the path: the flipped and cut copies come first, and so never seem to be repeats."""
    siege, held = unharmed, 20
    flipped = 0

    def change(packet: bytes) -> bytes:
        nonlocal flipped
        payload = packet[28:]
        if payload[0] >> 4 == kind and flipped < held:
            flipped += 1
            variants = [payload[: len(payload) // 2], payload[:-1], payload + b"x", payload + bytes(1000)]
            for place in regions.values():
                changed = bytearray(payload)
                changed[place] ^= 0x80 if place == 0 else 1
                variants.append(bytes(changed))
            end = ENDS[network]
            for variant in variants:
                siege.reader.send(build_udp(end.address, end.port, ANCHOR, TUNNEL, variant))
        return packet

    rule = ("-s", str(ENDS[network].address), "-p", "udp", "--dport", str(TUNNEL))
    refused = ("malformed_inner", "unknown_tunnel", "forged_source", "malformed_outer")
    with siege.counting("an", *refused, by=held * (len(regions) + 4)), Meddler(siege.lab.name, rule, change):
        wait_until(lambda: flipped >= held, "packets were held and flipped")


def test_flips_in_every_proven_part_of_a_request_are_refused(siege: Siege) -> None:
    rogue = siege.rogue
    places = [
        rb"sip:45\.0\.0\.(1)", rb"To: <sip:(r)ogue", rb"CSeq: (\d)", rb"Call-ID: (\w)", rb"Expires: (\d)",
        rb'username="(r)', rb'realm="(u)', rb'nonce="(\w)', rb'uri="sip:(4)', rb'response="(\w)',
        rb"algorithm=SHA-25(6)", rb'cnonce="(u)', rb'cnonce="u1-(\w)', rb'cnonce="u1-\w+-(\w)',
        rb"qop=(a)uth", rb"nc=(\d)", rb"nc=0000000(\w)", rb'"mType":"(A)', rb'"expires":(\d)',
    ]  # fmt: skip
    for place in places:

        def flip(data: bytes, place: bytes = place) -> bytes:
            found = re.search(place, data)
            assert found is not None, place
            changed = bytearray(data)
            changed[found.start(1)] ^= 1
            return bytes(changed)

        answer = rogue.ask(rogue.register(), alter=flip)
        assert answer is None or answer.status != 200, place
        assert rogue.ask(rogue.register()) is not None


def test_cut_and_swollen_signalling_is_refused(unharmed: Siege) -> None:
    siege = unharmed
    hello = newest(siege.seen, says(b"REGISTER", b"Authorization"))
    setup = newest(siege.seen, says(b"MESSAGE", b"TunnelSetupRequest"))
    with siege.counting("an", "sip_refused", by=20):
        for cut in range(1, 41):
            for packet in (hello, setup):
                data = other_branch(sip(packet), b"cut%d" % cut)
                data = data[: len(data) * cut // 41]
                inside = data if packet is hello else put_inside(packet, data)
                siege.reader.send(packet.again(source=ELSEWHERE, payload=inside))
    head, _, body = hello.payload.partition(b"\r\n\r\n")
    with siege.counting("an", "sip_refused", by=2):
        for size in (9000, 60000):
            filler = head + b"\r\nX-Filler: " + b"x" * size + b"\r\n\r\n" + body
            siege.rogue._outside.sendto(filler, (str(ANCHOR), SIP))


# --- the path meddles ---


def test_a_path_that_rewrites_the_format_gets_no_plain_tunnel(unharmed: Siege) -> None:
    siege, rewritten = unharmed, 0

    def change(packet: bytes) -> bytes:
        nonlocal rewritten
        datagram = parse_udp(packet[28:])
        if datagram is None or b'"format":"sealed"' not in datagram.payload:
            return packet
        rewritten += b"Authorization" in datagram.payload
        data = datagram.payload.replace(b'"format":"sealed"', b'"format":"plain" ')
        end = ENDS["net0"]
        return build_udp(end.address, end.port, ANCHOR, TUNNEL, build_udp(VICTIM, SIP, ANCHOR, SIP, data))

    siege.lab.ask("handover", "on-net0", "--to", "net1")
    rule = ("-s", str(ENDS["net0"].address), "-p", "udp", "--dport", str(TUNNEL))
    with siege.counting("an", "refused_403", by=2), Meddler(siege.lab.name, rule, change):
        siege.lab.link("net0", "down")
        wait_until(lambda: siege.states()["net0"] == "down", "net0 is down")
        siege.lab.link("net0", "up")
        wait_until(lambda: rewritten >= 2, "setup requests were rewritten")
        assert siege.states() == {"net0": "setup", "net1": "up"}
    wait_until(lambda: siege.states() == {"net0": "up", "net1": "up"}, "net0 is up again")
    siege.lab.ask("handover", "on-net0", "--to", "net0")
    (packet,) = siege.reader.read(lambda packet: packet.source == ENDS["net0"] and not sip(packet), 1)
    assert packet.payload[0] >> 4 == 2


FORGED_BODY = (
    b'{"mType":"AssociationResponse","VIpAddr":"1.2.3.99","association":"00","expires":999,"version":1}'
)


def forged_answer(request: Request, status: bytes, headers: bytes, body: bytes = b"") -> bytes:
    echoed = [
        f"{name}: {value}".encode()
        for name, value in request.headers
        if name in ("Via", "From", "To", "Call-ID", "CSeq")
    ]
    length = b"Content-Length: %d" % len(body)
    lines = [b"SIP/2.0 " + status, *echoed, headers, length]
    return b"\r\n".join(line for line in lines if line) + b"\r\n\r\n" + body


def test_an_impostor_in_the_path_who_answers_first_is_not_believed(unharmed: Siege) -> None:
    """Without the secret it can neither grant, nor refuse, nor disown, nor say that the anchor goes down."""
    siege, answered = unharmed, 0
    grants = b'VIpAddr: 1.2.3.99\r\nExpires: 999\r\nUPMT-Association: 00\r\nAuthentication-Info: rspauth="00"'
    answers = (
        (b"200 OK", grants, FORGED_BODY),
        (b"403 Forbidden", b"", b""),
        (b"481 Gone", b"", b""),
        (b"503 Busy", b"Retry-After: 3600", b""),
    )

    def change(packet: bytes) -> bytes:
        nonlocal answered
        datagram = parse_udp(packet)
        if datagram is not None and b"Authorization" in datagram.payload:
            request = parse(datagram.payload)
            assert isinstance(request, Request)
            to = datagram.source
            for status, headers, body in answers:
                data = forged_answer(request, status, headers, body)
                siege.reader.send(build_udp(ANCHOR, SIP, to.address, to.port, data))
            answered += 1
        return packet

    with (
        siege.counting("mh", "unproven", by=4),
        Meddler(siege.lab.name, ("-p", "udp", "--dport", str(SIP)), change),
    ):
        wait_until(lambda: answered >= 1, "a refresh was answered", 15)
    notice = (
        b"MESSAGE sip:1.2.3.4:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 45.0.0.1:5060;branch=z9hG4bKforged%d\r\n"
        b"To: <sip:1.2.3.4>\r\nFrom: <sip:anchor@upmt>;tag=1\r\nCall-ID: forged\r\nCSeq: 1 MESSAGE\r\n"
        b"Content-Type: application/json\r\nContent-Length: 64\r\n\r\n"
    )
    body = b'{"mType":"AnchorNotice","kind":"going-down","reason":"","version":1}'.ljust(64)
    notice = notice.replace(b"64", str(len(body)).encode())
    with siege.counting("mh", "unproven_notice", by=2):
        for number, end in enumerate(ENDS.values()):
            inner = build_udp(ANCHOR, SIP, VICTIM, SIP, notice % number + body)
            siege.reader.send(build_udp(ANCHOR, TUNNEL, end.address, end.port, inner))


# --- ICMP; last, as the kernel believes a path to be narrow for ten minutes ---


def test_forged_icmp_errors_stop_no_tunnel(unharmed: Siege, tmp_path: Path) -> None:
    """Anybody who knows the four numbers of a tunnel can forge them. They make packets smaller, and nothing else."""
    siege, lab = unharmed, unharmed.lab
    received = tmp_path / "received"
    data = os.urandom(500_000)
    (tmp_path / "sent").write_bytes(data)
    lab.start("ch", "socat", "-u", "TCP-LISTEN:7300,reuseaddr", f"CREATE:{received}")
    lab.await_listener("ch", 7300)
    forger = ELSEWHERE.address

    def forge() -> None:
        for end in ENDS.values():
            up = build_udp(end.address, end.port, ANCHOR, TUNNEL, b"x" * 600)
            down = build_udp(ANCHOR, TUNNEL, end.address, end.port, b"x" * 600)
            for quoted, to in ((up, end.address), (down, ANCHOR)):
                for code in range(16):
                    rest = 68 if code == 4 else 0
                    siege.reader.send(icmp_error(quoted, 3, code, rest, forger, to))
                siege.reader.send(icmp_error(quoted, 11, 0, 0, forger, to))
                siege.reader.send(icmp_error(quoted, 4, 0, 0, forger, to))

    told = icmp_errors(lab)
    upload = lab.start(
        "mh", *UPMT, "run", "--app", "on-net0", "--",
        "socat", "-u", f"OPEN:{tmp_path}/sent", "TCP:86.0.0.1:7300",
    )  # fmt: skip
    while upload.poll() is None:
        forge()
        time.sleep(0.05)
    assert upload.wait() == 0
    wait_until(lambda: received.stat().st_size == len(data), "all has arrived")
    assert received.read_bytes() == data
    assert icmp_errors(lab) > told + 30, "the errors have reached the host"
    assert siege.states() == {"net0": "up", "net1": "up"}
    assert all(network["mtu"] >= 492 for network in siege.status("mh")["networks"])


def icmp_errors(lab: Lab) -> int:
    names, values = (
        line.split() for line in lab.on("mh", "grep", "Icmp:", "/proc/net/snmp").stdout.splitlines()
    )
    return int(values[names.index("InDestUnreachs")])
