"""Netlink calls from inside the daemon's event loop.

pyroute2's plain calls run an event loop of their own, which a thread with a running loop refuses. They take well
under a millisecond, so the caller waits for a worker thread; without a running loop they are made where they are.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")


def off_loop(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make `function` callable from a thread whose event loop is running."""

    @functools.wraps(function)
    def wrapped(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return function(*arguments, **options)
        return _worker.submit(function, *arguments, **options).result()

    return wrapped
