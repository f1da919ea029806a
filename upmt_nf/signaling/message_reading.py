"""JSON -> messages. Everything wrong is a PeerError that names the key; nothing is guessed."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, NoReturn

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import PROTOCOL_NUMBERS, FlowKey, IPAddress, named_flows_of
from upmt_nf.model.identity import TunnelId
from upmt_nf.model.names import MAX_APPLICATION_ID
from upmt_nf.signaling.authors_json import AuthorsBody, is_authors, read_authors
from upmt_nf.signaling.messages import (
    ANY,
    DROPPED,
    MAX_BODY,
    MOST_COUNTED,
    VERSION,
    AnchorNotice,
    AssociationRequest,
    AssociationResponse,
    FlowCount,
    FlowCountsRequest,
    FlowCountsResponse,
    FlowSelector,
    HandoverPair,
    HandoverRequest,
    HandoverResponse,
    HandoverResult,
    IptablesMatch,
    NoticeAnswer,
    TunnelChoice,
    TunnelSetupRequest,
    TunnelSetupResponse,
    UpmtMessage,
)


def decode(body: bytes) -> UpmtMessage | AuthorsBody:
    """Read a body, also in the dialect of the authors' later implementation. Raises PeerError that names the key."""
    if len(body) > MAX_BODY:
        raise PeerError(f"the body is larger than {MAX_BODY} bytes")
    try:
        value = _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as reason:
        raise PeerError(f"the body is not JSON: {reason}") from reason
    if is_authors(value):
        return read_authors(value)
    if not isinstance(value, dict):
        raise PeerError("the body is not a JSON object")
    document = _Document(value)
    kind = document.text("mType")
    if document.number("version", VERSION) != VERSION:
        raise PeerError(f"version {document.number('version')} is not {VERSION}")
    read = _READERS.get(kind)
    if read is None:
        raise PeerError(f"there is no message {kind[:40]!r}")
    return read(document)


_MISSING = object()


class _Document:
    """A JSON object whose keys are read with their type; everything wrong raises PeerError naming the key."""

    def __init__(self, value: Any, where: str = "the body") -> None:
        if not isinstance(value, dict):
            raise PeerError(f"{where} is not an object")
        self._value = value

    def get(self, key: str, default: Any = _MISSING) -> Any:
        value = self._value.get(key, default)
        if value is _MISSING:
            raise PeerError(f"{key!r} is missing")
        return value

    def has(self, key: str) -> bool:
        return key in self._value

    def text(self, key: str, default: Any = _MISSING) -> str:
        value = self.get(key, default)
        # What is shown and logged: no control characters, no halves of characters.
        if not isinstance(value, str) or len(value) > 1024 or not value.isprintable():
            raise PeerError(f"{key!r} is not a short text")
        return value

    def number(self, key: str, default: Any = _MISSING) -> int:
        return _integer(key, self.get(key, default), 2**32)

    def truth(self, key: str) -> bool:
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise PeerError(f"{key!r} is neither true nor false")
        return value

    def octets(self, key: str, count: int) -> bytes | None:
        if not self.has(key):
            return None
        text = self.text(key)
        if len(text) != 2 * count or not all(digit in "0123456789abcdef" for digit in text):
            raise PeerError(f"{key!r} is not {count} bytes in lower-case hex")
        return bytes.fromhex(text)

    def flag(self, key: str) -> bool:
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise PeerError(f"{key!r} is neither true nor false")
        return value

    def list(self, key: str, default: Any = _MISSING) -> list[Any]:
        value = self.get(key, default)
        if not isinstance(value, list):
            raise PeerError(f"{key!r} is not a list")
        return value


