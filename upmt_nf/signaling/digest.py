"""SIP Digest with SHA-256 (RFC 7616, RFC 8760, RFC 3261 section 22), both ends, sans-IO. MD5 only where asked for.

The anchor's nonces are stateless (a time and a MAC), so a challenge to a stranger costs no memory; a nonce's counts are
remembered from its first proven use. `auth-int` also covers the body, and the anchor proves itself by `rspauth`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.sip.message import Header, Request, Response

ALGORITHM, MD5 = "SHA-256", "MD5"
_FUNCTIONS = {ALGORITHM: hashlib.sha256, MD5: hashlib.md5}
"""Strongest first: a client takes the first challenge that it can meet (RFC 8760 section 2.4)."""
REALM = "upmt"
"""Of every anchor: a secret is shared with one anchor or with several that stand for each other."""
NONCE_LIFETIME = 7200.0
"""Seconds; longer than the refresh interval of an association, so that a refresh costs one round trip."""
_WINDOW = 256
"""Counts below the highest that may still come: messages in two tunnels overtake each other."""
_MAX_NONCES = 8
"""Nonces in use that are remembered of one identity: its networks, each challenged on its own."""
_MAX_HEADER = 2048
_NONCE_HEAD, _NONCE_MAC, _PLACE_MAC = 12, 8, 4
"""Bytes of a nonce: the time in milliseconds and what makes it unique; what shows that it is ours; what shows where it
was sent. No more than that: a challenge may not be larger than a short request."""
_USUAL_NONCE = 32
"""Characters of the nonces that our anchors make."""
_NONCE_PARAMETER, _NAME_PARAMETER = b' nonce="', b'username="'
_BOUND = "u1-"
"""How a client nonce begins that ends with the digest of `_BOUND_HEADERS`."""
_BOUND_HEADERS = ("to", "call-id", "cseq", "expires", "vipaddr")
"""What the anchor acts on outside of the body. RFC 7616 covers none of it, but it covers the client nonce."""
_PARAMETER = re.compile(r'\s*([A-Za-z-]{1,32})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))\s*(?:,|\Z)')
_ESCAPED = re.compile(r"\\(.)")
_COUNT = re.compile(r"[0-9a-fA-F]{8}")


def secret_hash(identity: str, realm: str, secret: str, algorithm: str = ALGORITHM) -> str:
    """HA1, all that the anchor keeps of a secret (RFC 7616 section 3.4.2)."""
    return _hash(f"{identity}:{realm}:{secret}", algorithm)


def parse_digest(value: str) -> dict[str, str]:
    """The parameters of a Digest header, names in lower case. Raises PeerError."""
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() != "digest" or len(value) > _MAX_HEADER:
        raise PeerError("not a Digest header")
    return _parameters(rest)


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    place = 0
    while place < len(text):
        matched = _PARAMETER.match(text, place)
        if matched is None or matched.end() == place:
            raise PeerError("a Digest header is malformed")
        name = matched[1].lower()
        if name in found:
            raise PeerError(f"a Digest header says {name} twice")
        quoted, plain = matched[2], matched[3]
        found[name] = plain if quoted is None else _ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted
        place = matched.end()
    return found


@dataclass(frozen=True, slots=True)
class Ticket:
    """One proven use of a nonce: what the answer's proof is made of."""

    identity: str
    hash: str
    nonce: str
    count: str
    client_nonce: str
    qop: str
    uri: str
    algorithm: str = ALGORITHM
    made_at: float = 0.0
    """When the anchor made the nonce (seconds); the host does not know."""
    is_here: bool = False
    """The nonce was sent to where the request came from: whoever sent it does get what is sent there."""

    def proof(self, method: str, body: bytes) -> str:
        """`response`, or with an empty method `rspauth` (RFC 7616 sections 3.4.1 and 3.5)."""
        text = f"{method}:{self.uri}"
        if self.qop == "auth-int":
            text += f":{_hash(body, self.algorithm)}"
        secured = f"{self.nonce}:{self.count}:{self.client_nonce}:{self.qop}:{_hash(text, self.algorithm)}"
        return _hash(f"{self.hash}:{secured}", self.algorithm)


