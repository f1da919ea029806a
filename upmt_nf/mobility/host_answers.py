"""What the anchor's answers mean to the mobile host: SIP responses in, grants and refusals out."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from upmt_nf.datapath.formats import PLAIN
from upmt_nf.mobility.association import Grant
from upmt_nf.mobility.host_signalling import TOKEN_HEADER, Registering
from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.messages import (
    AssociationResponse,
    FlowCount,
    FlowCountsResponse,
    HandoverResponse,
    HandoverResult,
    TunnelSetupResponse,
)
from upmt_nf.signaling.sip.message import Response

NO_ASSOCIATION = 481
"""SIP status by which the anchor says that it does not know our association."""
_LONGEST = 2**31


@dataclass(frozen=True, slots=True)
class Refusal:
    """No. `is_disowned`: the anchor does not know our association. Times in seconds."""

    reason: str
    is_disowned: bool = False
    least_lifetime: int | None = None
    retry_after: float = 0.0
    status: int = 0
    """Of the SIP answer, when it was one of 300 or more."""

    @property
    def is_distrust(self) -> bool:
        """The anchor does not believe our proof, or we not its challenge."""
        return self.status in (401, 403)

    @property
    def sends_us_on(self) -> bool:
        """Asking the same anchor again soon is of no use, another may take us."""
        return self.is_distrust or self.status == 503


def read_registration(purpose: Registering, response: Response, *, is_proven: bool) -> Grant | Refusal:
    """The answer to a REGISTER that asked for more than 0 seconds. Proven: by its body, which the proof covers."""
    if response.status != 200:
        return Refusal(
            f"{response.status} {response.reason}",
            least_lifetime=_number(response, "min-expires") if response.status == 423 else None,
            retry_after=float(_number(response, "retry-after") or 0),
            status=response.status,
        )
    if is_proven:
        return _read_proven(purpose, response)
    token = response.header(TOKEN_HEADER.lower())
    address = response.header("vipaddr")
    expires = _number(response, "expires")
    if not token or address is None or not expires:
        return Refusal("the anchor's answer lacks VIpAddr, Expires or the association's token")
    try:
        virtual_address = ip_address(address.strip())
    except ValueError:
        return Refusal(f"the anchor's VIpAddr {address[:60]!r} is no address")
    return Grant(virtual_address, token, expires, purpose.asked_at, purpose.cseq)


def _read_proven(purpose: Registering, response: Response) -> Grant | Refusal:
    try:
        body = decode(response.body)
    except PeerError as reason:
        return Refusal(f"its answer cannot be read: {reason}")
    if not isinstance(body, AssociationResponse) or not body.association or not body.expires:
        return Refusal("not an answer to an association request")
    return Grant(
        body.virtual_address, body.association, body.expires, purpose.asked_at, purpose.cseq, body.key
    )


def read_setup(response: Response) -> TunnelSetupResponse | Refusal:
    """The answer to a tunnel setup request."""
    body = _read(response)
    if isinstance(body, Refusal):
        return body
    return body if isinstance(body, TunnelSetupResponse) else Refusal("not an answer to a tunnel setup")


def downgrade(answer: TunnelSetupResponse, wanted: str, *, has_key: bool) -> Refusal | None:
    """Why a tunnel set up like this is not what its network's protection asks for: a downgrade is refused."""
    if answer.format != wanted:
        return Refusal(f"the anchor offers the format {answer.format}, not {wanted}")
    if wanted != PLAIN.name and (answer.salt is None or not has_key):
        return Refusal(f"the anchor gave no keys for the format {wanted}")
    return None


def read_handover(response: Response) -> tuple[HandoverResult, ...] | Refusal:
    """The answer to a handover request; a refused pair refuses it all."""
    body = _read(response)
    if isinstance(body, Refusal):
        return body
    if not isinstance(body, HandoverResponse) or not body.results:
        return Refusal("not an answer to a handover request")
    for result in body.results:
        if not result.accepted:
            return Refusal(result.reason or "no reason given")
    return body.results


def read_counts(response: Response | None) -> tuple[FlowCount | None, ...]:
    """The answer to a question for counts: none when there was none, or the anchor does not count."""
    body = _read(response) if response is not None else None
    return body.counts if isinstance(body, FlowCountsResponse) else ()


def _read(response: Response) -> object:
    if response.status != 200:
        return Refusal(f"{response.status} {response.reason}", is_disowned=response.status == NO_ASSOCIATION)
    try:
        return decode(response.body)
    except PeerError as reason:
        return Refusal(f"its answer cannot be read: {reason}")


def _number(response: Response, header: str) -> int | None:
    text = (response.header(header) or "").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 10:
        return None
    return min(int(text), _LONGEST)
