"""What the anchor tells its hosts unasked: by the tunnel that was heard last, and by another when nobody answers.

    going-down      the anchor stops: associate elsewhere, or again
    lease-ended     the association is over: ask for another
    tunnel-unheard  flows are on a tunnel that has fallen silent: see whether it lives

Each names the association that it is about, which only its host and its anchor know, so a late copy means nothing
to the next one. A host answers every copy; the anchor stops at the first answer.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.anchor_tunnels import AnchorTunnels
from upmt_nf.mobility.leases import Lease, Leases
from upmt_nf.mobility.notice_proofs import proven
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AnchorNotice
from upmt_nf.signaling.sip.build import message
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.transactions import (
    RequestTimedOut,
    ResponseReceived,
    SipEvent,
    TransactionKey,
)

PATIENCE = 1.0
"""Seconds that a notice is tried by one tunnel; it is resent meanwhile."""
TRIES = 6
"""Tunnels by which a notice is tried, one after the other, in turn."""
IDLE_FACTOR = 2.5
"""How much longer a tunnel may be silent that has flows, but no packets to carry."""
MOST_PATIENCE = 8.0
"""How much later a tunnel is told of that was heard each time a moment after it was."""
ALIVE = 60.0
"""Seconds after which a host that was not heard is told nothing when its lease runs out."""
REPEAT_AFTER = 60.0
"""Seconds until a host is told again of a tunnel that is still silent."""
MOST_LOOKS, LOOK_PAUSE = 2000, 0.05
"""Tunnels that are looked at in one go, some 5 ms, and seconds until the next ones: packets wait meanwhile."""
ANSWERING = 3.0
"""Seconds after a tunnel was heard in which what goes out by it may be the answer, or be counted late."""
_LEAST_SILENCES = 64
MOST_AT_A_TIME = 256
"""Notices of silent tunnels on their way: when a whole network fails, the others follow."""


class AnchorPath(NamedTuple):
    """Where SIP comes from and goes to; inside a tunnel, `remote` is the outer endpoint and `inner` the inner one.

    `by` is which of our tunnel ports (0: the first; outside the tunnels: the signalling port).
    """

    remote: Endpoint
    inner: Endpoint | None = None
    by: int = 0


@dataclass(slots=True)
class _Told:
    """A notice that waits for its answer; `ends` are the ways to the host, the best first.

    `key` is its association's, by which it proves itself; None: there are no proofs here.
    """

    body: bytes
    key: bytes | None
    ends: deque[AnchorPath]
    patience: float
    tries: int = 1
    retry_at: float = 0.0


@dataclass(slots=True)
class _Silence:
    """A tunnel that its host was told of, at `told_at`; it was heard last at `heard` then (seconds).

    `patience` grows with each alarm that was false, as of a tunnel that carries downlink only.
    """

    heard: float = 0.0
    told_at: float | None = None
    patience: float = 1.0

    def end(self, heard: float) -> None:
        """It was heard last at `heard`: an alarm before that was false."""
        if self.told_at is not None and heard != self.heard:
            self.patience = min(MOST_PATIENCE, 2 * self.patience)
            self.told_at = None


class AnchorNotices:
    """Shares the anchor's SIP endpoint and tables. What the endpoint hears comes back by `hear`."""

    def __init__(
        self,
        settings: AnchorSettings,
        paft: Paft,
        leases: Leases,
        tunnels: AnchorTunnels,
        endpoint: SipEndpoint[AnchorPath],
        random: Random,
    ) -> None:
        self._settings = settings
        self._paft = paft
        self._leases = leases
        self._tunnels = tunnels
        self._endpoint = endpoint
        self._random = random
        self._unheard_after = settings.unheard_after
        self._told: dict[TransactionKey, _Told] = {}
        self._retries: list[tuple[float, int, TransactionKey]] = []
        """When each is tried by the next tunnel; some are answered, and some entries are no longer true."""
        self._order = 0
        self._silences: dict[TunnelId, _Silence] = {}
        """Of those that were told of, some of which are over: looked through when they have doubled."""
        self._most_silences = _LEAST_SILENCES
        self._unseen: deque[Tunnel] = deque()
        """What is left of this round of looks, which goes on at `_look_at`."""
        self._look_at: float | None = None

    @property
    def waiting(self) -> int:
        """Notices that were not answered yet."""
        return len(self._told)

    def tell(
        self,
        lease: Lease,
        kind: str,
        reason: str,
        now: float,
        *,
        silent: Tunnel | None = None,
        patience: float = PATIENCE,
    ) -> bool:
        """Tell a host; False: it has no tunnel that may live. `silent` is a tunnel that is spoken of, and not used."""
        tunnels = [tunnel for tunnel in self._tunnels.of(lease.address) if tunnel is not silent]
        tunnels.sort(key=lambda tunnel: tunnel.heard, reverse=True)
        if not tunnels:
            return False
        body = AnchorNotice(kind, reason, lease.token, silent.id if silent is not None else None)
        key = lease.keys.association if lease.keys is not None else None
        inner = Endpoint(lease.address, self._settings.signalling_port)
        ends = deque(AnchorPath(tunnel.remote, inner, tunnel.port) for tunnel in tunnels)
        self._send(_Told(encode(body), key, ends, patience), now)
        return True

    def is_heard(self, lease: Lease, now: float) -> bool:
        """Whether a host was heard lately by any tunnel."""
        best = self._tunnels.latest_of(lease.address)
        return best is not None and now - best.heard < ALIVE

    def tell_all(self, kind: str, reason: str, patience: float, now: float) -> None:
        """Tell every host, each by all its tunnels in turn within `patience` (seconds)."""
        for lease in self._leases.by_identity.values():
            tunnels = len(self._tunnels.of(lease.address))
            self.tell(lease, kind, reason, now, patience=patience / max(1, tunnels))

    def watch(self, now: float) -> None:
        """Begin a round of looks for tunnels that have fallen silent while they have something to carry.

        Their hosts are told. A host can be told, and its silence means something, only when another tunnel of it was
        heard, so those that were not heard since the last round cost nothing, however many. Where there are many
        others, `handle_timeout` goes on with it.
        """
        if self._unseen:
            return
        if len(self._silences) > self._most_silences:
            known = self._paft.tunnels
            self._silences = {id: silence for id, silence in self._silences.items() if id in known}
            self._most_silences = _LEAST_SILENCES + 2 * len(self._silences)
        self._unseen.extend(self._paft.heard_lately(now))
        self._look_on(now)

    def _look_on(self, now: float) -> None:
        for _ in range(min(MOST_LOOKS, len(self._unseen))):
            self._look(self._unseen.popleft(), now)
        self._look_at = now + LOOK_PAUSE if self._unseen else None

    def _look(self, heard: Tunnel, now: float) -> None:
        """Something came out of this tunnel, but out of its host's others?"""
        if self._silences and (silence := self._silences.get(heard.id)) is not None:
            silence.end(heard.heard)
        tunnels = self._tunnels.of(heard.owner)
        if len(tunnels) < 2 or now - heard.heard >= self._unheard_after:
            return
        for tunnel in tunnels:
            # An idle host is heard by each of its tunnels at another time; that says nothing about any of them.
            if heard.heard - tunnel.heard >= self._unheard_after and self.waiting < MOST_AT_A_TIME:
                self._judge(tunnel, now)

    def _judge(self, tunnel: Tunnel, now: float) -> None:
        silence, seconds, patience = self._silences.get(tunnel.id), now - tunnel.heard, self._unheard_after
        if silence is not None:
            silence.end(tunnel.heard)
            if silence.told_at is not None and now - silence.told_at < REPEAT_AFTER:
                return
            patience *= silence.patience
        lease = self._leases.by_address.get(tunnel.owner)
        if lease is None or seconds < patience:
            return
        if tunnel.used - tunnel.heard > ANSWERING:
            reason = f"packets for you went there, but nothing was heard from there for {seconds:.0f} s"
        elif seconds >= IDLE_FACTOR * patience and self._has_flows(tunnel):
            reason = f"flows are there, but nothing was heard from there for {seconds:.0f} s"
        else:
            return
        if silence is None:
            silence = self._silences[tunnel.id] = _Silence()
        silence.told_at, silence.heard = now, tunnel.heard
        self.tell(lease, "tunnel-unheard", reason, now, silent=tunnel)

    def _has_flows(self, tunnel: Tunnel) -> bool:
        return any(self._paft.tunnel_of(entry) is tunnel for entry in self._paft.flows_owned_by(tunnel.owner))

    # --- answers, and none ---

    def hear(self, event: SipEvent[AnchorPath]) -> None:
        """What the endpoint heard: an answer, whatever it says, is one; a request that timed out was not."""
        if isinstance(event, ResponseReceived):
            self._told.pop(event.transaction, None)
        elif isinstance(event, RequestTimedOut) and (told := self._told.get(event.transaction)) is not None:
            self._retry(event.transaction, told, 0.0)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do (seconds)."""
        while self._retries and self._retrying(self._retries[0]) is None:
            heapq.heappop(self._retries)
        retry_at = self._retries[0][0] if self._retries else None
        if retry_at is None or self._look_at is None:
            return self._look_at if retry_at is None else retry_at
        return min(retry_at, self._look_at)

    def handle_timeout(self, now: float) -> None:
        """Try by the next tunnel what was not answered, and look at further tunnels."""
        if self._look_at is not None and now >= self._look_at:
            self._look_on(now)
        while self._retries and self._retries[0][0] <= now:
            entry = heapq.heappop(self._retries)
            if (told := self._retrying(entry)) is None:
                continue
            del self._told[entry[2]]
            self._endpoint.cancel(entry[2])
            if told.tries < TRIES:
                told.tries += 1
                told.ends.rotate(-1)
                self._send(told, now)

    def _send(self, told: _Told, now: float) -> None:
        path = told.ends[0]
        assert path.inner is not None
        request = message(
            anchor=path.inner,
            local=Endpoint(self._settings.address, self._settings.signalling_port),
            identity="anchor@upmt",
            call_id=f"{self._random.getrandbits(64):016x}",
            cseq=1,
            tag=f"{self._random.getrandbits(64):016x}",
            body=told.body,
        )
        if told.key is not None:
            request = proven(request, told.key)
        key = self._endpoint.send_request(request, path, now)
        self._told[key] = told
        self._retry(key, told, now + told.patience)

    def _retry(self, key: TransactionKey, told: _Told, when: float) -> None:
        self._order += 1
        told.retry_at = when
        heapq.heappush(self._retries, (when, self._order, key))

    def _retrying(self, entry: tuple[float, int, TransactionKey]) -> _Told | None:
        """The notice that an entry stands for; None when it was answered, or is tried at another time."""
        told = self._told.get(entry[2])
        return told if told is not None and told.retry_at == entry[0] else None
