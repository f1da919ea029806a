"""The kernel plane at one end and the agent at the other: each end takes what the other one sends.

All links of a lab are virtual, so nobody on the way finishes the checksums that a kernel leaves to network cards.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"
ECHO = Path(__file__).with_name("echo.py")
DATAGRAMS = """
import os, socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.settimeout(10)
for size in range(1, 1400, 13):
    data = os.urandom(size)
    made.sendto(data, (sys.argv[1], int(sys.argv[2])))
    assert made.recv(2000) == data
"""


@pytest.fixture(
    scope="module", params=[("agent", "fast"), ("fast", "agent")], ids=["agent-fast", "fast-agent"]
)
def unlike_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose host has the first datapath and its anchor the second one."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--datapath", "auto")
        roles = {"mh": "mobile-host.toml", "an": "anchor.toml"}
        for (host, name), datapath in zip(roles.items(), request.param, strict=True):
            text = (lab.directory_of_state() / name).read_text()
            assert 'datapath = "auto"' in text
            config = lab.directory / name
            config.write_text(text.replace('datapath = "auto"', f'datapath = "{datapath}"'))
            lab.start_daemon(host, config)
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 40)
        lab.await_networks_up()
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_streams_and_datagrams_pass_between_unlike_planes(unlike_lab: Lab, tmp_path: Path) -> None:
    lab, data = unlike_lab, os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    lab.start("ch", sys.executable, "-m", "http.server", "8095", "--directory", str(tmp_path))
    received = tmp_path / "received"
    lab.start("ch", "socat", "-u", "TCP-LISTEN:8096,reuseaddr", f"CREATE:{received}")
    lab.start("ch", sys.executable, str(ECHO), "0.0.0.0:8097")
    for port in (8095, 8096, 8097):
        lab.await_listener("ch", port)
    lab.on(
        "mh", "curl", "-sSf", "-m", "30", "-o", str(tmp_path / "down"), f"http://{CORRESPONDENT}:8095/data"
    )
    lab.on("mh", "socat", "-u", f"OPEN:{tmp_path}/data", f"TCP:{CORRESPONDENT}:8096,connect-timeout=10")
    lab.on("mh", sys.executable, "-c", DATAGRAMS, CORRESPONDENT, "8097")
    wait_until(lambda: received.exists() and received.stat().st_size == len(data), "all has arrived")
    for file in (tmp_path / "down", received):
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(data).digest()