@dataclass(frozen=True, slots=True)
class Unproven:
    """The request proves nothing: answer with `status` and `headers`."""

    status: int
    reason: str
    headers: tuple[Header, ...] = ()


@dataclass(slots=True)
class _Counts:
    """Which counts of an identity's nonce were used: the highest, and a bitmap of those below it."""

    nonce: bytes
    made_at: float
    highest: int = 0
    seen: int = 0

    def use(self, count: int) -> bool:
        """False when it was used before, or is too old to tell."""
        if count > self.highest:
            # A count may jump by 2**32: never shift by what somebody else says.
            shift = count - self.highest
            self.seen = (self.seen << shift | 1) & ((1 << _WINDOW) - 1) if shift < _WINDOW else 1
            self.highest = count
            return True
        age = self.highest - count
        if age >= _WINDOW or self.seen >> age & 1:
            return False
        self.seen |= 1 << age
        return True


@dataclass(slots=True)
class _Uses:
    """The nonces that one identity uses. Unknown ones from `forgotten` or before may have been used and forgotten."""

    forgotten: float = -math.inf
    counts: list[_Counts] = field(default_factory=list)

    def knows(self, nonce: bytes) -> bool:
        return any(counts.nonce == nonce for counts in self.counts)

    def of(self, nonce: bytes, made_at: float, most: int) -> _Counts | None:
        """A nonce's counts; None when it may have been forgotten."""
        for counts in self.counts:
            if counts.nonce == nonce:
                return counts
        if made_at <= self.forgotten:
            return None
        counts = _Counts(nonce, made_at)
        self.counts.append(counts)
        if len(self.counts) > most:
            oldest = min(self.counts, key=lambda kept: kept.made_at)
            self.counts.remove(oldest)
            self.forgotten = oldest.made_at
        return counts


