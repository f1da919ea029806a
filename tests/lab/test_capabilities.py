"""The capabilities that the units leave are enough: both daemons run with just those, and put everything back."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import as_unit
from host_state import assert_as_before, state_of
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

NATIVE = """
[[application]]
name = "left"
policy = "native"
"""


@pytest.fixture
def bare_lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_both_daemons_do_all_their_work_with_what_the_units_leave_them(bare_lab: Lab) -> None:
    lab = bare_lab
    before = {host: state_of(lab, host) for host in ("mh", "an")}
    directory = lab.directory_of_state()
    config = lab.directory / "mobile-host.toml"
    config.write_text((directory / "mobile-host.toml").read_text() + NATIVE)
    anchor = lab.start(
        "an", *as_unit("anchor"), *UPMT, "anchor", "run", "--config", str(directory / "anchor.toml")
    )
    host = lab.start("mh", *as_unit("mobile-host"), *UPMT, "mobile-host", "run", "--config", str(config))
    wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
    lab.await_networks_up()
    planes = {role: lab.ask("status", host=role)["datapath"] for role in ("mh", "an")}
    assert planes["an"] == planes["mh"], lab.ask("status", host="an")["datapath_reason"]
    lab.on("mh", *UPMT, "run", "--app", "probe", "--", "ping", "-c", "1", "86.0.0.1")
    lab.on("mh", *UPMT, "assign", "--command", "sleepy", "--to", "net1")
    show = "import socket; print(socket.socket().getsockopt(1, 36))"
    assert lab.on("mh", *UPMT, "run", "--app", "left", "--", sys.executable, "-c", show).stdout == "8191\n"
    user = ("setpriv", "--reuid=34", "--clear-groups")
    lab.on(
        "mh", *user, sys.executable, "-c", "import socket; socket.socket(2, 2).sendto(b'x', ('86.0.0.1', 9))"
    )
    for process, name in ((host, "mh"), (anchor, "an")):
        os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
        assert process.returncode == 0, process.stdout.read() if process.stdout else ""
        assert_as_before(before[name], lab, name)
