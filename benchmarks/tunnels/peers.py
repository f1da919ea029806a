"""How the ways that are not ours are set up, each as its own documentation says, and fairly:

the same inner MTU where it fits into 1,500 bytes outside, kernel routing between, the anchor translating with one rule.
Knows commands only; whoever cannot be had raises NotHereError with the reason.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.places import Place, wait_until
from upmt_nf.lab import namespaces
from upmt_nf.lab.topology import ANCHOR, CORRESPONDENT

CARE_OF, OUTSIDE = "192.168.100.25", "160.80.100.1"
"""The mobile host's address on if0, and what gw0 makes of it."""
RELAYED = "86.0.0.2"
"""A second address of the correspondent; inet sends what gw0 has for it to the anchor."""
MTU = 1440
"""WireGuard's over IPv4 (20 + 8 + 32 bytes); OpenVPN's AES-256-GCM and vtun need less around it."""


class NotHereError(Exception):
    """A peer that this machine does not have; says why."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way that is set up."""

    bound: str
    destination: str
    commands: Sequence[str]
    daemons: Sequence[int] = field(default=())


class _Script:
    """Runs commands on hosts of a lab and remembers them for the report."""

    def __init__(self, lab: Place, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        self.lines: list[str] = []
        self._before = self._processes()

    def run(self, host: str, line: str) -> None:
        self._note(host, line)
        self.lab.run(host, *line.split())

    def start(self, host: str, line: str, name: str) -> None:
        self._note(host, line)
        log = str(self.directory / f"{name}-{host}.log")
        self.lab.start(host, *line.split(), log=log)

    def reach(self, device: str, number: int) -> Way:
        """Route the tunnel's own inner address through it, translate at the anchor, wait until it answers."""
        inner, far = f"10.99.{number}.2", f"10.99.{number}.1"
        self.run("mh", f"ip route add default via {far} dev {device} table {200 + number}")
        self.run("mh", f"ip rule add from {inner} lookup {200 + number} priority {200 + number}")
        self.run("an", f"iptables-legacy -w -t nat -A POSTROUTING -s {inner} -o wan -j MASQUERADE")
        wait_until(lambda: self.answers(inner), f"{device} answers\n{self.logs()}", 20)
        return Way(inner, CORRESPONDENT, self.lines, sorted(self._processes() - self._before))

    def _processes(self) -> set[int]:
        """Looked for rather than remembered: some fork."""
        return {pid for host in ("mh", "an") for pid in namespaces.processes_in(self.lab.name, host)}

    def answers(self, inner: str) -> bool:
        try:
            self.lab.run("mh", "ping", "-q", "-c", "1", "-W", "1", "-I", inner, CORRESPONDENT)
        except subprocess.CalledProcessError:
            return False
        return True

    def has_device(self, host: str, device: str) -> bool:
        try:
            self.lab.run(host, "ip", "link", "show", device)
        except subprocess.CalledProcessError:
            return False
        return True

    def await_device(self, host: str, device: str) -> None:
        wait_until(lambda: self.has_device(host, device), f"{host} has {device}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(file.read_text()[-500:] for file in self.directory.glob("*.log"))

    def _note(self, host: str, line: str) -> None:
        self.lines.append(f"{host}: {line.replace(f'{self.directory}/', '')}")


def _direct(lab: Place, directory: Path) -> Way:
    return Way(CARE_OF, CORRESPONDENT, ("mh: programs bind to if0's address",))


def _relay(lab: Place, directory: Path) -> Way:
    script = _Script(lab, directory)
    _forward_at_anchor(script)
    script.run("ch", f"ip address add {RELAYED}/24 dev eth0")
    script.run("inet", f"ip route add default via {ANCHOR} table 100")
    script.run("inet", f"ip rule add iif gw0 to {RELAYED} lookup 100 priority 100")
    script.run("an", "iptables-legacy -w -t nat -A POSTROUTING -d 86.0.0.2 -o wan -j MASQUERADE")
    return Way(CARE_OF, RELAYED, script.lines)


def _vxlan(lab: Place, directory: Path) -> Way:
    script = _Script(lab, directory)
    _forward_at_anchor(script)
    # One source port, so that the NAT on the way knows both directions as one flow.
    ports = "srcport 4789 4790 dstport 4789"
    try:
        script.run("mh", f"ip link add vx0 type vxlan id 1 remote {ANCHOR} local {CARE_OF} {ports}")
    except subprocess.CalledProcessError as reason:
        raise NotHereError(f"this kernel has no VXLAN: {reason.stderr.strip()}") from reason
    script.run("an", f"ip link add vx0 type vxlan id 1 remote {OUTSIDE} local {ANCHOR} {ports}")
    for host, end in (("mh", 2), ("an", 1)):
        script.run(host, f"ip address add 10.99.1.{end}/24 dev vx0")
        script.run(host, "ip link set vx0 up")
    return script.reach("vx0", 1)


def _wireguard(lab: Place, directory: Path) -> Way:
    script = _Script(lab, directory)
    _need("wg", "wireguard-tools")
    for host, device in (("mh", "wgk0"), ("an", "wgk1")):
        try:
            script.run(host, f"ip link add {device} type wireguard")
        except subprocess.CalledProcessError as reason:
            said = reason.stderr.strip().splitlines()[-1]
            raise NotHereError(f"this kernel has no WireGuard ({said})") from reason
    return _wireguard_devices(script, "wgk0", "wgk1", 51821, 2)


def _wireguard_go(lab: Place, directory: Path) -> Way:
    script = _Script(lab, directory)
    _need("wireguard-go", "wireguard-go")
    _need("wg", "wireguard-tools")
    # Its control sockets are files that all namespaces share: names that no other lab has.
    ends = f"wg{os.getpid()}m", f"wg{os.getpid()}a"
    for host, device in zip(("mh", "an"), ends, strict=True):
        script.start(host, f"wireguard-go -f {device}", "wireguard-go")
        script.await_device(host, device)
        wait_until(Path(f"/var/run/wireguard/{device}.sock").exists, f"{device} can be configured")
    return _wireguard_devices(script, *ends, 51820, 3)


def _wireguard_devices(script: _Script, near: str, far: str, port: int, number: int) -> Way:
    _forward_at_anchor(script)
    keys = {}
    for name in ("near", "far"):
        private = script.lab.run("mh", "wg", "genkey").strip()
        public = subprocess.run(
            ("wg", "pubkey"), input=private, capture_output=True, text=True, check=True
        ).stdout.strip()
        file = script.directory / f"{name}{number}.key"
        file.write_text(private)
        keys[name] = (file, public)
    anywhere = f"peer {keys['far'][1]} endpoint {ANCHOR}:{port} persistent-keepalive 25 allowed-ips 0.0.0.0/0"
    script.run("mh", f"wg set {near} private-key {keys['near'][0]} {anywhere}")
    inner = f"peer {keys['near'][1]} allowed-ips 10.99.{number}.2/32"
    script.run("an", f"wg set {far} private-key {keys['far'][0]} listen-port {port} {inner}")
    for host, device, end in (("mh", near, 2), ("an", far, 1)):
        script.run(host, f"ip address add 10.99.{number}.{end}/24 dev {device}")
        script.run(host, f"ip link set {device} mtu {MTU} up")
    return script.reach(near, number)


def _openvpn(cipher: str, number: int) -> Callable[[Place, Path], Way]:
    def set_up(lab: Place, directory: Path) -> Way:
        script = _Script(lab, directory)
        _need("openvpn", "openvpn")
        _need("openssl", "openssl")
        _forward_at_anchor(script)
        prints = {end: _certificate(directory, f"ovpn{number}{end}") for end in ("near", "far")}
        shared = (
            f"--dev-type tun --tun-mtu {MTU} --mssfix 0 --proto udp --sndbuf 0 --rcvbuf 0 --fast-io --txqueuelen 1000 "
            f"--data-ciphers {cipher} --disable-dco --verb 1"
        )
        for host, end, other, inner, role in (
            (
                "an",
                "far",
                "near",
                "1 10.99.{n}.2",
                f"--local {ANCHOR} --lport {1190 + number} --float --tls-server",
            ),
            (
                "mh",
                "near",
                "far",
                "2 10.99.{n}.1",
                f"--remote {ANCHOR} {1190 + number} --nobind --tls-client",
            ),
        ):
            file = f"{directory}/ovpn{number}{end}"
            dh = " --dh none" if host == "an" else ""
            ends = f"10.99.{number}.{inner.format(n=number)}"
            script.start(
                host,
                f"openvpn --dev ov{number} {role}{dh} --ifconfig {ends} --cert {file}.crt --key {file}.key "
                f"--peer-fingerprint {prints[other]} {shared}",
                f"openvpn{number}",
            )
        for host in ("an", "mh"):
            script.await_device(host, f"ov{number}")
        wait_until(lambda: "10.99" in lab.run("mh", "ip", "address", "show", f"ov{number}"), "OpenVPN is up")
        return script.reach(f"ov{number}", number)

    return set_up


def _certificate(directory: Path, name: str) -> str:
    """A self-signed certificate and its key; gives the SHA-256 fingerprint."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    files = ("-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.crt", "-subj", f"/CN={name}")
    subprocess.run(("openssl", "req", "-x509", *curve, *files), capture_output=True, check=True)
    words = ("openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", f"{directory}/{name}.crt")
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip().split("=")[1]


def _vtun(lab: Place, directory: Path) -> Way:
    script = _Script(lab, directory)
    _need("vtund", "vtun")
    _forward_at_anchor(script)
    # Its lock files are named after sessions and shared by all namespaces: a name that no other lab has.
    session = f"lab{os.getpid()}"
    password = base64.b32encode(os.urandom(10)).decode()
    for host, device in (("an", "vta"), ("mh", "vtm")):
        (directory / f"vtund-{host}.conf").write_text(
            f"options {{ port 5999; }}\n{session} {{ passwd {password}; type tun; device {device}; proto udp; "
            "encrypt no; compress no; keepalive no; stat no; }\n"
        )
    script.start("an", f"vtund -n -s -f {directory}/vtund-an.conf -P 5999", "vtun")
    time.sleep(0.5)
    script.start("mh", f"vtund -n -f {directory}/vtund-mh.conf -P 5999 {session} {ANCHOR}", "vtun")
    script.lines.append("    with type tun; proto udp; encrypt no; compress no; keepalive no")
    for host, device, near, far in (("mh", "vtm", 2, 1), ("an", "vta", 1, 2)):
        script.await_device(host, device)
        # vtund ends when a packet comes while its device is down: no IPv6 greetings before both are up.
        script.run(host, f"ip link set {device} addrgenmode none")
        script.run(host, f"ip address add 10.99.6.{near} peer 10.99.6.{far} dev {device}")
        script.run(host, f"ip link set {device} mtu {MTU} up")
    return script.reach("vtm", 6)


def _forward_at_anchor(script: _Script) -> None:
    for setting in ("ip_forward=1", "conf.all.send_redirects=0", "conf.wan.send_redirects=0"):
        script.lab.run("an", "sysctl", "-qw", f"net.ipv4.{setting}")


def _need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise NotHereError(f"{program} is not installed: `make setup-bench` installs {package}")


SET_UP: dict[str, Callable[[Place, Path], Way]] = {
    "direct": _direct,
    "relay": _relay,
    "vxlan": _vxlan,
    "wireguard": _wireguard,
    "wireguard-go": _wireguard_go,
    "openvpn-none": _openvpn("none", 4),
    "openvpn-aes": _openvpn("AES-256-GCM", 5),
    "vtun": _vtun,
}
"""Each sets one peer up in a bare lab, with a directory for its files."""
