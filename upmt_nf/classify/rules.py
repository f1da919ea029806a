"""Application rules: conditions that name an application. The first rule whose conditions all hold wins.

Some rules netfilter can decide alone (user, group, cgroup, destination); others need the process. A rule that needs
the process ends the part that netfilter may decide, or a later mark could overrule it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_network

from upmt_nf.classify.containers import is_in_container
from upmt_nf.classify.facts import Ancestor, ProcessFacts
from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import TCP, UDP, FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationId
from upmt_nf.model.names import MARK_MASK, MARK_NATIVE, MARKS_OF_KNOWN, VIRTUAL_INTERFACE

CHAIN = "UPMT-CLASSIFY"
_MAX_COMMAND = 255
_KERNELS_NAME = 15


@dataclass(frozen=True, slots=True)
class ApplicationRule:
    """Conditions that make a flow part of an application; None is no condition.

    `command` is a name or a pattern with `*` and `?`; `cgroup` and `unit` include what is below them; `container` is
    a name or an id (12 digits or more). `children` says whether descendants of the process that `command`,
    `executable` or `pid` names are meant as well: by default those of a pid are. `started` ties a pid to the process
    that had it when the rule was made: whoever gets the number later is somebody else. `port` (to `last_port`) is the
    destination's, `dscp` that of the flow's first packet. `addresses` are those that `destination_name` has now; they
    are no part of what the rule is.
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
    container: str | None = None
    children: bool | None = None
    started: int | None = None
    dscp: int | None = None
    destination_name: str | None = None
    last_port: int | None = None
    addresses: tuple[IPAddress, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.children is not None and not self.names_a_process:
            raise UsageError("children are those of a command, an executable or a pid: name one")
        if self.destination is not None and self.destination_name is not None:
            raise UsageError("a destination is a network or a name, not both")
        if self.command is None:
            return
        try:
            length = len(_bytes(self.command))
        except UnicodeEncodeError as reason:
            raise UsageError(f"{self.command!r} cannot be a command's name: {reason.reason}") from reason
        if not 0 < length <= _MAX_COMMAND:
            raise UsageError(f"a command's name has 1 to {_MAX_COMMAND} bytes")
        if "\0" in self.command:
            raise UsageError("a command's name has no zero byte")

    def __str__(self) -> str:
        """The conditions as people write them: `command=ping uid=34`."""
        names = ("command", "executable", "uid", "gid", "cgroup", "unit", "container", "pid")
        said = [f"{name}={value}" for name in names if (value := getattr(self, name)) is not None]
        if self.children is not None:
            said.append(f"children={str(self.children).lower()}")
        port = ""
        if self.port is not None:
            port = str(self.port) + (f"-{self.last_port}" if self.last_port is not None else "")
        if self.destination is not None:
            network = f"[{self.destination.network_address}]" if self.destination.version == 6 else None
            where = str(self.destination) if network is None else f"{network}/{self.destination.prefixlen}"
            said.append(f"destination={where}" + (f":{port}" if port else ""))
        if self.destination_name is not None:
            said.append(f"destination_name={self.destination_name}")
        if port and self.destination is None:
            said.append(f"port={port}")
        if self.dscp is not None:
            said.append(f"dscp={self.dscp}")
        return " ".join(said)

    @property
    def names_a_process(self) -> bool:
        """Whether it says which process, whose children may be meant."""
        return not (self.command is None and self.executable is None and self.pid is None)

    @property
    def needs_process(self) -> bool:
        """Whether only a look at the process can decide it."""
        return self.names_a_process or self.unit is not None or self.container is not None

    @property
    def asks_for_process(self) -> bool:
        """Whether any condition is about the process, also one that netfilter can see."""
        return self.needs_process or not (self.uid is None and self.gid is None and self.cgroup is None)

    @property
    def asks_for_cgroup(self) -> bool:
        """Whether any condition is about the control groups that the process is in."""
        return not (self.cgroup is None and self.unit is None and self.container is None)

    @property
    def asks_for_flow(self) -> bool:
        """Whether any condition is about where a flow goes or how."""
        return not (
            self.destination is None
            and self.destination_name is None
            and self.port is None
            and self.dscp is None
        )

    def matches(self, flow: FlowKey, process: ProcessFacts | None, dscp: int = 0) -> bool:
        """Whether every condition holds. Without facts no condition about the process does."""
        return self.matches_flow(flow, dscp) and self.matches_process(process)

    def matches_flow(self, flow: FlowKey, dscp: int = 0) -> bool:
        """Whether the conditions about the flow hold."""
        if self.destination is not None and not (
            flow.destination.version == self.destination.version and flow.destination in self.destination
        ):
            return False
        if self.destination_name is not None and flow.destination not in self.addresses:
            return False
        if self.port is not None and not (
            flow.protocol in (TCP, UDP)
            and self.port <= flow.destination_port <= (self.last_port or self.port)
        ):
            return False
        return self.dscp in (None, dscp)

    def matches_process(self, process: ProcessFacts | None) -> bool:
        """Whether the conditions about the process hold."""
        if process is None:
            return not self.asks_for_process
        cgroups = (process.cgroup, *process.other_cgroups)
        return (
            self.uid in (None, process.uid)
            and self.gid in (None, process.gid)
            and (self.cgroup is None or _is_below(process.cgroup, self.cgroup))
            and (self.unit is None or any(self.unit in path.split("/") for path in cgroups))
            and (self.container is None or is_in_container(self.container, cgroups))
            and (not self.names_a_process or self._names(process))
        )

    def _names(self, process: ProcessFacts) -> bool:
        """Whether command, executable and pid are the process's, or an ancestor's where children are meant."""
        older = process.ancestors if self.children else ()
        return (
            self._is_called(process.names(), older)
            and (
                self.executable in (None, process.executable)
                or any(each.executable == self.executable for each in older)
            )
            and (
                self.pid is None
                or self._is_pid(process.pid, process.started)
                or (
                    self.children is not False
                    and any(self._is_pid(each.pid, each.started) for each in process.ancestors)
                )
            )
        )

    def _is_called(self, names: Sequence[str], ancestors: Iterable[Ancestor]) -> bool:
        return self.command is None or any(
            _is_called(self.command, each) for each in (names, *(each.names() for each in ancestors))
        )

    def _is_pid(self, pid: int, started: int) -> bool:
        return self.pid == pid and self.started in (None, started)


def _is_called(pattern: str, names: Sequence[str]) -> bool:
    """Whether any of a process's names fits a pattern.

    Of the kernel's name only 15 bytes are kept. A longer pattern is held against those as well, unless another name
    tells how the program is called in full.
    """
    if any(pattern == name or fnmatchcase(name, pattern) for name in names):
        return True
    cut = _bytes(pattern)[:_KERNELS_NAME]
    return (
        len(_bytes(pattern)) > _KERNELS_NAME
        and any(_bytes(name) == cut for name in names)
        and not any(len(_bytes(name)) > _KERNELS_NAME and _bytes(name).startswith(cut) for name in names)
    )


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _is_below(path: str, ancestor: str) -> bool:
    ancestor, path = ancestor.strip("/"), path.strip("/")
    return not ancestor or path == ancestor or path.startswith(ancestor + "/")


def first_match(
    rules: Iterable[ApplicationRule], flow: FlowKey, process: ProcessFacts | None, dscp: int = 0
) -> ApplicationRule | None:
    """The first rule that matches, or None."""
    return next((rule for rule in rules if rule.matches(flow, process, dscp)), None)


def is_guess(
    rules: Iterable[ApplicationRule], found: ApplicationRule | None, flow: FlowKey, dscp: int = 0
) -> bool:
    """Whether a rule before `found` might have matched, had the flow's process been known."""
    for rule in rules:
        if rule is found:
            return False
        if rule.asks_for_process and rule.matches_flow(flow, dscp):
            return True
    return False


Decidable = Callable[[ApplicationRule], bool]
"""Whether netfilter can be trusted with a rule that has only conditions which it knows."""


def _any_rule(_: ApplicationRule) -> bool:
    return True


def needs_lookup(rules: Iterable[ApplicationRule], is_decidable: Decidable = _any_rule) -> bool:
    """Whether any rule needs the process behind a flow that netfilter did not mark."""
    return any(rule.needs_process or (rule.asks_for_process and not is_decidable(rule)) for rule in rules)


def netfilter_part(
    rules: Sequence[ApplicationRule], is_decidable: Decidable = _any_rule
) -> Sequence[ApplicationRule]:
    """The rules that netfilter decides alone: those before the first one that it cannot."""
    for place, rule in enumerate(rules):
        if rule.needs_process or not is_decidable(rule):
            return rules[:place]
    return rules


def netfilter_lines(
    rules: Sequence[ApplicationRule],
    native: Container[ApplicationId] = frozenset(),
    version: int = 4,
    queue: int | None = None,
    is_decidable: Decidable = _any_rule,
) -> list[str]:
    """The rules that netfilter decides, as `-A` lines that write the application's mark, in order.

    Only those before the first rule that needs the process: every packet that they leave unmarked goes through
    `first_match`, so both ways together give the same answer as `first_match` alone. New flows of `native`
    applications get the mark of what is left alone; where a rule of theirs comes after that first one, the first
    packets of the rest go to NFQUEUE `queue`, for the agent to tell. `version` is that of the tables, 4 or 6.
    """
    part = netfilter_part(rules, is_decidable)
    lines = [line for rule in part for line in _lines(rule, rule.application in native, version)]
    if queue is not None and any(rule.application in native for rule in rules[len(part) :]):
        unknown = f"-m mark --mark 0x0/{MARK_MASK:#x} {_NEW}"
        lines.append(f"-A {CHAIN} -o {VIRTUAL_INTERFACE} {unknown} -j NFQUEUE --queue-num {queue}")
    return lines


_NEW = f"-m conntrack --ctstate NEW -m connmark ! --mark {MARKS_OF_KNOWN:#x}/{MARKS_OF_KNOWN:#x}"
"""A flow that has not begun to go by a tunnel: that one stays there, as its source is the virtual address."""


def _lines(rule: ApplicationRule, is_native: bool, version: int) -> Iterable[str]:
    # No packet in these tables is for a destination of the other version, and they would not take the line.
    destinations: list[str | None] = [None]
    if rule.destination is not None:
        destinations = [str(rule.destination)] if rule.destination.version == version else []
    if rule.destination_name is not None:
        length = 32 if version == 4 else 128
        destinations = [f"{address}/{length}" for address in rule.addresses if address.version == version]
    for destination in destinations:
        yield from _lines_to(rule, destination, is_native)


def _lines_to(rule: ApplicationRule, destination: str | None, is_native: bool) -> Iterable[str]:
    conditions: list[str] = []
    if destination is not None:
        conditions.append(f"-d {destination}")
    if rule.dscp is not None:
        conditions.append(f"-m dscp --dscp {rule.dscp:#04x}")
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
    ports = f"{rule.port}:{rule.last_port}" if rule.last_port is not None else f"{rule.port}"
    for protocol in ("tcp", "udp"):
        yield f"-A {CHAIN} {common} -p {protocol} -m {protocol} --dport {ports} {mark}"


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
