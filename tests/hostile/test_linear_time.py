"""Every parser takes time in proportion to its input, on 64 kB of whatever a stranger sends, its own limits lifted."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from linear_time import is_linear

from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.fragment import Reassembler, split
from upmt_nf.datapath.icmp import TIME_EXCEEDED, packet_too_big, refusal
from upmt_nf.datapath.outer import parse_outer
from upmt_nf.datapath.packet import build_udp, flow_of, is_fragment, is_icmp_error, is_whole, parse_udp
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.protected import PROTECTED, tunnel_hint
from upmt_nf.datapath.reach import Reach
from upmt_nf.model.errors import PeerError, UpmtError
from upmt_nf.model.flow import Endpoint, FlowKey
from upmt_nf.model.identity import TunnelId
from upmt_nf.routing.rule_text import expand
from upmt_nf.signaling import digest, iptables_match, message_reading
from upmt_nf.signaling.sip import fields, parser
from upmt_nf.signaling.stamp import parse_reflector, parse_sender, reflect

HOST, ANCHOR, CORRESPONDENT = ip_address("1.2.3.4"), ip_address("45.0.0.1"), ip_address("86.0.0.1")
HOST6, ANCHOR6 = ip_address("2001:db8::4"), ip_address("2001:db8::1")


def repeated(start: str, middle: str, end: str = "") -> Callable[[int], str]:
    return lambda size: start + middle * (size // len(middle)) + end


def assert_linear(read: Callable[[str], object], made: Callable[[int], str]) -> None:
    def work(text: str) -> None:
        try:
            read(text)
        except (ValueError, UpmtError):
            return

    verdict, figures = is_linear(work, made)
    assert verdict, figures


@pytest.fixture(autouse=True)
def without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a limit cuts off early would hide how the parser itself behaves."""
    monkeypatch.setattr(parser, "MAX_DATAGRAM", 10**6)
    monkeypatch.setattr(parser, "_MAX_HEADERS", 10**6)
    monkeypatch.setattr(message_reading, "MAX_BODY", 10**6)
    monkeypatch.setattr(iptables_match, "_MAX_TEXT", 10**6)
    monkeypatch.setattr(digest, "_MAX_HEADER", 10**6)


# --- SIP ---

