"""The corpus that fuzzing left, and the seeds it began with, replayed without atheris."""

from __future__ import annotations

import pytest

from fuzz.targets import CORPUS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_has_found_holds(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].check(seed)
    kept = sorted((CORPUS / name).glob("*"))
    assert kept
    for path in kept:
        TARGETS[name].check(path.read_bytes())


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < 1_000_000
