"""Sockets that carry a mark from their creation on, seen in a cgroup of this test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from upmt_nf.linux.cgroups import hierarchy
from upmt_nf.linux.socket_marks import mark_sockets
from upmt_nf.model.errors import FacilityError

pytestmark = pytest.mark.kernel

SHOW = """
import socket
for family, kind in ((2, 1), (2, 2), (10, 1), (10, 2)):
    print(socket.socket(family, kind).getsockopt(socket.SOL_SOCKET, socket.SO_MARK))
"""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    root = hierarchy()
    if root is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    made = root / f"upmt-marks-{os.getpid()}"
    made.mkdir()
    try:
        mark_sockets(made, 0)
    except FacilityError as reason:
        made.rmdir()
        pytest.skip(str(reason))
    yield made
    made.rmdir()


def marks_in(cgroup: Path) -> set[int]:
    join = f"open({str(cgroup / 'cgroup.procs')!r}, 'w').write('0')\n"
    done = subprocess.run((sys.executable, "-c", join + SHOW), capture_output=True, text=True, check=True)
    return {int(line) for line in done.stdout.split()}


def test_every_socket_of_a_member_has_the_mark_and_the_last_mark_counts(cgroup: Path) -> None:
    assert marks_in(cgroup) == {0}
    mark_sockets(cgroup, 0x1FFE)
    assert marks_in(cgroup) == {0x1FFE}
    below = cgroup / "below"
    below.mkdir()
    assert marks_in(below) == {0x1FFE}
    below.rmdir()
    mark_sockets(cgroup, 0x1FFF)
    assert marks_in(cgroup) == {0x1FFF}


def test_a_missing_cgroup_is_named(cgroup: Path) -> None:
    with pytest.raises(FacilityError, match="below/not-there cannot be marked: No such file"):
        mark_sockets(cgroup / "below/not-there", 1)
