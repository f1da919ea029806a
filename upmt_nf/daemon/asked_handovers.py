"""Handovers asked for by the control socket: who waits for which of them, until the machine has finished it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from upmt_nf.mobility.host_commands import HandoverFinished, Receipt
from upmt_nf.mobility.host_events import HandoverAsked
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import ApplicationName, NetworkName


class AskedHandovers:
    """Who waits for which handover. `take` lets the machine know of a wish."""

    def __init__(self, take: Callable[[HandoverAsked], None]) -> None:
        self._take = take
        self._tokens = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Receipt]] = {}

    async def hand_over(self, what: ApplicationName | FlowKey, target: NetworkName) -> Receipt:
        """Move an application or a flow. Raises UsageError or UpmtError with the reason."""
        token = next(self._tokens)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        self._take(HandoverAsked(token, what, target))
        try:
            return await future
        finally:
            self._waiting.pop(token, None)

    def finish(self, finished: HandoverFinished) -> None:
        """Tell who waits for it, if anybody still does."""
        future = self._waiting.get(finished.token) if finished.token is not None else None
        if future is None or future.done():
            return
        if finished.receipt is not None:
            future.set_result(finished.receipt)
            return
        kind = UsageError if finished.is_usage_error else UpmtError
        future.set_exception(kind(finished.failure or "the handover failed"))
