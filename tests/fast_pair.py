"""A mobile host and an anchor of nothing but the fast plane's programs, in two network namespaces joined by a cable.

    host: upmt0 (10.99.0.2)  if0 (192.0.2.1) ---- wan (192.0.2.2)  upmt0, lo (198.51.100.1): anchor

No daemon reads the tun interfaces: what is not forwarded by the programs is not forwarded at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from socket import if_nametoindex

import pytest
from kernel_namespace import Namespace

from upmt_nf.datapath.fast_layout import APPLICATIONS, NUMBER, ApplicationRow, FlowRow, flow_key, tunnel_row
from upmt_nf.datapath.formats import PLAIN, TunnelFormat
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.linux.libbpf import BpfObject, Hook, attach
from upmt_nf.model.errors import FacilityError
from upmt_nf.model.flow import Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import TunnelId

OBJECT = Path(__file__).parents[1] / "upmt_nf" / "bpf" / "upmt.bpf.o"
OWNER, HOST, ANCHOR, WORLD = "10.99.0.2", "192.0.2.1", "192.0.2.2", "198.51.100.1"
TUNNEL_ID = TunnelId(0x12345678)
HOST_PORT, ANCHOR_PORT = 40001, 1800
_SIZES = {"flows": 1024, "tunnels": 16, "ends": 16, "tunnel_counts": 16, "applications": APPLICATIONS}


@dataclass
class End:
    """One of the two."""

    programs: BpfObject
    local: Endpoint
    interface: int
    virtual_interface: int

    def know_tunnel(
        self,
        mtu: int = 1472,
        format: TunnelFormat = PLAIN,
        id: TunnelId = TUNNEL_ID,
        host_port: int = HOST_PORT,
        next_hop: IPAddress | None = None,
    ) -> None:
        """Let the programs know a tunnel to the other end; each has a port of its own at the host."""
        at_host, at_anchor = Endpoint(ip_address(HOST), host_port), Endpoint(ip_address(ANCHOR), ANCHOR_PORT)
        local, other = (at_host, at_anchor) if self.local.port == HOST_PORT else (at_anchor, at_host)
        tunnel = Tunnel(id, ip_address(OWNER), other, mtu, format=format)
        row = tunnel_row(tunnel, local, self.interface, self.virtual_interface, 0, 1, next_hop)
        assert row is not None
        self.programs.maps["tunnels"].update(NUMBER.pack(id), row.value)
        self.programs.maps["ends"].update(row.end, NUMBER.pack(id))

    def know_flow(self, flow: FlowKey, row: FlowRow) -> None:
        """Let the programs know a flow."""
        key = flow_key(flow.packed())
        assert key is not None
        self.programs.maps["flows"].update(key, row.packed())

    def flow(self, flow: FlowKey) -> FlowRow:
        """What the programs have of it."""
        found = self.programs.maps["flows"].lookup(flow_key(flow.packed()) or b"")
        assert found is not None
        return FlowRow.unpacked(found)

    def steer(self, application: int, id: int) -> None:
        """Send an application by a tunnel."""
        self.programs.maps["applications"].update(
            NUMBER.pack(application), ApplicationRow(tunnel=id).packed()
        )


@dataclass
class Pair:
    """Both."""

    namespace: Namespace
    other: int
    host: End
    anchor: End

    def at_anchor(self, command: str) -> str:
        """Run a command there."""
        return self.namespace.run(f"nsenter -t {self.other} -n {command}")

    @contextlib.contextmanager
    def inside_anchor(self) -> Iterator[None]:
        """Be in the anchor's namespace."""
        with _inside(self.other):
            yield


@contextlib.contextmanager
def _inside(pid: int) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert libc.setns(there, 0x40000000) == 0
        yield
    finally:
        libc.setns(home, 0x40000000)
        os.close(home)
        os.close(there)


@contextlib.contextmanager
def fast_pair(namespace: Namespace) -> Iterator[Pair]:
    """Both, with the tunnel known, application 1 steered by it, and no flow."""
    if not OBJECT.exists():
        pytest.skip("the fast plane is not compiled (python bpf/build_hook.py)")
    sleeper = subprocess.Popen(["unshare", "-n", "sleep", "300"])
    try:
        home = os.readlink("/proc/thread-self/ns/net")
        while os.readlink(f"/proc/{sleeper.pid}/ns/net") == home:
            pass
        pair = _joined(namespace, sleeper.pid)
        pair.host.know_tunnel()
        pair.anchor.know_tunnel()
        pair.host.steer(1, TUNNEL_ID)
        try:
            yield pair
        finally:
            pair.host.programs.close()
            pair.anchor.programs.close()
    finally:
        sleeper.kill()
        sleeper.wait()


def _joined(namespace: Namespace, other: int) -> Pair:
    run = namespace.run
    namespace.link("if0", f"{HOST}/24", "wan")
    run(f"ip link set wan netns {other}")
    if not namespace.succeeds("ip tuntap add dev upmt0 mode tun"):
        pytest.skip("the kernel has no tun")
    run("ip link set upmt0 mtu 1472 up")
    run(f"ip address add {OWNER}/32 dev upmt0")
    run(f"ip route add {WORLD}/32 dev upmt0 src {OWNER}")
    run("sysctl -qw net.ipv4.conf.all.rp_filter=0")
    there = f"nsenter -t {other} -n "
    for command in (
        "ip link set lo up",
        "ip link set wan up",
        f"ip address add {ANCHOR}/24 dev wan",
        f"ip address add {WORLD}/32 dev lo",
        "ip tuntap add dev upmt0 mode tun",
        "ip link set upmt0 mtu 65535 up",
        f"ip route add {OWNER}/32 dev upmt0 src {WORLD}",
        "sysctl -qw net.ipv4.conf.all.rp_filter=0",
    ):
        run(there + command)
    host = _loaded("host", "if0", Endpoint(ip_address(HOST), HOST_PORT))
    with _inside(other):
        anchor = _loaded("anchor", "wan", Endpoint(ip_address(ANCHOR), ANCHOR_PORT))
    return Pair(namespace, other, host, anchor)


def _loaded(role: str, interface: str, local: Endpoint) -> End:
    try:
        programs = BpfObject(OBJECT, sizes=_SIZES)
        outer, inner = if_nametoindex(interface), if_nametoindex("upmt0")
        attach(inner, Hook.EGRESS, programs.program(f"{role}_out"), handle=1, priority=1)
        attach(outer, Hook.INGRESS, programs.program(f"{role}_in"), handle=1, priority=2)
    except FacilityError as reason:
        pytest.skip(f"no fast plane here: {reason}")
    return End(programs, local, outer, inner)
