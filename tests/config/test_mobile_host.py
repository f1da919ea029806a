"""A mobile host's configuration: what is right is read, what is wrong is named with file, line, key and reason."""

from ipaddress import ip_address

import pytest

from upmt_nf.config.mobile_host import read_mobile_host_config
from upmt_nf.model.errors import ConfigError

GOOD = """\
[mobile_host]
identity = "van7@fleet.example"

[anchor]
address = "45.0.0.1"

[[network]]
name = "wifi"
interface = "wlan0"
tunnel_port = 1500

[[network]]
name = "lte"
interface = "wwan0"
cost = 4.5

[[application]]
name = "voice"
networks = ["lte", "any"]
match = [{ command = "baresip" }, { uid = 1000, destination = "86.0.0.0/8:5060" }]
"""


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_mobile_host_config(text, "mh.toml")
    return str(caught.value)


def test_a_good_file_is_read_with_its_defaults() -> None:
    config = read_mobile_host_config(GOOD, "mh.toml")
    assert config.anchor.address == ip_address("45.0.0.1")
    assert (config.anchor.tunnel_port, config.anchor.signalling_port) == (1800, 5060)
    assert [network.name for network in config.network] == ["wifi", "lte"]
    assert config.application[0].match[1].uid == 1000
    assert config.default_networks == ("any",)


@pytest.mark.parametrize(
    ("default", "application", "complaint"),
    [
        (
            "tunnel",
            'name = "a"\npolicy = "nativ"',
            ".policy: there is no policy 'nativ'; there are tunnel, native, ",
        ),
        ("tunnel", 'name = "default"\npolicy = "native"', '.policy: say default = "native" in [mobile_host]'),
        (
            "tunnel",
            'name = "a"\npolicy = "native"\nnetworks = ["lte"]',
            ".networks: a native application has none",
        ),
        (
            "tunnel",
            'name = "a"\npolicy = "native"\non_no_network = "hold"',
            ".on_no_network: a native application",
        ),
        ("tunnel", 'name = "a"\non_no_network = "leak"', ".on_no_network: Input should be 'hold', 'reject'"),
        (
            "native",
            'name = "default"\non_no_network = "hold"',
            '.on_no_network: contradicts default = "native"',
        ),
        (
            "native",
            'name = "a"\non_no_network = "hold"\nmatch = [{ uid = 1 }, { command = "ssh" }]',
            ".match.1: command is found out when the source address is chosen already",
        ),
    ],
)
def test_policies_that_contradict_each_other_are_named(
    default: str, application: str, complaint: str
) -> None:
    text = GOOD.replace("[mobile_host]\n", f'[mobile_host]\ndefault = "{default}"\n')
    assert f"application.1{complaint}" in refused(f"{text}\n[[application]]\n{application}\n")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            'address = "45.0.0.1"',
            'address = "45.0.0"',
            "mh.toml:5: anchor.address: value is not a valid IPv4",
        ),
        ('name = "wifi"', "name = 7", "mh.toml:8: network.0.name: "),
        (
            'interface = "wwan0"',
            'interface = "a/b"',
            "mh.toml:14: network.1.interface: 'a/b' is not an interface name",
        ),
        ("cost = 4.5", 'metered = "perhaps"', "mh.toml:15: network.1.metered"),
        (
            '"45.0.0.1"',
            '"45.0.0.1"\nfurther_tunnel_ports = [5060]',
            "mh.toml:4: anchor: further_tunnel_ports: each",
        ),
        (
            '"45.0.0.1"',
            '"45.0.0.1"\nipv6_address = "fe80::1"',
            "mh.toml:4: anchor: ipv6_address: fe80::1 is no address that others can reach",
        ),
        (
            '"45.0.0.1"',
            '"2001:db8::2"\nipv6_address = "2001:db8::1"',
            "mh.toml:4: anchor: ipv6_address: address is one already",
        ),
        ('"45.0.0.1"', '"45.0.0.1"\nipv6_address = "45.0.0.2"', "mh.toml:6: anchor.ipv6_address: "),
        ("cost = 4.5", "prize = 4.5", "mh.toml:15: network.1.prize: no such key"),
        ("cost = 4.5", "cost = nan", "mh.toml:15: network.1.cost: "),
        ('name = "lte"', 'name = "wifi"', "mh.toml:13: network.1.name: 'wifi' is there twice"),
        ('"wlan0"', '"wwan0"', "mh.toml:14: network.1.interface: 'wwan0' is there twice"),
        ('["lte", "any"]', '["umts"]', "mh.toml:19: application.0.networks: there is no network 'umts'"),
        ("tunnel_port = 1500", "tunnel_port = 70000", "mh.toml:10: network.0.tunnel_port: "),
        ("uid = 1000", "uid = -1", "mh.toml:20: application.0.match.1.uid: "),
        ("[anchor]", "[anchor", "mh.toml:4: "),
    ],
)
def test_a_wrong_line_is_named_with_its_key_and_reason(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    assert refused(GOOD.replace(old, new)).startswith(complaint)


def test_every_wrong_line_is_reported_in_the_order_of_the_file() -> None:
    text = GOOD.replace("van7@fleet.example", "nobody").replace("tunnel_port = 1500", "tunnel_port = 0.5")
    assert [line.split(":")[1] for line in refused(text).splitlines()] == ["2", "10"]


def test_an_empty_file_lacks_its_tables() -> None:
    assert refused("") == (
        "mh.toml:1: anchor: is missing\nmh.toml:1: mobile_host: is missing\nmh.toml:1: network: is missing"
    )


def test_an_application_needs_a_condition_in_each_match() -> None:
    text = GOOD.replace('{ command = "baresip" }', "{ }")
    assert refused(text) == "mh.toml:20: application.0.match.0: a match needs at least one condition"


# --- several anchors ---

SEVERAL = GOOD.replace(
    '[anchor]\naddress = "45.0.0.1"\n',
    '[[anchors]]\naddress = "45.0.0.1"\n\n[[anchors]]\naddress = "46.0.0.1"\nsignalling_port = 5070\n',
)


def test_anchors_are_read_in_their_order_each_with_what_it_does_not_share() -> None:
    text = SEVERAL.replace("5070", '5070\nidentity = "van7@other.example"\nsecret_file = "/etc/upmt/other"')
    config = read_mobile_host_config(text, "mh.toml")
    first, second = config.anchors
    assert config.anchor == first
    assert [str(anchor.address) for anchor in config.anchors] == ["45.0.0.1", "46.0.0.1"]
    assert (second.tunnel_port, second.signalling_port) == (1800, 5070)
    assert [config.identity_at(anchor) for anchor in config.anchors] == [
        "van7@fleet.example",
        "van7@other.example",
    ]
    assert [config.secret_file_of(anchor) for anchor in config.anchors] == [None, "/etc/upmt/other"]


def test_anchors_may_be_a_list_of_addresses_and_tables() -> None:
    list_ = 'anchors = ["45.0.0.1", { address = "46.0.0.1", tunnel_port = 1801 }]\n'
    config = read_mobile_host_config(list_ + GOOD.replace('[anchor]\naddress = "45.0.0.1"\n', ""), "mh.toml")
    assert [str(anchor.tunnels) for anchor in config.anchors] == ["45.0.0.1:1800", "46.0.0.1:1801"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (SEVERAL.replace("46.0.0.1", "46.0.0"), "mh.toml:8: anchors.1.address: value is not a valid IPv4"),
        (SEVERAL.replace("46.0.0.1", "45.0.0.1"), "mh.toml:8: anchors.1.address: '45.0.0.1' is there twice"),
        (
            SEVERAL.replace("46.0.0.1", "2001:db8::1"),
            "mh.toml:8: anchors.1.address: is of another address family",
        ),
        (SEVERAL.replace("signalling_port", "port"), "mh.toml:9: anchors.1.port: no such key"),
        (SEVERAL + '[anchor]\naddress = "47.0.0.1"\n', "mh.toml:4: anchors: stands beside [anchor]"),
        ("anchors = []\n" + GOOD.replace('[anchor]\naddress = "45.0.0.1"\n', ""), "mh.toml:1: anchors: "),
        (
            SEVERAL.replace('"46.0.0.1"', '"46.0.0.1"\nsecret_file = "/s"').replace(
                "cost = 4.5", 'protection = "sealed"'
            ),
            "mh.toml:20: network.1.protection: needs a secret",
        ),
    ],
)
def test_what_is_wrong_with_several_anchors_is_named(text: str, complaint: str) -> None:
    assert refused(text).startswith(complaint)