def _integer(key: str, value: Any, limit: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < limit:
        raise PeerError(f"{key!r} is not a number from 0 to {limit - 1}")
    return value


def _address(key: str, value: Any) -> IPAddress:
    # A zone (`fe80::1%eth0`) means nothing to another machine, and may hold any character.
    if not isinstance(value, str) or "%" in value:
        raise PeerError(f"{key!r} is not an address")
    try:
        return ip_address(value)
    except ValueError as reason:
        raise PeerError(f"{key!r} is not an address: {value[:60]!r}") from reason


def _read_tunnel_id(key: str, value: Any) -> TunnelId:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not (text.isascii() and text.isdigit()) or len(text) > 10:
        raise PeerError(f"{key!r} is not a tunnel id")
    if not 0 < int(text) < 2**32:
        raise PeerError(f"{key!r} is not a tunnel id")
    return TunnelId(int(text))


def _read_association_request(document: _Document) -> AssociationRequest:
    address = _address("VIpAddr", document.get("VIpAddr")) if document.has("VIpAddr") else None
    return AssociationRequest(document.number("expires"), address, document.octets("key", 32))


def _read_association_response(document: _Document) -> AssociationResponse:
    return AssociationResponse(
        _address("VIpAddr", document.get("VIpAddr")),
        document.text("association"),
        document.number("expires"),
        document.octets("key", 32),
    )


def _read_setup_request(document: _Document) -> TunnelSetupRequest:
    return TunnelSetupRequest(
        association=document.text("association"),
        virtual_address=_address("VIpAddr", document.get("VIpAddr")),
        network=document.text("network") if document.has("network") else None,
        handover=_read_pairs(document) if document.has("pairs") or document.has("match") else (),
        format=document.text("format", "plain"),
        mtu=_integer("mtu", document.get("mtu", 0), 65536),
        avoid=_read_avoided(document.list("avoid", [])),
    )


def _read_avoided(values: list[Any]) -> tuple[str, ...]:
    if len(values) > 16 or not all(isinstance(value, str) and len(value) <= 32 for value in values):
        raise PeerError("'avoid' is not a list of at most 16 short texts")
    return tuple(name for name in DROPPED if name in values)


def _read_setup_response(document: _Document) -> TunnelSetupResponse:
    format, salt = document.text("format", "plain"), document.octets("salt", 16)
    if (format == "plain") != (salt is None):
        raise PeerError("'salt' goes with a protected format, and with no other")
    key_id = _integer("keyID", document.get("keyID", 0), 256)
    return TunnelSetupResponse(
        tunnel_id=_read_tunnel_id("tunnelID", document.get("tunnelID")),
        your_address=_address("yourAddress", document.get("yourAddress")),
        your_port=_integer("yourPort", document.get("yourPort"), 65536),
        results=_read_results(document),
        format=format,
        key_id=key_id if salt is not None else 0,
        knows_applications=document.truth("applications"),
        salt=salt,
        copies=document.flag("copies"),
        reads_packed=document.flag("packed"),
    )


def _read_handover_request(document: _Document) -> HandoverRequest:
    # The paper's figure 9 has no association: the anchor then goes by the tunnel alone.
    return HandoverRequest(document.text("association", ""), _read_pairs(document))


def _read_handover_response(document: _Document) -> HandoverResponse:
    return HandoverResponse(_read_results(document))


def _read_notice(document: _Document) -> AnchorNotice:
    return AnchorNotice(
        document.text("kind"),
        document.text("reason", ""),
        document.text("association", ""),
        _read_tunnel_id("tunnelID", document.get("tunnelID")) if document.has("tunnelID") else None,
    )


def _read_notice_answer(_: _Document) -> NoticeAnswer:
    return NoticeAnswer()


def _read_counts_request(document: _Document) -> FlowCountsRequest:
    flows = document.list("flows")
    if len(flows) > MOST_COUNTED:
        raise PeerError(f"'flows' names more than {MOST_COUNTED} flows")
    return FlowCountsRequest(
        document.text("association"),
        tuple(_read_flow(flow) for flow in flows),
        document.flag("takesReadings"),
    )


def _read_counts_response(document: _Document) -> FlowCountsResponse:
    counts = document.list("counts")
    if len(counts) > MOST_COUNTED:
        raise PeerError(f"'counts' has more than {MOST_COUNTED} flows")
    return FlowCountsResponse(tuple(None if count is None else _read_count(count) for count in counts))


def _read_count(value: Any) -> FlowCount:
    if not isinstance(value, list) or len(value) not in (4, 5):
        raise PeerError("a count is [received, sent, late, gap] and may have a 1 behind them")
    received, sent, late, gap = (_integer("a count", number, 2**53) for number in value[:4])
    return FlowCount(received, sent, late, gap, len(value) == 5 and _integer("a count", value[4], 2) == 1)


_READERS: dict[str, Callable[[_Document], UpmtMessage]] = {
    "AssociationRequest": _read_association_request,
    "AssociationResponse": _read_association_response,
    "TunnelSetupRequest": _read_setup_request,
    "TunnelSetupResponse": _read_setup_response,
    "HandoverRequest": _read_handover_request,
    "HandoverResponse": _read_handover_response,
    "AnchorNotice": _read_notice,
    "NoticeAnswer": _read_notice_answer,
    "FlowCountsRequest": _read_counts_request,
    "FlowCountsResponse": _read_counts_response,
}


def _read_pairs(document: _Document) -> tuple[HandoverPair, ...]:
    if document.has("pairs"):
        return tuple(_read_pair(_Document(pair, "a pair")) for pair in document.list("pairs"))
    return (_read_pair(document),)


def _read_pair(document: _Document) -> HandoverPair:
    tunnels = document.get("tunnelID", [])
    if not isinstance(tunnels, list):
        tunnels = [tunnels]
    if len(tunnels) > 16:
        raise PeerError("'tunnelID' names more than 16 tunnels")
    chosen: tuple[TunnelChoice, ...] = tuple(
        ANY if tunnel == ANY else _read_tunnel_id("tunnelID", tunnel) for tunnel in tunnels
    )
    application = _integer("application", document.get("application", 0), MAX_APPLICATION_ID + 1)
    match = _read_selector(document.get("match"))
    return HandoverPair(match, chosen, application, is_packed=_is_packed(document.get("match"), match))


def _read_selector(value: Any) -> FlowSelector:
    if value == ANY:
        return ANY
    document = _Document(value, "'match'")
    match document.text("syntax"):
        case "IPtables":
            return IptablesMatch(document.text("match"))
        case "flow":
            return (_read_flow(document.get("match")),)
        case "flows":
            return tuple(_read_flow(flow) for flow in document.list("match"))
        case "packed":
            return _read_packed(document)
        case "any":
            return ANY
        case other:
            raise PeerError(f"there is no match syntax {other[:40]!r}")


def _is_packed(value: Any, match: FlowSelector) -> bool:
    return isinstance(value, dict) and value.get("syntax") == "packed" and match != ()


def _read_packed(document: _Document) -> tuple[FlowKey, ...]:
    """Protocol (1), destination (4 or 16), source port (2), destination port (2), in base64 without a rest."""
    source = _address("source", document.get("source"))
    stand_ins = [
        named_flows_of(source, _integer("applications", number, MAX_APPLICATION_ID + 1))
        for number in document.list("applications", [])
    ]
    text, size = document.get("match"), len(source.packed) + 5
    if not isinstance(text, str) or len(text) % (size // 3 * 4) or not _BASE64.fullmatch(text):
        raise PeerError(f"'match' is not base64 of {size} bytes a flow")
    packed = b64decode(text)
    keys = (packed[start : start + size] for start in range(0, len(packed), size))
    return (*stand_ins, *(FlowKey.unpacked(key[:1] + source.packed + key[1:]) for key in keys))


def _read_flow(value: Any) -> FlowKey:
    if not isinstance(value, list) or len(value) != 5:
        raise PeerError("a flow is [protocol, source, port, destination, port]")
    protocol, source, source_port, destination, destination_port = value
    if isinstance(protocol, str):
        protocol = PROTOCOL_NUMBERS.get(protocol)
    flow = FlowKey(
        _integer("protocol", protocol, 256),
        _address("source", source),
        _integer("source port", source_port, 65536),
        _address("destination", destination),
        _integer("destination port", destination_port, 65536),
    )
    if flow.source.version != flow.destination.version:
        raise PeerError("a flow has addresses of two families")
    return flow


def _read_results(document: _Document) -> tuple[HandoverResult, ...]:
    found = []
    for value in document.list("results", []):
        result = _Document(value, "a result")
        accepted = result.get("accepted")
        if not isinstance(accepted, bool):
            raise PeerError("'accepted' is neither true nor false")
        found.append(
            HandoverResult(
                accepted,
                _read_tunnel_id("tunnelID", result.get("tunnelID")) if result.has("tunnelID") else None,
                result.number("flows", 0),
                result.text("reason") if result.has("reason") else None,
            )
        )
    return tuple(found)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_BASE64 = re.compile(r"[A-Za-z0-9+/]*")
_DECODER = json.JSONDecoder(object_pairs_hook=_no_twins, parse_constant=_refuse_constant)
