"""Between the policy engine and the placement: tells the one what the tunnels do, and the other what to do about it.

Guides only the applications that have a policy; the others go by their list of networks (`selection`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf

from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.mobility.tunnel_states import TunnelState
from upmt_nf.model.flow import FlowBytes
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName
from upmt_nf.policy.engine import Engine
from upmt_nf.policy.events import (
    ClockSet,
    Decision,
    Locked,
    Measured,
    MeteredChanged,
    MoveFailed,
    NetworkChanged,
    NetworksDescribed,
    Placed,
    PolicyEvent,
    PolicySet,
    Released,
    Spent,
    TimePassed,
)
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.quality import NO_LIMITS, UNMEASURED, Quality
from upmt_nf.policy.verdicts import verdict

SHORTEST_INTERVAL = 1.0
"""Seconds between two probes of a tunnel that an application with thresholds uses, at least."""
PATIENT = 5.0
"""Who bears what is bad for so long (seconds) is in no hurry when nothing comes at all."""
COUNT_EVERY = 1.0
"""Seconds between two counts of bytes, while there are budgets."""

PLAIN_LIST = "networks"
"""The name of the policy that stands for a list of networks: of an application without a policy that is locked, and of
all of them where networks have budgets, which hold for every application."""
SIGNALLING = ApplicationName("(signalling)")
"""What the host's own words are spent as; no application can be called that."""


