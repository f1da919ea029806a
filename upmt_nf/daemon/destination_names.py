"""Names of destinations -> addresses, asked for again and again, as this host's resolver answers.

An address stays for a while after a name has stopped to mean it: names with many addresses show a few at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import IPAddress

log = logging.getLogger(__name__)

REFRESH = 30.0
"""Seconds from one question to the next."""
RETRY = 5.0
KEEP = 3600.0
"""Seconds that an address counts after it was last seen."""
_MOST = 64
"""Addresses of one name: each is a rule."""
_PATIENCE = 5.0

Resolve = Callable[[str], Awaitable[set[IPAddress]]]


async def resolve(name: str) -> set[IPAddress]:
    """Ask this host's resolver. Raises UpmtError when it has no answer."""
    try:
        found = await asyncio.wait_for(
            asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM), _PATIENCE
        )
    except TimeoutError as reason:
        raise UpmtError(f"{name} has no address now: no answer within {_PATIENCE:g} s") from reason
    except (OSError, UnicodeError) as reason:
        said = reason.strerror if isinstance(reason, OSError) else str(reason)
        raise UpmtError(f"{name} has no address now: {said}") from reason
    return {ip_address(each[4][0].partition("%")[0]) for each in found if isinstance(each[4][0], str)}


class DestinationNames:
    """Keeps the addresses of the `wanted` names; `changed` is called with a name and its addresses now."""

    def __init__(
        self,
        wanted: Callable[[], set[str]],
        changed: Callable[[str, tuple[IPAddress, ...]], None],
        now: Callable[[], float],
        ask: Resolve = resolve,
    ) -> None:
        self._wanted = wanted
        self._changed = changed
        self._now = now
        self._ask = ask
        self._seen: dict[str, dict[IPAddress, float]] = {}
        self._task: asyncio.Task[None] | None = None

    async def learn(self, name: str) -> None:
        """Ask for one name now. Raises UpmtError when it has no address."""
        found = await self._ask(name)
        now, seen = self._now(), self._seen.setdefault(name, {})
        seen.update(dict.fromkeys(found, now))
        for address in [address for address, last in seen.items() if now - last > KEEP]:
            del seen[address]
        newest = sorted(seen, key=lambda address: (-seen[address], address.version, int(address)))[:_MOST]
        self._changed(name, tuple(sorted(newest, key=lambda address: (address.version, int(address)))))

    def keep_fresh(self) -> None:
        """Begin to ask, if there is anything to ask for."""
        if self._task is None and self._wanted():
            self._task = asyncio.get_running_loop().create_task(self._ask_for_ever())

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def refresh(self) -> bool:
        """Ask for each name once; whether all of them had an answer."""
        failures = 0
        for name in sorted(self._wanted()):
            try:
                await self.learn(name)
            except UpmtError as reason:
                failures += 1
                log.log(logging.DEBUG if name in self._seen else logging.WARNING, "%s", reason)
                self._seen.setdefault(name, {})
        for name in set(self._seen) - self._wanted():
            del self._seen[name]
        return not failures

    async def _ask_for_ever(self) -> None:
        while True:
            is_answered = False
            with contextlib.suppress(UpmtError):
                is_answered = await self.refresh()
            await asyncio.sleep(REFRESH if is_answered else RETRY)
