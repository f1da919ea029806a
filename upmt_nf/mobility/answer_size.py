"""The anchor's answers fit into one packet: how many pairs one may answer, and how long its reasons may be.

An answer that is too large for the path would never arrive, and its request be repeated in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from upmt_nf.datapath.outer import OVERHEAD
from upmt_nf.signaling.messages import MOST_COUNTED, HandoverResult

LONGEST = 1200
"""Bytes of a SIP message inside a tunnel."""
PROOF = 240
"""Bytes of Authentication-Info, with a next nonce in it."""
_LEAST_RESULT = len('{"accepted":true,"flows":4294967295,"tunnelID":"4294967295"},')
_LONGEST_COUNT = len("[" + 4 * "9007199254740991," + "1],")
_BARE_REFUSAL = len('{"accepted":false,"flows":0,"reason":""},')


def room_for_results(bare: int, mtu: int, version: int, *, is_proven: bool) -> int:
    """Bytes that are left beside an answer of `bare` bytes without results. `mtu`: the largest inner packet."""
    return min(LONGEST, mtu - OVERHEAD[version]) - bare - (PROOF if is_proven else 0)


def most_pairs(room: int) -> int:
    """How many pairs an answer has room for, whatever becomes of them; never less than one."""
    return max(1, room // _LEAST_RESULT)


def most_counts(room: int) -> int:
    """How many flows' counts an answer has room for; never less than one."""
    return max(1, min(MOST_COUNTED, room // _LONGEST_COUNT))


def with_short_reasons(results: Sequence[HandoverResult], room: int) -> tuple[HandoverResult, ...]:
    """The results with reasons cut so that all fit into `room` bytes."""
    refused = sum(1 for result in results if result.reason is not None)
    left = room - (len(results) - refused) * _LEAST_RESULT - refused * _BARE_REFUSAL
    longest = max(0, left // max(1, refused))
    return tuple(
        result if result.reason is None else replace(result, reason=_plain(result.reason)[:longest])
        for result in results
    )


def _plain(reason: str) -> str:
    """Characters of which each is one byte of JSON."""
    return "".join(
        character if character.isascii() and character.isprintable() and character not in '"\\' else "'"
        for character in reason
    )
