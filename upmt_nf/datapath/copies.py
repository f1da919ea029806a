"""Redundant sending: a packet by two tunnels, numbered, so that the other end hands on whichever copy comes first.

Stands between the tunnel's format and the inner packet, in every format alike. Knows neither tunnels nor flows.

    +-------+-------+-----------------------------------------------+
    | 5     | 0     | run: another one, another count               |
    +-------+-------+-----------------------------------------------+
    | number, 32 bits, from 0                                       |
    +---------------------------------------------------------------+
    | inner packet ...
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from upmt_nf.datapath.packet import is_whole

NUMBERED: Final = 0x50
"""The first octet; an inner packet begins with 4 or 6."""
NUMBER_SIZE: Final = 8
"""Bytes more than the packet alone."""
RUNS: Final = 1 << 24
"""Runs there are; who begins takes any."""
WINDOW: Final = 8192
"""Numbers that one tunnel may be behind the other: what is older is dropped, as nobody can tell whether it came."""

_HEAD = struct.Struct("!II")
_NUMBERS = 1 << 32
_KNOWN_RUNS = 2
_STRAYS = 64
"""So many in a row that are too old are not: a forged number was far ahead of them, and counting begins again there."""


class Number(NamedTuple):
    """Which packet of its sender it is."""

    run: int
    number: int


class Numbering:
    """One sender's count over all that it sends by two tunnels. `run` is any that it did not use lately."""

    __slots__ = ("_next", "_run")

    def __init__(self, run: int) -> None:
        self._run = run % RUNS
        self._next = 0

    def head(self) -> bytes:
        """The header of the next packet."""
        if self._next == _NUMBERS:
            self._run, self._next = (self._run + 1) % RUNS, 0
        number, self._next = self._next, self._next + 1
        return _HEAD.pack(NUMBERED << 24 | self._run, number)


class FirstCopies:
    """One receiver's memory: which numbers of a sender have come. Bounded: two runs, `WINDOW` numbers of each."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: dict[int, list[int]] = {}
        """Run -> the highest number that came, a bitmap of those below, and how many in a row were too old.

        The newest run is the last.
        """

    def take(self, number: Number) -> Arrival:
        """A copy of this packet came."""
        window = self._runs.get(number.run)
        if window is None:
            if len(self._runs) == _KNOWN_RUNS:
                del self._runs[next(iter(self._runs))]
            self._runs[number.run] = [number.number, 1, 0]
            return Arrival(True, False)
        highest, seen, strays = window
        age = highest - number.number
        if age >= WINDOW:
            window[2] = strays + 1
            if strays < _STRAYS:
                return Arrival(False, True)
            window[:] = [number.number, 1, 0]
            return Arrival(True, False)
        window[2] = 0
        if age < 0:
            window[0] = number.number
            window[1] = (seen << -age | 1) & ((1 << WINDOW) - 1) if -age < WINDOW else 1
            return Arrival(True, False)
        if seen >> age & 1:
            return Arrival(False, True)
        window[1] = seen | 1 << age
        return Arrival(True, True)


class Arrival(NamedTuple):
    """Whether a copy is the first of its packet, and whether a later packet came before it."""

    is_first: bool
    is_late: bool


def number_of(payload: bytes) -> Number | None:
    """The number of a packet that was sent by two tunnels; None for one that was not."""
    if len(payload) <= NUMBER_SIZE or payload[0] != NUMBERED:
        return None
    first, number = _HEAD.unpack_from(payload)
    return Number(first & RUNS - 1, number)


def is_carried(payload: bytes) -> bool:
    """Whether a decoded payload is one whole inner packet, numbered or not."""
    return is_whole(payload) or (number_of(payload) is not None and is_whole(payload[NUMBER_SIZE:]))


def holds_numbered(packets: bytes, size: int) -> bool:
    """Whether any of joined packets, of `size` bytes each, is a numbered one."""
    return NUMBERED in packets[::size]
