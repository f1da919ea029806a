"""What `upmt mobile-host run --config FILE` reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyAddress, PlainValidator, model_validator

from upmt_nf.config.application_sections import (
    ANY_ANCHOR,
    NATIVE,
    NO_POLICY,
    ApplicationSection,
    FlowSection,
    contradictory_flows,
    named_anchor,
    with_parts,
)
from upmt_nf.config.checked import Complaint, Section, checked
from upmt_nf.config.http_url import WrittenUrl
from upmt_nf.config.policies import PolicyBook, policy_book, with_networks
from upmt_nf.config.policy_objections import never_satisfied, too_fast, too_small
from upmt_nf.config.policy_sections import NetworkOrder, PolicySection, listed
from upmt_nf.config.quantities import Rate, WrittenBudget
from upmt_nf.config.toml_lines import KeyPath
from upmt_nf.config.values import (
    MAX_FURTHER_PORTS,
    InterfaceName,
    Name,
    Port,
    check_ipv6_address,
    check_tunnel_ports,
)
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationName, NetworkName
from upmt_nf.model.names import MAX_NETWORKS, SIGNALLING_PORT, TUNNEL_PORT
from upmt_nf.policy.network import NetworkFacts, Protection
from upmt_nf.policy.policy import Kind, Policy


def read_endpoint(value: Any) -> Endpoint:
    """`127.0.0.1:9377` or `[::1]:9377`. Raises ValueError."""
    if isinstance(value, Endpoint):
        return value
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    try:
        if not re.fullmatch(r"\d{1,5}", port) or not 1 <= int(port) <= 65535:
            raise ValueError
        return Endpoint(ip_address(host.removeprefix("[").removesuffix("]")), int(port))
    except ValueError:
        raise ValueError(f"{value!r} is not an address and a port such as 127.0.0.1:9377") from None


def check_identity(value: str) -> str:
    """The identity as it is. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_.!~*'()\-]{1,64}@[A-Za-z0-9.\-]{1,64}", value):
        raise ValueError(f"{value!r} is not an identity such as van7@fleet.example")
    return value


SYSTEM_RESOLVER = "system-resolver"
"""The application that the system's resolver is with `resolver = "native"`."""


class MobileHostSection(Section):
    """`[mobile_host]`: this host."""

    identity: Annotated[str, AfterValidator(check_identity)]
    """Terminal_ID of the paper: who this host is towards the anchor."""
    secret_file: str | None = None
    """Holds the secret shared with the anchor. With it both ends prove that they know it."""
    datapath: Literal["auto", "agent", "fast"] = "auto"
    virtual_interface: Literal["auto", "tun", "dummy", "ifb"] = "auto"
    """What `upmt0` is made of; `auto` takes the best that the kernel has."""
    keepalive_interval: Annotated[float, Field(ge=0.05, le=120)] = 5.0
    """Seconds between the probes of a tunnel in use. A black hole is found within three of them."""
    rekey_after: Annotated[float, Field(ge=0.5, le=86400)] = 3600.0
    """Seconds after which a protected tunnel gets new keys."""
    rekey_after_packets: Annotated[int, Field(ge=16, le=1 << 36)] = 1 << 32
    """Packets, each way, after which it gets them sooner."""
    idle_after: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Seconds without a packet after which a tunnel is idle, and probed only to keep the NAT's mapping."""
    keepalive_idle: Annotated[float, Field(ge=0.5, le=600)] = 28.0
    """Seconds between keepalives of an idle tunnel as long as the NAT's binding time is unknown."""
    keepalive_longest: Annotated[float, Field(ge=0.5, le=3600)] = 120.0
    """Seconds between keepalives of an idle tunnel at most. The anchor forgets tunnels after its `tunnel_timeout`."""
    probe_binding_time: bool = True
    """Find out how long the NATs on the way keep silent mappings, by probes on ports of their own."""
    search_path_mtu: bool = True
    """Find out how large a packet each path takes when its tunnel opens, by packets of that size in it."""
    probe_filters: bool = True
    """Find out, when a tunnel opens, which unusual packets its path drops, by some packets on a port of their own."""
    portal_check: WrittenUrl | None = None
    """A page that its server answers with 204, asked for while a network has no tunnel; none: nobody is asked."""
    state: str = "/var/lib/upmt/mobile-host.json"
    """File that remembers what was found out about networks."""
    return_after: Annotated[float, Field(ge=0)] = 30.0
    """Seconds that a preferred network must have been up again before applications return to it."""
    lease_time: Annotated[int, Field(ge=1, le=604800)] = 3600
    """Seconds of association asked of the anchor."""
    max_flows: Annotated[int, Field(ge=16)] = 131072
    records: str = "/var/lib/upmt/records.sqlite"
    """File that remembers what was spent of budgets, and the last handovers."""
    metrics: Annotated[Endpoint, PlainValidator(read_endpoint)] | None = None
    """Address and port at which Prometheus may ask; nobody may when left out."""
    resolver: Name = DEFAULT_APPLICATION
    """The application that the look-ups of the system's resolver belong to, or `native`."""
    default: Literal["tunnel", "native"] = "tunnel"
    """What becomes of everything that no application names: by the tunnels (the paper's way), or left alone."""


