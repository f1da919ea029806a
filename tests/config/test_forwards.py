"""Forwards and static NATs in the anchor's file: what fits, and what is refused at which line."""

import contextlib
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.config.anchor import AnchorSection, read_anchor_config
from upmt_nf.config.forwards import MAX_OPENINGS, forward_of, read_host, read_ports, read_protocol
from upmt_nf.config.values import AddressPool, matching_blocks
from upmt_nf.model.errors import ConfigError
from upmt_nf.model.flow import TCP, UDP
from upmt_nf.model.forward import Forward, PortSpan, StaticNat
from upmt_nf.model.identity import TerminalId

ANCHOR = """\
[anchor]
address = "45.0.0.1"
interface = "wan"
pool = "1.2.3.4-1.2.3.254"
"""
BOAT = TerminalId("boat7@fleet.example")
OWN = ip_address("45.0.0.1")


def anchor(text: str) -> AnchorSection:
    return read_anchor_config(ANCHOR + text, "an.toml").anchor


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        anchor(text)
    return str(caught.value)


def forward(port: str, host: str = BOAT, **more: str) -> str:
    words = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    protocol = "" if "protocol" in more else 'protocol = "tcp"\n'
    return f'[[anchor.forward]]\n{protocol}port = {port}\nhost = "{host}"\n{words}'


def static(external: str, host: str) -> str:
    return f'[[anchor.static_nat]]\nexternal = "{external}"\nhost = "{host}"\n'


