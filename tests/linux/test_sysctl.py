"""Kernel parameters: written down before they are changed, put back to what they were."""

from __future__ import annotations

import pytest
from kernel_namespace import Namespace

from upmt_nf.linux import sysctl
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.journal import Journal, SysctlSet
from upmt_nf.model.errors import KernelError

pytestmark = pytest.mark.kernel

FORWARD = "net/ipv4/ip_forward"


def rp_filter(interface: str) -> str:
    return f"net/ipv4/conf/{interface}/rp_filter"


def test_a_change_is_made_and_written_down_with_the_value_before(
    namespace: Namespace, journal: Journal
) -> None:
    key = "net/ipv4/ip_default_ttl"
    sysctl.write(key, "33", journal)
    sysctl.write(key, "34", journal)
    assert sysctl.read(key) == namespace.run("sysctl -n net.ipv4.ip_default_ttl").strip() == "34"
    assert list(journal.records()) == [SysctlSet(key, "64")]
    sysctl.restore(key, "64")
    assert sysctl.read(key) == "64"


def test_what_is_as_wanted_is_not_written_down(namespace: Namespace, journal: Journal) -> None:
    sysctl.write("net/ipv4/ip_default_ttl", "64", journal)
    assert list(journal.records()) == []


def test_a_parameter_that_is_not_there_is_named(namespace: Namespace, journal: Journal) -> None:
    assert sysctl.read("net/ipv4/no_such") is None
    with pytest.raises(KernelError, match="this kernel has no parameter net/ipv4/no_such"):
        sysctl.write("net/ipv4/no_such", "1", journal)
    assert list(journal.records()) == []


def test_a_value_that_the_kernel_refuses_is_named(namespace: Namespace, journal: Journal) -> None:
    with pytest.raises(KernelError, match=f"cannot set {FORWARD} to banana: Invalid argument"):
        sysctl.write(FORWARD, "banana", journal)
    assert sysctl.read(FORWARD) == "0"


@pytest.mark.parametrize(
    ("of_all", "of_interface", "expected"),
    [("0", "0", "0"), ("0", "1", "2"), ("1", "0", "2"), ("1", "1", "2"), ("2", "0", "0"), ("0", "2", "2")],
)
def test_only_a_strict_reverse_path_check_is_loosened(
    namespace: Namespace, journal: Journal, of_all: str, of_interface: str, expected: str
) -> None:
    namespace.link("if0")
    sysctl.restore(rp_filter("all"), of_all)
    sysctl.restore(rp_filter("if0"), of_interface)
    sysctl.restore(rp_filter("if0p"), "1")
    sysctl.loosen_reverse_path(["if0", "gone0"], journal)
    assert sysctl.read(rp_filter("if0")) == expected
    assert sysctl.read(rp_filter("all")) == of_all
    assert sysctl.read(rp_filter("if0p")) == "1"
    expected_records = [SysctlSet(rp_filter("if0"), of_interface)] if expected != of_interface else []
    assert list(journal.records()) == expected_records


def test_forwarding_goes_on_and_all_that_changes_with_it_comes_back(
    namespace: Namespace, journal: Journal
) -> None:
    namespace.link("if0")
    sysctl.restore("net/ipv4/conf/if0/forwarding", "1")
    sysctl.restore("net/ipv4/conf/if0p/accept_redirects", "0")
    before = namespace.run("sysctl net.ipv4")
    sysctl.enable_forwarding(journal)
    assert sysctl.read(FORWARD) == "1"
    assert sysctl.read("net/ipv4/conf/if0p/forwarding") == "1"
    cleanup(journal)
    assert namespace.run("sysctl net.ipv4") == before


def test_a_host_that_forwards_already_is_left_alone(namespace: Namespace, journal: Journal) -> None:
    sysctl.restore(FORWARD, "1")
    sysctl.enable_forwarding(journal)
    assert list(journal.records()) == []
