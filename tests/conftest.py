"""What every test may ask for: root, kernel facilities, a lab of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from lab_driver import Lab, unique_lab_name

# An example that takes long on a busy machine is no defect: only what an example shows is.
settings.register_profile("usual", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("UPMT_TEST_EXAMPLES", "usual"))


def pytest_sessionstart() -> None:
    """Who is ended by SIGTERM, by a time limit for instance, takes its labs down as after Ctrl-C."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root, what needs it is skipped and says so."""
    if os.geteuid() == 0:
        return
    for item in items:
        if {"interop", "kernel", "lab"} & set(item.keywords):
            item.add_marker(pytest.mark.skip(reason="needs root and network namespaces"))


@pytest.fixture(scope="module")
def lab_of_module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all tests of a module; its datapath is the parameter, if there is one (see BOTH_PLANES)."""
    datapath = getattr(request, "param", None)
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, *(("--datapath", datapath) if datapath else ()))
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


@pytest.fixture
def lab(lab_of_module: Lab) -> Iterator[Lab]:
    """The module's lab with both networks up, and nothing of an earlier test still running."""
    for network in ("net0", "net1"):
        lab_of_module.link(network, "restore")
        lab_of_module.link(network, "up")
    lab_of_module.await_networks_up()
    yield lab_of_module
    lab_of_module.end_programs()
