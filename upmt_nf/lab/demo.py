"""`make demo`: the office worker of the paper's introduction, in under a minute, with real programs.

A video call moves from Wi-Fi to LTE before the Wi-Fi dies; a backup stays, waits and goes on. Types the commands that
an administrator would type and prints them. Judges by the backup's SHA-256, the numbered stream of the call and the
interfaces' own counters, not by what UPMT says of itself.
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
from upmt_nf.lab import daemons, namespaces
from upmt_nf.lab.lab import change_shape
from upmt_nf.lab.links import change_link
from upmt_nf.lab.shape import Shape
from upmt_nf.lab.stream_report import StreamReport, report
from upmt_nf.lab.topology import NETWORKS, LinkAction
from upmt_nf.lab.voice_stream import read_log
from upmt_nf.model.errors import UpmtError

CORRESPONDENT = "86.0.0.1"
WEB_PORT, CALL_PORT = 8000, 5004
CALL_RATE = 50
BACKUP_RATE = 1_000_000
LEAST_SECONDS, QUIET_SECONDS, COMMANDS = 28.0, 24.0, 8
"""How long the backup takes: at least, beside the commands, and for so many commands with some to spare."""
LONGEST_CALL = 600
"""Seconds; it is hung up when all has happened."""
PATIENCE = 15.0
"""Seconds until an application is where its policy wants it, at most."""
FADING = (100, 170, 240, 310, 380)
"""One-way delays of the Wi-Fi (ms) while its user walks away, a second each."""

ACCOUNT_INTERVAL = 0.05
_KEY = ("protocol", "source_port", "destination", "destination_port")

UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
CABLES = {"wifi": "net0", "lte": "net1"}
"""What the laptop's owner calls the two access networks of the lab."""
TERMS = {"wifi": 'kind = "wifi"', "lte": 'kind = "cellular"\ncost = 4.0'}
APPLICATIONS = """
[[application]]
name = "call"
policy = "video-call"

[[application]]
name = "backup"
policy = "backup"
"""


