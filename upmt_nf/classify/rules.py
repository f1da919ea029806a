"""Application rules: conditions that name an application. The first rule whose conditions all hold wins.

Some rules netfilter can decide alone (user, group, cgroup, destination); others need the process. A rule that needs
the process ends the part that netfilter may decide, or a later mark could overrule it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_network

from upmt_nf.classify.facts import ProcessFacts
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import TCP, UDP, FlowKey
from upmt_nf.model.identity import ApplicationId
from upmt_nf.model.names import MARK_MASK, MARK_NATIVE, MARKS_OF_KNOWN, VIRTUAL_INTERFACE

CHAIN = "UPMT-CLASSIFY"
_MAX_COMMAND = 255


@dataclass(frozen=True, slots=True)
class ApplicationRule:
    """Conditions that make a flow part of an application; None is no condition.

    `command` is a name or a pattern with `*` and `?`; `pid` includes the process's descendants; `cgroup` and `unit`
    include what is below them; `port` is the destination's.
    """

    application: ApplicationId
    command: str | None = None
    executable: str | None = None
    uid: int | None = None
    gid: int | None = None
    cgroup: str | None = None
    unit: str | None = None
    pid: int | None = None
    destination: IPv4Network | IPv6Network | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        if self.command is None:
            return
        try:
            length = len(self.command.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as reason:
            raise UsageError(f"{self.command!r} cannot be a command's name: {reason.reason}") from reason
        if not 0 < length <= _MAX_COMMAND:
            raise UsageError(f"a command's name has 1 to {_MAX_COMMAND} bytes")

    def __str__(self) -> str:
        """The conditions as people write them: `command=ping uid=34`."""
        names = ("command", "executable", "uid", "gid", "cgroup", "unit", "pid")
        said = [f"{name}={value}" for name in names if (value := getattr(self, name)) is not None]
        if self.destination is not None:
            network = f"[{self.destination.network_address}]" if self.destination.version == 6 else None
            where = str(self.destination) if network is None else f"{network}/{self.destination.prefixlen}"
            said.append(f"destination={where}" + (f":{self.port}" if self.port is not None else ""))
        return " ".join(said)

    @property
    def needs_process(self) -> bool:
        """Whether only a look at the process can decide it."""
        return not (
            self.command is None and self.executable is None and self.unit is None and self.pid is None
        )

    def matches(self, flow: FlowKey, process: ProcessFacts | None) -> bool:
        """Whether every condition holds. Without facts no condition about the process does."""
        if self.destination is not None and not (
            flow.destination.version == self.destination.version and flow.destination in self.destination
        ):
            return False
        if self.port is not None and not (flow.protocol in (TCP, UDP) and flow.destination_port == self.port):
            return False
        return self._matches_process(process)

    def _matches_process(self, process: ProcessFacts | None) -> bool:
        if process is None:
            return not self.needs_process and self.uid is None and self.gid is None and self.cgroup is None
        return (
            (self.command is None or any(_is_named(self.command, name) for name in process.names()))
            and self.executable in (None, process.executable)
            and self.uid in (None, process.uid)
            and self.gid in (None, process.gid)
            and (self.cgroup is None or _is_below(process.cgroup, self.cgroup))
            and (self.unit is None or self.unit in process.cgroup.split("/"))
            and (self.pid is None or self.pid == process.pid or self.pid in process.ancestors)
        )


def _is_named(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern; longer patterns are held against the kernel's cut name as well."""
    if pattern == name or fnmatchcase(name, pattern):
        return True
    cut = pattern.encode("utf-8", "surrogateescape")[:15]
    return len(pattern.encode("utf-8", "surrogateescape")) > 15 and cut == name.encode(
        "utf-8", "surrogateescape"
    )


def _is_below(path: str, ancestor: str) -> bool:
    ancestor, path = ancestor.strip("/"), path.strip("/")
    return not ancestor or path == ancestor or path.startswith(ancestor + "/")


def first_match(
    rules: Iterable[ApplicationRule], flow: FlowKey, process: ProcessFacts | None
) -> ApplicationRule | None:
    """The first rule that matches, or None."""
    return next((rule for rule in rules if rule.matches(flow, process)), None)


