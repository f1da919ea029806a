"""Policy and candidates in, a network out: examples people care about, and what holds for all."""

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.mobility.selection import Fitness, preferring, ranked, select
from upmt_nf.model.identity import NetworkName

NET0, NET1, NET2 = NETWORKS = tuple(NetworkName(f"net{index}") for index in range(3))
BAD, DOUBTFUL, RETURNING, GOOD = Fitness

names = st.sampled_from(NETWORKS)
orders = st.permutations(NETWORKS).flatmap(
    lambda order: st.integers(0, 3).map(lambda size: tuple(order[:size]))
)
fitnesses = st.fixed_dictionaries({name: st.sampled_from(list(Fitness)) for name in NETWORKS})
policies = st.lists(st.sampled_from([*NETWORKS, "any", "gone"]), max_size=6)


def test_any_stands_for_all_others_at_its_place() -> None:
    assert ranked(("any",), NETWORKS) == (NET0, NET1, NET2)
    assert ranked(("net2", "any"), NETWORKS) == (NET2, NET0, NET1)
    assert ranked(("any", "net0"), NETWORKS) == (NET1, NET2, NET0)
    assert ranked(("net1",), NETWORKS) == (NET1,)
    assert ranked(("wimax", "net1", "net1"), NETWORKS) == (NET1,)
    assert ranked((), NETWORKS) == ()


@given(policies)
def test_a_ranking_names_configured_networks_once(policy: list[str]) -> None:
    order = ranked(policy, NETWORKS)
    assert len(set(order)) == len(order)
    assert set(order) == {name for name in NETWORKS if name in policy or "any" in policy}
    named = [name for name in policy if name in NETWORKS]
    first_places = sorted(set(named), key=named.index)
    assert [name for name in order if name in named] == first_places


@given(names, policies)
def test_what_was_asked_for_comes_first_and_the_rest_stays(target: NetworkName, policy: list[str]) -> None:
    preferred = preferring(target, policy)
    assert preferred[0] == target
    assert list(preferred[1:]) == [name for name in policy if name != target]
    assert ranked(preferred, NETWORKS)[0] == target


def test_the_first_network_that_works_is_taken() -> None:
    order = (NET0, NET1, NET2)
    assert select(order, {NET0: GOOD, NET1: GOOD}, None) == NET0
    assert select(order, {NET0: BAD, NET1: GOOD}, None) == NET1
    assert select(order, {NET0: RETURNING, NET1: GOOD}, None) == NET0, (
        "without a network, do not wait for better"
    )
    assert select(order, {NET0: DOUBTFUL, NET1: GOOD}, None) == NET1
    assert select(order, {NET0: DOUBTFUL}, None) == NET0, "better a doubtful network than none"
    assert select(order, {}, None) is None


def test_a_working_network_is_left_only_for_a_better_one_that_has_proved_itself() -> None:
    order = (NET0, NET1, NET2)
    assert select(order, {NET0: RETURNING, NET1: GOOD}, NET1) == NET1
    assert select(order, {NET0: GOOD, NET1: GOOD}, NET1) == NET0
    assert select(order, {NET0: DOUBTFUL, NET1: DOUBTFUL}, NET1) == NET1
    assert select(order, {NET0: GOOD, NET1: GOOD, NET2: GOOD}, NET0) == NET0
    assert select((NET1,), {NET0: GOOD, NET1: DOUBTFUL}, NET0) == NET1, (
        "the policy forbids the current network"
    )


@given(orders, fitnesses, st.none() | names)
def test_the_choice_is_always_in_the_order_and_works(
    order: tuple[NetworkName, ...], fitness: dict[NetworkName, Fitness], current: NetworkName | None
) -> None:
    chosen = select(order, fitness, current)
    working = [name for name in order if fitness[name] is not BAD]
    assert (chosen is None) == (not working)
    assert chosen is None or chosen in working
    if current in working and chosen != current:
        assert chosen is not None
        assert current is not None
        assert fitness[chosen] is GOOD
        assert order.index(chosen) < order.index(current)


@given(orders, fitnesses, st.none() | names)
def test_a_choice_is_stable(
    order: tuple[NetworkName, ...], fitness: dict[NetworkName, Fitness], current: NetworkName | None
) -> None:
    """Nothing moves again when nothing changes, apart from the step from whatever works to the best."""
    once = select(order, fitness, current)
    twice = select(order, fitness, once)
    assert select(order, fitness, twice) == twice