@dataclass
class Demo:
    """One run of the demo in a lab of its own."""

    say: Callable[[str], None]
    lab: str = field(default_factory=lambda: f"demo{os.getpid()}")
    events: dict[str, tuple[float, float]] = field(default_factory=dict)
    """What happened while both programs ran, from when to when."""
    usage: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = LEAST_SECONDS
    _is_over: threading.Event = field(default_factory=threading.Event)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _failures: list[str] = field(default_factory=list)

    def run(self) -> DemoResult:
        """Run it all. Raises UpmtError when a step could not be done at all."""
        with tempfile.TemporaryDirectory(prefix="upmt-demo-") as directory, contextlib.ExitStack() as stack:
            self.say("A laptop with Wi-Fi and LTE, a server on the Internet, and an anchor between them:")
            self._upmt("lab", "up", "--name", self.lab, "--no-daemons", echo=True)
            stack.callback(self._upmt, "lab", "down", "--name", self.lab)
            self._configure()
            return self._tell(Path(directory), stack)

    def _configure(self) -> None:
        config = daemons.config_of(self.lab, "mh")
        text = config.read_text(encoding="utf-8")
        for network, cable in CABLES.items():
            text = text.replace(f'name = "{cable}"', f'name = "{network}"\n{TERMS[network]}')
        config.write_text(text + APPLICATIONS, encoding="utf-8")
        self.say("The laptop's owner wrote, beside the anchor's address:")
        self.say("    networks      wifi (free), lte (a gigabyte costs 4)")
        self.say("    applications  call: policy video-call; backup: policy backup (only by what is free)")
        for host in ("an", "mh"):
            self.say(f"  {host}$ upmt {daemons.ROLES[host]} run --config {daemons.config_of(self.lab, host)}")
            daemons.start(self.lab, host)
        daemons.await_ready(self.lab)

    def _tell(self, place: Path, stack: contextlib.ExitStack) -> DemoResult:
        served = place / "served"
        served.mkdir()
        self.say("\nOn the server: random data to be fetched, and an echo that answers the call.")
        web = ("http.server", str(WEB_PORT), "--directory", str(served))
        echo = ("upmt_nf.lab.voice_stream", "echo", str(CALL_PORT), str(place / "echo.log"))
        for program in (web, echo):
            stack.enter_context(self._program("ch", sys.executable, "-m", *program))
        self._await_listeners()

        self.say("On the laptop: a call (50 packets a second, both ways) and a backup, both by the Wi-Fi.")
        self._delay_wifi(15)
        self._await("call", "wifi")
        self._await("backup", "wifi")
        began = time.monotonic()
        self._on_host("networks", echo=False)
        # On a busy machine commands take long: the backup must not end before what is to happen to it.
        self.seconds = max(LEAST_SECONDS, QUIET_SECONDS + COMMANDS * (time.monotonic() - began))
        data = os.urandom(int(self.seconds * BACKUP_RATE))
        (served / "backup.bin").write_bytes(data)
        before = self._interface_bytes()
        accountant = threading.Thread(target=self._account, daemon=True)
        accountant.start()
        call_log, fetched = place / "call.log", place / "fetched.bin"
        self._running["call"] = stack.enter_context(
            self._program(
                "mh",
                *UPMT, "run", "--app", "call", "--",
                sys.executable, "-m", "upmt_nf.lab.voice_stream", "send",
                CORRESPONDENT, str(CALL_PORT), str(CALL_RATE), str(LONGEST_CALL), str(call_log),
            )
        )  # fmt: skip
        self._running["backup"] = stack.enter_context(
            self._program(
                "mh",
                *UPMT, "run", "--app", "backup", "--",
                "curl", "--silent", "--show-error", "--fail", "--limit-rate", str(BACKUP_RATE),
                "--output", str(fetched), f"http://{CORRESPONDENT}:{WEB_PORT}/backup.bin",
            )
        )  # fmt: skip
        time.sleep(3.0)
        self._expect(call="wifi", backup="wifi")
        self._act()
        self._hang_up()
        self.say("\nHung up. Waiting for the backup to end.")
        if self._running["backup"].wait(timeout=40 + 2 * self.seconds) != 0:
            self._failures.append(f"curl ended with {self._running['backup'].returncode}")
        self._is_over.set()
        accountant.join()
        after = self._interface_bytes()
        return self._judge(data, fetched, call_log, {key: after[key] - before[key] for key in after})

    def _hang_up(self) -> None:
        time.sleep(1.0)
        program = self._running["call"]
        program.terminate()
        program.wait(timeout=10)

    def _act(self) -> None:
        """What happens while both programs run."""
        self.say("\n1. By hand: the running call moves to LTE and back, the backup stays.")
        with self._event("moved by hand"):
            for network in ("lte", "wifi"):
                self._on_host("handover", "call", "--to", network)
                time.sleep(1.0)
                self._expect(call=network, backup="wifi")

        self.say(
            "\n2. Out of the door: the Wi-Fi gets slower and slower. The call must leave before it dies."
        )
        with self._event("Wi-Fi fades"):
            for delay in FADING:
                self._delay_wifi(delay)
                time.sleep(1.0)
            self._await("call", "lte")
            self._expect(call="lte", backup="wifi")
            last = self._ask("handovers", most=1)[-1]
            self.say(f"    because: {last['cause']}  [{last['rule']}]")
            # What is on its way by the Wi-Fi, and the answers to it, are still to arrive.
            time.sleep(1.0)

        self.say("\n3. The Wi-Fi is gone. The call does not notice, the backup waits: LTE is not free.")
        with self._event("Wi-Fi dies"):
            self._link_wifi(LinkAction.DOWN)
            self._await("backup", None)
            time.sleep(1.0)
            self._expect(call="lte", backup=None)

        self.say(
            "\n4. Back at the desk: the backup goes on. (The call follows when Wi-Fi was good for 30 s.)"
        )
        with self._event("Wi-Fi returns"):
            self._delay_wifi(15)
            self._link_wifi(LinkAction.UP)
            self._await("backup", "wifi")
            self._expect(call="lte", backup="wifi")

    def _judge(self, data: bytes, fetched: Path, call_log: Path, carried: dict[str, int]) -> DemoResult:
        wanted = hashlib.sha256(data).hexdigest()
        got = hashlib.sha256(fetched.read_bytes()).hexdigest() if fetched.exists() else "no file"
        if wanted != got:
            self._failures.append("the backup differs from what was served")
        if self.usage["backup", "lte"]:
            self._failures.append("the backup went by LTE")
        arrivals = read_log(call_log)
        if not arrivals:
            raise UpmtError("the call heard nothing back at all")
        start = arrivals[0].at - arrivals[0].number / CALL_RATE
        stretches: dict[str, StreamReport] = {}
        last = 0
        for name, (begin, end) in self.events.items():
            first, last = (int((at - start) * CALL_RATE) for at in (begin, end))
            stretches[name] = report(arrivals, first, last)
        stretches["all the time"] = report(arrivals, 0, last)
        for name, stretch in stretches.items():
            if stretch.lost or stretch.duplicated:
                self._failures.append(f"packets of the call were lost or doubled: {name}")
        return DemoResult(
            size=len(data),
            sha256_served=wanted,
            sha256_fetched=got,
            call=stretches,
            usage={application: dict(self._used(application)) for application in ("call", "backup")},
            carried=carried,
            failures=self._failures,
        )

    def _used(self, application: str) -> Iterator[tuple[str, int]]:
        for network in CABLES:
            yield network, self.usage[application, network]

    @contextlib.contextmanager
    def _event(self, name: str) -> Iterator[None]:
        """Let something happen while both programs run."""
        begun = time.monotonic()
        yield
        self.events[name] = (begun, time.monotonic())
        for program, process in self._running.items():
            if process.poll() is not None:
                self._failures.append(f"the {program} had ended before this was over: {name}")

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

    def _networks(self) -> dict[str, str | None]:
        return {row["name"]: row["network"] for row in self._ask("apps")}

    def _ask(self, command: str, **arguments: Any) -> Any:
        with namespaces.entered(self.lab, "mh"):
            return call(command, **arguments)

    def _await(self, application: str, network: str | None) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._networks().get(application) != network and time.monotonic() < deadline:
            time.sleep(0.1)

    def _expect(self, **wanted: str | None) -> None:
        networks = self._networks()
        said = [f"{name} is on {networks[name] or 'no network'}" for name in wanted]
        self.say(f"    {', '.join(said)}")
        for application, network in wanted.items():
            if networks[application] != network:
                there = networks[application] or "no network"
                self._failures.append(f"{application} is on {there}, not on {network or 'none'}")

    def _interface_bytes(self) -> dict[str, int]:
        links = json.loads(
            self._upmt("lab", "exec", "--name", self.lab, "mh", "--", "ip", "-s", "-j", "link")
        )
        totals = {
            link["ifname"]: link["stats64"]["rx"]["bytes"] + link["stats64"]["tx"]["bytes"] for link in links
        }
        return {network: totals[NETWORKS[cable].interface] for network, cable in CABLES.items()}

    def _await_listeners(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            sockets = self._upmt("lab", "exec", "--name", self.lab, "ch", "--", "ss", "-Hlntu")
            if f":{WEB_PORT} " in sockets and f":{CALL_PORT} " in sockets:
                return
            time.sleep(0.1)
        raise UpmtError("the server's programs did not start")

    def _on_host(self, *arguments: str, echo: bool = True) -> str:
        if echo:
            self.say(f"  mh$ upmt {' '.join(arguments)}")
        output = self._upmt("lab", "exec", "--name", self.lab, "mh", "--", *UPMT, *arguments)
        if echo and output.strip():
            self.say(f"    {output.strip()}")
        return output

    def _delay_wifi(self, milliseconds: int) -> None:
        self._say_lab("shape", CABLES["wifi"], "--delay", f"{milliseconds}ms")
        change_shape(self.lab, CABLES["wifi"], Shape(delay=milliseconds / 1000))

    def _link_wifi(self, action: LinkAction) -> None:
        self._say_lab("link", CABLES["wifi"], action.value)
        change_link(self.lab, NETWORKS[CABLES["wifi"]], action)

    def _say_lab(self, verb: str, *arguments: str) -> None:
        """What a person would type; done without a new process, as each takes its time on a busy machine."""
        self.say(f"  $ upmt lab {verb} --name {self.lab} {' '.join(arguments)}")

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
    call: dict[str, StreamReport]
    usage: dict[str, dict[str, int]]
    carried: dict[str, int]
    failures: list[str]
