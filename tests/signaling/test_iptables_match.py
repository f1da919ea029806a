"""The paper's match syntax: what is read, what it matches, what is refused."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import PROTOCOL_NAMES, PROTOCOL_NUMBERS, FlowKey
from upmt_nf.signaling.iptables_match import FlowMatch, IPNetwork, PortSpan, parse_match

PORTS = st.integers(0, 65535)
SPANS = st.tuples(PORTS, PORTS).map(lambda span: (min(span), max(span)))


def networks(version: int) -> st.SearchStrategy[IPNetwork]:
    bits = 32 if version == 4 else 128
    return st.builds(
        lambda address, length: ip_network(f"{address}/{length}", strict=False),
        st.ip_addresses(v=4 if version == 4 else 6),
        st.integers(0, bits),
    )


NETWORKS = networks(4) | networks(6)
MATCHES = st.builds(
    FlowMatch,
    protocol=st.none() | st.integers(1, 255),
    source=st.none() | NETWORKS,
    destination=st.none() | NETWORKS,
    source_ports=st.none() | SPANS,
    destination_ports=st.none() | SPANS,
).filter(lambda match: match != FlowMatch())


@st.composite
def flows(draw: st.DrawFn) -> FlowKey:
    addresses = st.ip_addresses(v=draw(st.sampled_from((4, 6))))
    return FlowKey(draw(st.integers(0, 255)), draw(addresses), draw(PORTS), draw(addresses), draw(PORTS))


def ports_text(span: PortSpan) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}:{span[1]}"


def written(match: FlowMatch, draw: st.DataObject) -> str:
    """One of the many spellings of a match, its options in any order."""
    options: list[tuple[tuple[str, ...], str]] = []
    if match.protocol is not None:
        names = [str(match.protocol)]
        if match.protocol in PROTOCOL_NAMES:
            names += [PROTOCOL_NAMES[match.protocol], PROTOCOL_NAMES[match.protocol].upper()]
        options.append((("-p", "--protocol", "-protocol"), draw.draw(st.sampled_from(names))))
    if match.source is not None:
        options.append((("-s", "--source", "-source", "--src"), str(match.source)))
    if match.destination is not None:
        options.append((("-d", "--destination", "-destination", "--dst"), str(match.destination)))
    if match.source_ports is not None:
        options.append((("--sport", "--source-port", "-source-port"), ports_text(match.source_ports)))
    if match.destination_ports is not None:
        names_of_option = ("--dport", "--destination-port", "-destination-port")
        options.append((names_of_option, ports_text(match.destination_ports)))
    ordered = draw.draw(st.permutations(options))
    return " ".join(f"{draw.draw(st.sampled_from(names))} {value}" for names, value in ordered)


def test_the_papers_example_is_read() -> None:
    match = parse_match("-p tcp -destination 160.80.81.1 -destination-port 80")
    assert match == FlowMatch(
        protocol=6, destination=ip_network("160.80.81.1/32"), destination_ports=(80, 80)
    )


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("tcp:1.2.3.4:2000>160.80.81.1:80", True),
        ("tcp:1.2.3.4:2001>160.80.81.1:80", True),
        ("udp:1.2.3.4:2000>160.80.81.1:80", False),
        ("tcp:1.2.3.4:2000>160.80.81.2:80", False),
        ("tcp:1.2.3.4:2000>160.80.81.1:81", False),
        ("tcp:160.80.81.1:80>1.2.3.4:2000", False),
        ("tcp:[::1]:2000>[::a050:5101]:80", False),
    ],
)
def test_the_papers_example_matches_its_flows_only(flow: str, expected: bool) -> None:
    match = parse_match("-p tcp -destination 160.80.81.1 -destination-port 80")
    assert match.matches(FlowKey.parse(flow)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-p udp", FlowMatch(protocol=17)),
        ("--protocol UDP", FlowMatch(protocol=17)),
        ("-p 132", FlowMatch(protocol=132)),
        ("  -p\tudp  ", FlowMatch(protocol=17)),
        ("-s 10.1.2.3/8", FlowMatch(source=ip_network("10.0.0.0/8"))),
        ("-s 10.0.0.0/255.0.0.0", FlowMatch(source=ip_network("10.0.0.0/8"))),
        ("-d 2001:db8::1", FlowMatch(destination=ip_network("2001:db8::1/128"))),
        ("--sport 1000:2000", FlowMatch(source_ports=(1000, 2000))),
        ("--sport 1000:", FlowMatch(source_ports=(1000, 65535))),
        ("--dport :1024", FlowMatch(destination_ports=(0, 1024))),
        ("--dport 0", FlowMatch(destination_ports=(0, 0))),
        ("--dport 65535", FlowMatch(destination_ports=(65535, 65535))),
    ],
)
def test_spellings(text: str, expected: FlowMatch) -> None:
    assert parse_match(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "tcp",
        "-p",
        "-p tcp -d",
        "p tcp",
        "- tcp",
        "-- tcp",
        "---protocol tcp",
        "-p tcp -p tcp",
        "-s 1.2.3.4 --source 1.2.3.4",
        "! -p tcp -d",
        "-p nothing",
        "-p 0",
        "-p 256",
        "-p -6",
        "-p +6",
        "-p 1_7",
        "-p \u0661\u0667",
        "-j ACCEPT",
        "-m owner",
        "-d somewhere.example",
        "-d 1.2.3",
        "-d 1.2.3.4/33",
        "-d 1.2.3.4/",
        "-d 2001:db8::/129",
        "-d fe80::1%eth0",
        "-d fe80::1%x/64",
        "--dport 65536",
        "--dport -1",
        "--dport 2000:1000",
        "--dport 1:2:3",
        "--dport http",
        "--dport 8_0",
        "--dport +80",
        "--dport 1:+2",
        "--dport \u0668\u0660",
        "-p tcp; reboot",
        "-p $(reboot)",
        "-p " + "9" * 600,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(PeerError, match="match"):
        parse_match(text)


def test_the_refusal_names_the_word() -> None:
    with pytest.raises(PeerError, match="unknown option '--jump'"):
        parse_match("-p tcp --jump DROP")
    with pytest.raises(PeerError, match="wrong value for --dport: 'http'"):
        parse_match("-p tcp --dport http")
    with pytest.raises(PeerError, match="'--source' twice"):
        parse_match("-s 1.1.1.1 --source 1.1.1.1")


def test_a_long_match_is_refused_unread() -> None:
    text = "-p tcp" + " " * 506
    assert parse_match(text) == FlowMatch(protocol=6)
    with pytest.raises(PeerError, match="at most 512"):
        parse_match(text + " ")


@given(MATCHES, st.data())
def test_every_match_is_read_as_it_was_meant(match: FlowMatch, data: st.DataObject) -> None:
    assert parse_match(written(match, data)) == match


@given(st.text(max_size=600) | st.text(alphabet="-pdsourtcn 0123456789.:/%", max_size=60))
def test_no_text_raises_anything_but_a_peer_error(text: str) -> None:
    try:
        match = parse_match(text)
    except PeerError:
        return
    assert match != FlowMatch()


def fulfils(match: FlowMatch, flow: FlowKey) -> bool:
    """The same by numbers, one condition after the other."""
    if match.protocol is not None and match.protocol != flow.protocol:
        return False
    for network, address in ((match.source, flow.source), (match.destination, flow.destination)):
        if network is None:
            continue
        low, high = network.network_address, network.broadcast_address
        if low.version != address.version or not int(low) <= int(address) <= int(high):
            return False
    for span, port in (
        (match.source_ports, flow.source_port),
        (match.destination_ports, flow.destination_port),
    ):
        if span is not None and port not in range(span[0], span[1] + 1):
            return False
    return True


@given(MATCHES, flows())
def test_a_match_is_the_conjunction_of_its_conditions(match: FlowMatch, flow: FlowKey) -> None:
    assert match.matches(flow) is fulfils(match, flow)


@given(flows(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.data())
def test_a_match_made_from_a_flow_matches_it_and_no_neighbour(
    flow: FlowKey, by_source: bool, by_destination: bool, by_sport: bool, by_dport: bool, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, flow.source.max_prefixlen))
    match = FlowMatch(
        protocol=flow.protocol,
        source=ip_network(f"{flow.source}/{length}", strict=False) if by_source else None,
        destination=ip_network(str(flow.destination)) if by_destination else None,
        source_ports=(flow.source_port, flow.source_port) if by_sport else None,
        destination_ports=(max(flow.destination_port - 1, 0), flow.destination_port) if by_dport else None,
    )
    assert match.matches(flow)
    source, sport, destination, dport = (
        flow.source,
        flow.source_port,
        flow.destination,
        flow.destination_port,
    )
    beyond = neighbour(destination)
    assert not match.matches(FlowKey((flow.protocol + 1) % 256, source, sport, destination, dport))
    assert match.matches(FlowKey(flow.protocol, source, sport, beyond, dport)) is not by_destination
    other_sport = (sport + 1) % 65536
    assert match.matches(FlowKey(flow.protocol, source, other_sport, destination, dport)) is not by_sport
    if dport < 65535:
        assert match.matches(FlowKey(flow.protocol, source, sport, destination, dport + 1)) is not by_dport


def neighbour(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return ip_address(int(address) ^ 1) if address.version == 4 else IPv6Address(int(address) ^ 1)


def test_every_protocol_name_is_known() -> None:
    for name, number in PROTOCOL_NUMBERS.items():
        assert parse_match(f"-p {name}") == FlowMatch(protocol=number)
