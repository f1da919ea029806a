"""Figures 6 and 7 of the paper, packet by packet, as captured from the wires of the lab."""

import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

ANCHOR_CONFIG = """
[anchor]
address = "45.0.0.1"
interface = "wan"
pool = "1.2.3.4-1.2.3.4"
tunnel_port = 1800
nat_ports = "40000-40000"
refuse_private = false
users = "{directory}/users"
leases = "{directory}/leases.sqlite"
datapath = "{datapath}"
"""

SENDER = """
import socket
application = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
application.bind(("", 2000))
application.settimeout(5)
application.connect(("86.0.0.1", 3000))
application.send(b"PCK1")
print(application.recv(100).decode())
"""

SERVER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("86.0.0.1", 3000))
while True:
    data, sender = server.recvfrom(100)
    server.sendto(b"PCK2", sender)
"""

ETHERNET = 14


@pytest.fixture(scope="module", params=["agent", "fast"])
def paper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose anchor has one virtual address and one NAT port: those of the paper."""
    lab, datapath = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab")), request.param
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--datapath", datapath)
        directory = lab.directory_of_state()
        config = lab.directory / "anchor.toml"
        config.write_text(ANCHOR_CONFIG.format(directory=directory, datapath=datapath))
        lab.start_daemon("an", config)
        lab.start_daemon("mh")
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers")
        lab.await_networks_up()
        assert {lab.ask("status", host=host)["datapath"] for host in ("mh", "an")} == {datapath}
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def described(frame: bytes) -> str:
    """An IP/UDP packet in one line, its headers checked; a packet inside it behind `>>`."""
    packet = frame[ETHERNET:]
    assert packet[0] == 0x45, "an IPv4 header without options"
    header = struct.unpack("!10H", packet[:20])
    assert sum(header) % 0xFFFF == 0, "the header checksum is right"
    length = header[1]
    packet = packet[:length]
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    source_port, destination_port, size, _ = struct.unpack("!4H", packet[20:28])
    assert packet[9] == 17
    assert size == length - 20
    line = f"{source}:{source_port} -> {destination}:{destination_port}"
    payload = packet[28:]
    if 1800 in (source_port, destination_port):
        assert len(payload) == length - 28, "the tunnel adds exactly 28 bytes"
        return f"{line} >> {described(bytes(ETHERNET) + payload)}"
    return f"{line} {payload.decode()}"


def captured(file: Path) -> list[str]:
    """The frames of a pcap file that carry PCK1 or PCK2."""
    data = file.read_bytes()
    place, found = 24, []
    while place + 16 <= len(data):
        _, _, size, _ = struct.unpack_from("<4I", data, place)
        frame = data[place + 16 : place + 16 + size]
        place += 16 + size
        if b"PCK" in frame:
            found.append(described(frame))
    return found


def has_header(file: Path) -> bool:
    return file.exists() and file.stat().st_size >= 24


def exchange(lab: Lab, network: str, directory: Path) -> dict[str, list[str]]:
    lab.ask("assign", "--destination", "86.0.0.1/32:3000", "--to", network)
    wires = {"if0": "mh", "if1": "mh", "eth0": "ch"}
    dumps: list[subprocess.Popen[str]] = []
    for interface, host in wires.items():
        file = directory / f"{network}-{interface}.pcap"
        dump = lab.start(
            host, "tcpdump", "--immediate-mode", "-U", "-n", "-i", interface, "-w", str(file), "udp"
        )
        dumps.append(dump)
        wait_until(partial(has_header, file), "tcpdump listens")
    answer = lab.on("mh", sys.executable, "-c", SENDER).stdout.strip()
    assert answer == "PCK2"
    files = {interface: directory / f"{network}-{interface}.pcap" for interface in wires}
    wait_until(lambda: len(captured(files["eth0"])) >= 2, "the correspondent's wire was recorded")
    for dump in dumps:
        dump.send_signal(signal.SIGINT)
        dump.wait(timeout=5)
    return {interface: captured(file) for interface, file in files.items()}


def test_the_packets_of_figure_7_on_both_access_networks_and_at_the_correspondent(
    paper: Lab, tmp_path: Path
) -> None:
    paper.start("ch", sys.executable, "-c", SERVER)
    paper.await_listener("ch", 3000)
    at_the_correspondent = [
        "45.0.0.1:40000 -> 86.0.0.1:3000 PCK1",
        "86.0.0.1:3000 -> 45.0.0.1:40000 PCK2",
    ]
    assert exchange(paper, "net0", tmp_path) == {
        "if0": [
            "192.168.100.25:1500 -> 45.0.0.1:1800 >> 1.2.3.4:2000 -> 86.0.0.1:3000 PCK1",
            "45.0.0.1:1800 -> 192.168.100.25:1500 >> 86.0.0.1:3000 -> 1.2.3.4:2000 PCK2",
        ],
        "if1": [],
        "eth0": at_the_correspondent,
    }
    assert exchange(paper, "net1", tmp_path) == {
        "if0": [],
        "if1": [
            "10.10.10.25:1600 -> 45.0.0.1:1800 >> 1.2.3.4:2000 -> 86.0.0.1:3000 PCK1",
            "45.0.0.1:1800 -> 10.10.10.25:1600 >> 86.0.0.1:3000 -> 1.2.3.4:2000 PCK2",
        ],
        "eth0": at_the_correspondent,
    }


def test_the_anchor_sees_the_gateways_ports_of_figure_6(paper: Lab) -> None:
    assert {tunnel["remote"] for tunnel in paper.ask("tunnels", host="an")} == {
        "160.80.100.1:33000",
        "65.0.0.1:34000",
    }
    assert {tunnel["reflexive"] for tunnel in paper.ask("tunnels")} == {
        "160.80.100.1:33000",
        "65.0.0.1:34000",
    }
