"""Which kernel facilities there are, tried out for real in a network namespace of its own that ends with the trial.

Run as a process of its own (`python -m upmt_nf.linux.facilities`), as it leaves its network namespace for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from upmt_nf.model.errors import FacilityError, UpmtError

_CLONE_NEWNET = 0x40000000
_SECONDS = 30

RULES: Mapping[str, tuple[str, str]] = {
    "queue_target": ("mangle", "-j NFQUEUE --queue-num 7000"),
    "owner_match": ("mangle", "-m owner --uid-owner 0 -j RETURN"),
    "cgroup_match": ("mangle", '-m cgroup --path "/" -j RETURN'),
    "dscp_match": ("mangle", "-m dscp --dscp 0x2e -j RETURN"),
    "mark_target": ("mangle", "-m mark --mark 0x0/0x1fff -j MARK --set-xmark 0x1/0x1fff"),
    "checksum_target": ("mangle", "-j CHECKSUM --checksum-fill"),
    "notrack_target": ("raw", "-j CT --notrack"),
    "masquerade_target": ("nat", "-m iprange --src-range 10.0.0.1-10.0.0.2 -j MASQUERADE"),
    "forward_targets": (
        "nat",
        '-p tcp -m tcp --dport 80:90 -m comment --comment "trial" -j DNAT --to-destination 10.0.0.1:80-90/80',
    ),
    "static_nat_target": ("nat", "-s 10.0.0.1 -j SNAT --to-source 10.0.0.2"),
    "pool_nat_target": ("nat", "-s 10.0.0.0/28 -j NETMAP --to 10.0.1.0/28"),
    "conntrack_match": ("filter", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
}
"""A rule for each match and target that the packaged rule files use: its table and its words."""

Outcome = str | None
"""Why a facility is not there; None when it is."""


def probe() -> dict[str, Outcome]:
    """Every facility with why it is not there. Raises FacilityError when nothing could be tried."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "upmt_nf.linux.facilities"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as reason:
        raise FacilityError(f"trying the kernel's facilities took longer than {_SECONDS} s") from reason
    try:
        found: dict[str, Outcome] = json.loads(done.stdout)
    except ValueError as reason:
        said = done.stderr.strip().rpartition("\n")[2]
        raise FacilityError(f"the kernel's facilities could not be tried: {said}") from reason
    return found


def try_all() -> dict[str, Outcome]:
    """Try everything in a new network namespace. For a process that ends afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        return {"network_namespace": os.strerror(ctypes.get_errno())}
    found: dict[str, Outcome] = {"network_namespace": None}
    for kind in ("dummy", "ifb", "tun"):
        found[f"interface_{kind}"] = _outcome(lambda kind=kind: _make_interface(kind))  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as scratch:
        for name, (table, words) in RULES.items():
            found[name] = _outcome(
                lambda table=table, words=words: _install(table, words, Path(scratch))  # type: ignore[misc]
            )
        found["policy_routing"] = _outcome(lambda: _route(Path(scratch)))
    found["packet_queue"] = _outcome(_take_queue)
    found["fast_plane"] = _outcome(_load_programs)
    found["kernel_admission"] = _outcome(_load_admission)
    found["process_events"] = _outcome(_hear_of_processes)
    found["socket_record"] = _outcome(_record_sockets)
    return found


def _outcome(attempt: Callable[[], None]) -> Outcome:
    try:
        attempt()
    except UpmtError as reason:
        return str(reason)
    except Exception as reason:  # noqa: BLE001 (whatever a library makes of a kernel without it is the answer)
        return f"{type(reason).__name__}: {reason}"
    return None


def _make_interface(kind: str) -> None:
    from pyroute2 import IPRoute

    from upmt_nf.linux.virtual_interface import add_interface

    with IPRoute() as route:
        add_interface(route, f"try{kind}", kind)


def _install(table: str, words: str, scratch: Path) -> None:
    from upmt_nf.linux import netfilter
    from upmt_nf.linux.journal import Journal
    from upmt_nf.routing.rule_text import expand

    hook = "POSTROUTING" if table == "nat" and "DNAT" not in words else "OUTPUT"
    text = f"*{table}\n-A {hook} -j UPMT-TRIAL\n-A UPMT-TRIAL {words}\nCOMMIT\n"
    netfilter.install(expand(text, "trial", {}), Journal(scratch))


def _route(scratch: Path) -> None:
    from upmt_nf.linux import routes
    from upmt_nf.linux.journal import Journal
    from upmt_nf.routing.plan import Routing, RuleSpec

    wanted = Routing(
        rules=(RuleSpec(4600, 4, 7001, mark=0x1001), RuleSpec(4680, 4, suppress_prefixlength=0)),
    )
    journal = Journal(scratch)
    routes.apply(wanted, journal)
    # What the kernel did not understand it leaves out in silence.
    if changes := routes.apply(wanted, journal):
        raise FacilityError(f"the kernel does not take {changes[0]}")


def _take_queue() -> None:
    from upmt_nf.linux.packet_queue import PacketQueue

    PacketQueue(7000, lambda packet: packet.drop()).close()


def _load_programs() -> None:
    from upmt_nf.linux.fast_programs import PROGRAMS, check_compiled
    from upmt_nf.linux.libbpf import BpfObject, Hook, attach

    check_compiled()
    programs = BpfObject(PROGRAMS)
    # The tun that was tried before, if there is one; any interface has a clsact.
    for _, name in socket.if_nameindex():
        attach(socket.if_nametoindex(name), Hook.INGRESS, programs.program("host_in"), handle=1, priority=1)
    programs.close()


def _load_admission() -> None:
    from pyroute2 import IPRoute

    from upmt_nf.linux.admission_program import OBJECT, check_compiled
    from upmt_nf.linux.libbpf import BpfObject

    check_compiled()
    program = BpfObject(OBJECT)
    out = {"fd": program.program("admit"), "name": "trial"}
    with IPRoute() as route:
        loopback = route.link_lookup(ifname="lo")[0]
        route.link("set", index=loopback, state="up")
        route.route("add", dst="192.0.2.0/24", oif=loopback, encap={"type": "bpf", "out": out})
    program.close()


def _hear_of_processes() -> None:
    from upmt_nf.linux.process_events import ProcessEvents

    ProcessEvents().close()


def _record_sockets() -> None:
    from upmt_nf.linux.cgroups import hierarchy
    from upmt_nf.linux.socket_record import SocketRecord

    mounted = hierarchy()
    if mounted is None:
        raise FacilityError("cgroup v2 is not mounted here")
    SocketRecord(mounted, entries=64).close()


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        outcomes = try_all()
    print(json.dumps(outcomes))
