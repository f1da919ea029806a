"""Who asked for a handover hears of its end, and nobody else does."""

import asyncio

import pytest

from upmt_nf.daemon.asked_handovers import AskedHandovers
from upmt_nf.mobility.host_commands import HandoverFinished, Mode, Receipt
from upmt_nf.mobility.host_events import HandoverAsked
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.identity import ApplicationName, NetworkName

VOICE, WIFI, LTE = ApplicationName("voice"), NetworkName("wifi"), NetworkName("lte")


def receipt(target: NetworkName) -> Receipt:
    return Receipt(VOICE, None, target, Mode.MAKE_BEFORE_BREAK, 1, 2.0, "asked")


def test_each_asker_gets_the_receipt_of_its_own_handover() -> None:
    async def course() -> None:
        asked: list[HandoverAsked] = []
        handovers = AskedHandovers(asked.append)
        first = asyncio.create_task(handovers.hand_over(VOICE, WIFI))
        second = asyncio.create_task(handovers.hand_over(VOICE, LTE))
        await asyncio.sleep(0)
        assert [(each.what, each.target) for each in asked] == [(VOICE, WIFI), (VOICE, LTE)]
        handovers.finish(HandoverFinished(asked[1].token, receipt(LTE), None))
        assert (await second).target == LTE
        assert not first.done()
        handovers.finish(HandoverFinished(asked[0].token, receipt(WIFI), None))
        assert (await first).target == WIFI

    asyncio.run(course())


def test_one_that_ends_while_it_is_asked_for_is_told_of() -> None:
    async def course() -> None:
        handovers = AskedHandovers(
            lambda asked: handovers.finish(HandoverFinished(asked.token, receipt(WIFI), None))
        )
        assert (await handovers.hand_over(VOICE, WIFI)).target == WIFI

    asyncio.run(course())


@pytest.mark.parametrize(("is_usage", "kind"), [(True, UsageError), (False, UpmtError)])
def test_a_failure_is_raised_with_its_reason(is_usage: bool, kind: type[UpmtError]) -> None:
    async def course() -> None:
        handovers = AskedHandovers(
            lambda asked: handovers.finish(
                HandoverFinished(asked.token, None, "wifi is down", is_usage_error=is_usage)
            )
        )
        await handovers.hand_over(VOICE, WIFI)

    with pytest.raises(UpmtError, match="wifi is down") as raised:
        asyncio.run(course())
    assert type(raised.value) is kind


def test_what_nobody_waits_for_any_more_is_nobodys() -> None:
    async def course() -> None:
        asked: list[HandoverAsked] = []
        handovers = AskedHandovers(asked.append)
        waiting = asyncio.create_task(handovers.hand_over(VOICE, WIFI))
        await asyncio.sleep(0)
        waiting.cancel()
        handovers.finish(HandoverFinished(asked[0].token, receipt(WIFI), None))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for token in (None, asked[0].token, 99):
            handovers.finish(HandoverFinished(token, receipt(WIFI), None))
        again = asyncio.create_task(handovers.hand_over(VOICE, LTE))
        await asyncio.sleep(0)
        assert not again.done()
        handovers.finish(HandoverFinished(asked[1].token, receipt(LTE), None))
        assert (await again).target == LTE

    asyncio.run(course())
