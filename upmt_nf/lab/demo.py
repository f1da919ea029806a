"""`make demo`: the main job in under a minute, with real programs, checked by what they saw.

Types the commands that an administrator would type and prints them. Judges by the download's SHA-256, the
numbered voice stream and the interfaces' own counters, not by what UPMT says of itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upmt_nf.daemon.control_client import call
from upmt_nf.lab import namespaces
from upmt_nf.lab.stream_report import StreamReport, report
from upmt_nf.lab.voice_stream import read_log
from upmt_nf.model.errors import UpmtError

CORRESPONDENT = "86.0.0.1"
WEB_PORT, VOICE_PORT = 8000, 5004
VOICE_RATE = 50
DOWNLOAD_RATE = 4_000_000
LEAST_SECONDS, QUIET_SECONDS, COMMANDS = 15.0, 11.0, 16
"""How long both programs run: at least, beside the commands, and for so many commands with some to spare."""
LONGEST_GAP_AT_CUT_MS = 300.0
"""Generous on a noisy machine; `tests/lab` holds the product to one round trip plus 50 ms."""

ACCOUNT_INTERVAL = 0.05
_KEY = ("protocol", "source_port", "destination", "destination_port")

UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
NETWORKS = {"net0": "if0", "net1": "if1"}


@dataclass
class Demo:
    """One run of the demo in a lab of its own."""

    say: Callable[[str], None]
    lab: str = field(default_factory=lambda: f"demo{os.getpid()}")
    events: list[tuple[str, float]] = field(default_factory=list)
    usage: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = LEAST_SECONDS
    _is_over: threading.Event = field(default_factory=threading.Event)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _failures: list[str] = field(default_factory=list)

    def run(self) -> DemoResult:
        """Run it all. Raises UpmtError when a step could not be done at all."""
        with tempfile.TemporaryDirectory(prefix="upmt-demo-") as directory, contextlib.ExitStack() as stack:
            place = Path(directory)
            self.say(
                "A mobile host with two access networks, an anchor and a correspondent (the paper's fig. 6):"
            )
            self._upmt("lab", "up", "--name", self.lab, echo=True)
            stack.callback(self._upmt, "lab", "down", "--name", self.lab)
            return self._tell(place, stack)

    def _tell(self, place: Path, stack: contextlib.ExitStack) -> DemoResult:
        served = place / "served"
        served.mkdir()
        self.say("At the correspondent: a web server with random data, a voice echo.")
        web = (sys.executable, "-m", "http.server", str(WEB_PORT), "--directory", str(served))
        echo = (
            sys.executable,
            "-m",
            "upmt_nf.lab.voice_stream",
            "echo",
            str(VOICE_PORT),
            str(place / "echo.log"),
        )
        stack.enter_context(self._program("ch", *web))
        stack.enter_context(self._program("ch", *echo))
        self._await_listeners()

        self.say("On the mobile host: two applications, each on the network that suits it.")
        began = time.monotonic()
        self._on_host("assign", "--app", "download", "--to", "net0,any")
        self._on_host("assign", "--app", "voice", "--to", "net1,any")
        # On a busy machine commands take long: the programs must not end before what is to happen to them.
        self.seconds = max(LEAST_SECONDS, QUIET_SECONDS + COMMANDS * (time.monotonic() - began) / 2)
        data = os.urandom(int(self.seconds * DOWNLOAD_RATE))
        (served / "backup.bin").write_bytes(data)
        before = self._interface_bytes()
        accountant = threading.Thread(target=self._account, daemon=True)
        accountant.start()
        voice_log, fetched = place / "voice.log", place / "fetched.bin"
        voice = stack.enter_context(
            self._program(
                "mh",
                *UPMT, "run", "--app", "voice", "--",
                sys.executable, "-m", "upmt_nf.lab.voice_stream", "send",
                CORRESPONDENT, str(VOICE_PORT), str(VOICE_RATE), str(self.seconds), str(voice_log),
            )
        )  # fmt: skip
        download = stack.enter_context(
            self._program(
                "mh",
                *UPMT, "run", "--app", "download", "--",
                "curl", "--silent", "--show-error", "--fail", "--limit-rate", str(DOWNLOAD_RATE),
                "--output", str(fetched), f"http://{CORRESPONDENT}:{WEB_PORT}/backup.bin",
            )
        )  # fmt: skip
        self._running = {"voice": voice, "download": download}
        time.sleep(3.0)
        self._expect_networks(download="net0", voice="net1")

        self.say(
            "Planned handover of the running download to the voice's network; the voice must not notice."
        )
        self._event("download to net1", lambda: self._on_host("handover", "download", "--to", "net1"))
        time.sleep(2.0)
        self._expect_networks(download="net1", voice="net1")
        self.say("And back again.")
        self._event("download to net0", lambda: self._on_host("handover", "download", "--to", "net0"))
        time.sleep(2.0)
        self._expect_networks(download="net0", voice="net1")

        self.say("Now the voice's network is cut (carrier lost); the voice must move by itself.")
        self._event(
            "net1 cut", lambda: self._upmt("lab", "link", "--name", self.lab, "net1", "down", echo=True)
        )
        time.sleep(2.0)
        self._expect_networks(download="net0", voice="net0")

        self.say("Waiting for both programs to end.")
        if download.wait(timeout=40 + 2 * self.seconds) != 0:
            self._failures.append(f"curl ended with {download.returncode}")
        if voice.wait(timeout=40) != 0:
            self._failures.append(f"the voice program ended with {voice.returncode}")
        self._is_over.set()
        accountant.join()
        after = self._interface_bytes()
        return self._judge(data, fetched, voice_log, {key: after[key] - before[key] for key in after})

    def _judge(self, data: bytes, fetched: Path, voice_log: Path, carried: dict[str, int]) -> DemoResult:
        wanted = hashlib.sha256(data).hexdigest()
        got = hashlib.sha256(fetched.read_bytes()).hexdigest() if fetched.exists() else "no file"
        if wanted != got:
            self._failures.append("the download differs from what was served")
        arrivals = read_log(voice_log)
        if not arrivals:
            raise UpmtError("the voice stream heard nothing back at all")
        start = arrivals[0].at - arrivals[0].number / VOICE_RATE
        stretches: dict[str, StreamReport] = {}
        last = int(self.seconds * VOICE_RATE) - 1
        for name, at in self.events:
            middle = int((at - start) * VOICE_RATE)
            stretches[name] = report(
                arrivals, max(0, middle - VOICE_RATE // 2), min(last, middle + VOICE_RATE)
            )
        stretches["whole stream"] = report(arrivals, 0, last)
        for name, stretch in stretches.items():
            if name.startswith("download") and (stretch.lost or stretch.duplicated):
                self._failures.append(f"voice packets were lost or doubled at the event {name!r}")
        if stretches["whole stream"].duplicated:
            self._failures.append("voice packets were doubled")
        if stretches["net1 cut"].longest_gap_ms > LONGEST_GAP_AT_CUT_MS:
            self._failures.append(
                f"the voice was silent for longer than {LONGEST_GAP_AT_CUT_MS:g} ms at the cut"
            )
        return DemoResult(
            size=len(data),
            sha256_served=wanted,
            sha256_fetched=got,
            voice=stretches,
            usage={application: dict(self._used(application)) for application in ("download", "voice")},
            carried=carried,
            failures=self._failures,
        )

    def _used(self, application: str) -> Iterator[tuple[str, int]]:
        for network in NETWORKS:
            yield network, self.usage[application, network]

    def _event(self, name: str, act: Callable[[], Any]) -> None:
        """Let something happen while both programs run."""
        for program, process in self._running.items():
            if process.poll() is not None:
                self._failures.append(f"the {program} had ended before the event {name!r}")
        self.events.append((name, time.monotonic()))
        act()

    def _account(self) -> None:
        """Add what each flow carried to its application and present network, all the time (a thread of its own)."""
        seen: dict[tuple[Any, ...], int] = {}
        with namespaces.entered(self.lab, "mh"):
            while not self._is_over.wait(ACCOUNT_INTERVAL):
                with contextlib.suppress(UpmtError):
                    for flow in call("flows", timeout=5):
                        key = tuple(flow[part] for part in _KEY)
                        self.usage[flow["application"], flow["network"]] += flow["bytes"] - seen.get(key, 0)
                        seen[key] = flow["bytes"]

    def _expect_networks(self, **wanted: str) -> None:
        status = json.loads(self._on_host("status", "--json", echo=False))
        networks = {application["name"]: application["network"] for application in status["applications"]}
        for application, network in wanted.items():
            self.say(f"    {application} is on {networks.get(application)}")
            if networks.get(application) != network:
                self._failures.append(f"{application} is on {networks.get(application)}, not on {network}")

    def _interface_bytes(self) -> dict[str, int]:
        links = json.loads(
            self._upmt("lab", "exec", "--name", self.lab, "mh", "--", "ip", "-s", "-j", "link")
        )
        totals = {
            link["ifname"]: link["stats64"]["rx"]["bytes"] + link["stats64"]["tx"]["bytes"] for link in links
        }
        return {network: totals[interface] for network, interface in NETWORKS.items()}

    def _await_listeners(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            sockets = self._upmt("lab", "exec", "--name", self.lab, "ch", "--", "ss", "-Hlntu")
            if f":{WEB_PORT} " in sockets and f":{VOICE_PORT} " in sockets:
                return
            time.sleep(0.1)
        raise UpmtError("the correspondent's programs did not start")

    def _on_host(self, *arguments: str, echo: bool = True) -> str:
        if echo:
            self.say(f"  mh$ upmt {' '.join(arguments)}")
        output = self._upmt("lab", "exec", "--name", self.lab, "mh", "--", *UPMT, *arguments)
        if echo and output.strip():
            self.say(f"    {output.strip()}")
        return output

    def _upmt(self, *arguments: str, echo: bool = False) -> str:
        if echo:
            self.say(f"  $ upmt {' '.join(arguments)}")
        done = subprocess.run((*UPMT, *arguments), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise UpmtError(f"upmt {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    @contextlib.contextmanager
    def _program(self, host: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        words = (*UPMT, "lab", "exec", "--name", self.lab, host, "--", *command)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=10)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the programs saw. `usage` is bytes by application and network, `carried` bytes by network on the wire."""

    size: int
    sha256_served: str
    sha256_fetched: str
    voice: dict[str, StreamReport]
    usage: dict[str, dict[str, int]]
    carried: dict[str, int]
    failures: list[str]
