"""Whether packets wait for the agent: which of its sources were not read to their end the last time.

A flow that became known to the kernel while packets of it wait here would have its next ones overtake them.
"""

from __future__ import annotations

from collections.abc import Callable


class Backlog:
    """Sources by their descriptor. `cleared` is called each time that one was read to its end and no other waits."""

    def __init__(self) -> None:
        self._waiting: set[int] = set()
        self.cleared: Callable[[], None] = lambda: None

    @property
    def is_there(self) -> bool:
        """Whether packets wait."""
        return bool(self._waiting)

    def note(self, descriptor: int, *, is_drained: bool) -> None:
        """A source was read, to its end or not."""
        if not is_drained:
            self._waiting.add(descriptor)
            return
        self._waiting.discard(descriptor)
        if not self._waiting:
            self.cleared()

    def forget(self, descriptor: int) -> None:
        """A source is closed."""
        self._waiting.discard(descriptor)
