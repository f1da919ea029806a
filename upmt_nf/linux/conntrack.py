"""The kernel's connection table: what one host left in it, found and deleted by tuple and never more than that."""

from __future__ import annotations

import socket

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import IPAddress

_DIRECTIONS = {"tuple_orig": "CTA_TUPLE_ORIG", "tuple_reply": "CTA_TUPLE_REPLY"}


def forget_host(address: IPAddress) -> int:
    """Delete the connections that an inner address began, and those that were begun with it; gives how many.

    Their NAT would otherwise give the answers of the address's former holder to the next one. Raises KernelError.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    part = NFCTAttrTuple(family, saddr=str(address))
    deleted = 0
    try:
        with NFCTSocket() as table:
            for name, direction in _DIRECTIONS.items():
                # pyroute2 asks for IPv4 only when it lets the kernel filter, and kernels before 5.8 do not.
                for found in list(table.dump(**({name: part} if family == socket.AF_INET else {}))):
                    if found["nfgen_family"] == family and part.nla_eq(family, found.get_attr(direction)):
                        known = NFCTAttrTuple.from_netlink(family, found.get_attr("CTA_TUPLE_ORIG"))
                        deleted += _delete(table, known)
    except (NetlinkError, OSError) as reason:
        raise KernelError(f"the connections of {address} cannot be forgotten: {reason}") from reason
    return deleted


def _delete(table: NFCTSocket, known: NFCTAttrTuple) -> bool:
    """False: it ended meanwhile."""
    try:
        table.entry("del", tuple_orig=known)
    except NetlinkError:
        return False
    return True
