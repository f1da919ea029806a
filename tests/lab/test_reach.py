"""Whom hosts may talk with, on the wire: private networks and the anchor itself are refused, deny is obeyed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Lab]:
    """A lab whose anchor refuses what it refuses by default, and one port of the correspondent."""
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        text = (lab.directory_of_state() / "anchor.toml").read_text().replace("refuse_private = false\n", "")
        rules = f'deny = ["{CORRESPONDENT}:8093/tcp"]\nallow = ["172.20.0.0/16", "{CORRESPONDENT}"]\n'
        (tmp_path / "anchor.toml").write_text(text + rules)
        lab.on("an", "ip", "addr", "add", "45.0.0.77/24", "dev", "wan")
        lab.on("ch", "sh", "-ec", "ip addr add 172.20.0.1/32 dev lo; ip addr add 172.21.0.1/32 dev lo")
        lab.on("inet", "ip", "route", "add", "172.16.0.0/12", "via", CORRESPONDENT)
        lab.start_daemon("an", tmp_path / "anchor.toml")
        lab.start_daemon("mh")
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers")
        lab.await_networks_up()
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_hosts_reach_what_they_may_and_are_told_what_they_may_not(strict: Lab, tmp_path: Path) -> None:
    lab = strict
    (tmp_path / "file").write_text("served")
    for port in ("8092", "8093"):
        lab.start("ch", sys.executable, "-m", "http.server", port, "--directory", str(tmp_path))
        lab.await_listener("ch", int(port))

    def fetched(port: str) -> str:
        url = f"http://{CORRESPONDENT}:{port}/file"
        return lab.on("mh", "curl", "-sS", "--max-time", "8", url, check=False).stdout

    def answers(address: str) -> bool:
        return lab.on("mh", "ping", "-c", "1", "-W", "2", address, check=False).returncode == 0

    assert fetched("8092") == "served"
    assert fetched("8093") == ""
    assert answers(CORRESPONDENT)
    assert answers("172.20.0.1"), "allowed"
    assert not answers("172.21.0.1")
    assert not answers("45.0.0.77")
    counters = lab.ask("status", host="an")["counters"]
    assert counters["refused_denied"] >= 1
    assert counters["refused_private"] == 1
    assert counters["refused_anchor"] == 1
    told = lab.on("mh", "ping", "-c", "1", "-W", "2", "172.21.0.1", check=False).stdout
    assert "Packet filtered" in told or "Unreachable" in told
