"""What the tests of the hands may ask for: a network namespace and a journal of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_namespace import Namespace, own_namespace

from upmt_nf.linux.journal import Journal


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network namespace of this test's own, with this thread in it."""
    with own_namespace() as made:
        yield made


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal that no other test sees."""
    return Journal(tmp_path / "state")
