"""Virtual addresses: none given twice, refreshes keep them, hosts get theirs again; under any sequence of requests."""

import itertools
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from upmt_nf.config.values import AddressPool
from upmt_nf.mobility.leases import Lease, LeaseAsked, LeaseGiven, LeaseRefused, Leases
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import TerminalId

ANCHOR = ip_address("10.0.0.1")
FIRST, SECOND, THIRD = ip_address("10.0.0.2"), ip_address("10.0.0.3"), ip_address("10.0.0.4")
ANNA, BERT, CARL, DORA = (TerminalId(f"{name}@upmt") for name in ("anna", "bert", "carl", "dora"))


def leases(
    last: str = "10.0.0.4", remembered: dict[TerminalId, IPAddress] | None = None, **settings: Any
) -> Leases:
    """Three addresses beside the anchor's own, which is in the pool by mistake."""
    tokens = itertools.count(1)
    pool = AddressPool(ANCHOR, ip_address(last))
    return Leases(AnchorSettings(ANCHOR, pool, **settings), lambda: f"token{next(tokens)}", remembered)


def asked(
    identity: TerminalId,
    cseq: int = 1,
    *,
    call: str = "call",
    expires: int = 100,
    wanted: IPAddress | None = None,
) -> LeaseAsked:
    return LeaseAsked(identity, f"{call}-{identity}", cseq, expires, wanted)


def given_to(table: Leases, request: LeaseAsked, now: float = 0.0) -> Lease:
    answer = table.ask(request, now)
    assert isinstance(answer, LeaseGiven), answer
    return answer.lease


def refusal(table: Leases, request: LeaseAsked, now: float = 0.0) -> LeaseRefused:
    answer = table.ask(request, now)
    assert isinstance(answer, LeaseRefused), answer
    return answer


def test_addresses_are_given_in_order_and_never_the_anchors_own() -> None:
    table = leases()
    assert [given_to(table, asked(name)).address for name in (ANNA, BERT, CARL)] == [FIRST, SECOND, THIRD]


def test_a_refresh_keeps_address_and_token_and_prolongs() -> None:
    table = leases()
    before = given_to(table, asked(ANNA))
    address, token = before.address, before.token
    answer = table.ask(asked(ANNA, 2), 50.0)
    assert isinstance(answer, LeaseGiven)
    assert not answer.is_new
    assert not answer.has_restarted
    assert (answer.lease.address, answer.lease.token, answer.lease.expires_at) == (address, token, 150.0)
    assert table.expire(149.9) == []
    assert [lease.identity for lease in table.expire(150.0)] == [ANNA]


def test_a_refresh_that_wants_another_address_does_not_get_it() -> None:
    table = leases()
    assert given_to(table, asked(ANNA)).address == FIRST
    assert given_to(table, asked(ANNA, 2, wanted=THIRD)).address == FIRST


def test_a_late_refresh_does_not_shorten_the_lease() -> None:
    table = leases()
    given_to(table, asked(ANNA, 5, expires=100), 10.0)
    assert given_to(table, asked(ANNA, 4, expires=20), 11.0).expires_at == 110.0
    assert given_to(table, asked(ANNA, 6, expires=20), 12.0).expires_at == 32.0
    assert table.next_expiry() == 32.0


def test_a_restarted_host_keeps_its_address_and_gets_another_token() -> None:
    table = leases()
    token = given_to(table, asked(ANNA)).token
    answer = table.ask(asked(ANNA, call="second life"), 1.0)
    assert isinstance(answer, LeaseGiven)
    assert answer.has_restarted
    assert answer.lease.address == FIRST
    assert answer.lease.token != token
    assert list(table.by_token) == [answer.lease.token]


def test_a_host_that_comes_back_gets_its_address_again_though_lower_ones_are_free() -> None:
    table = leases()
    for name in (ANNA, BERT):
        given_to(table, asked(name))
        table.release(asked(name, 2, expires=0))
    assert given_to(table, asked(CARL)).address == THIRD
    assert given_to(table, asked(BERT, 3)).address == SECOND
    assert given_to(table, asked(ANNA, 3)).address == FIRST


def test_addresses_of_before_the_restart_of_the_anchor_are_remembered_and_kept_free() -> None:
    table = leases(remembered={BERT: FIRST, CARL: ip_address("10.9.9.9")})
    assert given_to(table, asked(ANNA)).address == SECOND
    assert given_to(table, asked(CARL)).address == THIRD, (
        "an address outside the pool is no longer ours to give"
    )
    assert given_to(table, asked(BERT)).address == FIRST


