"""The lab's two daemons: their configuration files, their start, their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from secrets import token_urlsafe

from upmt_nf.daemon.control_client import call
from upmt_nf.lab import namespaces
from upmt_nf.lab.topology import ANCHOR, NAT_PORTS, NETWORKS, POOL, SECOND_ANCHOR, SECOND_POOL, TUNNEL_PORT
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.users import UsersFile, write_private
from upmt_nf.model.errors import NoDaemonError, UpmtError
from upmt_nf.model.names import STATE_DIRECTORY
from upmt_nf.signaling.digest import REALM, secret_hash

ROLES = {"an": "anchor", "an2": "anchor", "mh": "mobile-host"}
_READY_SECONDS = 15.0
_END_SECONDS = 5.0


def state_of(lab: str) -> Path:
    """The directory with a lab's configurations and logs."""
    return Path(STATE_DIRECTORY) / f"lab-{lab}"


def config_of(lab: str, host: str) -> Path:
    """The configuration of a host's daemon."""
    return state_of(lab) / {"an": "anchor.toml", "an2": "anchor2.toml", "mh": "mobile-host.toml"}[host]


def write_configurations(lab: str, datapath: str, protection: str, anchors: int = 1) -> None:
    """All files, as an administrator would write them."""
    directory = state_of(lab)
    directory.mkdir(parents=True, exist_ok=True)
    identity, secret = f"mh@{lab.replace('_', '-')}.example", token_urlsafe(24)
    UsersFile(directory / "users").set(identity, REALM, secret_hash(identity, REALM, secret))
    write_private(directory / "secret", secret + "\n")
    for host, address, pool in (("an", ANCHOR, POOL), ("an2", SECOND_ANCHOR, SECOND_POOL))[:anchors]:
        config_of(lab, host).write_text(
            f"""# The anchor {host} of lab {lab}.
[anchor]
address = "{address}"
interface = "wan"
pool = "{pool}"
users = "{directory}/users"
leases = "{directory}/leases-{host}.sqlite"
tunnel_port = {TUNNEL_PORT}
nat_ports = "{NAT_PORTS}"
datapath = "{datapath}"
refuse_private = false
"""
        )
    head = "[anchor]" if anchors == 1 else '[[anchors]]\nname = "{name}"'
    known = "".join(
        f"""
{head.format(name=name)}
address = "{address}"
tunnel_port = {TUNNEL_PORT}
"""
        for name, address in (("an", ANCHOR), ("an2", SECOND_ANCHOR))[:anchors]
    )
    networks = "".join(
        f"""
[[network]]
name = "{network.name}"
interface = "{network.interface}"
tunnel_port = {network.tunnel_port}
protection = "{protection}"
"""
        for network in NETWORKS.values()
    )
    config_of(lab, "mh").write_text(
        f"""# The mobile host of lab {lab}.
[mobile_host]
identity = "{identity}"
secret_file = "{directory}/secret"
state = "{directory}/mobile-host.json"
datapath = "{datapath}"
keepalive_interval = 1.0
return_after = 5.0
records = "{directory}/records.sqlite"
{known}{networks}"""
    )


def start(lab: str, host: str, *options: str) -> int:
    """Start a host's daemon in its namespace, detached, with its log in the lab's directory; gives its pid."""
    config = config_of(lab, host)
    words = (ROLES[host], "run", "--config", str(config))
    with namespaces.entered(lab, host), config.with_suffix(".log").open("ab") as log:
        daemon = subprocess.Popen(
            (sys.executable, "-m", "upmt_nf.cli.main", *words, *options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    return daemon.pid


def await_ready(lab: str) -> None:
    """Return when the host is associated and every tunnel is up. Raises UpmtError with the logs' last lines."""
    deadline = time.monotonic() + _READY_SECONDS
    while not is_ready(lab):
        if time.monotonic() > deadline:
            raise UpmtError(f"lab {lab!r} did not come up within {_READY_SECONDS:g} s\n{_last_lines(lab)}")
        time.sleep(0.05)


def is_ready(lab: str) -> bool:
    """Whether the host is associated and every tunnel is up."""
    try:
        with namespaces.entered(lab, "mh"):
            status = call("status", timeout=5)
    except UpmtError:
        return False
    return status["association"]["state"] == "associated" and all(
        network["state"] == "up" for network in status["networks"]
    )


def is_running(lab: str, host: str) -> bool:
    """Whether a daemon answers on that host."""
    try:
        with namespaces.entered(lab, host):
            call("status", timeout=5)
    except NoDaemonError:
        return False
    except UpmtError:
        return True
    return True


def end_everything(lab: str, host: str) -> None:
    """End whatever runs on a host: asked first, so that a daemon puts things back, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _END_SECONDS
        for pid in namespaces.processes_in(lab, host):
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        while _others(lab, host) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not _others(lab, host):
            return


def put_back(lab: str, host: str) -> None:
    """What a killed daemon left outside of its namespace: cgroups and its state directory."""
    with namespaces.entered(lab, host):
        cleanup(Journal())


def _others(lab: str, host: str) -> list[int]:
    return [pid for pid in namespaces.processes_in(lab, host) if pid != os.getpid()]


def _last_lines(lab: str) -> str:
    said = []
    for host, role in ROLES.items():
        with contextlib.suppress(OSError):
            lines = config_of(lab, host).with_suffix(".log").read_text(errors="replace").splitlines()
            said += [f"  {role}: {line}" for line in lines[-5:]]
    return "\n".join(said)