class AnchorAddress(Section):
    """`[anchor]`, or one of `anchors`: where an anchor is, and who this host is towards it."""

    address: IPvAnyAddress
    name: Name | None = None
    """By which applications name it; by default its address."""
    ipv6_address: IPv6Address | None = None
    """For access networks that have no IPv4; `address` stays what it is known by."""
    tunnel_port: Port = TUNNEL_PORT
    further_tunnel_ports: Annotated[tuple[Port, ...], Field(max_length=MAX_FURTHER_PORTS)] = ()
    """Tried in this order where an access network lets `tunnel_port` not pass; as the anchor has them."""
    signalling_port: Port = SIGNALLING_PORT
    identity: Annotated[str, AfterValidator(check_identity)] | None = None
    """Towards this anchor; by default that of `[mobile_host]`."""
    secret_file: str | None = None
    """Holds the secret shared with this anchor; by default that of `[mobile_host]`."""

    @model_validator(mode="after")
    def _fits_itself(self) -> AnchorAddress:
        check_ipv6_address(self.address, self.ipv6_address)
        if self.further_tunnel_ports:
            check_tunnel_ports((self.tunnel_port, *self.further_tunnel_ports), self.signalling_port)
        return self

    @property
    def called(self) -> str:
        """Its name, or its address for want of one."""
        return self.name or str(self.address)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions by which it is reached."""
        return (self.address.version,) if self.ipv6_address is None else (self.address.version, 6)

    @property
    def tunnels(self) -> Endpoint:
        """Its end of every tunnel."""
        return Endpoint(self.address, self.tunnel_port)


def _addressed(value: Any) -> Any:
    return {"address": value} if isinstance(value, str) else value


AnchorEntry = Annotated[AnchorAddress, BeforeValidator(_addressed)]
"""A table, or an address alone."""
MAX_ANCHORS = 8


SOFT = {"cost", "kind", "trusted", "throughput", "budgets"}
"""What only policies know of a network: it may change while the network is used."""


class NetworkSection(Section):
    """`[[network]]`: one access network; the order of the file is the order of preference."""

    name: Name
    interface: InterfaceName
    tunnel_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Local UDP port of the tunnel; 0 lets the kernel choose one."""
    gateway: IPvAnyAddress | None = None
    """Next hop; by default that of the interface's own default route."""
    cost: Annotated[float, Field(ge=0)] = 0.0
    """Cost of a gigabyte in the administrator's own unit."""
    protection: Literal["plain", "cookie", "sealed"] = "plain"
    """Tunnel format: none, against forgers off the path, against readers and changers on the path."""
    kind: Literal["wired", "wifi", "cellular", "satellite", "other"] = "other"
    metered: bool | Literal["auto"] = "auto"
    """Somebody pays by the byte, whatever `cost` says; `auto`: as NetworkManager says, no where nobody says so."""
    trusted: bool = True
    """Its operator may see what is not encrypted."""
    throughput: Rate | None = None
    """What it carries at most, both ways together."""
    budgets: Annotated[tuple[WrittenBudget, ...], BeforeValidator(listed)] = ()
    """Of all applications together."""

    @property
    def fixed(self) -> dict[str, Any]:
        """What cannot be changed while it is used, as it is in sockets, tunnels and rules."""
        return self.model_dump(exclude=SOFT)

    def facts(self) -> NetworkFacts:
        """As policies see it."""
        name = NetworkName(self.name)
        return NetworkFacts(
            name,
            self.kind,
            self.cost,
            self.metered is True,
            self.trusted,
            Protection[self.protection.upper()],
            self.throughput,
            tuple(replace(budget, network=name) for budget in self.budgets),
        )


