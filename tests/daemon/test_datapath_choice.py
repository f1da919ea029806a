"""Which datapath it is, and why."""

from ipaddress import ip_address

import pytest
from mirrored_paft import World

from upmt_nf.daemon.datapath_choice import choose
from upmt_nf.daemon.fast_plane import FastPlane
from upmt_nf.model.errors import FacilityError, KernelError


def nothing() -> FastPlane:
    raise FacilityError("there is no libbpf")


def test_the_choice_says_why() -> None:
    anchor = ip_address("203.0.113.1")
    assert choose("agent", "tun", anchor, nothing).name == "agent"
    said = choose("auto", "tun", anchor, nothing)
    assert (said.name, said.fast) == ("agent", None)
    for kind, address, named in (
        ("tun", anchor, "libbpf"),
        ("ifb", anchor, "ifb"),
        ("tun", ip_address("2001:db8::1"), "IPv4"),
    ):
        with pytest.raises(FacilityError, match=named):
            choose("fast", kind, address, nothing)
    world = World()
    for wanted in ("fast", "auto"):
        assert choose(wanted, "tun", anchor, lambda: world.fast).name == "fast"
    for kind, address, make, named in (
        ("ifb", anchor, nothing, "ifb"),
        ("tun", ip_address("2001:db8::1"), nothing, "IPv4"),
        ("tun", anchor, nothing, "libbpf"),
        ("tun", anchor, broken, "map flows"),
    ):
        fallen_back = choose("auto", kind, address, make)
        assert fallen_back.name == "agent"
        assert named in fallen_back.reason


def broken() -> FastPlane:
    raise KernelError("map flows cannot be read: Operation not permitted")
