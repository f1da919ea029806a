"""What the anchor tells its hosts unasked: by the tunnel that was heard last, and by another when nobody answers.

    going-down      the anchor stops: associate elsewhere, or again
    lease-ended     the association is over: ask for another
    tunnel-unheard  flows are on a tunnel that has fallen silent: see whether it lives

Each names the association that it is about, which only its host and its anchor know, so a late copy means nothing
to the next one. A host answers every copy; the anchor stops at the first answer.
"""

from __future__ import annotations

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
    retry_at: float
    patience: float
    tries: int = 1


@dataclass(slots=True)
class _Silence:
    """A tunnel when it was heard last, and how much had gone out by it until then (packets).

    `patience` grows with each alarm that was false, as of a tunnel that carries downlink only.
    """

    heard: float
    packets_out: int
    told_at: float | None = None
    patience: float = 1.0


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
        self._silences: dict[TunnelId, _Silence] = {}
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
        self._send(_Told(encode(body), key, ends, now + patience, patience), now)
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

        Their hosts are told. Where there are many, `handle_timeout` goes on with it.
        """
        if self._unseen:
            return
        known = self._paft.tunnels
        for id in [id for id in self._silences if id not in known]:
            del self._silences[id]
        self._unseen.extend(known.values())
        self._look_on(now)

    def _look_on(self, now: float) -> None:
        known = self._paft.tunnels
        for _ in range(min(MOST_LOOKS, len(self._unseen))):
            tunnel = self._unseen.popleft()
            if tunnel.id in known:
                self._look(tunnel, now)
        self._look_at = now + LOOK_PAUSE if self._unseen else None

    def _look(self, tunnel: Tunnel, now: float) -> None:
        silence = self._silences.get(tunnel.id)
        if silence is None:
            self._silences[tunnel.id] = _Silence(tunnel.heard, tunnel.packets_out)
        elif silence.heard != tunnel.heard:
            if silence.told_at is not None:
                silence.patience = min(MOST_PATIENCE, 2 * silence.patience)
            silence.heard, silence.packets_out, silence.told_at = tunnel.heard, tunnel.packets_out, None
        elif now - tunnel.heard >= self._unheard_after * silence.patience and self.waiting < MOST_AT_A_TIME:
            self._judge(tunnel, silence, now)

    def _judge(self, tunnel: Tunnel, silence: _Silence, now: float) -> None:
        if silence.told_at is not None and now - silence.told_at < REPEAT_AFTER:
            return
        lease = self._leases.by_address.get(tunnel.owner)
        best = self._tunnels.latest_of(tunnel.owner)
        if lease is None or best is None or now - best.heard >= self._unheard_after:
            return
        if best.heard - tunnel.heard < self._unheard_after:
            # An idle host is heard by each of its tunnels at another time; that says nothing about any of them.
            return
        seconds = now - tunnel.heard
        if tunnel.packets_out > silence.packets_out:
            reason = f"packets for you went there, but nothing was heard from there for {seconds:.0f} s"
        elif seconds >= IDLE_FACTOR * self._unheard_after * silence.patience and self._has_flows(tunnel):
            reason = f"flows are there, but nothing was heard from there for {seconds:.0f} s"
        else:
            return
        silence.told_at = now
        self.tell(lease, "tunnel-unheard", reason, now, silent=tunnel)

    def _has_flows(self, tunnel: Tunnel) -> bool:
        return any(self._paft.tunnel_of(entry) is tunnel for entry in self._paft.flows_owned_by(tunnel.owner))

    # --- answers, and none ---

    def hear(self, event: SipEvent[AnchorPath]) -> None:
        """What the endpoint heard: an answer, whatever it says, is one; a request that timed out was not."""
        if isinstance(event, ResponseReceived):
            self._told.pop(event.transaction, None)
        elif isinstance(event, RequestTimedOut) and (told := self._told.get(event.transaction)) is not None:
            told.retry_at = 0.0

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do (seconds)."""
        retry_at = min((told.retry_at for told in self._told.values()), default=None)
        if retry_at is None or self._look_at is None:
            return self._look_at if retry_at is None else retry_at
        return min(retry_at, self._look_at)

    def handle_timeout(self, now: float) -> None:
        """Try by the next tunnel what was not answered, and look at further tunnels."""
        if self._look_at is not None and now >= self._look_at:
            self._look_on(now)
        for key, told in [(key, told) for key, told in self._told.items() if now >= told.retry_at]:
            del self._told[key]
            self._endpoint.cancel(key)
            if told.tries < TRIES:
                told.tries += 1
                told.retry_at = now + told.patience
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