class SignallingSection(Section):
    """`[signalling]`: a policy for what the host says to its anchors outside the tunnels (REGISTER)."""

    networks: NetworkOrder = ("any",)
    """Best first; those that are left out are not used, nor is one whose own budget is spent."""


class MobileHostConfig(Section):
    """The whole file."""

    mobile_host: MobileHostSection
    single: Annotated[AnchorAddress | None, Field(alias="anchor")]
    several: Annotated[
        tuple[AnchorEntry, ...] | None, Field(alias="anchors", min_length=1, max_length=MAX_ANCHORS)
    ] = None
    network: Annotated[tuple[NetworkSection, ...], Field(min_length=1, max_length=MAX_NETWORKS)]
    application: tuple[ApplicationSection, ...] = ()
    policy: tuple[PolicySection, ...] = ()
    signalling: SignallingSection = SignallingSection()

    def facts(self) -> tuple[NetworkFacts, ...]:
        """The networks as policies see them, in the order of the file."""
        return tuple(section.facts() for section in self.network)

    def book(self) -> PolicyBook:
        """All policies that an application may name."""
        return policy_book(self.policy, self.facts())

    def choice_of(self, section: ApplicationSection) -> Policy | tuple[str, ...]:
        """What an application goes by: its policy, or its list of networks."""
        if section.policy in NO_POLICY:
            return section.networks
        policy = self.book().policies[section.policy]
        if "networks" in section.model_fields_set:
            policy = with_networks(policy, section.networks, self.facts())
        return policy

    def policies(self) -> dict[ApplicationName, Policy]:
        """The policies of the applications that name one."""
        named = [section for section in with_parts(self.application) if section.policy not in NO_POLICY]
        found = {ApplicationName(section.name): self.choice_of(section) for section in named}
        return {name: policy for name, policy in found.items() if isinstance(policy, Policy)}

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, data: Any) -> Any:
        """`anchors` stands in the place of `[anchor]`, which is missing otherwise."""
        return {"anchor": None, **data} if isinstance(data, dict) and "anchors" in data else data

    @property
    def anchors(self) -> tuple[AnchorAddress, ...]:
        """All anchors, in the order in which they are asked."""
        return (self.single,) if self.single is not None else self.several or ()

    @property
    def anchor(self) -> AnchorAddress:
        """The one that is asked first."""
        return self.anchors[0]

    def anchor_called(self, name: str | None) -> IPAddress | None:
        """The address of the anchor of that name or address, if there is one."""
        known = (each.address for each in self.anchors if name in (each.name, str(each.address)))
        return next(known, None) if name is not None else None

    def identity_at(self, anchor: AnchorAddress) -> str:
        """Who this host is towards an anchor."""
        return anchor.identity or self.mobile_host.identity

    def secret_file_of(self, anchor: AnchorAddress) -> str | None:
        """Where the secret shared with an anchor is."""
        return anchor.secret_file or self.mobile_host.secret_file

    @property
    def default_networks(self) -> tuple[str, ...]:
        """What applications without a policy of their own prefer."""
        for application in self.application:
            if application.name == DEFAULT_APPLICATION:
                return application.networks
        return ("any",)


