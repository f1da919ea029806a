"""The JSON of the authors' later implementation: arrays of `{"MType": name, "MContent": {...}}`, read and answered.

What they ask for becomes our messages, what we answer becomes theirs; docs/protocol.md says how each is read. There is
no token in this dialect: who asks must be known by other proof, which is the anchor's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import PROTOCOL_NUMBERS, FlowKey, IPAddress
from upmt_nf.model.identity import TerminalId, TunnelId
from upmt_nf.signaling.messages import (
    AssociationRequest,
    HandoverPair,
    HandoverRequest,
    HandoverResult,
    TunnelSetupRequest,
    TunnelSetupResponse,
)

CONTENT_TYPE = "application/text"
SUBJECT = "UPMT"
CAME_BY = -1
"""The tunnel that the message came by; as an answer: no tunnel."""
MOST_SIGNALS = 64
"""In one body."""
LIFETIME = 3600
"""Seconds: what an association asks for that cannot say."""
_LONGEST_IDENTITY = 256
_MEASURED = ("tunnelId", "lastDelay", "EWMA_delay", "EWMA_loss", "numberRetry")


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """A host's sign of life in a tunnel, what it measured there by key; the answer repeats it."""

    measured: tuple[tuple[str, int | float], ...] = ()


@dataclass(frozen=True, slots=True)
class AnchorListRequest:
    """Which anchors are there?"""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A request that their anchors knew and ours does not obey."""

    reason: str


Asked = (
    AssociationRequest | TunnelSetupRequest | HandoverRequest | KeepAlive | AnchorListRequest | Unsupported
)


@dataclass(frozen=True, slots=True)
class AuthorsSignal:
    """One of a body: its `MType`, who says it, and what it asks for in our words."""

    kind: str
    identity: TerminalId
    asked: Asked


@dataclass(frozen=True, slots=True)
class AuthorsBody:
    """All signals of a body, in their order."""

    signals: tuple[AuthorsSignal, ...]


@dataclass(frozen=True, slots=True)
class AnchorList:
    """The answer to `AnchorListRequest`."""

    anchors: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Associated:
    """The association holds: the virtual address, and the UDP port of the tunnels."""

    virtual_address: IPAddress
    tunnel_port: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Not done, and why."""

    reason: str


Done = Associated | TunnelSetupResponse | HandoverResult | AnchorList | KeepAlive | Refused


