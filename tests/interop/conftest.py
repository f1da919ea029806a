"""One lab without daemons for all tests with foreign SIP programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interop_peers import Interop
from lab_driver import Lab, unique_lab_name


@pytest.fixture(scope="session")
def interop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interop]:
    directory = tmp_path_factory.mktemp("interop")
    lab = Lab(unique_lab_name(), directory)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        yield Interop(lab, directory)
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)