def test_forwards_and_static_nats_are_read() -> None:
    text = (
        forward("8022", host_port="22")
        + forward('"9000-9010"', "1.2.3.9", protocol="udp", external="45.0.0.3")
        + static("45.0.0.2", BOAT)
    )
    assert anchor(text).openings() == (
        Forward(TCP, OWN, PortSpan(8022, 8022), BOAT, PortSpan(22, 22)),
        Forward(
            UDP,
            ip_address("45.0.0.3"),
            PortSpan(9000, 9010),
            ip_address("1.2.3.9"),
            PortSpan(9000, 9010),
        ),
        StaticNat(ip_address("45.0.0.2"), BOAT),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (forward("0"), "an.toml:7: anchor.forward.0.port: 0: ports are 1 to 65535"),
        (forward("65536"), "an.toml:7: anchor.forward.0.port: 65536: ports are 1 to 65535"),
        (forward('"30-20"'), "an.toml:7: anchor.forward.0.port: '30-20' does not run from a lower"),
        (forward("true"), "an.toml:7: anchor.forward.0.port: True is neither a port nor a range"),
        (
            forward("1", protocol="sctp"),
            "an.toml:8: anchor.forward.0.protocol: 'sctp' is no protocol that can be forwarded: tcp or udp",
        ),
        (forward("1", "boat"), "an.toml:8: anchor.forward.0.host: 'boat' is not an identity"),
        (forward("1", "8.8.8.8"), "an.toml:5: anchor.forward.0: 8.8.8.8 is no virtual address of the pool"),
        (
            forward("1800", protocol="udp"),
            "an.toml:5: anchor.forward.0: udp 1800 is the anchor's own: its tunnels",
        ),
        (
            forward('"5000-6000"', protocol="udp"),
            "an.toml:5: anchor.forward.0: udp 5060 is the anchor's own: its signalling",
        ),
        (
            forward('"80-90"') + forward("85", "1.2.3.9"),
            f"an.toml:9: anchor.forward.1: tcp 45.0.0.1:80-90 leads to {BOAT} 80-90 already",
        ),
        (
            forward('"80-90"', host_port="65530"),
            "an.toml:9: anchor.forward.0.host_port: 11 ports from 65530 on",
        ),
        (
            forward('"80-90"', host_port="1-2"),
            "an.toml:9: anchor.forward.0.host_port: 80-90 are 11 ports, but 1-2 are 2",
        ),
        (forward("1", external="1.2.3.9"), "an.toml:5: anchor.forward.0: 1.2.3.9 is a virtual address"),
        (
            forward("1", external="2001:db8::1"),
            "an.toml:5: anchor.forward.0: 2001:db8::1 is of another family",
        ),
        (forward("1", external="0.0.0.0"), "an.toml:5: anchor.forward.0: 0.0.0.0 is no address that can be"),
        (static("45.0.0.1", BOAT), "an.toml:5: anchor.static_nat.0: 45.0.0.1 is the anchor's own address"),
        (
            static("45.0.0.2", BOAT) + static("45.0.0.2", "1.2.3.9"),
            f"an.toml:8: anchor.static_nat.1: 45.0.0.2 is the address of {BOAT} already",
        ),
        (
            static("45.0.0.2", BOAT) + static("45.0.0.3", BOAT),
            f"an.toml:8: anchor.static_nat.1: {BOAT} has the external address 45.0.0.2 already",
        ),
        (
            'nat = "full-cone"\n',
            "an.toml:5: anchor.nat: 'full-cone' is not to be had: Linux has no netfilter",
        ),
        ('nat = "static"\n', 'an.toml:5: anchor.nat: nat = "static" and external_pool go together'),
        ('external_pool = "45.0.1.0/24"\n', 'an.toml:1: anchor.nat: nat = "static" and external_pool go'),
        (
            'nat = "static"\nexternal_pool = "45.0.1.0/25"\n',
            "an.toml:6: anchor.external_pool: 45.0.1.1-45.0.1.126 has 126 addresses for the 251 of the pool",
        ),
        (
            'nat = "static"\nexternal_pool = "45.0.0.0/24"\n',
            "an.toml:6: anchor.external_pool: 45.0.0.1 is the anchor's own",
        ),
        (
            'nat = "static"\nexternal_pool = "1.2.3.0/23"\n',
            "an.toml:6: anchor.external_pool: ",
        ),
        (
            'nat = "static"\nexternal_pool = "45.0.1.4-45.0.1.254"\n' + static("45.0.1.9", BOAT),
            "an.toml:7: anchor.static_nat.0: 45.0.1.9 is in external_pool",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_line_and_reason(text: str, complaint: str) -> None:
    assert refused(text).startswith(complaint)


def test_neighbours_and_other_protocols_and_addresses_do_not_clash() -> None:
    text = forward('"80-89"') + forward("90") + forward("85", protocol="udp")
    assert len(anchor(text + forward("85", external="45.0.0.9")).openings()) == 4


def test_there_is_an_end_of_forwards() -> None:
    text = "".join(forward(str(port)) for port in range(1, MAX_OPENINGS + 2))
    assert f"there are more than {MAX_OPENINGS} forwards and static NATs" in refused(text)


@given(st.text(max_size=12) | st.integers() | st.none() | st.booleans())
def test_any_value_is_read_or_refused(value: object) -> None:
    for read in (read_ports, read_protocol, read_host):
        with contextlib.suppress(ValueError):
            read(value)


@given(st.integers(1, 65535), st.integers(1, 65535), st.integers(1, 65535))
def test_a_range_keeps_its_length_and_stays_below_65536(first: int, last: int, there: int) -> None:
    ports = PortSpan(min(first, last), max(first, last))
    try:
        made = forward_of(TCP, OWN, ports, BOAT, PortSpan(there, there))
    except ValueError:
        assert there + len(ports) - 1 > 65535
        return
    assert len(made.host_ports) == len(ports)
    assert made.host_ports.last <= 65535


def pool(first: str, last: str) -> AddressPool:
    return AddressPool(ip_address(first), ip_address(last))


def test_pools_that_lie_alike_need_few_rules() -> None:
    blocks = matching_blocks(pool("10.9.0.0", "10.9.0.255"), pool("45.0.1.0", "45.0.1.255"))
    assert blocks == ((ip_network("10.9.0.0/24"), ip_network("45.0.1.0/24")),)
    with pytest.raises(ValueError, match="do not lie alike"):
        matching_blocks(pool("10.9.0.0", "10.9.0.255"), pool("45.0.1.1", "45.0.2.0"))


@given(st.integers(0, 300), st.integers(1, 30), st.integers(0, 300))
def test_the_nth_address_is_mapped_to_the_nth(start: int, count: int, outside: int) -> None:
    base, other = ip_address("10.9.0.0"), ip_address("45.0.1.0")
    inside = AddressPool(base + start, base + start + count - 1)
    external = AddressPool(other + outside, other + outside + count)
    mapped = {
        int(here) + place: int(there) + place
        for within, without in matching_blocks(inside, external)
        for here, there in [(within[0], without[0])]
        for place in range(within.num_addresses)
    }
    assert mapped == {int(address): int(external.first) + number for number, address in enumerate(inside)}
