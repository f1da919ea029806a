"""Foreign SIP programs as a test drives them: real processes in the lab's namespaces, their output in the failure."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lab_driver import UPMT, Lab, wait_until

from upmt_nf.linux.users import UsersFile
from upmt_nf.signaling.digest import ALGORITHM, MD5, REALM, secret_hash

ANCHOR = "45.0.0.1"
HOST, HOST_OUTSIDE = "192.168.100.25", "160.80.100.1"
"""The mobile host's own address on net0, and what its gateway makes of it."""
CORRESPONDENT = "86.0.0.1"
SECRET = "interop-secret-1"
RESPONDER_PORT = 5062
HERE = Path(__file__).parent / "interop"
_TAIL = 6000


def needs(*programs: str, modules: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Skip, saying how to install what is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    missing += [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"{', '.join(missing)} is not installed: run `make setup-interop`"
    )


class Running:
    """A program that goes on in a namespace, its output in a file."""

    def __init__(self, lab: Lab, host: str, command: tuple[str, ...], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                (*lab.words(host), *command), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    def await_word(self, word: str, seconds: float = 15.0) -> str:
        """Wait until it has said something; gives all that it said."""

        def heard() -> bool:
            if self._process.poll() is not None and word not in self.said():
                pytest.fail(f"ended with {self._process.returncode} before it said {word!r}\n{self.said()}")
            return word in self.said()

        try:
            wait_until(heard, f"{self.log.stem} says {word!r}", seconds)
        except pytest.fail.Exception as reason:
            pytest.fail(f"{reason}\n{self.said()[-_TAIL:]}")
        return self.said()

    def end(self) -> None:
        """Ask it to end; by force when it does not."""
        self._process.terminate()
        try:
            self._process.wait(timeout=8)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Interop:
    """A lab without daemons of ours, in which tests start what they need."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self._number = 0

    @contextlib.contextmanager
    def running(self, host: str, *command: str, ready: str) -> Iterator[Running]:
        """A program that is ready when it has said `ready`, and ended with the block."""
        self._number += 1
        program = Running(self.lab, host, command, self.directory / f"{self._number}-{host}.log")
        try:
            program.await_word(ready)
            yield program
        finally:
            program.end()

    @contextlib.contextmanager
    def anchor(self, *algorithms: str, users: tuple[str, ...]) -> Iterator[Running]:
        """The real anchor on host `an`, with these users."""
        self._number += 1
        known, file = self.directory / f"users{self._number}", self.directory / f"anchor{self._number}.toml"
        write_users(known, users)
        file.write_text(
            f'[anchor]\naddress = "{ANCHOR}"\ninterface = "wan"\npool = "1.2.0.1-1.2.15.254"\nusers = "{known}"\n'
            f'leases = "{self.directory}/leases{self._number}.sqlite"\ndigest_algorithms = {json.dumps(algorithms)}\n'
            # A crowd behind one address is what a flood looks like.
            "source_rate = 5000\nstranger_rate = 5000\n"
        )
        with self.running("an", *UPMT, "anchor", "run", "--config", str(file), ready="tunnels at") as daemon:
            yield daemon

    def status(self, host: str = "an") -> Any:
        """`upmt status` there."""
        return self.lab.ask("status", host=host)

    def run(self, host: str, *command: str, seconds: float = 30, check: bool = True) -> str:
        """Run a peer to its end, for `seconds` at most; gives its output, or fails with it."""
        words = (*self.lab.words(host), "timeout", "--kill-after=2", f"{seconds:g}", *command)
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        output = done.stdout + done.stderr
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)} on {host} ended with {done.returncode}\n{output[-_TAIL:]}")
        return output

    def sipp(
        self,
        host: str,
        scenario: str,
        to: str,
        *options: str,
        users: tuple[str, ...] = (),
        seconds: float = 20,
    ) -> str:
        """Run a scenario of `tests/interop/sipp` to its end; gives what was sent and received, or fails with it."""
        self._number += 1
        name = self.directory / f"sipp{self._number}"
        rows = "".join(f"{user};[authentication username={user} password={SECRET}]\n" for user in users)
        name.with_suffix(".csv").write_text(f"SEQUENTIAL\n{rows or 'nobody'}")
        local = {"mh": HOST, "ch": CORRESPONDENT}[host]
        words = (
            "timeout", "--kill-after=2", f"{seconds + 5:g}",
            "sipp", to, "-sf", str(HERE / "sipp" / f"{scenario}.xml"), "-inf", f"{name}.csv", "-i", local,
            "-p", "5070", "-nostdin", "-timeout", f"{seconds:g}", "-timeout_error",
            "-trace_msg", "-message_file", f"{name}.msg", "-trace_err", "-error_file", f"{name}.err", *options,
        )  # fmt: skip
        done = subprocess.run(
            (*self.lab.words(host), *words),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=self.directory,
        )
        said = {kind: _text(name.with_suffix(f".{kind}")) for kind in ("err", "msg")}
        if done.returncode != 0:
            pytest.fail(
                f"sipp {scenario} ended with {done.returncode}\n{said['err']}\n{said['msg'][-_TAIL:]}"
            )
        return said["msg"]

    @contextlib.contextmanager
    def responder(self) -> Iterator[str]:
        """Our SIP core as a server on host `an`, without tunnels around it; gives its address."""
        program = str(HERE / "programs" / "sip_responder.py")
        words = (sys.executable, program, ANCHOR, str(RESPONDER_PORT))
        with self.running("an", *words, ready="listening"):
            yield f"{ANCHOR}:{RESPONDER_PORT}"


def write_users(path: Path, identities: tuple[str, ...]) -> None:
    """All with the one secret, as `upmt anchor user add` would write them."""
    lines = [
        f"{identity}:{REALM}:{secret_hash(identity, REALM, SECRET, algorithm)}\n"
        for identity in identities
        for algorithm in (ALGORITHM, MD5)
    ]
    path.touch(mode=0o600)
    path.write_text("".join(lines))
    assert UsersFile(path).identities() == list(identities)


def steps_of(output: str) -> dict[str, dict[str, Any]]:
    """What our programs in `tests/interop/programs` say, by step."""
    said = [json.loads(line[5:]) for line in output.splitlines() if line.startswith("STEP ")]
    return {step["step"]: step for step in said}


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
