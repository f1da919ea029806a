"""The paper's match syntax, `-p tcp -destination 160.80.81.1 -destination-port 80`, parsed strictly, never run.

One dash or two before a long option, as the paper prints it with one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import PROTOCOL_NUMBERS, FlowKey

_MAX_TEXT = 512

PortSpan = tuple[int, int]
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class FlowMatch:
    """Conditions that must all hold; None is no condition. Port spans include both ends."""

    protocol: int | None = None
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    source_ports: PortSpan | None = None
    destination_ports: PortSpan | None = None

    def matches(self, flow: FlowKey) -> bool:
        """Whether the flow fulfils every condition."""
        return (
            self.protocol in (None, flow.protocol)
            and _within(self.source, flow.source)
            and _within(self.destination, flow.destination)
            and _between(self.source_ports, flow.source_port)
            and _between(self.destination_ports, flow.destination_port)
        )


def parse_match(text: str) -> FlowMatch:
    """Read a match. Raises PeerError that names the word."""
    if len(text) > _MAX_TEXT:
        raise PeerError(f"a match has at most {_MAX_TEXT} characters")
    words = text.split()
    found: dict[str, int | IPNetwork | PortSpan] = {}
    if not words or len(words) % 2:
        raise PeerError(f"the match {text!r} is not a list of options with one value each")
    for option, value in zip(words[::2], words[1::2], strict=True):
        entry = _OPTIONS.get(option[1:] if option.startswith("--") else option)
        if entry is None:
            raise PeerError(f"the match has an unknown option {option!r}")
        key, read = entry
        if key in found:
            raise PeerError(f"the match says {option!r} twice")
        try:
            found[key] = read(value)
        except ValueError as reason:
            raise PeerError(f"the match has a wrong value for {option}: {value!r}") from reason
    return FlowMatch(**found)  # type: ignore[arg-type]


def _protocol(text: str) -> int:
    number = PROTOCOL_NUMBERS.get(text.lower())
    if number is None:
        number = _number(text)
    if not 0 < number < 256:
        raise ValueError(text)
    return number


def _ports(text: str) -> PortSpan:
    low, colon, high = text.partition(":")
    span = (_number(low or "0"), _number(high or "65535")) if colon else (_number(low), _number(low))
    if not 0 <= span[0] <= span[1] <= 65535:
        raise ValueError(text)
    return span


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _network(text: str) -> IPNetwork:
    if "%" in text:
        raise ValueError(text)
    return ip_network(text, strict=False)


_OPTIONS: dict[str, tuple[str, Callable[[str], int | IPNetwork | PortSpan]]] = {
    "-p": ("protocol", _protocol),
    "-protocol": ("protocol", _protocol),
    "-s": ("source", _network),
    "-source": ("source", _network),
    "-src": ("source", _network),
    "-d": ("destination", _network),
    "-destination": ("destination", _network),
    "-dst": ("destination", _network),
    "-sport": ("source_ports", _ports),
    "-source-port": ("source_ports", _ports),
    "-dport": ("destination_ports", _ports),
    "-destination-port": ("destination_ports", _ports),
}


def _within(network: IPNetwork | None, address: object) -> bool:
    return network is None or (getattr(address, "version", 0) == network.version and address in network)


def _between(span: PortSpan | None, port: int) -> bool:
    return span is None or span[0] <= port <= span[1]
