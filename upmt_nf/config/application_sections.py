"""`[[application]]` of the mobile host's file: a named class of flows, what belongs to it, where it may go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, IPvAnyAddress, model_validator

from upmt_nf.config.checked import Complaint, Section
from upmt_nf.config.match_values import read_dscp, read_host_name, read_ports
from upmt_nf.config.policy_sections import NetworkOrder
from upmt_nf.config.values import Name
from upmt_nf.model.identity import DEFAULT_APPLICATION

ANY_ANCHOR = "any"
"""In place of an anchor's name: whichever the host uses."""
TUNNEL, NATIVE = "tunnel", "native"
NO_POLICY = (TUNNEL, NATIVE)
"""What `application.policy` may say beside the name of a policy."""


def _checked_by(reader: Callable[[Any], object]) -> Callable[[Any], Any]:
    """A value that stays as it is written, once `reader` has understood it."""

    def check(value: Any) -> Any:
        reader(value)
        return value

    return check


class MatchSection(Section):
    """`[[application.match]]`: what belongs to the application; all given conditions must hold."""

    command: str | None = None
    executable: str | None = None
    uid: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    gid: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    cgroup: str | None = None
    unit: str | None = None
    pid: Annotated[int, Field(ge=1)] | None = None
    children: bool | None = None
    """Descendants of the process that `command`, `executable` or `pid` names as well; by default those of a pid."""
    container: str | None = None
    """Name or id of a container whose engine gives it a cgroup."""
    port: Annotated[int | str, AfterValidator(_checked_by(read_ports))] | None = None
    """The destination's port, or a range such as `8000-8010`."""
    dscp: Annotated[int | str, AfterValidator(_checked_by(read_dscp))] | None = None
    """0 to 63, or a name such as `EF`, `AF41`, `CS5`."""
    destination_name: Annotated[str, AfterValidator(_checked_by(read_host_name))] | None = None
    """Name of a host; its addresses are asked for again and again."""
    destination: str | None = None
    """Network and, if wanted, port: `86.0.0.0/8`, `86.0.0.1:443`, `[2001:db8::]/32`."""

    @property
    def found_late(self) -> str | None:
        """The first condition that is only known once a packet is on its way."""
        late = (
            "command",
            "executable",
            "gid",
            "cgroup",
            "unit",
            "pid",
            "container",
            "dscp",
            "destination_name",
        )
        found = next((name for name in late if getattr(self, name) is not None), None)
        return found or ("port" if isinstance(self.port, str) and "-" in self.port else None)

    @model_validator(mode="after")
    def _says_something(self) -> MatchSection:
        if not self.model_fields_set:
            raise ValueError("a match needs at least one condition")
        if self.destination is not None and self.destination_name is not None:
            raise ValueError("a destination is a network or a name, not both")
        if (
            self.children is not None
            and self.command is None
            and self.executable is None
            and self.pid is None
        ):
            raise ValueError("children are those of a command, an executable or a pid: name one")
        return self


class FlowSection(Section):
    """`[[application.flow]]`: flows of an application with a policy of their own; all given conditions must hold."""

    name: Name | None = None
    """By default the place in the list, from 1."""
    networks: NetworkOrder = ("any",)
    policy: str = TUNNEL
    """As that of an application."""
    port: Annotated[int | str, AfterValidator(_checked_by(read_ports))] | None = None
    dscp: Annotated[int | str, AfterValidator(_checked_by(read_dscp))] | None = None
    destination: str | None = None
    """As those of `[[application.match]]`."""
    protocol: Literal["tcp", "udp", "icmp"] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> FlowSection:
        if not self.conditions and self.protocol is None:
            raise ValueError("a flow needs at least one condition: port, destination, dscp or protocol")
        if self.policy == NATIVE:
            raise ValueError(
                "a part of an application cannot be native: match it as an application of its own"
            )
        return self

    @property
    def conditions(self) -> dict[str, Any]:
        """Those that an application's match may have, too."""
        given = {"port": self.port, "dscp": self.dscp, "destination": self.destination}
        return {key: value for key, value in given.items() if value is not None}


class ApplicationSection(Section):
    """`[[application]]`: a named class of flows and the networks that suit it, best first."""

    name: Name
    networks: NetworkOrder = ("any",)
    policy: str = TUNNEL
    """`native`: left alone, as if UPMT were not there; or a `[[policy]]`, a profile or a kind, whose networks are then
    those of `networks`, if given."""
    on_no_network: Literal["hold", "reject", "native"] | None = None
    """The kill switch: hold or refuse packets when no allowed network is left, also when the daemon has died; or
    let new flows leave as if UPMT were not there. By default held while there is an association."""
    anchor: Name | None = None
    """The name of the anchor that it goes by; `any`, as by default: whichever one the host uses for the rest."""
    resolver: (
        Literal["system"] | Annotated[tuple[IPvAnyAddress, ...], Field(min_length=1, max_length=3)] | None
    ) = None
    """Name servers that programs of `upmt run` ask themselves; `system`: whoever asks for them. By default those behind
    a local stub, where there is one."""
    match: tuple[MatchSection, ...] = ()
    flow: tuple[FlowSection, ...] = ()
    """Flows of it that have a policy of their own; the first that fits."""

    def part_name(self, place: int) -> str:
        """What the application that stands for the flows of this place of the list is called."""
        return f"{self.name}/{self.flow[place].name or place + 1}"

    @property
    def said_of_flows(self) -> list[str]:
        """The conditions of each entry of `flow`, in words."""
        given = [
            flow.model_dump(exclude_none=True, exclude={"name", "networks", "policy"}) for flow in self.flow
        ]
        return [
            f"of {self.name}: " + " ".join(f"{key}={value}" for key, value in each.items()) for each in given
        ]

    def parts(self) -> Iterator[ApplicationSection]:
        """An application for each entry of `flow`: without a match of its own, as only the whole has flows."""
        for place, flow in enumerate(self.flow):
            given = flow.model_fields_set & {"networks", "policy"}
            yield ApplicationSection.model_construct(
                given | {"name", "on_no_network", "anchor"},
                name=self.part_name(place),
                networks=flow.networks,
                policy=flow.policy,
                on_no_network=self.on_no_network,
                anchor=self.anchor,
            )


def named_anchor(section: ApplicationSection | None) -> str | None:
    """The name of the anchor that an application goes by; None: whichever the host uses."""
    return section.anchor if section is not None and section.anchor != ANY_ANCHOR else None


def with_parts(sections: tuple[ApplicationSection, ...]) -> tuple[ApplicationSection, ...]:
    """Applications, each followed by those that stand for its flows with policies of their own."""
    return tuple(each for section in sections for each in (section, *section.parts()))


def contradictory_flows(sections: tuple[ApplicationSection, ...], default: str) -> Iterator[Complaint]:
    """Flows that no packet can be of; `default` is what becomes of everything that no application names."""
    for index, section in enumerate(sections):
        for place, flow in enumerate(section.flow):
            path = ("application", index, "flow", place)
            if section.policy == NATIVE or (section.name == DEFAULT_APPLICATION and default == NATIVE):
                yield (*path, "policy"), "a native application has none"
            names = [section.part_name(before) for before in range(place)]
            if section.part_name(place) in names:
                yield (*path, "name"), f"{section.part_name(place)!r} is there twice"
            if (flow.conditions, flow.protocol) in [
                (each.conditions, each.protocol) for each in section.flow[:place]
            ]:
                yield path, "an entry with the same conditions before it takes all of them"
            if flow.port is not None and flow.protocol == "icmp":
                yield (*path, "protocol"), "icmp has no ports"