# --- an anchor for an application ---

NAMED = SEVERAL.replace('"46.0.0.1"', '"46.0.0.1"\nname = "home"')


def test_an_application_may_name_an_anchor_by_its_name_or_its_address() -> None:
    config = read_mobile_host_config(NAMED + '[[application]]\nname = "a"\nanchor = "home"\n', "mh.toml")
    assert config.application[-1].anchor == "home"
    assert config.anchor_called("home") == ip_address("46.0.0.1")
    assert config.anchor_called("45.0.0.1") == ip_address("45.0.0.1")
    assert config.anchor_called("46.0.0.1") == ip_address("46.0.0.1")
    assert config.anchor_called("any") is None
    assert config.anchor_called(None) is None


def test_the_flows_of_an_application_go_by_its_anchor() -> None:
    text = '[[application]]\nname = "a"\nanchor = "home"\n[[application.flow]]\nport = 53\n'
    config = read_mobile_host_config(NAMED + text, "mh.toml")
    assert [part.anchor for part in config.application[-1].parts()] == ["home"]


@pytest.mark.parametrize(
    ("application", "complaint"),
    [
        ('name = "a"\nanchor = "away"', "anchor: there is no anchor 'away'; there are 45.0.0.1, home"),
        ('name = "a"\nanchor = "46.0.0.2"', "anchor: there is no anchor '46.0.0.2'"),
        ('name = "a"\npolicy = "native"\nanchor = "home"', "anchor: a native application needs none"),
        ('name = "default"\nanchor = "home"', "anchor: the rest goes by the first anchor that answers"),
        ('name = "a"\nanchor = "ho me"', "anchor: 'ho me' is not a name"),
    ],
)
def test_an_anchor_that_cannot_be_is_named_with_its_line(application: str, complaint: str) -> None:
    text = f"{NAMED}\n[[application]]\n{application}\n"
    line = text[: text.index("anchor = ", len(NAMED))].count("\n") + 1
    assert refused(text).startswith(f"mh.toml:{line}: application.1.{complaint}")


def test_names_of_anchors_differ_and_any_is_none() -> None:
    assert "anchors.1.name: '45.0.0.1' is there twice" in refused(NAMED.replace('"home"', '"45.0.0.1"'))
    assert "name: 'any' stands for whichever anchor" in refused(NAMED.replace('"home"', '"any"'))


def test_applications_may_name_any_and_that_is_none() -> None:
    config = read_mobile_host_config(NAMED + '[[application]]\nname = "a"\nanchor = "any"\n', "mh.toml")
    assert config.anchor_called(config.application[-1].anchor) is None
