"""A kernel's maps and an event loop of nothing but memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from upmt_nf.model.errors import KernelError


class PretendMap:
    """A map in memory that counts what is written, and all calls for single entries."""

    def __init__(self, key_size: int, value_size: int, max_entries: int = 64) -> None:
        self.key_size, self.value_size, self.max_entries = key_size, value_size, max_entries
        self.rows: dict[bytes, bytes] = {}
        self.writes = self.tries = 0
        self.fails = False

    def update(self, key: bytes, value: bytes) -> bool:
        assert (len(key), len(value)) == (self.key_size, self.value_size)
        self.tries += 1
        if self.fails:
            raise KernelError("no memory")
        self.writes += 1
        if key not in self.rows and len(self.rows) >= self.max_entries:
            return False
        self.rows[key] = value
        return True

    def insert(self, key: bytes, value: bytes) -> bool:
        """BPF_NOEXIST: what is there stays."""
        if key in self.rows:
            self.tries += 1
            return False
        return self.update(key, value)

    def values(self, first: int, count: int) -> memoryview:
        places = range(first, min(first + count, self.max_entries))
        rows = [self.rows.get(at.to_bytes(4, sys.byteorder), bytes(self.value_size)) for at in places]
        return memoryview(b"".join(rows))

    def lookup(self, key: bytes) -> bytes | None:
        self.tries += 1
        return self.rows.get(key)

    def delete(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    def items(self) -> Iterator[list[tuple[bytes, bytes]]]:
        yield list(self.rows.items())

    def parts(self, most: int) -> Iterator[tuple[bytes, bytes]]:
        rows = list(self.rows.items())
        for at in range(0, len(rows) + 1, most):
            yield (
                b"".join(key for key, _ in rows[at : at + most]),
                b"".join(row for _, row in rows[at : at + most]),
            )


class PretendLoop:
    """Keeps what it is to call later."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []
        self.soon: list[Callable[[], None]] = []
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def call_later(self, _: float, call: Callable[[], None]) -> SimpleNamespace:
        self.later.append(call)
        return SimpleNamespace(cancel=lambda: None)

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def turn(self) -> None:
        calls, self.soon = self.soon, []
        for call in calls:
            call()

    def tick(self) -> None:
        calls, self.later = self.later, []
        for call in calls:
            call()
