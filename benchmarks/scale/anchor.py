"""The anchor's daemon of a lab as `upmt anchor run` starts it, and what it costs: CPU, memory, maps."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.places import Place, wait_until
from benchmarks.registration_load import users_text
from upmt_nf.lab.daemons import config_of, state_of
from upmt_nf.lab.topology import ANCHOR, TUNNEL_PORT
from upmt_nf.linux.users import write_private
from upmt_nf.model.errors import UpmtError


class Anchor:
    """It, in the lab `here`, with so many users. Source limits are out of the way: few machines are all hosts."""

    def __init__(self, here: Place, hosts: int, datapath: str) -> None:
        self._here = here
        write_private(state_of(here.name) / "users", users_text(hosts))
        config_of(here.name, "an").write_text(
            f"""[anchor]
address = "{ANCHOR}"
interface = "wan"
pool = "10.64.0.1-10.95.255.254"
users = "{state_of(here.name)}/users"
leases = "{state_of(here.name)}/leases.sqlite"
tunnel_port = {TUNNEL_PORT}
datapath = "{datapath}"
refuse_private = false
stranger_rate = 1e6
source_rate = 1e6
max_associations = {max(65536, hosts + 1)}
"""
        )
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Return at once."""
        config = config_of(self._here.name, "an")
        words = (sys.executable, "-m", "upmt_nf.cli.main", "anchor", "run", "--config", str(config))
        self._process = self._here.start("an", *words, log=str(config.with_suffix(".log")))

    def kill(self) -> None:
        """`kill -9`; returns when it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def process(self) -> subprocess.Popen[str]:
        """The daemon's process."""
        assert self._process is not None
        return self._process

    def await_answer(self) -> None:
        """Return when it answers on its control socket."""
        wait_until(self._answers, "the anchor answers", 30)

    def begin_to_await(self) -> Callable[[], bool]:
        """Returns at once; what it gives tells whether the anchor has answered since. Who asks waits for the answer."""
        answered = threading.Event()

        def wait() -> None:
            self.await_answer()
            answered.set()

        threading.Thread(target=wait, daemon=True).start()
        return answered.is_set

    def _answers(self) -> bool:
        try:
            self._here.ask("apps", "an")  # `status` tells all associations
        except UpmtError:
            return False
        return True

    @property
    def datapath(self) -> str:
        """The one that it chose."""
        return str(self._here.ask("status", "an")["datapath"])

    @property
    def cpu_seconds(self) -> float:
        """Of the daemon alone, so far."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    @property
    def memory(self) -> int:
        """Bytes of memory of its own: programs and libraries are not in it, which others use too."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
        raise ValueError("the kernel tells no Pss_Anon")

    @property
    def maps(self) -> int:
        """Bytes of its BPF maps, as the kernel accounts for them (`memlock` in fdinfo)."""
        found: dict[str, int] = {}
        for info in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
            if "map_id" in fields:
                found[fields["map_id"]] = int(fields["memlock"])
        return sum(found.values())

    def wait(self, seconds: float) -> float:
        """CPU seconds that it uses in so long a time, nothing asked of it."""
        before = self.cpu_seconds
        time.sleep(seconds)
        return self.cpu_seconds - before
