"""Applications that are left alone, by each way to name them: the first packet already has the right source address."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"
CARE_OF, VIPA = "192.168.100.25", "1.2.3.4"
GATEWAYS_ADDRESS, ANCHORS_ADDRESS = "160.80.100.1", "45.0.0.1"
ECHO = """
import socket, sys
with socket.create_server(("0.0.0.0", 7007)) as server:
    while True:
        connection, peer = server.accept()
        connection.sendall(peer[0].encode())
        connection.close()
"""
ASK = """
import socket, sys
with socket.create_connection(("86.0.0.1", 7007), timeout=15) as connection:
    print(connection.getsockname()[0], connection.recv(64).decode())
"""
NATIVE = """
[[application]]
name = "by-user"
policy = "native"
[[application.match]]
uid = 34

[[application]]
name = "by-net"
policy = "native"
[[application.match]]
destination = "86.0.0.77"

[[application]]
name = "started"
policy = "native"

[[application]]
name = "by-name"
policy = "native"
[[application.match]]
command = "left-alone"
"""


def config_of(lab: Lab, more: str, default: str = "tunnel") -> Path:
    """The lab's configuration with a default and applications."""
    text = (lab.directory_of_state() / "mobile-host.toml").read_text()
    text = text.replace("[mobile_host]\n", f'[mobile_host]\ndefault = "{default}"\n')
    file = lab.directory / f"{default}.toml"
    file.write_text(text + more)
    return file


def sources(lab: Lab, *before: str, program: str = sys.executable) -> tuple[str, str]:
    """The source address that a TCP client sees, and the one that its correspondent sees."""
    own, seen = lab.on("mh", *before, program, "-c", ASK, timeout=30).stdout.split()
    return own, seen


