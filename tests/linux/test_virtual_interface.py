"""`upmt0`: made of what the kernel has, adopted when it is there, its addresses and MTU as told."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest
from kernel_namespace import GROUP_ADDRESSES, KernelEvents, Namespace

from upmt_nf.linux.journal import InterfaceMade, Journal
from upmt_nf.linux.link_monitor import interface_mtu
from upmt_nf.linux.virtual_interface import KINDS, VirtualInterface, remove_interface
from upmt_nf.model.errors import FacilityError
from upmt_nf.model.names import VIRTUAL_INTERFACE

pytestmark = pytest.mark.kernel

VIPA, OTHER, VIPA6 = ip_address("1.2.3.4"), ip_address("1.2.3.5"), ip_address("2001:db8:9::4")


@pytest.fixture
def upmt0(namespace: Namespace, journal: Journal) -> VirtualInterface:
    """The virtual interface, just made."""
    made = VirtualInterface(journal)
    try:
        made.make(1472)
    except FacilityError as reason:
        pytest.skip(str(reason))
    return made


def link(namespace: Namespace) -> Any:
    return json.loads(namespace.run(f"ip -j -d link show {VIRTUAL_INTERFACE}"))[0]


def addresses(namespace: Namespace) -> list[str]:
    shown = json.loads(namespace.run(f"ip -j address show dev {VIRTUAL_INTERFACE}"))[0]
    return sorted(f"{each['local']}/{each['prefixlen']}" for each in shown["addr_info"])


def test_it_is_made_up_and_written_down(
    namespace: Namespace, upmt0: VirtualInterface, journal: Journal
) -> None:
    shown = link(namespace)
    assert shown["linkinfo"]["info_kind"] == upmt0.kind in KINDS
    assert shown["mtu"] == 1472
    assert "UP" in shown["flags"]
    assert upmt0.why == "the kernel has it" or upmt0.why.startswith("the kernel lacks tun")
    assert list(journal.records()) == [InterfaceMade(VIRTUAL_INTERFACE)]


def test_it_has_no_address_that_nobody_gave_it(namespace: Namespace, upmt0: VirtualInterface) -> None:
    assert addresses(namespace) == []


def test_one_that_is_there_is_adopted(
    namespace: Namespace, upmt0: VirtualInterface, journal: Journal
) -> None:
    upmt0.set_addresses((VIPA,))
    index = link(namespace)["ifindex"]
    namespace.run(f"ip link set {VIRTUAL_INTERFACE} down")
    again = VirtualInterface(Journal(journal.directory))
    again.make(1300)
    assert (again.kind, again.why) == (upmt0.kind, "it was there already")
    shown = link(namespace)
    assert (shown["ifindex"], shown["mtu"], "UP" in shown["flags"]) == (index, 1300, True)
    assert addresses(namespace) == ["1.2.3.4/32"]


def test_the_nearest_thing_that_the_kernel_has_is_taken_and_the_reason_said(
    namespace: Namespace, journal: Journal
) -> None:
    if not namespace.succeeds("ip link add probe type ifb"):
        pytest.skip("the kernel has no ifb")
    made = VirtualInterface(journal)
    made.make(1400, ("nosuch", "neither", "ifb", "dummy"))
    assert (made.kind, made.why) == ("ifb", "the kernel lacks nosuch, neither")


@pytest.mark.parametrize(("there", "kept"), [("tun", True), ("ifb", False)])
def test_a_better_one_takes_the_place_of_what_an_older_version_left(
    namespace: Namespace, journal: Journal, there: str, kept: bool
) -> None:
    if not namespace.succeeds("ip tuntap add probe mode tun"):
        pytest.skip("the kernel has no tun")
    VirtualInterface(journal).make(1400, (there,))
    index = link(namespace)["ifindex"]
    made = VirtualInterface(journal)
    made.make(1400, ("nosuch", "tun", "ifb"))
    assert (made.kind, link(namespace)["ifindex"] == index) == ("tun", kept)
    assert "trial" not in namespace.run("ip link")


def test_the_second_best_is_adopted_where_there_is_no_better(namespace: Namespace, journal: Journal) -> None:
    if not namespace.succeeds("ip link add probe type ifb"):
        pytest.skip("the kernel has no ifb")
    VirtualInterface(journal).make(1400, ("ifb",))
    index = link(namespace)["ifindex"]
    VirtualInterface(journal).make(1400, ("nosuch", "ifb"))
    assert link(namespace)["ifindex"] == index


def test_a_kernel_with_none_of_them_is_named_with_all_that_was_tried(
    namespace: Namespace, journal: Journal
) -> None:
    with pytest.raises(FacilityError, match=r"no virtual interface can be made \(nosuch: .*; neither: .*\)"):
        VirtualInterface(journal).make(1400, ("nosuch", "neither"))
    assert list(journal.records()) == [InterfaceMade(VIRTUAL_INTERFACE)]
    assert not namespace.succeeds(f"ip link show {VIRTUAL_INTERFACE}")


def test_it_has_exactly_the_addresses_that_it_was_told(namespace: Namespace, upmt0: VirtualInterface) -> None:
    upmt0.set_addresses((VIPA, VIPA6))
    assert addresses(namespace) == ["1.2.3.4/32", "2001:db8:9::4/128"]
    namespace.run(f"ip address add 7.7.7.7/24 dev {VIRTUAL_INTERFACE}")
    upmt0.set_addresses((VIPA6, OTHER))
    assert addresses(namespace) == ["1.2.3.5/32", "2001:db8:9::4/128"]
    upmt0.set_addresses(())
    assert addresses(namespace) == []


def test_the_new_address_comes_before_the_old_one_goes_and_twice_is_once(
    namespace: Namespace, upmt0: VirtualInterface
) -> None:
    upmt0.set_addresses((VIPA,))
    with KernelEvents(GROUP_ADDRESSES) as events:
        upmt0.set_addresses((VIPA,))
        assert events.kinds() == []
        upmt0.set_addresses((OTHER,))
        assert events.kinds() == ["new address", "del address"]


def test_its_mtu_is_set(namespace: Namespace, upmt0: VirtualInterface) -> None:
    upmt0.set_mtu(1280)
    assert link(namespace)["mtu"] == interface_mtu(VIRTUAL_INTERFACE) == 1280
    upmt0.set_mtu(65535)
    assert interface_mtu(VIRTUAL_INTERFACE) == 65535


def test_without_it_nothing_is_set_and_nothing_raised(namespace: Namespace, journal: Journal) -> None:
    missing = VirtualInterface(journal)
    missing.set_addresses((VIPA,))
    missing.set_mtu(1280)
    assert interface_mtu(VIRTUAL_INTERFACE) is None
    assert "1.2.3.4" not in namespace.run("ip address")


def test_it_is_removed_once(namespace: Namespace, upmt0: VirtualInterface) -> None:
    assert remove_interface(VIRTUAL_INTERFACE)
    assert not namespace.succeeds(f"ip link show {VIRTUAL_INTERFACE}")
    assert not remove_interface(VIRTUAL_INTERFACE)
