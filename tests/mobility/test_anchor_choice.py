"""Which anchor is asked and which one is used: the machine alone, as a protocol of what happens and what it wants."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from upmt_nf.mobility.anchor_choice import (
    DOUBT_INTERVAL,
    GRACE,
    HOLLOW_ANSWERS,
    PATIENCE,
    SETUP_PATIENCE,
    AnchorChoice,
    Ask,
    AskAgain,
    ChoiceCommand,
    ChoiceState,
    Use,
    Withdraw,
)


def settled(count: int = 3) -> AnchorChoice:
    choice = AnchorChoice(count)
    choice.appear(0.0)
    choice.grant(0, 0.1)
    return choice


def test_the_first_is_asked_and_used_and_nobody_else_hears_of_it() -> None:
    choice = AnchorChoice(3)
    assert choice.appear(0.0) == [Ask(0)]
    assert choice.appear(0.1) == []
    assert choice.grant(0, 0.2) == [Use(0)]
    assert choice.next_timeout() is None
    assert choice.grant(0, 99.0) == []


def test_the_next_are_asked_too_when_nobody_answers_and_the_first_answer_wins() -> None:
    choice = AnchorChoice(3)
    choice.appear(0.0)
    assert choice.next_timeout() == PATIENCE
    assert choice.handle_timeout(PATIENCE - 0.1) == []
    assert choice.handle_timeout(PATIENCE) == [Ask(1)]
    assert choice.handle_timeout(2 * PATIENCE) == [Ask(2)]
    assert choice.next_timeout() is None
    assert choice.grant(1, 9.0) == [Use(1), Withdraw(0), Withdraw(2)]


def test_a_refusal_that_sends_us_on_waits_for_nobody() -> None:
    choice = AnchorChoice(3)
    choice.appear(0.0)
    assert choice.fail(0, 0.1, sends_us_on=True) == [Ask(1)]
    assert choice.fail(1, 0.2, sends_us_on=False) == []
    assert choice.handle_timeout(0.1 + PATIENCE) == [Ask(2)]


def test_after_a_loss_the_same_one_comes_first_then_those_before_it() -> None:
    choice = AnchorChoice(3)
    choice.appear(0.0)
    choice.handle_timeout(PATIENCE)
    choice.grant(1, 2.0)
    assert choice.fail(1, 10.0, sends_us_on=False) == []
    assert choice.asked == {1}, "its own machine asks it again"
    assert choice.handle_timeout(10.0 + PATIENCE) == [Ask(0)]
    assert choice.grant(0, 12.0) == [Use(0), Withdraw(1)]


def test_a_host_without_networks_starts_again_with_the_one_that_it_used() -> None:
    choice = settled()
    assert choice.fail(0, 10.0, sends_us_on=True, has_networks=False) == []
    assert choice.state is ChoiceState.RESTING
    assert choice.appear(20.0) == [Ask(0)]
    choice.handle_timeout(20.0 + PATIENCE)
    assert choice.lose_networks() == [Withdraw(1)]
    assert choice.next_timeout() is None


def test_silence_on_all_networks_asks_the_one_in_use_first() -> None:
    choice = settled()
    assert choice.watch(True, 10.0) == []
    assert choice.next_timeout() == 10.0 + SETUP_PATIENCE
    assert choice.watch(True, 10.0 + SETUP_PATIENCE) == [AskAgain(0)]
    assert choice.grant(0, 11.5) == [], "it lives: nothing moves"
    assert choice.state is ChoiceState.SETTLED
    assert choice.watch(True, 12.0, is_proven=True) == []
    assert choice.watch(True, 11.5 + DOUBT_INTERVAL, is_proven=True) == [AskAgain(0)]


def test_tunnels_that_were_found_dead_are_doubt_enough() -> None:
    assert settled().watch(True, 10.0, is_proven=True) == [AskAgain(0)]
    assert settled(1).watch(True, 10.0, is_proven=True) == [], "there is nobody else"


def test_the_one_in_use_gets_a_last_chance_when_another_answers() -> None:
    choice = settled()
    choice.watch(True, 10.0, is_proven=True)
    assert choice.handle_timeout(10.0 + PATIENCE) == [Ask(1)]
    assert choice.grant(1, 12.0) == [AskAgain(0)]
    assert choice.grant(0, 12.5) == [Withdraw(1)]
    assert choice.used == 0


def test_who_stays_silent_through_the_grace_is_left() -> None:
    choice = settled()
    choice.watch(True, 10.0, is_proven=True)
    choice.handle_timeout(10.0 + PATIENCE)
    choice.grant(1, 12.0)
    assert choice.next_timeout() == 12.0 + GRACE
    assert choice.handle_timeout(12.0 + GRACE) == [Use(1), Withdraw(0)]


def test_a_tunnel_that_carries_again_ends_every_doubt() -> None:
    choice = settled()
    choice.watch(True, 10.0, is_proven=True)
    choice.handle_timeout(10.0 + PATIENCE)
    choice.grant(1, 12.0)
    assert choice.watch(False, 12.1) == [Withdraw(1)]
    assert choice.next_timeout() is None


def test_the_one_in_use_refuses_while_another_has_answered() -> None:
    choice = settled()
    choice.watch(True, 10.0, is_proven=True)
    choice.handle_timeout(10.0 + PATIENCE)
    choice.grant(1, 12.0)
    assert choice.fail(0, 12.1, sends_us_on=True) == [Use(1), Withdraw(0)]


def test_another_that_answers_and_is_lost_again_is_not_used() -> None:
    choice = settled()
    choice.watch(True, 10.0, is_proven=True)
    choice.handle_timeout(10.0 + PATIENCE)
    choice.grant(1, 12.0)
    assert choice.fail(1, 12.1, sends_us_on=False) == [Ask(2)]
    assert choice.state is ChoiceState.DOUBTING


def test_an_anchor_that_talks_but_carries_nothing_is_left_in_the_end() -> None:
    choice = settled()
    now = 10.0
    moved: list[ChoiceCommand] = []
    while not moved and now < 100.0:
        commands = choice.watch(True, now, is_proven=True) + choice.handle_timeout(now)
        if AskAgain(0) in commands:
            commands += choice.grant(0, now)
        if Ask(1) in commands:
            commands += choice.grant(1, now)
        moved = [command for command in commands if isinstance(command, Use)]
        now += 0.5
    assert moved == [Use(1)]
    talked = HOLLOW_ANSWERS * DOUBT_INTERVAL
    assert talked <= now - 10.0 <= talked + PATIENCE + GRACE + 2.0


def test_a_reserved_anchor_is_passed_over() -> None:
    choice = AnchorChoice(3)
    assert choice.reserve(frozenset({1}), 0.0) == []
    choice.appear(0.0)
    assert choice.handle_timeout(PATIENCE) == [Ask(2)]
    choice.reserve(frozenset(), 4.0)
    assert choice.grant(2, 5.0) == [Use(2), Withdraw(0)]


def test_with_the_others_reserved_silence_is_no_reason_for_doubt() -> None:
    choice = settled(2)
    choice.reserve(frozenset({1}), 1.0)
    assert choice.watch(True, 2.0, is_proven=True) == []
    assert choice.next_timeout() is None
    assert choice.watch(True, 90.0, is_proven=True) == []
    choice.reserve(frozenset(), 91.0)
    assert choice.watch(True, 92.0, is_proven=True) == [AskAgain(0)]


def test_an_anchor_that_was_asked_is_given_up_when_it_is_reserved() -> None:
    choice = AnchorChoice(3)
    choice.appear(0.0)
    choice.handle_timeout(PATIENCE)
    assert choice.reserve(frozenset({1}), 2.0) == [Withdraw(1)]
    assert choice.reserve(frozenset({1}), 2.1) == []
    assert choice.asked == {0}


def test_the_one_in_use_cannot_be_reserved() -> None:
    choice = settled(2)
    assert choice.reserve(frozenset({0}), 1.0) == []
    choice.lose_networks()
    assert choice.appear(3.0) == []
    assert choice.fail(0, 4.0, sends_us_on=True) == [Ask(1)]


def test_another_that_has_answered_and_is_reserved_then_is_not_used() -> None:
    choice = settled(3)
    choice.watch(True, 10.0, is_proven=True)
    choice.handle_timeout(10.0 + PATIENCE)
    assert choice.grant(1, 12.0) == [AskAgain(0)]
    assert choice.reserve(frozenset({1}), 12.1) == [Withdraw(1), Ask(2)]
    assert choice.state is ChoiceState.DOUBTING
    assert choice.handle_timeout(12.1 + GRACE) == []


def test_answers_from_before_a_silence_do_not_make_an_anchor_hollow() -> None:
    choice = settled()
    for number in range(2 * HOLLOW_ANSWERS):
        now = 100.0 * (number + 1)
        assert AskAgain(0) in choice.watch(True, now, is_proven=True)
        assert choice.grant(0, now + 0.1) == []
        assert choice.state is ChoiceState.SETTLED
        choice.watch(False, now + 0.2)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: what is asked is used or withdrawn, never forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = AnchorChoice(3)
        self.now = 0.0
        self.wanted: set[int] = set()
        self.uses: list[int] = []
        self.is_stopped = False

    def obey(self, commands: list[ChoiceCommand]) -> None:
        for command in commands:
            match command:
                case Ask(anchor):
                    assert not self.is_stopped
                    self.wanted.add(anchor)
                case Use(anchor):
                    assert anchor in self.wanted, "used without having been asked"
                    self.uses.append(anchor)
                case Withdraw(anchor):
                    assert anchor in self.wanted
                    assert anchor != self.choice.used
                    self.wanted.remove(anchor)
                case AskAgain(anchor):
                    assert anchor == self.choice.used

    @rule()
    def appear(self) -> None:
        self.obey(self.choice.appear(self.now))

    @rule()
    def lose_networks(self) -> None:
        self.obey(self.choice.lose_networks())

    @rule(anchor=st.integers(0, 2))
    def grant(self, anchor: int) -> None:
        if anchor in self.wanted:
            self.obey(self.choice.grant(anchor, self.now))

    @rule(anchor=st.integers(0, 2), sends_us_on=st.booleans(), has_networks=st.booleans())
    def fail(self, anchor: int, sends_us_on: bool, has_networks: bool) -> None:
        if anchor in self.wanted:
            self.obey(self.choice.fail(anchor, self.now, sends_us_on=sends_us_on, has_networks=has_networks))

    @rule(is_cut_off=st.booleans(), is_proven=st.booleans())
    def watch(self, is_cut_off: bool, is_proven: bool) -> None:
        self.obey(self.choice.watch(is_cut_off, self.now, is_proven=is_proven))

    @rule(seconds=st.floats(0.0, 8.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.obey(self.choice.handle_timeout(self.now))

    @rule()
    def stop(self) -> None:
        self.is_stopped = True
        self.obey(self.choice.stop())

    @invariant()
    def whoever_is_not_in_use_is_wanted_only_while_there_is_a_choice_to_make(self) -> None:
        if self.choice.state in (ChoiceState.SETTLED, ChoiceState.RESTING, ChoiceState.STOPPED):
            assert self.wanted <= {self.choice.used}

    @invariant()
    def a_choice_is_never_left_hanging(self) -> None:
        if self.choice.state is ChoiceState.WAVERING:
            assert self.choice.next_timeout() is not None
        if self.choice.state is ChoiceState.SEEKING and len(self.wanted) < 3:
            assert self.choice.next_timeout() is not None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
