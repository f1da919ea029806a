"""Access interfaces as they come and go: each change is seen at once, and the state is the kernel's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface

import pytest
from kernel_namespace import Namespace, eventually, is_readable

from upmt_nf.linux.link_monitor import InterfaceState, LinkMonitor, interface_mtu

pytestmark = pytest.mark.kernel


class Watched:
    """A monitor of `if0` and `if1`, and the last state of each."""

    def __init__(self, monitor: LinkMonitor) -> None:
        self.monitor = monitor
        self.states: dict[str, InterfaceState] = {}
        self.take(monitor.compare())

    def take(self, changed: list[InterfaceState]) -> None:
        self.states.update({state.interface: state for state in changed})

    def until(self, condition: Callable[[InterfaceState], bool], what: str) -> InterfaceState:
        """The state of if0 as soon as the monitor has told one that fits."""

        def told() -> bool:
            if is_readable(self.monitor, 0.1):
                self.take(self.monitor.read())
            return condition(self.states["if0"])

        eventually(told, what)
        return self.states["if0"]


@pytest.fixture
def watched(namespace: Namespace) -> Iterator[Watched]:
    """A host whose if0 is up; if1 is not there."""
    namespace.link("if0", "192.168.100.25/24", peer="far0")
    eventually(lambda: "LOWER_UP" in namespace.run("ip link show if0"), "the carrier is there")
    monitor = LinkMonitor(["if0", "if1"])
    yield Watched(monitor)
    monitor.close()


def test_the_first_look_gives_all_also_what_is_not_there(namespace: Namespace, watched: Watched) -> None:
    assert watched.states["if1"] == InterfaceState("if1")
    state = watched.until(lambda state: state.is_running, "if0 runs")
    index = int(namespace.run("cat /proc/net/dev_snmp6/if0").split()[1])
    assert state == InterfaceState("if0", index, True, (ip_interface("192.168.100.25/24"),), (), 1500)
    assert watched.monitor.compare() == []


def test_nothing_is_told_when_nothing_changed(namespace: Namespace, watched: Watched) -> None:
    watched.until(lambda state: state.is_running, "if0 runs")
    while is_readable(watched.monitor, 0.2):
        watched.take(watched.monitor.read())
    namespace.run("ip link set if0 alias nothing-that-matters")
    assert is_readable(watched.monitor)
    assert watched.monitor.read() == []
    assert not is_readable(watched.monitor, 0)


def test_the_loss_of_the_carrier_and_its_return_are_seen(namespace: Namespace, watched: Watched) -> None:
    watched.until(lambda state: state.is_running, "if0 runs")
    namespace.run("ip link set far0 down")
    lost = watched.until(lambda state: not state.is_running, "the carrier is lost")
    assert lost.addresses == (ip_interface("192.168.100.25/24"),)
    namespace.run("ip link set far0 up")
    watched.until(lambda state: state.is_running, "the carrier is back")


def test_a_lost_carrier_is_told_without_reading_everything_and_once(
    namespace: Namespace, watched: Watched
) -> None:
    watched.until(lambda state: state.is_running, "if0 runs")
    assert watched.monitor.carriers_gone() == []
    namespace.run("ip link set far0 down")
    (gone,) = watched.monitor.carriers_gone()
    assert (gone.interface, gone.is_running) == ("if0", False)
    assert gone.addresses == (ip_interface("192.168.100.25/24"),)
    assert watched.monitor.carriers_gone() == watched.monitor.carriers_lost() == []
    namespace.run("ip link set far0 up")
    watched.until(lambda state: state.is_running, "the carrier is back")


def test_an_interface_that_is_set_down_is_told_by_the_message_itself(
    namespace: Namespace, watched: Watched
) -> None:
    watched.until(lambda state: state.is_running, "if0 runs")
    namespace.run("ip link set if0 down")
    told: list[InterfaceState] = []

    def is_told() -> bool:
        told.extend(watched.monitor.carriers_lost())
        return bool(told)

    eventually(is_told, "if0 is down")
    assert [state.interface for state in told] == ["if0"]


def test_an_interface_that_is_set_down_does_not_run(namespace: Namespace, watched: Watched) -> None:
    watched.until(lambda state: state.is_running, "if0 runs")
    namespace.run("ip link set if0 down")
    watched.until(lambda state: not state.is_running, "if0 is down")


def test_a_link_that_waits_to_be_let_in_does_not_run(namespace: Namespace, watched: Watched) -> None:
    watched.until(lambda state: state.is_running, "if0 runs")
    namespace.run("ip link set if0 mode dormant state dormant")
    watched.until(lambda state: not state.is_running, "if0 is dormant")
    assert "LOWER_UP" in namespace.run("ip link show if0")
    namespace.run("ip link set if0 state up")
    watched.until(lambda state: state.is_running, "if0 was let in")


def test_another_address_is_seen(namespace: Namespace, watched: Watched) -> None:
    namespace.run("ip address add 10.10.10.7/16 dev if0")
    namespace.run("ip address del 192.168.100.25/24 dev if0")
    state = watched.until(lambda state: state.address(4) == ip_address("10.10.10.7"), "the address changed")
    assert state.addresses == (ip_interface("10.10.10.7/16"),)
    namespace.run("ip address del 10.10.10.7/16 dev if0")
    assert watched.until(lambda state: not state.addresses, "no address is left").address(4) is None


def test_ipv6_addresses_of_global_scope_count_and_others_do_not(
    namespace: Namespace, watched: Watched
) -> None:
    namespace.run("ip address add 2001:db8:1::25/64 dev if0 nodad")
    namespace.run("ip address add 169.254.7.7/16 dev if0 scope link")
    state = watched.until(lambda state: state.address(6) is not None, "the IPv6 address is there")
    assert "fe80::" in namespace.run("ip address show dev if0")
    assert state.addresses == (ip_interface("192.168.100.25/24"), ip_interface("2001:db8:1::25/64"))


def test_an_interface_that_goes_and_one_that_comes_in_its_place(
    namespace: Namespace, watched: Watched
) -> None:
    before = watched.states["if0"].index
    namespace.run("ip link del if0")
    assert watched.until(lambda state: state.index == 0, "if0 is gone") == InterfaceState("if0")
    namespace.link("if0", "192.168.100.25/24")
    state = watched.until(lambda state: state.is_running and bool(state.addresses), "if0 is back")
    assert state.index not in (0, before)


def test_one_deleted_and_made_again_between_two_looks_is_another(
    namespace: Namespace, watched: Watched
) -> None:
    before = watched.until(lambda state: state.is_running, "if0 runs")
    namespace.run("ip link del if0")
    namespace.link("if0", "192.168.100.25/24")
    after = watched.until(lambda state: state.index not in (0, before.index), "another if0")
    assert after.index > before.index


def test_an_interface_that_was_not_there_is_told_when_it_comes(
    namespace: Namespace, watched: Watched
) -> None:
    namespace.link("if1", "10.10.10.25/24")
    watched.until(lambda _: watched.states["if1"].is_running, "if1 runs")
    assert watched.states["if1"].index > 0
    assert watched.states["if0"].is_running


def test_the_mtu_is_seen(namespace: Namespace, watched: Watched) -> None:
    namespace.run("ip link set if0 mtu 1400")
    watched.until(lambda state: state.mtu == 1400, "the MTU changed")
    assert interface_mtu("if0") == 1400
    assert interface_mtu("if9") is None


def test_the_gateway_is_that_of_the_interfaces_own_best_default_route(
    namespace: Namespace, watched: Watched
) -> None:
    assert watched.states["if0"].gateway(4) is None
    namespace.link("if1", "10.10.10.25/24")
    namespace.run("ip route add default via 10.10.10.1 dev if1")
    namespace.run("ip route add default via 192.168.100.9 dev if0 metric 900")
    namespace.run("ip route add default via 192.168.100.1 dev if0 metric 100")
    namespace.run("ip route add default via 192.168.100.7 dev if0 metric 50 table 7001")
    namespace.run("ip route add default dev if0 metric 10")
    watched.until(lambda state: state.gateway(4) == ip_address("192.168.100.1"), "the gateway is known")
    namespace.run("ip route del default via 192.168.100.1")
    watched.until(lambda state: state.gateway(4) == ip_address("192.168.100.9"), "the next one is taken")
    namespace.run("ip route del default via 192.168.100.9")
    watched.until(lambda state: state.gateways == (), "no gateway is left")


def test_the_gateway_of_another_administrators_table_counts(namespace: Namespace, watched: Watched) -> None:
    namespace.run("ip route add default via 192.168.100.1 dev if0 table 100")
    watched.until(lambda state: state.gateway(4) == ip_address("192.168.100.1"), "the gateway is known")


def test_lost_messages_do_no_harm(namespace: Namespace, watched: Watched) -> None:
    with socket.socket(fileno=os.dup(watched.monitor.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for number in range(40):
            namespace.run(f"ip address add 10.7.{number}.1/24 dev if0")
        dropped = namespace.run("cat /proc/net/netlink")
    assert any(int(line.split()[8]) > 0 for line in dropped.splitlines()[1:]), "no message was lost"
    watched.take(watched.monitor.read())
    assert len(watched.states["if0"].addresses) == 41
