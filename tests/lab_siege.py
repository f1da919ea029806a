"""A lab under siege: a victim that works, an attacker on the path that has read it from its start, a second host."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lab_attacker import ANCHOR, SIP, Reader, Rogue, Seen
from lab_driver import UPMT, Lab, wait_until

from upmt_nf.daemon.control_client import call
from upmt_nf.datapath.packet import build_udp, parse_udp
from upmt_nf.lab import namespaces
from upmt_nf.lab.voice_stream import read_log
from upmt_nf.linux.users import UsersFile
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.digest import REALM, secret_hash

CORRESPONDENT = ip_address("86.0.0.1")
VICTIM = ip_address("1.2.3.4")
ENDS = {
    "net0": Endpoint(ip_address("160.80.100.1"), 33000),
    "net1": Endpoint(ip_address("65.0.0.1"), 34000),
}
"""Of the victim's tunnels, as the anchor and the attacker see them."""
STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")
ROGUE, SECRET = "rogue@lab.example", "the rogue's own"
RATE = 50


@dataclass
class Siege:
    """A lab with a victim that works, and what the attacker has seen of it since its start."""

    lab: Lab
    reader: Reader
    rogue: Rogue
    seen: list[Seen]
    logs: dict[str, Path] = field(default_factory=dict)
    downloads: int = 0

    def status(self, host: str) -> Any:
        with namespaces.entered(self.lab.name, host):
            return call("status")

    def tunnels(self) -> dict[int, tuple[str, str]]:
        """Of the victim, at the anchor: by id, the network and the other end."""
        with namespaces.entered(self.lab.name, "an"):
            found = call("tunnels")
        return {
            tunnel["tunnel_id"]: (tunnel["network"], tunnel["remote"])
            for tunnel in found
            if tunnel["virtual_address"] == str(VICTIM)
        }

    def count(self, host: str, *reasons: str) -> int:
        counters = self.status(host)["counters"]
        return sum(counters.get(reason, 0) for reason in reasons)

    def states(self) -> dict[str, str]:
        """The state of each of the victim's networks."""
        return {network["name"]: network["state"] for network in self.status("mh")["networks"]}

    def flows(self) -> list[dict[str, Any]]:
        """The victim's, at the anchor."""
        with namespaces.entered(self.lab.name, "an"):
            found: list[dict[str, Any]] = call("flows")
        return [flow for flow in found if flow["source"] == str(VICTIM)]

    @property
    def identity(self) -> str:
        """The victim's."""
        return f"mh@{self.lab.name.replace('_', '-')}.example"

    @contextmanager
    def counting(self, host: str, *reasons: str, by: int = 1) -> Iterator[None]:
        """What happens inside is counted."""
        before = self.count(host, *reasons)
        yield
        wait_until(lambda: self.count(host, *reasons) >= before + by, f"{host} counts {by} more of {reasons}")

    def newest_number(self, network: str) -> int:
        return read_log(self.logs[network])[-1].number


