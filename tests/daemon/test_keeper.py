"""A daemon that is kept alive without a service manager: real processes that fail, hang and end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from upmt_nf.daemon.keeper import keep
from upmt_nf.model.errors import UsageError

DAEMON = """
import os, pathlib, signal, sys
from upmt_nf.linux.service_manager import tell
lives = pathlib.Path(sys.argv[1])
life = len(lives.read_text()) if lives.exists() else 0
lives.write_text("x" * (life + 1))
exec(sys.argv[2 + min(life, len(sys.argv) - 3)])
"""
READY = "tell('READY=1'); "
HANG = READY + "os.kill(os.getpid(), signal.SIGSTOP)"


def lead(tmp_path: Path, *lives: str) -> int:
    """Keep a daemon alive that does these in its lives, one after the other; gives the exit code."""
    command = (sys.executable, "-c", DAEMON, str(tmp_path / "lives"), *lives)
    return keep(command, 0.5, pause=0.01)


def lived(tmp_path: Path) -> int:
    return len((tmp_path / "lives").read_text())


@pytest.fixture(autouse=True)
def unmanaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)


def test_one_that_fails_is_started_again_until_it_ends_well(tmp_path: Path) -> None:
    assert lead(tmp_path, READY + "sys.exit(1)", "os.abort()", READY + "sys.exit(0)") == 0
    assert lived(tmp_path) == 3


def test_one_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    assert lead(tmp_path, HANG, "sys.exit(0)") == 0
    assert lived(tmp_path) == 2


def test_one_that_makes_way_is_followed_at_once(tmp_path: Path) -> None:
    make_way = READY + "os.kill(os.getpid(), signal.SIGUSR1)"
    command = (sys.executable, "-c", DAEMON, str(tmp_path / "lives"), make_way, "sys.exit(0)")
    assert keep(command, 5.0, pause=3600) == 0
    assert lived(tmp_path) == 2


def test_one_that_was_never_ready_has_said_what_is_wrong(tmp_path: Path) -> None:
    assert lead(tmp_path, "sys.exit(2)", "sys.exit(0)") == 2
    assert lived(tmp_path) == 1


def test_it_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    ending = "signal.signal(15, lambda *_: sys.exit(0)); " + READY + "print('up', flush=True); signal.pause()"
    command = (sys.executable, "-c", DAEMON, str(tmp_path / "lives"), ending)
    words = f"from upmt_nf.daemon.keeper import keep; import sys; sys.exit(keep({command!r}, 5.0))"
    with subprocess.Popen((sys.executable, "-c", words), stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"up\n"
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(10) == 0
    assert lived(tmp_path) == 1


def test_a_service_manager_is_left_to_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"@upmt-test-{os.getpid()}")
    with pytest.raises(UsageError, match="--watchdog"):
        lead(tmp_path, READY)