def test_a_short_pool_takes_the_address_that_was_left_longest_ago() -> None:
    table = leases()
    for name in (ANNA, BERT, CARL):
        given_to(table, asked(name))
    table.release(asked(BERT, 2, expires=0))
    table.release(asked(ANNA, 2, expires=0))
    assert given_to(table, asked(DORA)).address == SECOND
    assert given_to(table, asked(ANNA, 3)).address == FIRST
    assert refusal(table, asked(BERT, 3)).status == 503


def test_an_exhausted_pool_refuses_and_says_when_to_come_back() -> None:
    table = leases("10.0.0.2")
    given_to(table, asked(ANNA))
    refused = refusal(table, asked(BERT))
    assert (refused.status, refused.retry_after) == (503, 30)
    assert given_to(table, asked(ANNA, 2)).address == FIRST
    table.expire(100.0)
    assert given_to(table, asked(BERT, 2), 100.0).address == FIRST


def test_no_more_hosts_than_allowed() -> None:
    table = leases(max_associations=1)
    given_to(table, asked(ANNA))
    assert refusal(table, asked(BERT)).status == 503
    assert given_to(table, asked(ANNA, 2)).address == FIRST


def test_hosts_that_are_forgotten_leave_their_addresses_to_others() -> None:
    table = leases("10.0.0.8", max_associations=1)
    names = [TerminalId(f"host{number}@upmt") for number in range(20)]
    for name in names:
        given_to(table, asked(name))
        table.release(asked(name, 2, expires=0))
    assert given_to(table, asked(names[-1], 3)).address in table.by_address
    assert len(table.by_address) == 1


def test_a_wanted_address_is_given_when_it_is_free_and_ours() -> None:
    table = leases(remembered={DORA: SECOND})
    assert given_to(table, asked(ANNA, wanted=THIRD)).address == THIRD
    assert given_to(table, asked(BERT, wanted=THIRD)).address == FIRST, "it is Anna's"
    assert given_to(table, asked(DORA, wanted=ip_address("2001:db8::1"))).address == SECOND
    table = leases(remembered={DORA: SECOND})
    assert given_to(table, asked(ANNA, wanted=SECOND)).address == FIRST, "it is kept for Dora"
    assert given_to(table, asked(BERT, wanted=ANCHOR)).address == THIRD


def test_too_short_a_lifetime_is_refused_and_too_long_a_one_cut() -> None:
    table = leases(minimum_lifetime=10, lifetime=300)
    refused = refusal(table, asked(ANNA, expires=9))
    assert (refused.status, refused.least_lifetime) == (423, 10)
    assert table.by_identity == {}
    assert given_to(table, asked(ANNA, 2, expires=4000), 7.0).expires_at == 307.0


def test_an_old_goodbye_does_not_end_a_newer_association() -> None:
    table = leases()
    given_to(table, asked(ANNA, 8))
    assert table.release(asked(ANNA, 7, expires=0)) is None
    assert ANNA in table.by_identity


def test_an_old_request_does_not_bring_a_host_back_that_has_left() -> None:
    table = leases()
    given_to(table, asked(ANNA, 1))
    table.release(asked(ANNA, 3, expires=0))
    assert refusal(table, asked(ANNA, 2)).status == 500
    assert table.by_identity == {}
    assert given_to(table, asked(ANNA, 1, call="after a restart")).address == FIRST
    assert table.release(asked(BERT, 1, expires=0)) is None


@given(st.lists(st.integers(0, 30), max_size=30))
@settings(deadline=None, max_examples=50)
def test_leases_end_when_they_expire_and_not_before(times: list[int]) -> None:
    table = leases("10.0.0.40")
    for number, expires in enumerate(times):
        given_to(table, asked(TerminalId(f"host{number}"), expires=10 + expires))
    for now in range(45):
        ended = {lease.identity for lease in table.expire(float(now))}
        assert ended == {TerminalId(f"host{n}") for n, expires in enumerate(times) if 10 + expires == now}
        soonest = min((lease.expires_at for lease in table.by_identity.values()), default=None)
        assert soonest is None or (table.next_expiry() or 0.0) <= soonest


