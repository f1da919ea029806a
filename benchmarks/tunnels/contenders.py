"""Who is compared: each a way from the mobile host to the correspondent, set up and ready to be measured.

The peers share one bare lab, each with a tunnel device and an inner address of its own that programs bind to; each
of the datapaths has a lab. All go from mh by if0 and gw0's NAT to the anchor, which translates their addresses.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.places import Place, place
from benchmarks.tunnels import peers
from upmt_nf.lab import namespaces
from upmt_nf.lab.topology import CORRESPONDENT
from upmt_nf.model.errors import UpmtError

NAMES = (
    "direct",
    "relay",
    "fast-plain",
    "fast-cookie",
    "agent-plain",
    "agent-cookie",
    "agent-sealed",
    "vxlan",
    "wireguard",
    "wireguard-go",
    "openvpn-none",
    "openvpn-aes",
    "vtun",
)
"""In the order of the report: what it all is measured by, ours, the peers."""
_OURS = {name: name.split("-") for name in NAMES if name.startswith(("fast-", "agent-"))}


@dataclass(frozen=True, slots=True)
class Contender:
    """A way that is up: programs on `mh` bind to `bound` (0.0.0.0: nothing to bind) and ask for `destination`."""

    name: str
    place: Place
    bound: str
    destination: str
    commands: Sequence[str]
    """What set it up, as an administrator would type it."""
    daemons: Sequence[int] = field(default=())
    """Process numbers of its programs at both ends; a tunnel of the kernel has none."""


_FAILURES = (peers.NotHereError, UpmtError, TimeoutError, subprocess.SubprocessError)
"""Who cannot be set up is left out, with the reason: the others are measured all the same."""


@contextlib.contextmanager
def contenders(
    prefix: str, names: Sequence[str], say: Callable[[str], None]
) -> Iterator[tuple[list[Contender], dict[str, str]]]:
    """Those of `names` that can be had, and for each of the others the reason. Labs are named `prefix` and so on."""
    ready: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upmt-bench-")))
        foreign = [name for name in names if name not in _OURS]
        bare = stack.enter_context(place(f"{prefix}peers", daemons=False)) if foreign else None
        for name in foreign:
            assert bare is not None
            say(f"setting up {name}")
            try:
                path = peers.SET_UP[name](bare, directory)
            except _FAILURES as reason:
                missing[name] = _said(reason)
                continue
            ready[name] = Contender(name, bare, path.bound, path.destination, path.commands, path.daemons)
        for name in (name for name in names if name in _OURS):
            say(f"setting up {name}")
            datapath, protection = _OURS[name]
            try:
                lab = stack.enter_context(
                    place(f"{prefix}{datapath[0]}{protection[0]}", datapath, protection, daemons=True)
                )
            except _FAILURES as reason:
                missing[name] = _said(reason)
                continue
            commands = (
                "an: upmt anchor run --config anchor.toml",
                "mh: upmt mobile-host run --config mobile-host.toml",
                f'    with datapath = "{datapath}", protection = "{protection}"',
            )
            daemons = [pid for host in ("mh", "an") for pid in namespaces.processes_in(lab.name, host)]
            ready[name] = Contender(name, lab, "0.0.0.0", CORRESPONDENT, commands, daemons)
        yield [ready[name] for name in names if name in ready], missing


def _said(reason: Exception) -> str:
    """Its first line, with what a command that failed said."""
    said = str(reason)
    if isinstance(reason, subprocess.CalledProcessError):
        said = f"`{' '.join(reason.cmd)}` failed: {reason.stderr.strip()}"
    return (said.splitlines() or [type(reason).__name__])[0]
