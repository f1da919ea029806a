"""An access network without IPv4: its tunnel goes over IPv6, and everything else is as with the others.

mh if1 2001:db8:1::25 -- gw1, no NAT -- inet -- 2001:db8:45::1 an
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

ANCHOR = "2001:db8:45::1"
CARE_OF = "2001:db8:1::25"
ADDRESSES = (
    ("mh", "if1", f"{CARE_OF}/64"),
    ("gw1", "lan", "2001:db8:1::1/64"),
    ("gw1", "wan", "2001:db8:ff::1/64"),
    ("inet", "gw1", "2001:db8:ff::fe/64"),
    ("inet", "an", "2001:db8:45::fe/64"),
    ("an", "wan", f"{ANCHOR}/64"),
)
ROUTES = (
    ("mh", "default", "2001:db8:1::1"),
    ("gw1", "default", "2001:db8:ff::fe"),
    ("inet", "2001:db8:1::/64", "2001:db8:ff::1"),
    ("an", "default", "2001:db8:45::fe"),
)


@pytest.fixture(scope="module", params=["agent", "fast"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """net0 has IPv4, net1 has IPv6 only; the anchor has both."""
    made = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        made.upmt("lab", "up", "--name", made.name, "--no-daemons", "--datapath", request.param)
        if not Path("/proc/net/if_inet6").exists():
            pytest.skip("the kernel has no IPv6")
        made.on("mh", "ip", "address", "flush", "dev", "if1")
        for host, interface, address in ADDRESSES:
            made.on(host, "ip", "-6", "address", "add", address, "dev", interface, "nodad")
        for host in ("gw1", "inet"):
            made.on(host, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        for host, where, gateway in ROUTES:
            made.on(host, "ip", "-6", "route", "add", where, "via", gateway)
        for host, name in (("an", "anchor"), ("mh", "mobile-host")):
            text = (made.directory_of_state() / f"{name}.toml").read_text()
            file = made.directory / f"{name}.toml"
            key = '[anchor]\naddress = "45.0.0.1"\n'
            assert key in text
            file.write_text(text.replace(key, f'{key}ipv6_address = "{ANCHOR}"\n'))
            made.start_daemon(host, file)
        wait_until(lambda: made.is_answering("mh"), "the daemon answers", 40)
        made.await_networks_up()
        yield made
    finally:
        made.end_programs()
        made.upmt("lab", "down", "--name", made.name)


def network(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in lab.ask("networks") if row["name"] == name)
    return found


def test_a_network_without_ipv4_carries_applications_over_ipv6(lab: Lab) -> None:
    found = network(lab, "net1")
    assert (found["state"], found["care_of_address"], found["mtu"]) == ("up", CARE_OF, 1452)
    assert found["trial"]["nat"] == "none"
    assert network(lab, "net0")["mtu"] == 1472
    remotes = {tunnel["network"]: tunnel["remote"] for tunnel in lab.ask("tunnels")}
    assert remotes == {"net0": "45.0.0.1:1800", "net1": f"[{ANCHOR}]:1800"}
    lab.ask("assign", "--uid", "0", "--to", "net1", "--app", "all")
    wait_until(lambda: lab.network_of("all") == "net1", "all is on net1")
    said = lab.on("mh", "ping", "-q", "-c", "50", "-i", "0.01", "-s", "1400", "86.0.0.1").stdout
    assert " 0% packet loss" in said
    carried = next(each for each in lab.ask("tunnels") if each["network"] == "net1")
    assert min(carried["packets_in"], carried["packets_out"]) >= 50


def test_of_a_network_with_both_it_is_told_whether_the_anchor_is_reached_by_ipv6_as_well(lab: Lab) -> None:
    assert network(lab, "net1")["trial"]["ipv6"] == {"address": CARE_OF, "anchor": "passes"}
    assert network(lab, "net0")["trial"]["ipv6"] == {"address": None, "anchor": None}
    lab.on("mh", "ip", "-6", "address", "add", "2001:db8:0::25/64", "dev", "if0", "nodad")
    try:
        both = {"address": "2001:db8::25", "anchor": None}
        wait_until(lambda: network(lab, "net0")["trial"]["ipv6"] == both, "net0 has an IPv6 address")
        lab.ask("networks", "test", "net0")
        assert network(lab, "net0")["trial"]["ipv6"]["anchor"] == "dropped", "no router knows the way"
        for host, interface, address in (
            ("gw0", "lan", "2001:db8::1/64"),
            ("gw0", "wan", "2001:db8:fe::1/64"),
            ("inet", "gw0", "2001:db8:fe::fe/64"),
        ):
            lab.on(host, "ip", "-6", "address", "add", address, "dev", interface, "nodad")
        lab.on("gw0", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        lab.on("gw0", "ip", "-6", "route", "add", "default", "via", "2001:db8:fe::fe")
        lab.on("inet", "ip", "-6", "route", "add", "2001:db8::/64", "via", "2001:db8:fe::1")
        lab.on("mh", "ip", "-6", "route", "add", "default", "via", "2001:db8::1", "metric", "2000")
        lab.ask("networks", "test", "net0")
        assert network(lab, "net0")["trial"]["ipv6"]["anchor"] == "passes"
        assert network(lab, "net0")["care_of_address"] == "192.168.100.25"
        refused = lab.on("mh", "ping", "-6", "-c", "1", "-W", "1", "2001:db8:45::fe", check=False)
        assert refused.returncode != 0, "nothing goes past the tunnels by it"
    finally:
        lab.on("mh", "ip", "-6", "address", "del", "2001:db8:0::25/64", "dev", "if0")


def test_a_stream_moves_between_ipv4_and_ipv6_and_loses_nothing(lab: Lab) -> None:
    lab.ask("assign", "--uid", "0", "--to", "net1", "--app", "all")
    ping = lab.start("mh", "ping", "-q", "-c", "300", "-i", "0.01", "86.0.0.1")
    for target in ("net0", "net1", "net0", "net1"):
        assert lab.ask("handover", "all", "--to", target)["to"] == target
    assert " 0% packet loss" in ping.communicate(timeout=30)[0]


def test_without_any_ipv4_the_host_registers_and_works(lab: Lab) -> None:
    lab.link("net0", "down")
    try:
        wait_until(lambda: network(lab, "net0")["state"] == "down", "net0 is down")
        wait_until(lambda: lab.network_of("all") == "net1", "all is on net1")
        said = lab.on("mh", "ping", "-q", "-c", "20", "-i", "0.01", "86.0.0.1").stdout
        assert " 0% packet loss" in said
        lab.end_programs_on("mh")
        lab.start_daemon("mh", lab.directory / "mobile-host.toml")
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 40)
        wait_until(lambda: network(lab, "net1")["state"] == "up", "net1 is up", 40)
        assert lab.ask("status")["association"]["state"] == "associated", "by IPv6 alone"
        said = lab.on("mh", "ping", "-q", "-c", "20", "-i", "0.01", "86.0.0.1").stdout
        assert " 0% packet loss" in said
    finally:
        lab.link("net0", "up")
    lab.await_networks_up()


def test_nothing_is_left_behind(lab: Lab) -> None:
    lab.end_programs_on("mh")
    left = (
        lab.on("mh", "ip", "-6", "rule").stdout
        + lab.on("mh", "ip", "-6", "route", "show", "table", "all").stdout
    )
    assert "lookup 70" not in left
    assert "table 70" not in left