class Advisor:
    """`tunnels` and `paft` are shared with their owners and read only; `paft` tells of the flows that it forgets."""

    def __init__(self, engine: Engine, tunnels: Mapping[NetworkName, HostTunnel], paft: Paft) -> None:
        self.engine = engine
        self._tunnels = tunnels
        self._paft = paft
        self._wishes: dict[ApplicationName, Decision] = {}
        self._told: dict[NetworkName, tuple[bool, bool]] = dict.fromkeys(tunnels, (False, False))
        self._qualities: dict[NetworkName, Quality] = dict.fromkeys(tunnels, UNMEASURED)
        self._counted: dict[FlowBytes, int] = {}
        self._last: dict[ApplicationName, NetworkName] = {}
        """Where it was when its bytes were counted last: a tunnel may be gone before they are."""
        self._ids: dict[ApplicationName, ApplicationId] = {}
        self._count_at: float | None = None
        self._departed: dict[tuple[ApplicationId, NetworkName | None], int] = {}
        """Bytes of flows that were forgotten since the last count, which it would miss."""
        self._signalled: dict[NetworkName, int] = {}
        self._has_budgets = engine.spending.has_network_budgets
        paft.left = self._take_last_bytes

    # --- who is guided ---

    def guides(self, name: ApplicationName) -> bool:
        """Whether an application has a policy."""
        return name in self._ids

    def take_on(self, name: ApplicationName, id: ApplicationId, policy: Policy, now: float) -> None:
        """An application has this policy now."""
        # The first one: it shall choose among all networks, not take the first that it hears of.
        self._look_at_tunnels(now)
        self._ids[name] = id
        if policy.kind is Kind.BLOCK:
            # What its flows carry from now on goes by no network of ours, wherever it was last.
            self.count(now)
            self._last.pop(name, None)
        has_budgets = bool(policy.budgets or any(other.budgets for _, other in policy.by_time))
        if has_budgets or self._has_budgets:
            self._begin_counting(now)
        self.tell(PolicySet(name, policy), now)

    def goes_by_list(self, name: ApplicationName) -> bool:
        """Whether the engine decides for it by nothing but a list of networks."""
        return self.guides(name) and self.engine.applications[name].written.name == PLAIN_LIST

    def reorder(self, name: ApplicationName, order: tuple[NetworkName, ...], now: float) -> None:
        """Its list is in another order now."""
        self.tell(PolicySet(name, replace(self.engine.applications[name].written, networks=order)), now)

    def let_go(self, name: ApplicationName) -> None:
        """It goes by a list of networks now."""
        self._ids.pop(name, None)
        self._wishes.pop(name, None)
        self.engine.forget(name)

    def order(self, name: ApplicationName, now: float) -> list[NetworkName]:
        """The networks on which an application may be now, best first."""
        application = self.engine.applications[name]
        if application.lock is not None:
            wanted: Iterable[NetworkName] = (application.lock,)
        else:
            wanted = application.order
        return [network for network in wanted if self.engine.bar(name, network, now) is None]

    def bar(self, name: ApplicationName, network: NetworkName, now: float) -> str | None:
        """Why its policy or a lock forbids an application this network; None when it may be there."""
        if not self.guides(name):
            return None
        lock = self.engine.applications[name].lock
        if lock not in (None, network):
            return f"it is locked to {lock}"
        return self.engine.bar(name, network, now)

    def verdict(self, name: ApplicationName, network: NetworkName, now: float) -> str | None:
        """Why an application is on a network, or is not; None where a list of networks says it."""
        if self.guides(name) and not self.goes_by_list(name):
            return verdict(self.engine, name, network, now)
        if self.lock_of(name) == network:
            return f"it is locked to {network}"
        reason = self.bar(name, network, now)
        return f"not allowed: {reason}" if reason is not None else None

    def spent_budgets(self, now: float) -> dict[tuple[ApplicationName, NetworkName], str]:
        """Which budgets keep whom from where."""
        return self.engine.spending.spent_budgets(self.engine.applications.values(), now)

    def lock_of(self, name: ApplicationName) -> NetworkName | None:
        """Where a person has locked it to."""
        return self.engine.applications[name].lock if self.guides(name) else None

    def copies_on(self, name: ApplicationName, now: float) -> NetworkName | None:
        """Where the copies of its packets go, if it is redundant and there is such a network."""
        here = self.engine.applications[name].network
        return self._copies_on(name, now, in_doubt=here is not None and self._tunnels[here].silence.is_held)

    def _copies_on(self, name: ApplicationName, now: float, *, in_doubt: bool) -> NetworkName | None:
        is_covered = in_doubt and self._is_covered(self.engine.applications[name].policy)
        for network in self.engine.copies_on(name, now, is_wanted=is_covered):
            tunnel = self._tunnels[network].tunnel
            if self._tunnels[network].is_usable and tunnel is not None and tunnel.takes_copies:
                return network
        return None

    def bears_silence(self, name: ApplicationName, now: float) -> bool:
        """Whether an application loses nothing while its network is silent for `silence.HELD`.

        It is in no hurry by its policy, is locked there, or its packets can go by another network meanwhile.
        """
        if not self.guides(name):
            return False
        application = self.engine.applications[name]
        if application.policy.bad_for >= PATIENT or application.lock is not None:
            return True
        return self._is_covered(application.policy) and self._copies_on(name, now, in_doubt=True) is not None

    @staticmethod
    def _is_covered(policy: Policy) -> bool:
        """Whether it decides by thresholds: then a short silence alone is no reason to move it."""
        return policy.leave != NO_LIMITS

    def is_numbered(self, name: ApplicationName) -> bool:
        """Whether its packets shall be numbered, and the anchor knows what to make of that."""
        if not self.guides(name) or (network := self.engine.applications[name].network) is None:
            return False
        application, here = self.engine.applications[name], self._tunnels[network].tunnel
        policy = application.policy
        is_held = self._tunnels[network].silence.is_held and self._is_covered(policy)
        is_asked = ((policy.is_redundant or is_held) and application.lock is None) or policy.reorder > 0
        return is_asked and here is not None and here.takes_copies

    def reorder_of(self, name: ApplicationName) -> float:
        """How long its packets may wait for those before them (seconds)."""
        return self.engine.applications[name].policy.reorder if self.guides(name) else 0.0

    def policy_of(self, name: ApplicationName) -> Policy | None:
        """Its policy as written."""
        return self.engine.applications[name].written if self.guides(name) else None

    # --- news for the engine ---

    def tell(self, event: PolicyEvent, now: float) -> None:
        """Something happened; what is decided waits until `take_wish`."""
        if isinstance(event, (Placed, MoveFailed, PolicySet, Locked, Released)):
            self._wishes.pop(event.application, None)
        for decision in self.engine.handle(event, now):
            self._wishes[decision.application] = decision

    def set_clock(self, offset: float, now: float) -> None:
        """What to add to `now` to have seconds since 1970-01-01 00:00 local time."""
        self.tell(ClockSet(offset), now)

    def set_metered(self, network: NetworkName, is_metered: bool, now: float) -> bool:
        """Somebody pays for a network by the byte, or nobody does any more; False when that is nothing new."""
        if self.engine.paths[network].facts.is_metered == is_metered:
            return False
        self.tell(MeteredChanged(network, is_metered), now)
        return True

    def describe(self, facts: tuple[NetworkFacts, ...], now: float) -> None:
        """The networks are others as to what policies know of them."""
        self.tell(NetworksDescribed(facts), now)
        if self.engine.spending.has_network_budgets and not self._has_budgets:
            self._begin_counting(now)

    def _begin_counting(self, now: float) -> None:
        if not self._has_budgets:
            self._paft.copied.clear()
        self._has_budgets = True
        self._count_at = now + COUNT_EVERY if self._count_at is None else self._count_at

    def look(self, now: float) -> None:
        """Compare the tunnels with what the engine knows of them; count; let time pass."""
        if not self._ids:
            return
        self._look_at_tunnels(now)
        if self._count_at is not None and now >= self._count_at:
            self.count(now)
            self._count_at = now + COUNT_EVERY
        due = self.engine.next_timeout()
        if due is not None and now >= due:
            self.tell(TimePassed(), now)

    def _look_at_tunnels(self, now: float) -> None:
        for name, tunnel in self._tunnels.items():
            quality = UNMEASURED
            if tunnel.is_usable:
                quality = tunnel.quality.judged(tunnel.measured, tunnel.capacity.limit(now))
            if quality != self._qualities[name]:
                self._qualities[name] = quality
                if tunnel.is_usable:
                    self.tell(Measured(name, quality), now)
            state = (tunnel.is_usable, tunnel.state is TunnelState.SUSPECT)
            if state != self._told[name]:
                self._told[name] = state
                is_fault = tunnel.has_returned
                self.tell(NetworkChanged(name, *state, tunnel.reason, is_fault), now)

    def note_signalling(self, network: NetworkName, size: int) -> None:
        """The host itself has sent or received so many bytes by a network."""
        if self.engine.spending.has_network_budgets:
            self._signalled[network] = self._signalled.get(network, 0) + size

    def count(self, now: float) -> None:
        """What every guided application's flows carried since the last time, by the networks that carry them now."""
        if not self._has_budgets:
            return
        counted: dict[FlowBytes, int] = {}
        departed, self._departed = self._departed, {}
        copied, self._paft.copied = self._paft.copied, {}
        signalled, self._signalled = self._signalled, {}
        for place, size in signalled.items():
            self.tell(Spent(SIGNALLING, place, size), now)
        for name, id in self._ids.items():
            spent: dict[NetworkName, int] = {}
            for (owner, carrier), bytes_left in departed.items():
                if owner == id and (at := carrier or self._last.get(name)) is not None:
                    spent[at] = spent.get(at, 0) + bytes_left
            for (number, other), count in copied.items():
                if number == id:
                    spent[other] = spent.get(other, 0) + count
            for entry in self._paft.flows_of(id):
                total = entry.bytes_in + entry.bytes_out
                counted[entry.key] = total
                tunnel = self._paft.tunnel_of(entry)
                new = total - self._counted.get(entry.key, 0)
                network = tunnel.network if tunnel is not None else self._last.get(name)
                if network is None:
                    # Of an earlier daemon, which the kernel went on with: by which network is known when it has one.
                    counted[entry.key] = self._counted.get(entry.key, 0)
                elif new > 0:
                    spent[network] = spent.get(network, 0) + new
            if (present := self.engine.applications[name].network) is not None:
                self._last[name] = present
            for network, count in spent.items():
                if count <= 0:
                    continue
                self.tell(Spent(name, network, count), now)
        self._counted = counted

    def _take_last_bytes(self, entry: FlowEntry) -> None:
        if not self._has_budgets:
            return
        # Whoever has the key next begins at nothing.
        new = entry.bytes_in + entry.bytes_out - self._counted.pop(entry.key, 0)
        tunnel = self._paft.tunnel_of(entry)
        place = entry.application_id, tunnel.network if tunnel is not None else None
        self._departed[place] = self._departed.get(place, 0) + max(0, new)

    # --- wishes for the placement ---

    def take_wish(self, name: ApplicationName) -> Decision | None:
        """What was decided for an application and not done yet."""
        return self._wishes.pop(name, None)

    def keep_wish(self, decision: Decision) -> None:
        """It cannot be done yet."""
        self._wishes.setdefault(decision.application, decision)

    def urge(self, now: float) -> None:
        """Have tunnels that an application with thresholds uses probed often enough to see them crossed in time.

        Those that it waits for do not rest while it sends; the one that it will go to if its own goes on getting worse
        is probed as often, so that it is warm and known when it is needed.
        """
        hurries = dict.fromkeys(self._tunnels, inf)
        awaited: set[NetworkName] = set()
        for name, application in self.engine.applications.items():
            policy = application.policy
            if application.network is not None and policy.leave != NO_LIMITS:
                hurry = max(SHORTEST_INTERVAL, policy.bad_for / 2)
                hurries[application.network] = min(hurry, hurries[application.network])
                if self._tunnels[application.network].is_used(now):
                    awaited.update(self.engine.awaited(name))
                    if (warm := self.engine.warm(name, now)) is not None:
                        awaited.add(warm)
                        hurries[warm] = min(hurry, hurries[warm])
        for network, tunnel in self._tunnels.items():
            tunnel.hasten(hurries[network], now)
            tunnel.is_awaited = network in awaited

    def next_timeout(self) -> float | None:
        """When `look` should come at the latest (seconds), or None."""
        times = [self.engine.next_timeout(), self._count_at]
        return min((time for time in times if time is not None), default=None)


def new_advisor(settings: HostSettings, tunnels: Mapping[NetworkName, HostTunnel], paft: Paft) -> Advisor:
    """An advisor that knows what the settings say of the networks and of what was spent."""
    known = {facts.name: facts for facts in settings.facts}
    facts = [known.get(name, NetworkFacts(name)) for name in settings.networks]
    return Advisor(Engine(facts, ledger=settings.ledger, count_every=COUNT_EVERY), tunnels, paft)
