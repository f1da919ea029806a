"""An anchor's configuration, and the values that both configurations share."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.config.anchor import read_anchor_config
from upmt_nf.model.errors import ConfigError

GOOD = """\
[anchor]
address = "45.0.0.1"
interface = "wan"
pool = "1.2.3.4-1.2.3.254"
nat_ports = "40000-60999"
"""


def test_a_pool_may_be_a_range_of_addresses() -> None:
    pool = read_anchor_config(GOOD, "an.toml").anchor.pool
    assert ip_address("1.2.3.4") in pool
    assert ip_address("1.2.3.3") not in pool
    assert len(pool) == 251
    assert sum(network.num_addresses for network in pool.networks()) == 251


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("10.9.0.0/24", "10.9.0.1", "10.9.0.254"),
        ("10.9.0.7/32", "10.9.0.7", "10.9.0.7"),
        ("2001:db8::/126", "2001:db8::1", "2001:db8::2"),
    ],
)
def test_a_pool_may_be_a_network(text: str, first: str, last: str) -> None:
    pool = read_anchor_config(GOOD.replace("1.2.3.4-1.2.3.254", text), "an.toml").anchor.pool
    assert (str(pool.first), str(pool.last)) == (first, last)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "1.2.3.4-1.2.3.254",
            "1.2.3.9-1.2.3.4",
            "an.toml:4: anchor.pool: '1.2.3.9-1.2.3.4' does not run from",
        ),
        ("1.2.3.4-1.2.3.254", "pool", "an.toml:4: anchor.pool: "),
        ("40000-60999", "60999-40000", "an.toml:5: anchor.nat_ports: '60999-40000' is not a range"),
        ('"wan"', '""', "an.toml:3: anchor.interface: '' is not an interface name"),
        (
            '"wan"',
            '"wan"\ntunnel_port = 5060',
            "an.toml:1: anchor: tunnel_port and signalling_port are the same",
        ),
        (
            '"wan"',
            '"wan"\nfurther_tunnel_ports = [443, 443]',
            "an.toml:1: anchor: further_tunnel_ports: each",
        ),
        ('"wan"', '"wan"\nfurther_tunnel_ports = [1800]', "an.toml:1: anchor: further_tunnel_ports: each"),
        ('"wan"', '"wan"\nfurther_tunnel_ports = [5060]', "an.toml:1: anchor: further_tunnel_ports: each"),
        ('"wan"', '"wan"\nfurther_tunnel_ports = [0]', "an.toml:4: anchor.further_tunnel_ports.0: "),
        ('"wan"', '"wan"\nportal_check_port = 65536', "an.toml:4: anchor.portal_check_port: "),
        (
            '"wan"',
            '"wan"\nshortcut = "maybe"',
            "an.toml:4: anchor.shortcut: Input should be 'auto', True or False",
        ),
    ],
)
def test_a_wrong_line_is_named_with_its_key_and_reason(old: str, new: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_anchor_config(GOOD.replace(old, new), "an.toml")
    assert str(caught.value).startswith(complaint)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^an.toml:\d+: "):
        read_anchor_config(text, "an.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("86.0.0.0/8", ("86.0.0.0/8", None, None)),
        ("86.0.0.1", ("86.0.0.1/32", None, None)),
        ("86.0.0.1:443", ("86.0.0.1/32", 443, None)),
        ("86.0.0.0/8:25/tcp", ("86.0.0.0/8", 25, 6)),
        ("86.0.0.0/8:53/udp", ("86.0.0.0/8", 53, 17)),
        ("2001:db8::/32", ("2001:db8::/32", None, None)),
        ("::1", ("::1/128", None, None)),
        ("[2001:db8::/32]:443/tcp", ("2001:db8::/32", 443, 6)),
        ("[2001:db8::1]", ("2001:db8::1/128", None, None)),
    ],
)
def test_correspondents_are_networks_with_or_without_port_and_protocol(
    text: str, expected: tuple[str, int | None, int | None]
) -> None:
    config = read_anchor_config(GOOD + f'deny = ["{text}"]\nallow = ["{text}"]\n', "an.toml").anchor
    assert config.allow == config.deny
    (peers,) = config.deny
    assert (str(peers.network), peers.port, peers.protocol) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "86.0.0.1:0",
        "86.0.0.1:70000",
        "86.0.0.1/8",
        "86.0.0.1:25/icmp",
        "86.0.0.1/tcp",
        "a:1",
        "[::1",
        "*",
    ],
)
def test_what_are_no_correspondents_is_named_with_its_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_anchor_config(GOOD + f'deny = ["86.0.0.0/8", "{text}"]\n', "an.toml")
    assert str(caught.value).startswith(f"an.toml:6: anchor.deny.1: {text!r}")


@pytest.mark.parametrize("key", ["stranger_rate", "source_rate", "host_rate"])
def test_a_rate_is_at_least_one_a_second(key: str) -> None:
    assert getattr(read_anchor_config(GOOD + f"{key} = 5\n", "an.toml").anchor, key) == 5
    with pytest.raises(ConfigError, match=key):
        read_anchor_config(GOOD + f"{key} = 0\n", "an.toml")
