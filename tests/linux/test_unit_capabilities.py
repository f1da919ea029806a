"""With the capabilities that the systemd unit leaves a daemon, it gets from the kernel what root gets."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from upmt_nf.linux.cgroups import hierarchy
from upmt_nf.linux.process_events import ProcessEvents
from upmt_nf.linux.socket_record import SocketRecord
from upmt_nf.model.errors import FacilityError

pytestmark = pytest.mark.kernel


def take(facility: str) -> None:
    """As the daemon takes it. Raises FacilityError."""
    if facility == "process events":
        ProcessEvents().close()
    elif (mounted := hierarchy()) is not None:
        SocketRecord(mounted, entries=64).close()
    else:
        raise FacilityError("cgroup v2 is not mounted here")


@pytest.mark.parametrize("facility", ["process events", "record of sockets"])
def test_the_unit_leaves_what_it_takes(facility: str) -> None:
    from capabilities import as_unit  # not at the top: run as a program, this file does not find it

    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    try:
        take(facility)
    except FacilityError as reason:
        pytest.skip(str(reason))
    done = subprocess.run(
        (*as_unit("mobile-host"), sys.executable, __file__, facility),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    take(sys.argv[1])