def read_mobile_host_config(text: str, file: str) -> MobileHostConfig:
    """Check a mobile host's configuration. Raises ConfigError with file, line, key and reason."""
    return checked(MobileHostConfig, text, file, contradictions)


def contradictions(config: MobileHostConfig) -> Iterator[Complaint]:
    """What no single value shows: names that do not fit each other."""
    yield from _twice("network", "name", [network.name for network in config.network])
    yield from _twice("network", "interface", [network.interface for network in config.network])
    yield from _anchor_contradictions(config)
    yield from _twice("application", "name", [application.name for application in config.application])
    known = {network.name for network in config.network}
    for index, network in enumerate(config.network):
        if network.name == "any":
            yield ("network", index, "name"), "'any' stands for all networks and cannot be the name of one"
        if network.protection != "plain" and None in map(config.secret_file_of, config.anchors):
            yield (
                ("network", index, "protection"),
                "needs a secret: set mobile_host.secret_file (`enroll` does)",
            )
        if network.gateway and network.gateway.version not in config.anchor.versions:
            yield ("network", index, "gateway"), "is of another address family than the anchor"
        for budget in network.budgets:
            if budget.network not in (None, network.name):
                yield ("network", index, "budgets"), f"{budget}: is a budget of {network.name} alone"
            if reason := too_small(
                budget, [NetworkName(network.name)], {network.facts().name: network.facts()}
            ):
                yield ("network", index, "budgets"), reason
    yield from _resolver(config)
    yield from _policies(config, known)
    yield from _contradictory_policies(config)
    yield from contradictory_flows(config.application, config.mobile_host.default)
    for path, section in [*_choosers(config), (("signalling",), config.signalling)]:
        for name in section.networks:
            if name != "any" and name not in known:
                yield (
                    (*path, "networks"),
                    f"there is no network {name!r}; there are {', '.join(sorted(known))}",
                )


def _choosers(config: MobileHostConfig) -> Iterator[tuple[KeyPath, ApplicationSection | FlowSection]]:
    """All that names networks or a policy, and where."""
    for index, application in enumerate(config.application):
        yield ("application", index), application
        for place, flow in enumerate(application.flow):
            yield ("application", index, "flow", place), flow


def _resolver(config: MobileHostConfig) -> Iterator[Complaint]:
    place, target = ("mobile_host", "resolver"), config.mobile_host.resolver
    found = {section.name: section for section in config.application}
    if target == NATIVE:
        if SYSTEM_RESOLVER in found:
            yield place, f"{SYSTEM_RESOLVER} is an application of this file: name it, or call it otherwise"
    elif target != DEFAULT_APPLICATION and target not in found:
        known = ", ".join([DEFAULT_APPLICATION, NATIVE, *found])
        yield place, f"there is no application {target!r}; there are {known}"
    elif (
        target != DEFAULT_APPLICATION
        and config.mobile_host.default == NATIVE
        and found[target].on_no_network in ("hold", "reject")
    ):
        yield (
            place,
            f'{target} has a kill switch, which comes too late for the system\'s resolver with default = "native"',
        )


