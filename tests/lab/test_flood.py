"""A flood from 1,000 sources while 100 hosts work: their refreshes, set-ups and traffic are not hurt."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_urlsafe

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

from upmt_nf.linux.users import write_private
from upmt_nf.signaling.digest import REALM, secret_hash

pytestmark = [pytest.mark.lab, pytest.mark.alone, pytest.mark.slow]

HOSTS, SECONDS, FLOOD_RATE = 100, 15, 3000
PROGRAMS = Path(__file__).parents[2] / "benchmarks"

ANCHOR_CONFIG = """
[anchor]
address = "45.0.0.1"
interface = "wan"
pool = "1.2.3.4-1.2.3.254"
minimum_lease_time = 10
users = "{directory}/users"
leases = "{directory}/leases.sqlite"
"""

ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("65.0.0.1", 7000))
while True:
    data, sender = server.recvfrom(100)
    server.sendto(data, sender)
"""


@pytest.fixture
def busy_lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab with an anchor for a hundred users and an echo server; the users' addresses are at the correspondent."""
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        secrets = [token_urlsafe(24) for _ in range(HOSTS)]
        names = [f"crowd{number}@crowd.example" for number in range(HOSTS)]
        hashes = zip(names, secrets, strict=True)
        lines = "".join(f"{name}:{REALM}:{secret_hash(name, REALM, secret)}\n" for name, secret in hashes)
        write_private(tmp_path / "users", lines)
        write_private(tmp_path / "secrets", "\n".join(secrets))
        (tmp_path / "anchor.toml").write_text(ANCHOR_CONFIG.format(directory=tmp_path))
        addresses = "; ".join(f"ip addr add 86.0.0.{number}/24 dev eth0" for number in range(101, 251))
        lab.on("ch", "sh", "-ec", addresses)
        # The crowd reads tunnel packets as bytes: between virtual interfaces nobody would finish the inner checksums.
        lab.on("gw1", "ethtool", "-K", "wan", "tx", "off")
        lab.start("gw1", sys.executable, "-c", ECHO)
        lab.await_listener("gw1", 7000)
        lab.start_daemon("an", tmp_path / "anchor.toml")
        wait_until(lambda: lab.is_answering("an"), "the daemon answers")
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_a_thousand_strangers_flood_while_a_hundred_hosts_work(busy_lab: Lab) -> None:
    lab = busy_lab
    crowd = lab.start(
        "ch", sys.executable, str(PROGRAMS / "crowd.py"),
        "--hosts", str(HOSTS), "--seconds", str(SECONDS), "--secrets", str(lab.directory / "secrets"), "--move",
    )  # fmt: skip
    assert crowd.stdout is not None
    assert json.loads(crowd.stdout.readline()) == {"ready": HOSTS}
    flood = lab.start(
        "inet", sys.executable, str(PROGRAMS / "stranger_flood.py"),
        "--rate", str(FLOOD_RATE), "--seconds", str(SECONDS),
    )  # fmt: skip
    report = json.loads(crowd.stdout.readline())
    assert flood.stdout is not None
    flooded = json.loads(flood.stdout.readline())
    counters = lab.ask("status", host="an")["counters"]
    print(report, flooded, counters)
    assert flooded["sent"] > SECONDS * FLOOD_RATE * 0.8
    assert counters["unknown_tunnel"] > flooded["sent"] / 5
    assert counters["strangers_over_limit"] + counters.get("source_over_limit", 0) > 1000, (
        "the limits were reached"
    )
    assert report["ready"] == HOSTS
    assert report["sent"] > HOSTS * SECONDS * 4
    assert report["lost"] == 0, report
    assert report.get("associations_lost", 0) == 0
    assert report["timed_out"] == 0
    assert report["sip_sent"] > HOSTS, "every host has refreshed its association"
    assert report["tunnels_opened"] == report["moved"] == HOSTS // 10
    assert len(lab.ask("status", host="an")["associations"]) == HOSTS
