"""On a kernel without tun interfaces netfilter's queues carry every packet: slower, and as right."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"


@pytest.fixture
def queued(tmp_path: Path) -> Iterator[Lab]:
    """A lab whose virtual interfaces are no tun."""
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--datapath", "auto")
        if lab.on("mh", "ip", "link", "add", "probe", "type", "ifb", check=False).returncode != 0:
            pytest.skip("the kernel has no ifb")
        lab.on("mh", "ip", "link", "del", "probe")
        for role, section in (("anchor", "[anchor]"), ("mobile-host", "[mobile_host]")):
            file = lab.directory_of_state() / f"{role}.toml"
            file.write_text(file.read_text().replace(section, f'{section}\nvirtual_interface = "ifb"', 1))
        lab.start_daemon("an")
        lab.start_daemon("mh")
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers")
        lab.await_networks_up()
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_a_download_moves_and_nothing_is_left(queued: Lab, tmp_path: Path) -> None:
    lab = queued
    shown = json.loads(lab.on("mh", "ip", "-d", "-j", "link", "show", "upmt0").stdout)
    assert shown[0]["linkinfo"]["info_kind"] == "ifb"
    served, fetched = tmp_path / "served", tmp_path / "fetched"
    served.mkdir()
    data = os.urandom(24_000_000)
    (served / "data").write_bytes(data)
    lab.start("ch", sys.executable, "-m", "http.server", "8091", "--directory", str(served))
    lab.await_listener("ch", 8091)
    url = f"http://{CORRESPONDENT}:8091/data"
    download = lab.start("mh", "curl", "-sSf", "--limit-rate", "2M", "-o", str(fetched), url)
    wait_until(lambda: fetched.exists() and fetched.stat().st_size > 1_000_000, "the download runs")
    before = lab.counters()["if1"]
    receipt = lab.ask("handover", "default", "--to", "net1")
    assert (receipt["from"], receipt["to"], receipt["mode"]) == ("net0", "net1", "make-before-break")
    assert download.wait(timeout=60) == 0
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert lab.counters()["if1"] - before > 1000
    assert "3 received" in lab.on("mh", "ping", "-c", "3", "-i", "0.2", "-s", "3000", CORRESPONDENT).stdout
    assert lab.on("mh", sys.executable, "-m", "upmt_nf.cli.main", "rules", "verify", "--role", "mobile-host")
