"""Who answers a program's look-ups: the system's resolver as it is set up, or servers that the program asks itself.

A program that asks the servers itself has its look-ups follow it. Where another process asks for it (a local stub,
nscd), `own_view` gives it files of its own in a mount namespace of its own, which ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import IPAddress

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000
_UPSTREAM = (
    "run/systemd/resolve/resolv.conf",
    "run/NetworkManager/resolv.conf",
    "run/NetworkManager/no-stub-resolv.conf",
    "run/resolvconf/resolv.conf",
)
"""Where those who run a local stub write down the servers behind it."""
_OTHERS_ASK = frozenset(("resolve", "mymachines", "mdns", "mdns4", "mdns_minimal", "mdns4_minimal"))
"""Name service modules that have another process ask."""


@dataclass(frozen=True, slots=True)
class ResolverFacts:
    """How names are looked up here.

    `servers` are those of /etc/resolv.conf, `upstream` those behind a local stub as far as they are written down,
    `modules` the words of `hosts:` in /etc/nsswitch.conf.
    """

    servers: tuple[IPAddress, ...]
    upstream: tuple[IPAddress, ...]
    modules: tuple[str, ...]
    has_cache_daemon: bool

    @property
    def helpers(self) -> list[str]:
        """Which other processes ask in a program's place; none: programs ask themselves."""
        found = [f"the stub at {server}" for server in self.servers if server.is_loopback]
        if "resolve" in self.modules:
            found.append("systemd-resolved (nsswitch.conf)")
        if self.has_cache_daemon:
            found.append("nscd")
        return found


def look(root: Path = Path("/")) -> ResolverFacts:
    """How names are looked up on this host."""
    upstream: tuple[IPAddress, ...] = ()
    for name in _UPSTREAM:
        upstream = tuple(server for server in servers_in(_text(root / name)) if not server.is_loopback)
        if upstream:
            break
    return ResolverFacts(
        servers=servers_in(_text(root / "etc/resolv.conf")),
        upstream=upstream,
        modules=tuple(_modules(_text(root / "etc/nsswitch.conf"))),
        has_cache_daemon=(root / "run/nscd/socket").exists(),
    )


def servers_in(text: str) -> tuple[IPAddress, ...]:
    """The name servers of a resolv.conf (resolv.conf(5)); what is no address is left out."""
    found: list[IPAddress] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found.append(ip_address(words[1].partition("%")[0]))
    return tuple(dict.fromkeys(found))


def own_view(servers: Sequence[IPAddress], root: Path = Path("/")) -> None:
    """This process, and what it becomes by exec, asks these servers itself. Raises KernelError.

    Its mounts are its own from now on; what others mount later it still sees.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: Path | None, target: Path, flags: int) -> None:
        place = os.fsencode(source) if source is not None else None
        if libc.mount(place, os.fsencode(target), None, flags, None) != 0:
            raise KernelError(f"cannot mount over {target}: {os.strerror(ctypes.get_errno())}")

    if libc.unshare(_CLONE_NEWNS) != 0:
        raise KernelError(f"no mount namespace of its own: {os.strerror(ctypes.get_errno())}")
    mount(None, Path("/"), _MS_REC | _MS_SLAVE)
    configuration = root / "etc/resolv.conf"
    with tempfile.TemporaryDirectory(prefix="upmt-resolver-") as scratch:
        texts = {
            configuration: resolver_text(_text(configuration), servers),
            root / "etc/nsswitch.conf": without_helpers(_text(root / "etc/nsswitch.conf")),
        }
        for path, text in texts.items():
            if path.exists():
                own = Path(scratch, path.name)
                own.write_text(text)
                own.chmod(0o644)
                mount(own, path.resolve(), _MS_BIND)
        cache = root / "run/nscd"
        if cache.is_dir():
            empty = Path(scratch, "nscd")
            empty.mkdir()
            mount(empty, cache, _MS_BIND)
    # The files have no name any more; the mounts keep them as long as the namespace lives.


def resolver_text(old: str, servers: Sequence[IPAddress]) -> str:
    """A resolv.conf with other servers; search list and options stay, but for one that is for the stub."""
    kept = [
        re.sub(r"\s+trust-ad\b", "", line)
        for line in old.splitlines()
        if line.split()[:1] in (["search"], ["domain"], ["options"])
    ]
    return "\n".join(["# Made by upmt run.", *(f"nameserver {server}" for server in servers), *kept, ""])


def without_helpers(old: str) -> str:
    """An nsswitch.conf whose `hosts:` has nobody else asked."""
    lines = []
    for line in old.splitlines():
        name, colon, _ = line.partition(":")
        if colon and name.strip() == "hosts":
            words = [word for word in _modules(line) if word not in _OTHERS_ASK]
            line = "hosts: " + " ".join(words if "dns" in words else [*words, "dns"])
        lines.append(line)
    return "\n".join([*lines, ""])


def _modules(text: str) -> list[str]:
    for line in text.splitlines():
        name, colon, rest = line.partition("#")[0].partition(":")
        if colon and name.strip() == "hosts":
            return [word for word in re.sub(r"\[[^\]]*\]", " ", rest).split() if word]
    return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
