"""Entries of the connection table are changed one by one."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from kernel_namespace import Namespace
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from upmt_nf.linux.conntrack_entries import Conntrack, delete_message, liberal_message
from upmt_nf.model.flow import TCP, FlowKey

BE_LIBERAL = 8
FAR6 = ip_address("2001:db8::1")


def test_a_change_names_the_flow_as_its_end_does_and_both_directions() -> None:
    flow = FlowKey(TCP, FAR6, 1, FAR6, 2)
    data = liberal_message(flow)
    assert struct.unpack_from("=I", data)[0] == len(data)
    assert data.startswith(delete_message(flow)[16:], 16), "the same entry"
    assert data.endswith(b"\x06\x00\x04\x00\x08\x08\x00\x00\x06\x00\x05\x00\x08\x08\x00\x00")


def liberal_by_port() -> dict[int, tuple[bool, bool]]:
    """Of the TCP connections that conntrack follows here, by who began them: is it liberal there and back?"""
    found = {}
    with NFCTSocket() as table:
        for entry in table.dump():
            protocol = entry.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_PROTO")
            if protocol.get_attr("CTA_PROTO_NUM") == TCP:
                state = entry.get_attr("CTA_PROTOINFO").get_attr("CTA_PROTOINFO_TCP")
                flags = [state.get_attr(f"CTA_PROTOINFO_TCP_FLAGS_{way}") for way in ("ORIGINAL", "REPLY")]
                there, back = (bool(each[0] & BE_LIBERAL) for each in flags)
                found[protocol.get_attr("CTA_PROTO_SRC_PORT")] = there, back
    return found


@pytest.mark.kernel
def test_conntrack_is_liberal_with_the_named_connections_and_strict_with_all_others(
    namespace: Namespace,
) -> None:
    namespace.iptables("-A OUTPUT -m conntrack --ctstate NEW -j ACCEPT")
    here = ip_address("127.0.0.1")
    with ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        ends = [held.enter_context(socket.create_connection(server.getsockname())) for _ in range(3)]
        ports = [end.getsockname()[1] for end in ends]
        if not liberal_by_port().keys() >= set(ports):
            pytest.skip("the kernel follows no connections here")
        one, other, _ = (FlowKey(TCP, here, port, here, server.getsockname()[1]) for port in ports)
        table = Conntrack()
        table.be_liberal(key.packed() for key in (one, other.reversed(), FlowKey(TCP, here, 9, here, 9)))
        table.close()
        found = liberal_by_port()
        assert [found[port] for port in ports] == [(True, True), (True, True), (False, False)]
        assert 9 not in found, "nothing is made"
