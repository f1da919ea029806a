"""A stream there and back over many flows, made by `meter`, and its logs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.handover.analysis import BEFORE, RECORD, Felt, Log, answers_sent, felt
from benchmarks.places import Place

PORT = 5400
NETWORK = "87.0.0.0/16"
FIRST_ADDRESS = "87.0.0.1"
"""Every address of NETWORK is the correspondent: a flow for each, without a socket for each."""
APPLICATION = "stream"
UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
LONGEST_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Logs:
    """What was sent by each side, and what came to the other."""

    sent: Log
    there: Log
    back: Log

    def around(self, event_ns: int, seconds: float) -> tuple[Felt, Felt]:
        """What an event did, up and down; looked for during `seconds` from it."""
        since, until = event_ns - BEFORE, event_ns + int(seconds * 1e9)
        return felt(self.sent, self.there, since, until), felt(
            answers_sent(self.there), self.back, since, until
        )

    def of_all(self) -> tuple[Felt, Felt]:
        """Up and down from the first packet to the last."""
        since, until = int(self.sent["at"][0]), int(self.sent["at"][-1])
        return felt(self.sent, self.there, since, until), felt(
            answers_sent(self.there), self.back, since, until
        )

    @property
    def rate(self) -> float:
        """Packets/s that were sent in fact."""
        return float(len(self.sent) / max(1e-9, (int(self.sent["at"][-1]) - int(self.sent["at"][0])) / 1e9))


class Stream:
    """A running stream; `known` of its flows have been answered before it began."""

    def __init__(self, known: int, directory: Path) -> None:
        self.known = known
        self._directory = directory

    def logs(self) -> Logs:
        """After its end."""
        sent, there, back = (
            np.fromfile(self._directory / f"stream.{end}", dtype=RECORD) for end in ("sent", "there", "back")
        )
        return Logs(np.sort(sent, order="at", kind="stable"), there, back)


def prepare(place: Place) -> None:
    """Give the correspondent its many addresses."""
    place.run("ch", "ip", "route", "add", "local", NETWORK, "dev", "lo")
    place.run("inet", "ip", "route", "add", NETWORK, "via", "86.0.0.1")


@contextmanager
def stream(
    place: Place, meter: str, directory: Path, rate: int, flows: int, bound: str = "0.0.0.0"
) -> Iterator[Stream]:
    """Runs while the context does; with no address to bind to, as a member of APPLICATION."""
    log = str(directory / "stream")
    member = (*UPMT, "run", "--app", APPLICATION, "--") if bound == "0.0.0.0" else ()
    words = ("talk", FIRST_ADDRESS, str(PORT), bound, str(flows), str(rate), str(LONGEST_SECONDS), log)
    with place.running("ch", meter, "answer", str(PORT), log):
        talker = place.start("mh", *member, meter, *words)
        try:
            assert talker.stdout is not None
            first = talker.stdout.readline()
            if not first:
                raise subprocess.CalledProcessError(talker.wait(), words)
            yield Stream(json.loads(first)["known"], directory)
        finally:
            place.end(talker)
