"""Access networks that let only some packets pass: what is found out about them, and what is done about it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until
from wire_schema import unpublished

pytestmark = pytest.mark.lab

ON_BOTH_PLANES = pytest.mark.parametrize("hotel", ["agent", "fast"], indirect=True)
ON_ONE = pytest.mark.parametrize("hotel", ["fast"], indirect=True)

PORTS = "further_tunnel_ports = [443, 53]"
BLOCKED = ["FORWARD", "-i", "lan", "-p", "udp", "--dport", "1800", "-j", "DROP"]
NO_SIP = ["FORWARD", "-i", "lan", "-p", "udp", "--dport", "5060", "-j", "DROP"]
RANDOM = "POSTROUTING -o wan -p udp -j MASQUERADE --random"


@pytest.fixture(scope="module")
def hotel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose networks block SIP's port; the first that of tunnels, too; the second's NAT maps each port anew."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--datapath", request.param)
        configs = {}
        keys = {
            "an": ("[anchor]\n", "portal_check_port = 8080"),
            "mh": ("[mobile_host]\n", 'portal_check = "http://45.0.0.1:8080/"'),
        }
        for host, name in (("an", "anchor"), ("mh", "mobile-host")):
            text = (lab.directory_of_state() / f"{name}.toml").read_text()
            configs[host] = lab.directory / f"{name}.toml"
            table, key = keys[host]
            text = text.replace(table, f"{table}{key}\n")
            configs[host].write_text(text.replace("tunnel_port = 1800\n", f"tunnel_port = 1800\n{PORTS}\n"))
        iptables(lab, "gw0", "-I", *BLOCKED)
        for gateway in ("gw0", "gw1"):
            iptables(lab, gateway, "-I", *NO_SIP)
        iptables(lab, "gw1", "-t", "nat", "-I", *RANDOM.split())
        for host, config in configs.items():
            lab.start_daemon(host, Path(config))
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 40)
        lab.await_networks_up()
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def iptables(lab: Lab, host: str, *words: str) -> str:
    return lab.on(host, "iptables-legacy", "-w", *words).stdout


def network(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in lab.ask("networks") if row["name"] == name)
    return found


def checks_of(lab: Lab, name: str) -> dict[str, dict[str, Any]]:
    """The checks of `upmt networks test`, by name."""
    words = (*UPMT, "networks", "test", name, "--json")
    answer = lab.on("mh", *words, check=False).stdout
    trial = json.loads(answer)
    assert unpublished("networks-test", trial) == []
    return {check["check"]: check for check in trial["checks"]}


@ON_BOTH_PLANES
def test_a_network_that_blocks_the_first_port_carries_everything_by_another(hotel: Lab) -> None:
    lab = hotel
    trial = network(lab, "net0")["trial"]
    assert trial["passed"]
    assert trial["open_ports"] == [443, 53]
    assert unpublished("networks", lab.ask("networks")) == []
    assert lab.ask("status")["association"]["state"] == "associated", "SIP found another port"
    remotes = {tunnel["network"]: tunnel["remote"] for tunnel in lab.ask("tunnels")}
    assert remotes == {"net0": "45.0.0.1:443", "net1": "45.0.0.1:1800"}
    lab.ask("assign", "--uid", "0", "--to", "net0", "--app", "all")
    said = lab.on("mh", "ping", "-q", "-c", "100", "-i", "0.01", "-s", "1000", "86.0.0.1").stdout
    assert " 0% packet loss" in said
    assert network(lab, "net0")["state"] == "up"
    carried = next(each for each in lab.ask("tunnels") if each["network"] == "net0")
    assert min(carried["packets_in"], carried["packets_out"]) >= 100
    if lab.ask("status")["datapath"] == "fast":
        there = {each["network"]: each for each in lab.ask("tunnels", host="an")}
        assert there["net0"]["packets_out"] >= 100


@ON_BOTH_PLANES
def test_handovers_go_between_networks_of_different_ports(hotel: Lab) -> None:
    lab = hotel
    ping = lab.start("mh", "ping", "-q", "-c", "300", "-i", "0.01", "86.0.0.1")
    for target in ("net1", "net0", "net1"):
        assert lab.ask("handover", "all", "--to", target)["to"] == target
    assert " 0% packet loss" in ping.communicate(timeout=30)[0]


@ON_ONE
def test_a_test_tells_ports_and_the_kind_of_nat(hotel: Lab) -> None:
    checks = checks_of(hotel, "net0")
    assert checks["ports"] == {
        "check": "ports",
        "state": "ok",
        "detail": "UDP passes to 443, 53 of the anchor, not to 1800",
    }
    assert "endpoint-independent or address-dependent" in checks["nat"]["detail"]
    assert network(hotel, "net0")["trial"]["nat_mapping"] == "endpoint-independent or address-dependent"
    checks = checks_of(hotel, "net1")
    assert checks["ports"]["detail"] == "UDP passes to 1800, 443, 53 of the anchor"
    assert "address-and-port-dependent" in checks["nat"]["detail"]
    assert network(hotel, "net1")["state"] == "up", "a test disturbs nothing"


@ON_ONE
def test_a_narrow_path_is_found_where_its_routers_say_nothing(hotel: Lab) -> None:
    lab = hotel
    silence = ["OUTPUT", "-p", "icmp", "-j", "DROP"]
    iptables(lab, "gw1", "-I", *silence)
    lab.on("gw1", "ip", "link", "set", "wan", "mtu", "1400")
    try:
        checks = checks_of(lab, "net1")
        assert checks["mtu"]["detail"].endswith("tried both ways")
        assert 1364 <= network(lab, "net1")["mtu"] <= 1372
        assert network(lab, "net1")["state"] == "up"
        lab.ask("assign", "--uid", "0", "--to", "net1", "--app", "all")
        told = {each["network"]: each["mtu"] for each in lab.ask("tunnels", host="an")}
        assert told["net1"] == network(lab, "net1")["mtu"], "the anchor knows it, too"
        # The answers are as large as the path was; a router drops them, unless the anchor splits them before.
        said = lab.on(
            "mh", "ping", "-q", "-c", "5", "-i", "0.05", "-M", "dont", "-s", "1420", "86.0.0.1"
        ).stdout
        assert " 0% packet loss" in said
    finally:
        iptables(lab, "gw1", "-D", *silence)
        lab.on("gw1", "ip", "link", "set", "wan", "mtu", "1500")


UNSUMMED = ["-p", "udp", "-m", "u32", "--u32", "0>>22&0x3C@4&0xFFFF=0"]


@ON_ONE
def test_a_network_that_drops_udp_without_a_checksum_carries_everything_all_the_same(hotel: Lab) -> None:
    lab = hotel
    kernels = "the fast plane's packets have no outer checksum"
    assert network(lab, "net1")["trial"]["filters"]["zero_checksum"] == "passes", (
        "tried when the tunnel opened"
    )
    lab.ask("assign", "--uid", "0", "--to", "net1", "--app", "all")
    iptables(lab, "gw1", "-t", "mangle", "-I", "FORWARD", *UNSUMMED, "-j", "DROP")
    try:
        checks = checks_of(lab, "net1")
        assert (
            "UDP without a checksum dropped (the tunnel's packets have them)" in checks["filters"]["detail"]
        )
        assert "fragments passes" in checks["filters"]["detail"]
        assert network(lab, "net1")["trial"]["filters"]["zero_checksum"] == "dropped"
        assert unpublished("networks", lab.ask("networks")) == []
        said = lab.on("mh", "ping", "-q", "-c", "50", "-i", "0.01", "-s", "1000", "86.0.0.1").stdout
        assert " 0% packet loss" in said, kernels
    finally:
        iptables(lab, "gw1", "-t", "mangle", "-D", "FORWARD", *UNSUMMED, "-j", "DROP")
    checks_of(lab, "net1")
    assert network(lab, "net1")["trial"]["filters"]["zero_checksum"] == "passes"


@ON_ONE
def test_marks_that_are_bleached_or_dropped_and_fragments_that_are_dropped_are_told_of(hotel: Lab) -> None:
    lab = hotel
    # The gateway puts fragments together for its NAT; the router behind it does not.
    odd = (
        ("gw0", ("-t", "mangle"), ("FORWARD", "-p", "udp", "-j", "DSCP", "--set-dscp", "0")),
        ("gw0", ("-t", "mangle"), ("FORWARD", "-p", "udp", "-m", "tos", "--tos", "2/3", "-j", "DROP")),
        ("inet", (), ("FORWARD", "-f", "-j", "DROP")),
    )
    for host, table, rule in odd:
        iptables(lab, host, *table, "-A", *rule)
    try:
        checks = checks_of(lab, "net0")
        filters = network(lab, "net0")["trial"]["filters"]
        assert filters == {
            "zero_checksum": "passes",
            "dscp": "bleached",
            "ecn": "dropped",
            "fragments": "dropped",
            "hairpin": "dropped",
            "sip": "passes",
        }
        assert checks["hairpin"]["state"] == "ok"
        lab.ask("assign", "--uid", "0", "--to", "net0", "--app", "all")
        said = lab.on("mh", "ping", "-q", "-c", "20", "-i", "0.01", "-Q", "2", "86.0.0.1").stdout
        assert " 0% packet loss" in said, "what is ECN-capable inside is not outside"
    finally:
        for host, table, rule in odd:
            iptables(lab, host, *table, "-D", *rule)
    checks_of(lab, "net0")
    assert network(lab, "net0")["trial"]["filters"]["ecn"] == "passes"
    lab.ask("assign", "--uid", "0", "--to", "net1", "--app", "all")


@ON_ONE
def test_a_nat_that_sends_back_what_is_for_its_own_address_is_told_of(hotel: Lab) -> None:
    lab = hotel
    # A NAT of any cone, for once: whatever comes to these ports of its outer address from within goes to the host.
    lab_ports = ("-i", "lan", "-d", "160.80.100.1", "-p", "udp")
    inward = ("PREROUTING", *lab_ports, "-j", "DNAT", "--to-destination", "192.168.100.25")
    outward = (
        "POSTROUTING",
        "-o",
        "lan",
        "-p",
        "udp",
        "-s",
        "192.168.100.0/24",
        "-j",
        "SNAT",
        "--to-source",
        "160.80.100.1",
    )
    iptables(lab, "gw0", "-t", "nat", "-I", *inward)
    iptables(lab, "gw0", "-t", "nat", "-I", *outward)
    try:
        assert checks_of(lab, "net0")["hairpin"]["detail"].startswith("the NAT sends back")
        assert network(lab, "net0")["trial"]["filters"]["hairpin"] == "passes"
    finally:
        iptables(lab, "gw0", "-t", "nat", "-D", *inward)
        iptables(lab, "gw0", "-t", "nat", "-D", *outward)


@ON_ONE
def test_behind_a_captive_portal_a_network_stays_out_and_says_so_until_it_opens(hotel: Lab) -> None:
    lab = hotel
    portal = [
        "PREROUTING",
        "-i",
        "lan",
        "-p",
        "tcp",
        "--dport",
        "8080",
        "-j",
        "REDIRECT",
        "--to-ports",
        "8081",
    ]
    lab.start("gw0", sys.executable, str(Path(__file__).parent / "portal.py"), "8081")
    lab.await_listener("gw0", 8081)
    iptables(lab, "gw0", "-t", "nat", "-I", *portal)
    everything = ["FORWARD", "-i", "lan", "-p", "udp", "-j", "DROP"]
    iptables(lab, "gw0", "-I", *everything)
    try:
        wait_until(lambda: network(lab, "net0")["state"] == "dead", "the network is dead", 20)
        wait_until(lambda: network(lab, "net0")["trial"]["portal"], "HTTP has told", 20)
        trial = network(lab, "net0")["trial"]
        assert trial["portal"] == {"finding": "portal", "location": "http://login.hotel.example/?from=upmt"}
        assert (
            trial["reason"]
            == "anchor: a captive portal is in the way: log in at http://login.hotel.example/?from=upmt"
        )
        assert not trial["passed"]
        assert unpublished("networks", lab.ask("networks")) == []
        assert checks_of(lab, "net0")["ports"]["state"] == "failed"
        assert lab.network_of("all") == "net1"
    finally:
        iptables(lab, "gw0", "-D", *everything)
        iptables(lab, "gw0", "-t", "nat", "-D", *portal)
    lab.await_networks_up()
    assert network(lab, "net0")["trial"]["portal"] is None


@ON_ONE
def test_events_tell_all_of_it_in_order(hotel: Lab) -> None:
    events = hotel.ask("events", "--last", "1000")
    assert unpublished("events", events) == []
    assert [event["number"] for event in events] == sorted(event["number"] for event in events)
    said = [(event["event"], event["network"] or event["application"], event["to"]) for event in events]
    for what in (
        ("association", None, "associated"),
        ("port", "net0", "443"),
        ("handover", "all", "net1"),
        ("portal", "net0", "portal"),
        ("network", "net0", "dead"),
    ):
        assert what in said, what
    assert any(kind == "path-mtu" and where == "net1" for kind, where, _ in said)
    assert said.index(("network", "net0", "dead")) < said.index(("portal", "net0", "portal"))
    following = hotel.start("mh", "timeout", "20", *UPMT, "events", "--follow", "--json")
    assert following.stdout is not None
    assert any(json.loads(line)["number"] == events[-1]["number"] for line in following.stdout)