NAMES = st.sampled_from([TerminalId(f"host{number}") for number in range(6)])
WANTED = st.none() | st.integers(0, 5).map(lambda number: ANCHOR + number)


class AnyOrder(RuleBasedStateMachine):
    """Six hosts compete for four addresses; the model knows who holds what since when."""

    def __init__(self) -> None:
        super().__init__()
        self.table = leases("10.0.0.5", minimum_lifetime=5)
        self.now = 0.0
        self.cseq = 0
        self.held: dict[TerminalId, tuple[IPAddress, float]] = {}
        self.last: dict[TerminalId, IPAddress] = {}
        self.calls: dict[TerminalId, str] = {}

    @rule(name=NAMES, expires=st.integers(5, 60), wanted=WANTED, restarts=st.booleans())
    def ask(self, name: TerminalId, expires: int, wanted: IPAddress | None, restarts: bool) -> None:
        self.cseq += 1
        if restarts:
            self.calls[name] = f"life{self.cseq}"
        before = self.held.get(name)
        request = asked(name, self.cseq, call=self.calls.get(name, "first"), expires=expires, wanted=wanted)
        answer = self.table.ask(request, self.now)
        if isinstance(answer, LeaseRefused):
            assert answer.status == 503
            assert before is None
            assert len(self.held) == 4, "refused though an address was free"
            return
        address = answer.lease.address
        taken = {other for holder, (other, _) in self.held.items() if holder != name}
        assert address not in taken
        assert address != ANCHOR
        assert answer.is_new == (before is None)
        if before is not None:
            assert address == before[0], "a refresh changed the address"
        elif name in self.last:
            kept = self.last[name]
            assert address in (kept, wanted) or kept in {*taken, *self.others_last(name)}
        self.held[name] = address, self.now + expires
        self.last = {other: last for other, last in self.last.items() if last != address}
        self.last[name] = address

    def others_last(self, name: TerminalId) -> set[IPAddress]:
        return {last for other, last in self.last.items() if other != name}

    @rule(name=NAMES)
    def leave(self, name: TerminalId) -> None:
        self.cseq += 1
        lease = self.table.release(asked(name, self.cseq, call=self.calls.get(name, "first"), expires=0))
        assert (lease is not None) == (name in self.held)
        self.held.pop(name, None)

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        ended = {lease.identity for lease in self.table.expire(self.now)}
        assert ended == {name for name, (_, until) in self.held.items() if until <= self.now}
        for name in ended:
            del self.held[name]

    @invariant()
    def all_views_are_of_the_same_leases(self) -> None:
        table = self.table
        assert {name: lease.address for name, lease in table.by_identity.items()} == {
            name: address for name, (address, _) in self.held.items()
        }
        assert {address: lease.identity for address, lease in table.by_address.items()} == {
            address: name for name, (address, _) in self.held.items()
        }
        assert {lease.token: lease for lease in table.by_identity.values()} == table.by_token


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_hosts_that_change_their_minds_fill_no_memory() -> None:
    table = leases("10.0.0.9")
    now = 0.0
    for turn in range(20_000):
        now += 0.01
        lifetime, wanted = (3600, FIRST) if turn % 2 else (10, SECOND)
        given_to(table, asked(ANNA, 3 * turn, expires=lifetime), now)
        given_to(table, asked(BERT, 3 * turn, expires=lifetime, wanted=wanted), now)
        table.release(asked(BERT, 3 * turn + 1))
    assert len(table._expiries) < 1100
    assert len(table._returned) <= 8
    assert given_to(table, asked(ANNA, 10**6, expires=10), now).address == FIRST
    table.expire(now + 9.9)
    assert ANNA in table.by_identity
    assert [lease.identity for lease in table.expire(now + 10)] == [ANNA]


def test_an_address_that_another_host_had_is_told_as_inherited() -> None:
    """What the former holder began must be cut."""
    table = leases(max_associations=3)

    def is_inherited(request: LeaseAsked) -> bool:
        answer = table.ask(request, 0.0)
        assert isinstance(answer, LeaseGiven), answer
        return answer.is_inherited

    assert [is_inherited(asked(name)) for name in (ANNA, BERT, CARL)] == [False, False, False]
    table.release(asked(ANNA, 2))
    assert not is_inherited(asked(ANNA, 3)), "it gets its own again"
    table.release(asked(ANNA, 4))
    assert is_inherited(asked(DORA)), "the pool has no other"