HEAD = "REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/UDP b\r\nTo: <sip:c>\r\nFrom: <sip:c>\r\nCSeq: 1 REGISTER\r\n"
SIP = {
    "spaces": repeated("", " "),
    "via spaces": repeated("SIP", " "),
    "via token and spaces": lambda size: "SIP/2.0/" + "a" * (size // 2) + " " * (size // 2),
    "digits": repeated("", "1"),
    "digits and spaces": repeated("1", " ", "("),
    "quotes": repeated("", '"'),
    "backslashes": repeated('"', "\\"),
    "brackets": repeated("", "<"),
    "pairs of brackets": repeated("", "<>"),
    "commas": repeated("SIP/2.0/UDP a", ","),
    "parameters": repeated("SIP/2.0/UDP a", ";a=b"),
    "quoted parameters": repeated("<a>", ';a="b;"'),
    "words": repeated("", "a ", "<sip:a>"),
    "host": repeated("SIP/2.0/UDP [", ":"),
    "not ASCII": repeated("", "\udcff", "<a>"),
}
CACHES = (fields.parse_via, fields.parse_address, fields.parse_cseq, fields.is_token)


def forget() -> None:
    """What was remembered of the last run would make the next one free."""
    for cached in CACHES:
        cached.cache_clear()


@pytest.mark.parametrize("made", SIP.values(), ids=SIP)
def test_sip_fields(made: Callable[[int], str]) -> None:
    for cached in CACHES:
        assert_linear(cached.__wrapped__, made)
    assert_linear(lambda text: fields.split_outside_quotes(text, ","), made)


@pytest.mark.parametrize("made", SIP.values(), ids=SIP)
@pytest.mark.parametrize("header", ["Via", "To", "CSeq", "Call-ID", "Max-Forwards", "Content-Length", "X"])
def test_sip_messages(header: str, made: Callable[[int], str]) -> None:
    kept = "".join(line + "\r\n" for line in HEAD.splitlines() if not line.startswith(header))

    def read(text: str) -> None:
        forget()
        parser.parse(f"{kept}{header}: {text}\r\n\r\n".encode("utf-8", "surrogateescape"))

    assert_linear(read, made)


LINES = {
    "headers": "a:b\r\n",
    "twins": "To:b\r\n",
    "folded": " a\r\n",
    "empty folded": " \r\n",
    "folded now and then": "a:b\r\n c\r\n",
    "no colons": "a\r\n",
    "bare returns": "\r",
    "bare line feeds": "\n",
    "via lines": "Via: SIP/2.0/UDP a;branch=z9hG4bKa\r\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_sip_lines(line: str) -> None:
    def read(text: str) -> None:
        forget()
        parser.parse(text.encode())

    assert_linear(read, repeated(HEAD + "Call-ID: 1\r\n", line, "\r\n"))
    assert_linear(read, repeated("REGISTER", line, "\r\n\r\n"))


# --- JSON, matches, Digest, flows, rule files ---

START = '{"mType":"HandoverRequest","association":"a",'
FLOW = '["udp","1.2.3.4",2000,"86.0.0.1",3000]'
JSON = {
    "brackets": repeated("", "["),
    "braces": repeated("", '{"a":'),
    "digits": repeated("", "1"),
    "fraction": repeated("1.", "1"),
    "exponent": repeated("1e", "1"),
    "escapes": repeated('"', "\\u0041", '"'),
    "backslashes": repeated('"', "\\\\", '"'),
    "no end": repeated('"', "a"),
    "spaces": repeated("", " ", "x"),
    "keys": lambda size: "{" + ",".join(f'"{number}":1' for number in range(size // 9)) + "}",
    "twins": repeated("{", '"a":1,', '"a":1}'),
    "pairs": repeated(START + '"pairs":[', '{"match":"any"},', '{"match":"any"}]}'),
    "flows": repeated(START + '"match":{"syntax":"flows","match":[', FLOW + ",", FLOW + "]}}"),
    "long address": repeated(START + '"match":{"syntax":"flows","match":[["udp","', "1:", '",1,"::1",2]]}}'),
    "long text": repeated('{"mType":"', "a", '"}'),
}


@pytest.mark.parametrize("made", JSON.values(), ids=JSON)
def test_json_bodies(made: Callable[[int], str]) -> None:
    assert_linear(lambda text: message_reading.decode(text.encode()), made)


MATCHES = {
    "spaces": repeated("", " "),
    "words": repeated("", "a "),
    "options": repeated("", "-p tcp "),
    "digits": repeated("-p ", "1"),
    "colons": repeated("-sport ", ":"),
    "dots": repeated("-s ", "1."),
    "slashes": repeated("-d ", "/"),
    "address": repeated("-d ", "1:"),
    "prefix": repeated("-d ::/", "1"),
    "dashes": repeated("", "-"),
}


@pytest.mark.parametrize("made", MATCHES.values(), ids=MATCHES)
def test_iptables_matches(made: Callable[[int], str]) -> None:
    assert_linear(iptables_match.parse_match, made)


DIGESTS = {
    "spaces": repeated("Digest ", " "),
    "spaces before a comma": repeated("Digest a=b", " ", "x"),
    "backslashes": repeated('Digest a="', "\\\\"),
    "quotes": repeated("Digest ", '"'),
    "name": repeated("Digest ", "a"),
    "equals": repeated("Digest a", "="),
    "value": repeated("Digest a=", "b"),
    "escapes": repeated('Digest a="', '\\"', '"'),
    "twins": repeated("Digest ", "a=b,"),
    "parameters": lambda size: (
        "Digest " + ", ".join(f'a{"b" * (n % 9)}{"c" * (n // 9 % 9)}="x"' for n in range(size // 12))
    ),
    "line feeds": repeated("Digest a=", "\n", "b"),
}


@pytest.mark.parametrize("made", DIGESTS.values(), ids=DIGESTS)
def test_digest_headers(made: Callable[[int], str]) -> None:
    assert_linear(digest.parse_digest, made)


FLOWS = {
    "digits": repeated("udp:1.2.3.4:", "1"),
    "brackets": repeated("udp:", "["),
    "address": repeated("udp:[", ":"),
    "spaces": repeated("", " "),
    "dots": repeated("udp:", "1."),
}


@pytest.mark.parametrize("made", FLOWS.values(), ids=FLOWS)
def test_flows(made: Callable[[int], str]) -> None:
    assert_linear(FlowKey.parse, made)


RULES = {
    "comments": repeated("", "# a\n"),
    "braces": repeated("*raw\n-A UPMT-A ", "{"),
    "placeholders": repeated("*raw\n-A UPMT-A ", "{a} ", "-j ACCEPT"),
    "words": repeated("*raw\n-A UPMT-A ", "a ", "-j ACCEPT"),
    "rules": repeated("*raw\n", "-A UPMT-A -j ACCEPT\n"),
    "a long word": repeated("*raw\n-A UPMT-A ", "a", " -j ACCEPT"),
    "a quote": repeated("*raw\n-A UPMT-A '", "a"),
    "backslashes": repeated("*raw\n-A UPMT-A ", "\\\\"),
}


@pytest.mark.parametrize("made", RULES.values(), ids=RULES)
def test_rule_files(made: Callable[[int], str]) -> None:
    assert_linear(lambda text: expand(text, "file", {"a": "b"}), made)


# --- packets ---


def udp(size: int) -> bytes:
    return build_udp(HOST, 2000, CORRESPONDENT, 3000, b"\xff" * (size - 100))


def udp6(size: int) -> bytes:
    return build_udp(HOST6, 2000, ANCHOR6, 3000, b"\xff" * (size - 100))


def extended(size: int) -> bytes:
    """As many of the longest IPv6 extension headers as fit."""
    body = (b"\0\xff" + bytes(2046)) * ((size - 40) // 2048)
    return b"\x60\0\0\0" + len(body).to_bytes(2, "big") + b"\0\x40" + HOST6.packed + ANCHOR6.packed + body


PACKETS = {"IPv4": udp, "IPv6": udp6, "extension headers": extended, "nothing": lambda size: b"\x60" * size}
READERS: dict[str, Callable[[bytes], object]] = {
    "is_whole": is_whole,
    "flow_of": flow_of,
    "is_fragment": is_fragment,
    "is_icmp_error": is_icmp_error,
    "parse_udp": parse_udp,
    "parse_outer": parse_outer,
    "tunnel_hint": tunnel_hint,
    "too big": lambda packet: packet_too_big(packet, 1000, ANCHOR),
    "refusal": lambda packet: refusal(packet, TIME_EXCEEDED, ANCHOR6),
}


@pytest.mark.parametrize("made", PACKETS.values(), ids=PACKETS)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_packets(read: Callable[[bytes], object], made: Callable[[int], bytes]) -> None:
    verdict, figures = is_linear(read, made)
    assert verdict, figures


@pytest.mark.parametrize("name", ["plain", *PROTECTED])
def test_tunnel_packets(name: str) -> None:
    paft = Paft()
    remote = Endpoint(ip_address("160.80.100.1"), 4000)
    tunnel, twin = (Tunnel(TunnelId(1), HOST, remote, 70_000) for _ in range(2))
    if name != "plain":
        tunnel.format = PROTECTED[name](b"d" * 32, b"u" * 32)
        twin.format = PROTECTED[name](b"u" * 32, b"d" * 32)
    paft.add_tunnel(tunnel)
    anchor = AnchorForwarder(paft, ANCHOR, Reach())

    def made(size: int) -> bytes:
        payload = twin.format.encode(twin, udp(size - 200))
        return build_udp(remote.address, remote.port, ANCHOR, 1800, payload)

    verdict, figures = is_linear(lambda packet: anchor.uplink(packet, 1.0), made)
    assert verdict, figures
    assert anchor.uplink(made(1000), 1.0).deliver == udp(800)


def in_pieces(size: int) -> list[bytes]:
    """A packet in fragments of 48 bytes of payload, which may be put together in any order."""
    packet = bytearray(udp(size))
    packet[6] = packet[10] = packet[11] = 0
    packet[10:12] = checksum(bytes(packet[:20])).to_bytes(2, "big")
    return split(bytes(packet), 68)


ORDERS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "in order": list,
    "backwards": lambda pieces: pieces[::-1],
    "every other": lambda pieces: pieces[::2] + pieces[1::2],
    "twice": lambda pieces: [piece for piece in pieces for _ in range(2)],
    "never whole": lambda pieces: pieces[1:],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_fragments(order: Callable[[list[bytes]], list[bytes]]) -> None:
    def work(pieces: list[bytes]) -> None:
        together = Reassembler(Counters())
        for piece in pieces:
            together.add(piece, 1.0)

    verdict, figures = is_linear(work, lambda size: order(in_pieces(size)))
    assert verdict, figures


def test_splitting() -> None:
    verdict, figures = is_linear(lambda size: in_pieces(size), lambda size: size)
    assert verdict, figures


@pytest.mark.parametrize(
    "read", [parse_sender, parse_reflector, lambda data: reflect(data, received_at=1, sent_at=2)]
)
def test_measurements(read: Callable[[bytes], object]) -> None:
    verdict, figures = is_linear(read, lambda size: b"\xff" * size)
    assert verdict, figures


# --- the measure itself ---


def test_quadratic_work_is_found() -> None:
    def quadratic(text: str) -> int:
        return sum(one < other for one in text for other in text)

    assert not is_linear(quadratic, repeated("", "b"), 2_000)[0]
    assert is_linear(lambda text: sum(map(ord, text)), repeated("", "b"))[0]


def test_the_limits_are_what_keeps_large_input_out() -> None:
    with pytest.raises(PeerError):
        message_reading.decode(json.dumps({"mType": "a" * 70_000}).encode())