def is_authors(value: Any) -> bool:
    """Whether parsed JSON is of this dialect: an object with `MType`, or an array that begins with one."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and "MType" in first


def read_authors(value: Any) -> AuthorsBody:
    """Read parsed JSON for which `is_authors` holds. Raises PeerError that names the key."""
    signals = value if isinstance(value, list) else [value]
    if len(signals) > MOST_SIGNALS:
        raise PeerError(f"more than {MOST_SIGNALS} signals in one body")
    return AuthorsBody(tuple(_read_signal(signal) for signal in signals))


def write_answers(body: AuthorsBody, answers: Sequence[Done]) -> bytes:
    """An answer for each signal, in their order, as compact JSON."""
    written = [_write(signal, answer) for signal, answer in zip(body.signals, answers, strict=True)]
    return json.dumps(written, separators=(",", ":")).encode()


# --- reading ---


def _read_signal(value: Any) -> AuthorsSignal:
    if not isinstance(value, dict):
        raise PeerError("a signal is not an object")
    kind, content = value.get("MType"), value.get("MContent")
    if not isinstance(kind, str):
        raise PeerError("'MType' is not a text")
    if not isinstance(content, dict):
        raise PeerError("'MContent' is not an object")
    read = _READERS.get(kind)
    if read is None:
        raise PeerError(f"there is no request {kind[:40]!r}")
    return AuthorsSignal(kind, _identity(content.get("sipId")), read(content))


def _identity(value: Any) -> TerminalId:
    text = value.removeprefix("sip:") if isinstance(value, str) else ""
    if not 0 < len(text) <= _LONGEST_IDENTITY or not text.isprintable() or " " in text:
        raise PeerError("'sipId' is not an identity")
    return TerminalId(text)


def _read_association(content: dict[str, Any]) -> AssociationRequest:
    # Their first association has no address yet, in whatever way it says so.
    is_known = content.get("vipa") not in (None, "", "0.0.0.0", "::")
    return AssociationRequest(LIFETIME, _address("vipa", content["vipa"]) if is_known else None)


def _read_setup(content: dict[str, Any]) -> TunnelSetupRequest:
    _integer("sipSignalingPort", content.get("sipSignalingPort", 0), 0, 65535)
    return TunnelSetupRequest("", _address("vipa", content.get("vipa")))


def _read_handover(content: dict[str, Any]) -> HandoverRequest:
    source = _address("vipa", content.get("vipa"))
    number = _integer("tunnelId", content.get("tunnelId", CAME_BY), CAME_BY, 2**32 - 1)
    if number == 0:
        raise PeerError("'tunnelId' is not a tunnel")
    tunnels = () if number == CAME_BY else (TunnelId(number),)
    flow = _read_socket(content.get("socket"))
    if flow.source != source:
        raise PeerError("'socket' has another 'vipa'")
    return HandoverRequest("", (HandoverPair((flow,), tunnels),))


def _read_keepalive(content: dict[str, Any]) -> KeepAlive:
    found = [(key, _measure(key, content[key])) for key in _MEASURED if key in content]
    return KeepAlive(tuple(found))


def _measure(key: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
        raise PeerError(f"{key!r} is not a number")
    return value


def _read_socket(value: Any) -> FlowKey:
    if not isinstance(value, dict):
        raise PeerError("'socket' is not an object")
    protocol = value.get("proto")
    if isinstance(protocol, str):
        protocol = PROTOCOL_NUMBERS.get(protocol.lower())
    flow = FlowKey(
        _integer("proto", protocol, 0, 255),
        _address("vipa", value.get("vipa")),
        _integer("srcPort", value.get("srcPort"), 0, 65535),
        _address("dstIp", value.get("dstIp")),
        _integer("dstPort", value.get("dstPort"), 0, 65535),
    )
    if flow.source.version != flow.destination.version:
        raise PeerError("'socket' has addresses of two families")
    return flow


_READERS: dict[str, Callable[[dict[str, Any]], Asked]] = {
    "AssociationReq": _read_association,
    "TunnelSetupReq": _read_setup,
    "HandoverReq": _read_handover,
    "KeepAlive": _read_keepalive,
    "ANListReq": lambda _: AnchorListRequest(),
    "SetHandoverModeReq": lambda _: Unsupported("handovers are always explicit here"),
    "BrokerRegistrationReq": lambda _: Unsupported("this anchor is no broker"),
}


def _integer(key: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise PeerError(f"{key!r} is not a number from {least} to {most}")
    return value


def _address(key: str, value: Any) -> IPAddress:
    if not isinstance(value, str) or "%" in value:
        raise PeerError(f"{key!r} is not an address")
    try:
        return ip_address(value)
    except ValueError as reason:
        raise PeerError(f"{key!r} is not an address: {value[:60]!r}") from reason


# --- writing ---


def _write(signal: AuthorsSignal, answer: Done) -> dict[str, Any]:
    kind = signal.kind if isinstance(answer, KeepAlive) else signal.kind.removesuffix("Req") + "Resp"
    return {"MType": kind, "MContent": {"sipId": signal.identity} | _content(signal.asked, answer)}


def _content(asked: Asked, answer: Done) -> dict[str, Any]:
    match answer:
        case Associated(address, port):
            return {"vipa": str(address), "tsa": port, "associationSuccess": True}
        case TunnelSetupResponse():
            return {
                "serverTunnelID": answer.tunnel_id,
                "yourAddress": str(answer.your_address),
                "yourPort": answer.your_port,
            }
        case HandoverResult():
            return _handover(asked, answer)
        case AnchorList(anchors):
            return {"anList": [str(anchor) for anchor in anchors], "broker": False}
        case KeepAlive(measured):
            return dict(measured)
        case Refused(reason):
            return _refusal(asked, reason)


def _refusal(asked: Asked, reason: str) -> dict[str, Any]:
    match asked:
        case AssociationRequest():
            return {"associationSuccess": False, "reason": reason}
        case TunnelSetupRequest():
            return {"serverTunnelID": CAME_BY, "reason": reason}
        case HandoverRequest():
            return _handover(asked, HandoverResult(False, reason=reason))
        case _:
            return {"success": False, "reason": reason}


def _handover(asked: Asked, result: HandoverResult) -> dict[str, Any]:
    """With the socket that the request named, so that an answer can be read alone."""
    assert isinstance(asked, HandoverRequest)
    assert isinstance(asked.pairs[0].match, tuple)
    (flow,) = asked.pairs[0].match
    found: dict[str, Any] = {
        "vipa": str(flow.source),
        "tunnelId": CAME_BY if result.tunnel_id is None else result.tunnel_id,
        "socket": {
            "proto": flow.protocol_name,
            "vipa": str(flow.source),
            "srcPort": flow.source_port,
            "dstIp": str(flow.destination),
            "dstPort": flow.destination_port,
        },
        "handoverSuccess": result.accepted,
    }
    return found if result.reason is None else found | {"reason": result.reason}
