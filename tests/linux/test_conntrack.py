"""What one host left in the connection table goes, and nothing else does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from kernel_namespace import Namespace
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from upmt_nf.linux.conntrack import forget_host

pytestmark = pytest.mark.kernel

HOST, NEIGHBOUR, FAR = "127.0.0.5", "127.0.0.6", "127.0.0.9"


@pytest.fixture
def table(namespace: Namespace) -> Iterator[NFCTSocket]:
    """The table of a namespace that tracks; skipped when the kernel does not."""
    namespace.run("ip link set lo up")
    if not namespace.succeeds("iptables -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT"):
        pytest.skip("the kernel has no conntrack match")
    with NFCTSocket() as made:
        yield made


def sources(table: NFCTSocket) -> set[str]:
    found = [entry.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_IP") for entry in table.dump()]
    return {address.get_attr("CTA_IP_V4_SRC") or address.get_attr("CTA_IP_V6_SRC") for address in found}


def send(source: str, destination: str, ports: range) -> None:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with ExitStack() as stack:
        made = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        made.bind((source, 0))
        for port in ports:
            made.sendto(b"x", (destination, port))


def test_the_connections_of_one_host_go_in_both_directions(table: NFCTSocket) -> None:
    send(HOST, FAR, range(1000, 1020))
    send(NEIGHBOUR, FAR, range(1000, 1003))
    # A forward: somebody else began it.
    send(FAR, HOST, range(2000, 2002))
    if HOST not in sources(table):
        pytest.skip("the kernel does not track what stays on the machine")
    assert forget_host(ip_address(HOST)) == 22
    assert sources(table) == {NEIGHBOUR}
    assert forget_host(ip_address(HOST)) == 0


def test_there_may_be_nothing_to_forget(table: NFCTSocket) -> None:
    assert forget_host(ip_address("2001:db8::5")) == 0
    assert forget_host(ip_address("1.2.3.4")) == 0
