"""No secret in logs, status, process arguments or errors; files with secrets that others may read are refused."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

from upmt_nf.signaling.digest import REALM, secret_hash

pytestmark = pytest.mark.lab

WRONG = "a-guess-that-nobody-may-see"
READING = ("status", "networks", "tunnels", "apps", "flows", "doctor")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(unique_lab_name(), tmp_path)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--protection", "sealed")
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def secrets_of(lab: Lab, secret: str) -> list[bytes]:
    """All that may be seen nowhere: the host's secret as it is and as it is written elsewhere, and its hash."""
    line = (lab.directory_of_state() / "users").read_text().strip()
    identity = line.partition(":")[0]
    known = secret_hash(identity, REALM, secret)
    if secret != WRONG:
        assert line.endswith(known)
    text = secret.encode()
    forms = (text, text.hex().encode(), base64.b64encode(text), known.encode(), bytes.fromhex(known))
    return [form.rstrip(b"=") for form in forms]


def arguments_and_environments() -> bytes:
    """Of every process that there is, ours included."""
    found = b""
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                found += (process / name).read_bytes()
            except OSError:
                continue
    return found


def run_verbosely(lab: Lab, host: str, role: str) -> subprocess.Popen[str]:
    config = lab.directory_of_state() / f"{role}.toml"
    return lab.start(host, *UPMT, role, "run", "--config", str(config), "--verbose")


def ended(program: subprocess.Popen[str]) -> bytes:
    """Ask a daemon to stop; all that it said."""
    program.terminate()
    assert program.wait(timeout=20) == 0
    assert program.stdout is not None
    return program.stdout.read().encode()


def everything_said(lab: Lab) -> bytes:
    said = b""
    for host in ("mh", "an"):
        for command in READING:
            done = lab.on(host, *UPMT, command, "--json", check=False)
            said += done.stdout.encode() + done.stderr.encode()
        said += lab.on(host, *UPMT, "why", "default", check=False).stdout.encode()
    return said


@pytest.mark.parametrize("is_right", [True, False], ids=["right secret", "wrong secret"])
def test_no_secret_is_said_anywhere(bare: Lab, is_right: bool) -> None:
    lab = bare
    file = lab.directory_of_state() / "secret"
    if not is_right:
        file.write_text(WRONG + "\n")
    secret = file.read_text().strip()
    anchor = run_verbosely(lab, "an", "anchor")
    host = run_verbosely(lab, "mh", "mobile-host")
    wait_until(lambda: lab.is_answering("mh") and lab.is_answering("an"), "the daemons answer")
    if is_right:
        lab.await_networks_up()
        lab.on("mh", "ping", "-c", "1", "86.0.0.1")
    else:
        wait_until(lambda: lab.ask("status")["association"]["failure"], "the reason is known")
    said = everything_said(lab) + arguments_and_environments() + ended(host) + ended(anchor)
    assert b"DEBUG" in said, "the logs are complete"
    for form in secrets_of(lab, secret):
        assert form not in said, form


@pytest.mark.parametrize(("role", "name"), [("anchor", "users"), ("mobile-host", "secret")])
def test_a_file_with_secrets_that_others_may_read_is_refused_and_not_repeated(
    bare: Lab, role: str, name: str
) -> None:
    lab = bare
    file, host = lab.directory_of_state() / name, {"anchor": "an", "mobile-host": "mh"}[role]
    secret = (lab.directory_of_state() / "secret").read_text().strip()
    config = str(lab.directory_of_state() / f"{role}.toml")
    for mode in (0o644, 0o640, 0o602):
        file.chmod(mode)
        done = lab.on(host, *UPMT, role, "run", "--config", config, check=False)
        assert done.returncode == 2, done.stderr
        assert f"chmod 600 {file}" in done.stderr
        assert "Traceback" not in done.stderr
        assert not any(form in done.stderr.encode() for form in secrets_of_text(secret))
    if role == "anchor":
        for words in (
            ("list",),
            ("add", "new@x.example"),
            ("rotate", "new@x.example"),
            ("remove", "new@x.example"),
        ):
            done = lab.upmt("anchor", "user", *words, "--config", config, check=False)
            assert done.returncode == 2
            assert f"chmod 600 {file}" in done.stderr
    file.chmod(0o600)
    lab.start_daemon(host)
    wait_until(lambda: lab.is_answering(host), "the daemon answers")


def secrets_of_text(secret: str) -> tuple[bytes, ...]:
    return (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"="))