class DigestServer:
    """Asks for proofs and checks them. `key` is secret and random; `token` gives 8 fresh random bytes a call.

    `hash_of` gives an identity's HA1 or None. At most `max_nonces` nonces in use are remembered of each identity that
    has proven itself, so that no host costs another anything; older ones are stale.
    `algorithms` are those that hosts may use; `md5_hash_of` is `hash_of` for MD5, which is for testing only.
    """

    def __init__(
        self,
        realm: str,
        key: bytes,
        hash_of: Callable[[str], str | None],
        token: Callable[[], bytes],
        *,
        max_nonces: int = _MAX_NONCES,
        algorithms: Collection[str] = (ALGORITHM,),
        md5_hash_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._realm = realm
        self._key = key
        finders = {ALGORITHM: hash_of, MD5: md5_hash_of}
        self._hash_of = {name: finders[name] for name in _FUNCTIONS if name in algorithms}
        self._token = token
        self._max_nonces = max_nonces
        self._uses: dict[str, _Uses] = {}

    def challenge(self, now: float, place: bytes = b"", *, is_stale: bool = False) -> Unproven:
        """401 with a fresh nonce, one challenge an algorithm. `place`: the packed address that it goes to."""
        return self._ask(self._nonce(now, place), is_stale=is_stale)

    def challenge_there(self, ticket: Ticket, now: float, place: bytes) -> Unproven:
        """401 for one who has proven itself, but not that it hears at `place`.

        The nonce is known as this identity's before it is used, so that no flood of strangers keeps its answer out.
        """
        nonce = self._nonce(now, place)
        self._remember(ticket.identity, nonce)
        return self._ask(nonce, is_stale=True)

    def _ask(self, nonce: str, *, is_stale: bool) -> Unproven:
        end = ",stale=true" if is_stale else ""
        asked = f'Digest realm="{self._realm}",qop="auth-int,auth"'
        headers = tuple(
            ("WWW-Authenticate", f'{asked},algorithm={name},nonce="{nonce}"{end}') for name in self._hash_of
        )
        return Unproven(401, "Unauthorized", headers)

    def check(self, request: Request, now: float, place: bytes = b"") -> Ticket | Unproven:
        """Whose request it is, or what to answer. A count is used up by the first request that proves itself.

        `place`: the packed address that the request came from.
        """
        try:
            given = self._credentials(request)
        except PeerError as reason:
            return Unproven(400, str(reason))
        if given is None:
            return self.challenge(now, place)
        made_at = self._time_of(given.get("nonce", ""))
        if made_at is None or not now - NONCE_LIFETIME <= made_at <= now:
            return self.challenge(now, place, is_stale=True)
        qop, count = given.get("qop", ""), given.get("nc", "")
        if qop not in ("auth", "auth-int") or not _COUNT.fullmatch(count):
            return Unproven(400, "the Digest lacks qop or nc")
        if given.get("uri") != request.uri:
            return Unproven(400, "the Digest is for another URI")
        identity = given.get("username", "")
        # An unknown identity takes as long as a known one, and is told the same.
        algorithm = _algorithm(given)
        known = self._hash_of[algorithm](identity)
        ticket = Ticket(
            identity,
            known or "0" * 64,
            given["nonce"],
            count,
            given.get("cnonce", ""),
            qop,
            request.uri,
            algorithm,
            made_at,
            given["nonce"] == self._text(_head_of(given["nonce"]), place),
        )
        proof = ticket.proof(request.method, request.body)
        if not _is_same(proof, given.get("response", "")) or not known:
            return Unproven(403, "Forbidden")
        if ticket.client_nonce.startswith(_BOUND) and not ticket.client_nonce.endswith(_bound(request)):
            return Unproven(403, "Forbidden")
        if not self._use(identity, given["nonce"], int(count, 16), made_at):
            return self.challenge(now, place, is_stale=True)
        return ticket

    def _credentials(self, request: Request) -> dict[str, str] | None:
        """The first that are for us, in an algorithm that we take; others are for others (RFC 3261 section 22.3)."""
        for value in request.all("authorization"):
            # One of another scheme is as good as none (RFC 4475 section 3.3.7).
            if not _is_digest(value):
                continue
            given = parse_digest(value)
            if given.get("realm") == self._realm and _algorithm(given) in self._hash_of:
                return given
        return None

    def info(self, ticket: Ticket, body: bytes, now: float, place: bytes = b"") -> Header:
        """The anchor's own proof, for an answer with this body to `place`; with the next nonce when this one ages."""
        proof = ticket.proof("", body)
        value = f'qop={ticket.qop}, rspauth="{proof}", cnonce="{ticket.client_nonce}", nc={ticket.count}'
        if now - _seconds_in(_head_of(ticket.nonce)) > NONCE_LIFETIME / 4:
            value += f', nextnonce="{self._next_nonce(ticket.identity, now, place)}"'
        return ("Authentication-Info", value)

    def identity_in(self, data: bytes) -> str | None:
        """Who has proven the nonce that a datagram mentions: cheap, before it is parsed, and itself no proof."""
        identity = _quoted(data, _NAME_PARAMETER)
        uses = self._uses.get(identity) if identity is not None else None
        nonce = _quoted(data, _NONCE_PARAMETER) if uses is not None else None
        if uses is None or nonce is None:
            return None
        try:
            return identity if uses.knows(_head_of(nonce)) else None
        except ValueError:
            return None

    def _next_nonce(self, identity: str, now: float, place: bytes) -> str:
        """One for all answers of a while, known as this identity's before it is used."""
        uses = self._uses.setdefault(identity, _Uses())
        newest = max(uses.counts, key=lambda kept: kept.made_at, default=None)
        if newest is not None and now - newest.made_at <= NONCE_LIFETIME / 4:
            return self._text(newest.nonce, place)
        nonce = self._nonce(now, place)
        self._remember(identity, nonce)
        return nonce

    def _remember(self, identity: str, nonce: str) -> None:
        head = _head_of(nonce)
        self._uses.setdefault(identity, _Uses()).of(head, _seconds_in(head), self._max_nonces)

    def _nonce(self, now: float, place: bytes) -> str:
        # Six random bytes a millisecond are enough.
        return self._text(int(now * 1000).to_bytes(6, "big") + self._token()[2:], place)

    def _text(self, head: bytes, place: bytes) -> str:
        here = hmac.digest(self._key, b"to " + head + place, "sha256")[:_PLACE_MAC]
        return base64.urlsafe_b64encode(head + self._mac(head) + here).decode()

    def _mac(self, head: bytes) -> bytes:
        return hmac.digest(self._key, head, "sha256")[:_NONCE_MAC]

    def _time_of(self, nonce: str) -> float | None:
        """When we made a nonce (seconds); None when we did not."""
        try:
            raw = base64.b64decode(nonce.encode("ascii"), altchars=b"-_", validate=True)
        except ValueError:
            return None
        head, mac = raw[:_NONCE_HEAD], raw[_NONCE_HEAD:-_PLACE_MAC]
        if len(raw) != _NONCE_HEAD + _NONCE_MAC + _PLACE_MAC or not hmac.compare_digest(mac, self._mac(head)):
            return None
        return _seconds_in(head)

    def _use(self, identity: str, nonce: str, count: int, made_at: float) -> bool:
        uses = self._uses.get(identity)
        if uses is None:
            uses = self._uses[identity] = _Uses()
        counts = uses.of(_head_of(nonce), made_at, self._max_nonces)
        return counts is not None and count > 0 and counts.use(count)


class DigestClient:
    """Proves who we are and checks the anchor's proof. `token` gives a new unguessable word a call.

    `qop` is what it insists on: `auth-int` covers the body, `auth` does not and is for registrars that are no anchors.
    """

    def __init__(
        self, identity: str, secret: str, token: Callable[[], str], *, qop: str = "auth-int"
    ) -> None:
        self._identity = identity
        self._secret = secret
        self._token = token
        self._qop = qop
        self._realm: str | None = None
        self._hash = ""
        self._nonce: str | None = None
        self._count = 0

    def sign(self, request: Request) -> tuple[Request, Ticket | None]:
        """The request with its proof, once there was a challenge; any older proof in it is replaced."""
        headers = tuple(header for header in request.headers if header[0] != "Authorization")
        if self._nonce is None:
            return replace(request, headers=headers), None
        self._count += 1
        ticket = Ticket(
            self._identity,
            self._hash,
            self._nonce,
            f"{self._count:08x}",
            self._client_nonce(request),
            self._qop,
            request.uri,
        )
        proof = ticket.proof(request.method, request.body)
        return replace(request, headers=(*headers, self._header(ticket, proof))), ticket

    def with_space(self, request: Request) -> Request:
        """The request as long as it will be with its proof, also before the first challenge; proves nothing."""
        nonce = self._nonce or " " * _USUAL_NONCE
        ticket = Ticket(
            self._identity, "", nonce, " " * 8, self._client_nonce(request), self._qop, request.uri
        )
        return replace(request, headers=(*request.headers, self._header(ticket, " " * 64)))

    def _client_nonce(self, request: Request) -> str:
        return f"{_BOUND}{self._token()}-{_bound(request)}"

    def _header(self, ticket: Ticket, proof: str) -> Header:
        value = (
            f'Digest username="{self._identity}", realm="{self._realm or REALM}", nonce="{ticket.nonce}", '
            f'uri="{ticket.uri}", response="{proof}", algorithm={ALGORITHM}, '
            f'cnonce="{ticket.client_nonce}", qop={ticket.qop}, nc={ticket.count}'
        )
        return ("Authorization", value)

    def take_challenge(self, response: Response, used: Ticket | None) -> str | None:
        """Learn the nonce of a 401; gives why another try makes no sense, or None when it does."""
        try:
            values = [value for value in response.all("www-authenticate") if _is_digest(value)]
            offers = [parse_digest(value) for value in values]
        except PeerError as reason:
            return str(reason)
        # A weaker algorithm or no integrity for the body would be a downgrade: better no association.
        asked = next((offer for offer in offers if _is_good_enough(offer, self._qop)), None)
        if asked is None:
            return f"the anchor offers no Digest with SHA-256 and {self._qop}"
        realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
        if not nonce or '"' in realm + nonce or "\\" in realm + nonce:
            return "the anchor's challenge is malformed"
        is_stale = asked.get("stale", "").lower() == "true"
        if used is not None and not is_stale and realm == self._realm:
            self._nonce = None
            return "the anchor does not accept our secret"
        if realm != self._realm:
            self._realm, self._hash = realm, secret_hash(self._identity, realm, self._secret)
        if nonce != self._nonce:
            self._nonce, self._count = nonce, 0
        return None

    def proves_itself(self, ticket: Ticket, response: Response) -> bool:
        """Whether an answer is of one who knows our secret, and its body as it was sent.

        The proof does not cover the status, but refusals have no body and what grants something has one.
        """
        if response.status >= 300 and response.body:
            return False
        try:
            info = _parameters(response.header("authentication-info") or "")
        except PeerError:
            return False
        same = (info.get("cnonce"), info.get("nc"), info.get("qop")) == (
            ticket.client_nonce,
            ticket.count,
            ticket.qop,
        )
        proof = ticket.proof("", response.body)
        if not same or not _is_same(proof, info.get("rspauth", "")):
            return False
        nonce = info.get("nextnonce", "")
        if nonce and nonce != self._nonce and '"' not in nonce and "\\" not in nonce:
            self._nonce, self._count = nonce, 0
        return True


def _head_of(nonce: str) -> bytes:
    """Its time and random part. Raises ValueError."""
    return base64.urlsafe_b64decode(nonce)[:_NONCE_HEAD]


def _seconds_in(head: bytes) -> float:
    return int.from_bytes(head[:6], "big") / 1000


def _quoted(data: bytes, name: bytes) -> str | None:
    """The value of a quoted parameter, found without parsing."""
    start = data.find(name) + len(name)
    end = data.find(b'"', start, start + _MAX_HEADER)
    return data[start:end].decode("utf-8", "surrogateescape") if start >= len(name) and end >= 0 else None


def _is_same(proof: str, given: str) -> bool:
    """In constant time, whatever bytes a stranger gives."""
    return hmac.compare_digest(proof.encode(), given.lower().encode("utf-8", "surrogateescape"))


def _algorithm(given: dict[str, str]) -> str:
    """RFC 7616 section 3.4: MD5 when nothing is said."""
    return given.get("algorithm", MD5).upper()


def _is_digest(value: str) -> bool:
    return value.strip().partition(" ")[0].lower() == "digest"


def _is_good_enough(offer: dict[str, str], qop: str) -> bool:
    offered = [word.strip() for word in offer.get("qop", "").split(",")]
    return _algorithm(offer) == ALGORITHM and qop in offered


def _bound(request: Request) -> str:
    """The digest of the headers that a proof of ours covers besides the body, 96 bits in hex."""
    return _hash("\n".join((request.header(name) or "").strip() for name in _BOUND_HEADERS))[:24]


def _hash(data: str | bytes, algorithm: str = ALGORITHM) -> str:
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return _FUNCTIONS[algorithm](raw).hexdigest()