def _policies(config: MobileHostConfig, known: set[str]) -> Iterator[Complaint]:
    book = config.book()
    yield from book.complaints
    own = {section.name for section in config.policy}
    for path, section in _choosers(config):
        if section.policy in NO_POLICY:
            continue
        policy = book.policies.get(section.policy)
        if policy is None:
            yield (*path, "policy"), _no_such_policy(section.policy, book)
            continue
        is_narrowed = "networks" in section.model_fields_set
        if policy.kind is Kind.BLOCK:
            if is_narrowed:
                yield (*path, "networks"), f"the policy {section.policy} allows none"
        elif set(section.networks) <= known | {"any"} and (is_narrowed or section.policy not in own):
            # What a [[policy]] says of all its networks is complained about there.
            key = "networks" if is_narrowed else "policy"
            chosen = with_networks(policy, section.networks, config.facts()) if is_narrowed else policy
            if (reason := never_satisfied(chosen, config.facts())) is not None:
                yield (*path, key), f"{section.policy}: {reason}"
            for limit, reason in too_fast(chosen, config.facts()):
                yield (*path, key), f"{section.policy}: {limit}: {reason}"


def _no_such_policy(name: str, book: PolicyBook) -> str:
    if name == Kind.STATIC.value:
        return (
            'Static is of one network: leave policy out and say networks = "NETWORK", '
            'or write a [[policy]] with kind = "Static"'
        )
    return f"there is no policy {name!r}; there are {', '.join([*NO_POLICY, *book.policies])}"


def _contradictory_policies(config: MobileHostConfig) -> Iterator[Complaint]:
    for index, application in enumerate(config.application):
        key = ("application", index)
        is_rest = application.name == DEFAULT_APPLICATION
        if application.policy == "native":
            if is_rest:
                yield (*key, "policy"), 'say default = "native" in [mobile_host]'
            if application.networks != ("any",):
                yield (*key, "networks"), "a native application has none"
            if application.on_no_network is not None:
                yield (*key, "on_no_network"), "a native application never needs a network of ours"
        elif config.mobile_host.default == "native" and application.on_no_network in ("hold", "reject"):
            if is_rest:
                yield (*key, "on_no_network"), 'contradicts default = "native"'
            for place, match in enumerate(application.match):
                if match.found_late:
                    yield (
                        (*key, "match", place),
                        f"{match.found_late} is found out when the source address is chosen already: with default = "
                        '"native" a kill switch needs uid, destination or `upmt run`',
                    )


def _anchor_contradictions(config: MobileHostConfig) -> Iterator[Complaint]:
    if config.single is not None and config.several is not None:
        yield ("anchors",), "stands beside [anchor]: say one of the two"
        return
    anchors = config.anchors
    if config.several is not None:
        yield from _twice("anchors", "address", [str(anchor.address) for anchor in anchors])
    for index, anchor in enumerate(anchors):
        if anchor.address.version != anchors[0].address.version:
            yield ("anchors", index, "address"), "is of another address family than the first anchor"
        if (anchor.ipv6_address is None) != (anchors[0].ipv6_address is None):
            yield ("anchors", index, "ipv6_address"), "is to be said of all anchors, or of none"
        named: KeyPath = ("anchors", index, "name") if config.several is not None else ("anchor", "name")
        others = [other for other in anchors if other is not anchor]
        if anchor.name in [name for other in others for name in (other.called, str(other.address))]:
            yield named, f"{anchor.name!r} is there twice"
        if anchor.name == ANY_ANCHOR:
            yield named, "'any' stands for whichever anchor the host uses and cannot be the name of one"
    known = [anchor.called for anchor in anchors]
    for index, application in enumerate(config.application):
        if (name := named_anchor(application)) is None:
            continue
        place = ("application", index, "anchor")
        if config.anchor_called(name) is None:
            yield place, f"there is no anchor {name!r}; there are {', '.join(known)}"
        elif application.policy == NATIVE:
            yield place, "a native application needs none"
        elif application.name == DEFAULT_APPLICATION:
            yield place, "the rest goes by the first anchor that answers: put the wanted one first"


def _twice(table: str, key: str, values: list[str]) -> Iterator[Complaint]:
    for index, value in enumerate(values):
        if value in values[:index]:
            yield (table, index, key), f"{value!r} is there twice"
