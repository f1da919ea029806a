"""Which signalling the anchor hears at all, decided before it is parsed: known hosts first, strangers within limits.

Every association has buckets of its own. Strangers share one for each address (/32, /64), one for each network
(/24, /48) and one for all together, in tables of a fixed size. What is over the limit is counted and not answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from upmt_nf.datapath.buckets import Bucket, BucketTable
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.outer import EndpointBytes
from upmt_nf.model.identity import TerminalId

_ENDPOINTS = 8
"""Of one host, where its SIP came from: one for each of its networks and those that it just left."""


@dataclass(frozen=True, slots=True)
class SourceRates:
    """Datagrams of signalling a second."""

    strangers: float = 1000.0
    """Of all who have no association together; as many at once."""
    source: float = 20.0
    """Of one address without an association; three times as many at once, and five times as many a network."""
    host: float = 400.0
    """Of one association; five times as many at once."""
    flows: float = 20_000.0
    """That one association's handover requests may make the anchor look at; ten times as many at once."""


class _Host:
    """An association's buckets: by proof, which nobody can spend but itself, and by where it was last."""

    __slots__ = ("by_address", "by_proof", "endpoints", "flows")

    def __init__(self, rates: SourceRates) -> None:
        self.by_proof = Bucket(rates.host, 5 * rates.host)
        self.by_address = Bucket(rates.host, 5 * rates.host)
        self.flows = Bucket(rates.flows, 10 * rates.flows)
        self.endpoints: list[EndpointBytes] = []


class SourceLimits:
    """The buckets. `identity_of` gives who proved the nonce that a datagram mentions, without parsing it."""

    def __init__(
        self,
        rates: SourceRates,
        counters: Counters,
        salt: bytes,
        identity_of: Callable[[bytes], str | None] = lambda _: None,
    ) -> None:
        self._rates = rates
        self._counters = counters
        self._identity_of = identity_of
        self._hosts: dict[TerminalId, _Host] = {}
        self._by_endpoint: dict[EndpointBytes, _Host] = {}
        self._strangers = Bucket(rates.strangers, rates.strangers)
        self._sources = BucketTable(rates.source, 3 * rates.source, salt)
        self._networks = BucketTable(5 * rates.source, 15 * rates.source, salt)

    def admits(self, remote: EndpointBytes, data: bytes, now: float, owner: TerminalId | None = None) -> bool:
        """Whether to hear a datagram of SIP; if so it is taken off its sender's budget. `now` in seconds.

        `remote` is its outer source; `owner` the host whose tunnel it came by.
        """
        return self._judge(remote, data, now, owner, spend=True)

    def is_hopeless(self, remote: EndpointBytes, data: bytes, now: float) -> bool:
        """Whether `admits` would refuse it. Spends nothing: for an early, cheap drop (which is counted)."""
        return not self._judge(remote, data, now, None, spend=False)

    def may_look_at(self, identity: TerminalId, flows: int, now: float) -> bool:
        """Whether a host's handover may concern so many flows now; if so they are taken off its budget.

        One that has budget left may overdraw it once: a host can always move all that it has.
        """
        host = self._hosts.get(identity)
        if host is None or not host.flows.has(now):
            self._counters.add("too_many_flows_at_once")
            return False
        host.flows.take(now, flows)
        return True

    def know(self, identity: TerminalId, remote: EndpointBytes) -> None:
        """This host holds an association and was heard from there."""
        host = self._hosts.get(identity)
        if host is None:
            host = self._hosts[identity] = _Host(self._rates)
        if self._by_endpoint.get(remote) is host:
            return
        host.endpoints.append(remote)
        self._by_endpoint[remote] = host
        if len(host.endpoints) > _ENDPOINTS:
            self._leave(host, host.endpoints.pop(0))

    def forget(self, identity: TerminalId) -> None:
        """Its association is over: it is a stranger again."""
        host = self._hosts.pop(identity, None)
        for remote in host.endpoints if host is not None else ():
            if host is not None:
                self._leave(host, remote)

    def _leave(self, host: _Host, remote: EndpointBytes) -> None:
        # A NAT may have given it to another host since.
        if self._by_endpoint.get(remote) is host:
            del self._by_endpoint[remote]

    def _judge(
        self, remote: EndpointBytes, data: bytes, now: float, owner: TerminalId | None, *, spend: bool
    ) -> bool:
        if (proven := self._identity_of(data)) is not None:
            host = self._hosts.get(TerminalId(proven))
            if host is not None:
                return self._within(host.by_proof, now, spend)
        host = self._hosts.get(owner) if owner is not None else self._by_endpoint.get(remote)
        if host is not None and host.by_address.has(now):
            return self._within(host.by_address, now, spend)
        return self._judge_stranger(remote, now, spend)

    def _within(self, bucket: Bucket, now: float, spend: bool) -> bool:
        if not bucket.has(now):
            self._counters.add("host_over_limit")
            return False
        if spend:
            bucket.take(now)
        return True

    def _judge_stranger(self, remote: EndpointBytes, now: float, spend: bool) -> bool:
        # The cheapest first: in a flood this is where most end.
        if not self._strangers.has(now):
            self._counters.add("strangers_over_limit")
            return False
        address, network = (4, 3) if len(remote) == 6 else (8, 6)
        source = self._sources.place(remote[:address])
        around = self._networks.place(remote[:network])
        if not (self._sources.has(source, now) and self._networks.has(around, now)):
            self._counters.add("source_over_limit")
            return False
        if spend:
            self._strangers.take(now)
            self._sources.take(source, now)
            self._networks.take(around, now)
        return True