@contextmanager
def besieged(lab: Lab, protection: dict[str, str]) -> Iterator[Siege]:
    """Build the lab `lab`, with this protection by network; taken down at the end."""
    reader: Reader | None = None
    rogue: Rogue | None = None
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--protection", "sealed")
        directory = lab.directory_of_state()
        config = directory / "mobile-host.toml"
        text = config.read_text().replace("[mobile_host]", "[mobile_host]\nlease_time = 8")
        for network, format in protection.items():
            before, name, after = text.partition(f'name = "{network}"')
            text = before + name + after.replace('protection = "sealed"', f'protection = "{format}"', 1)
        config.write_text(text)
        anchor = directory / "anchor.toml"
        anchor.write_text(anchor.read_text() + "minimum_lease_time = 5\n")
        UsersFile(directory / "users").set(ROGUE, REALM, secret_hash(ROGUE, REALM, SECRET))
        reader, rogue = Reader(lab.name), Rogue(lab.name, ROGUE, SECRET)
        with reader.reading() as seen:
            lab.start_daemon("an")
            # Once up, and goodbye, so that there is a goodbye to be repeated.
            pid = lab.start_daemon("mh")
            wait_until(lambda: lab.is_answering("mh"), "the daemon answers")
            lab.await_networks_up()
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not lab.is_answering("mh"), "the host has left")
            lab.start_daemon("mh")
            wait_until(lambda: lab.is_answering("mh"), "the daemon answers")
            lab.await_networks_up()
            lab.ask("handover", "default", "--to", "net1")
            lab.on("mh", "ping", "-c", "1", str(CORRESPONDENT))
            lab.ask("handover", "default", "--to", "net0")
        made = Siege(lab, reader, rogue, list(seen))
        start_victim(made)
        rogue.associate()
        yield made
    finally:
        for attacker in (reader, rogue):
            if attacker is not None:
                attacker.close()
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def start_victim(siege: Siege) -> None:
    lab = siege.lab
    served = lab.directory / "served"
    served.mkdir()
    (served / "data").write_bytes(os.urandom(1_500_000))
    lab.start("ch", sys.executable, "-m", "http.server", "8090", "--directory", str(served))
    for number, network in enumerate(("net0", "net1")):
        port, log = 5004 + number, lab.directory / f"{network}.log"
        lab.ask("assign", "--app", f"on-{network}", "--to", f"{network},any")
        lab.start("ch", *STREAM, "echo", str(port), str(log.with_suffix(".echo")))
        lab.await_listener("ch", port)
        lab.start(
            "mh", *UPMT, "run", "--app", f"on-{network}", "--",
            *STREAM, "send", str(CORRESPONDENT), str(port), str(RATE), "900", str(log),
        )  # fmt: skip
        siege.logs[network] = log
    lab.await_listener("ch", 8090)
    wait_until(
        lambda: all(log.exists() and log.stat().st_size > 16 * RATE for log in siege.logs.values()),
        "the streams run",
    )


@contextmanager
def keeps_working(siege: Siege) -> Iterator[None]:
    """A download runs inside. At the end, neither it nor the streams have lost anything at all."""
    lab = siege.lab
    siege.downloads += 1
    fetched = lab.directory / f"fetched{siege.downloads}"
    tunnels, began = siege.tunnels(), {network: siege.newest_number(network) for network in siege.logs}
    curl = lab.start(
        "mh", *UPMT, "run", "--app", "on-net0", "--",
        "curl", "-sSf", "--limit-rate", "1M", "-o", str(fetched), f"http://{CORRESPONDENT}:8090/data",
    )  # fmt: skip
    wait_until(lambda: fetched.exists() and fetched.stat().st_size > 50_000, "the download runs")
    yield
    assert curl.wait(timeout=30) == 0
    served = (lab.directory / "served/data").read_bytes()
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(served).digest()
    ended = {network: siege.newest_number(network) for network in siege.logs}
    time.sleep(0.3)
    for network, log in siege.logs.items():
        wanted = set(range(began[network], ended[network]))
        lost = wanted - {arrival.number for arrival in read_log(log)}
        assert not lost, f"{network}: {len(lost)} of {len(wanted)} lost: {sorted(lost)[:10]}"
    association = siege.status("mh")["association"]
    assert association["state"] in ("associated", "refreshing")
    assert association["virtual_address"] == str(VICTIM)
    assert siege.tunnels() == tunnels
    logs = [file.read_text() for file in lab.directory_of_state().glob("*.log")]
    assert not any("Traceback" in text for text in logs)


def sip(packet: Seen) -> bytes:
    """The SIP message of a packet, outside or in a plain tunnel packet; nothing else."""
    if SIP in (packet.source.port, packet.destination.port):
        return packet.payload
    datagram = parse_udp(packet.payload)
    return datagram.payload if datagram is not None and datagram.destination.port == SIP else b""


def says(*words: bytes) -> Callable[[Seen], bool]:
    return lambda packet: packet.destination.address == ANCHOR and all(word in sip(packet) for word in words)


def uplink(network: str, kind: int) -> Callable[[Seen], bool]:
    """Data of a network's tunnel: 1 is cookie, 2 sealed."""
    return lambda packet: packet.source == ENDS[network] and packet.payload[:1] == bytes([kind << 4])


def other_branch(data: bytes, word: bytes = b"other") -> bytes:
    """SIP as a new transaction: the branch is the sender's to choose."""
    return re.sub(rb"branch=z9hG4bK\w+", b"branch=z9hG4bK" + word, data, count=1)


def put_inside(packet: Seen, data: bytes) -> bytes:
    """A plain tunnel packet with other SIP in it."""
    inner = parse_udp(packet.payload)
    assert inner is not None
    source, to = inner.source, inner.destination
    return build_udp(source.address, source.port, to.address, to.port, data)