def needs_lookup(rules: Iterable[ApplicationRule]) -> bool:
    """Whether any rule needs the process behind a flow that netfilter did not mark."""
    return any(rule.needs_process for rule in rules)


def netfilter_lines(
    rules: Sequence[ApplicationRule],
    native: Container[ApplicationId] = frozenset(),
    version: int = 4,
    queue: int | None = None,
) -> list[str]:
    """The rules that netfilter decides, as `-A` lines that write the application's mark, in order.

    Only those before the first rule that needs the process: every packet that they leave unmarked goes through
    `first_match`, so both ways together give the same answer as `first_match` alone. New flows of `native`
    applications get the mark of what is left alone; where a rule of theirs comes after that first one, the first
    packets of the rest go to NFQUEUE `queue`, for the agent to tell. `version` is that of the tables, 4 or 6.
    """
    lines: list[str] = []
    for place, rule in enumerate(rules):
        if rule.needs_process:
            if queue is not None and any(rest.application in native for rest in rules[place:]):
                unknown = f"-m mark --mark 0x0/{MARK_MASK:#x} {_NEW}"
                lines.append(f"-A {CHAIN} -o {VIRTUAL_INTERFACE} {unknown} -j NFQUEUE --queue-num {queue}")
            break
        lines += _lines(rule, rule.application in native, version)
    return lines


_NEW = f"-m conntrack --ctstate NEW -m connmark ! --mark {MARKS_OF_KNOWN:#x}/{MARKS_OF_KNOWN:#x}"
"""A flow that has not begun to go by a tunnel: that one stays there, as its source is the virtual address."""


def _lines(rule: ApplicationRule, is_native: bool, version: int) -> Iterable[str]:
    conditions: list[str] = []
    if rule.destination is not None:
        if rule.destination.version != version:
            # No packet in these tables is for it, and they would not take the line.
            return
        conditions.append(f"-d {rule.destination}")
    if rule.uid is not None:
        conditions.append(f"-m owner --uid-owner {rule.uid}")
    if rule.gid is not None:
        conditions.append(f"-m owner --gid-owner {rule.gid}")
    if rule.cgroup is not None:
        escaped = (rule.cgroup.strip("/") or "/").replace("\\", "\\\\").replace('"', '\\"')
        conditions.append(f'-m cgroup --path "{escaped}"')
    common = " ".join(conditions)
    mark = f"-m mark --mark 0x0/{MARK_MASK:#x} -j MARK --set-xmark {rule.application:#x}/{MARK_MASK:#x}"
    if is_native:
        # Its running flows get its own mark after all, and go on by their tunnel.
        native = (
            f"-m mark --mark 0x0/{MARK_MASK:#x} {_NEW} -j MARK --set-xmark {MARK_NATIVE:#x}/{MARK_MASK:#x}"
        )
        yield from _with_ports(rule, common, native)
    yield from _with_ports(rule, common, mark)


def _with_ports(rule: ApplicationRule, common: str, mark: str) -> Iterable[str]:
    if rule.port is None:
        yield f"-A {CHAIN} {common} {mark}"
        return
    for protocol in ("tcp", "udp"):
        yield f"-A {CHAIN} {common} -p {protocol} -m {protocol} --dport {rule.port} {mark}"


def parse_destination(text: str) -> tuple[IPv4Network | IPv6Network, int | None]:
    """`10.0.0.0/8`, `10.0.0.1:443`, `[2001:db8::]/32`, `[2001:db8::1]:53` -> network and port. Raises UsageError."""
    network, port = text.strip(), None
    if network.startswith("["):
        inside, _, rest = network[1:].partition("]")
        length, _, port_text = rest.partition(":")
        network = inside + length
        port = port_text or None
    elif network.count(":") == 1:
        network, _, port = network.partition(":")
    try:
        number = int(port) if port else None
        if number is not None and not 0 < number < 65536:
            raise ValueError(f"there is no port {number}")
        return ip_network(network, strict=False), number
    except ValueError as reason:
        raise UsageError(
            f"{text!r} is not a destination such as 10.0.0.0/8 or 86.0.0.1:443: {reason}"
        ) from reason