def as_user(uid: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={uid}", "--clear-groups")


def started(name: str) -> tuple[str, ...]:
    return (*UPMT, "run", "--app", name, "--")


@pytest.fixture(scope="module")
def bare_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        echo = subprocess.Popen((*lab.words("ch"), sys.executable, "-c", ECHO))
        lab.await_listener("ch", 7007)
        lab.on("ch", "ip", "address", "add", "86.0.0.77/24", "dev", "eth0")
        lab.start_daemon("an")
        wait_until(lambda: lab.is_answering("an"), "the anchor answers", 30)
        yield lab
        echo.terminate()
        echo.wait()
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


@pytest.fixture(scope="module")
def tunnelling(bare_lab: Lab) -> Iterator[Lab]:
    """default = "tunnel"."""
    yield from running(bare_lab, config_of(bare_lab, NATIVE))


def running(lab: Lab, config: Path) -> Iterator[Lab]:
    pid = lab.start_daemon("mh", config)
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
    lab.await_networks_up()
    yield lab
    os.kill(pid, 15)
    wait_until(lambda: not lab.is_answering("mh"), "the daemon has ended", 30)


TUNNELLED = """
[[application]]
name = "by-user"
[[application.match]]
uid = 34

[[application]]
name = "by-net"
[[application.match]]
destination = "86.0.0.1:7007"
uid = 35
"""


# First in this file: a daemon with the other default runs for all tests behind it.
def test_where_the_rest_is_native_the_named_have_the_virtual_address(bare_lab: Lab) -> None:
    for lab in running(bare_lab, config_of(bare_lab, TUNNELLED, "native")):
        assert sources(lab) == (CARE_OF, GATEWAYS_ADDRESS)
        assert sources(lab, *as_user(34)) == (VIPA, ANCHORS_ADDRESS)
        assert sources(lab, *as_user(35)) == (VIPA, ANCHORS_ADDRESS)
        assert sources(lab, *started("anything")) == (VIPA, ANCHORS_ADDRESS)
        assert sources(lab) == (CARE_OF, GATEWAYS_ADDRESS)


def test_what_nothing_names_goes_by_the_tunnels(tunnelling: Lab) -> None:
    assert sources(tunnelling) == (VIPA, ANCHORS_ADDRESS)


def test_a_native_user_never_sees_the_virtual_address(tunnelling: Lab) -> None:
    assert sources(tunnelling, *as_user(34)) == (CARE_OF, GATEWAYS_ADDRESS)


def test_a_native_program_of_upmt_run_never_sees_the_virtual_address(tunnelling: Lab) -> None:
    assert sources(tunnelling, *started("started")) == (CARE_OF, GATEWAYS_ADDRESS)
    assert sources(tunnelling, *started("other")) == (VIPA, ANCHORS_ADDRESS)


def test_a_native_command_is_told_on_its_first_packet(tunnelling: Lab) -> None:
    link = tunnelling.directory / "left-alone"
    link.symlink_to(sys.executable)
    own, seen = sources(tunnelling, program=str(link))
    # Its process is looked up when the source is chosen already: the correspondent sees the right one all the same.
    assert (own, seen) == (VIPA, GATEWAYS_ADDRESS)


@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_first_packets_of_other_protocols_are_right_too(tunnelling: Lab, protocol: str) -> None:
    sniffer = tunnelling.start(
        "ch",
        "timeout",
        "20",
        "tcpdump",
        "-lnni",
        "eth0",
        "-c",
        "1",
        f"{protocol} and dst host {CORRESPONDENT}",
    )
    output = sniffer.stdout
    assert output is not None
    wait_until(lambda: "listening" in output.readline(), "tcpdump listens", 30)
    if protocol == "icmp":
        answer = tunnelling.on("mh", *started("started"), "ping", "-c", "1", "-W", "5", CORRESPONDENT).stdout
        assert "1 received" in answer
    else:
        send = f"import socket; socket.socket(2, 2).sendto(b'x', ('{CORRESPONDENT}', 9))"
        tunnelling.on("mh", *as_user(34), sys.executable, "-c", send)
    assert f"IP {GATEWAYS_ADDRESS}" in output.readline()


def test_a_native_destination(tunnelling: Lab) -> None:
    answer = tunnelling.on("mh", "ip", "route", "get", "86.0.0.77").stdout
    assert f"src {CARE_OF}" in answer
    assert "1 received" in tunnelling.on("mh", "ping", "-c", "1", "86.0.0.77").stdout


def test_the_lan_multicast_and_loopback_are_left_alone(tunnelling: Lab) -> None:
    for destination, device in (
        ("192.168.100.1", "if0"),
        ("10.10.10.1", "if1"),
        ("239.1.2.3", "if0"),
        ("127.0.0.1", "lo"),
    ):
        assert f"dev {device} " in tunnelling.on("mh", "ip", "route", "get", destination).stdout, destination
    assert "1 received" in tunnelling.on("mh", "ping", "-c", "1", "192.168.100.1").stdout


def test_a_containers_packets_go_on_as_before(tunnelling: Lab) -> None:
    """A bridge like docker's: what it forwards is none of our business."""
    tunnelling.on(
        "mh",
        "sh",
        "-c",
        "ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up",
    )
    try:
        tunnelling.on("mh", "sysctl", "-q", "net.ipv4.ip_forward=1")
        answer = tunnelling.on(
            "mh", "ip", "route", "get", CORRESPONDENT, "from", "172.17.0.2", "iif", "docker0"
        )
        assert "dev if0" in answer.stdout
        assert "dev docker0" in tunnelling.on("mh", "ip", "route", "get", "172.17.0.2").stdout
    finally:
        tunnelling.on("mh", "sh", "-c", "sysctl -q net.ipv4.ip_forward=0; ip link del docker0")


def test_an_application_can_be_made_native_and_back_while_its_flows_go_on(tunnelling: Lab) -> None:
    talk = (
        "import socket, time\n"
        "s = socket.create_connection(('86.0.0.1', 7008), timeout=20)\n"
        "for _ in range(300): s.sendall(b'x' * 100); s.recv(100); time.sleep(0.02)\n"
        "print('whole')"
    )
    echo = (
        "import socket\n"
        "c, _ = socket.create_server(('0.0.0.0', 7008)).accept()\n"
        "while data := c.recv(4096): c.sendall(data)"
    )
    tunnelling.start("ch", sys.executable, "-c", echo)
    tunnelling.await_listener("ch", 7008)
    talker = tunnelling.start("mh", *started("changing"), sys.executable, "-c", talk)
    wait_until(lambda: "7008" in str(tunnelling.ask("flows")), "the flow is there", 30)
    changed = tunnelling.ask("assign", "--app", "changing", "--to", "native")
    assert changed["policy"] == ["native"]
    assert sources(tunnelling, *started("changing")) == (CARE_OF, GATEWAYS_ADDRESS)
    assert tunnelling.ask("assign", "--app", "changing", "--to", "any")["policy"] == ["any"]
    assert sources(tunnelling, *started("changing")) == (VIPA, ANCHORS_ADDRESS)
    assert "whole" in talker.communicate(timeout=60)[0]


def test_why_says_that_it_is_left_alone(tunnelling: Lab) -> None:
    answer = tunnelling.ask("why", "by-user")
    assert answer["path"]["is_left_alone"]
    assert answer["networks"] == []
    assert "left alone" in answer["notes"][0]
    said = tunnelling.on("mh", *UPMT, "why", "by-user").stdout
    assert "as if UPMT were not there" in said
    assert not tunnelling.ask("why", "default")["path"]["is_left_alone"]
