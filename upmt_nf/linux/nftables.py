"""What nftables has in this network namespace, asked over netlink (linux/netfilter/nf_tables.h). Changes nothing."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from upmt_nf.linux.netlink import asked, attributes
from upmt_nf.model.errors import KernelError
from upmt_nf.routing.bystanders import BaseChain

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8
"""NFNL_SUBSYS_NFTABLES."""
_NEW_CHAIN, _GET_CHAIN, _NEW_GENERATION, _GET_GENERATION = (_SUBSYSTEM | kind for kind in (3, 4, 15, 16))
_TYPE_BITS = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _HOOK_NUMBER, _GENERATION_ID = 1, 3, 4, 1, 1
_FAMILY_HEADER = struct.Struct("=BBH")
"""struct nfgenmsg."""
_BIG = struct.Struct("!I")
_ABSENT = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT))
"""What a kernel without nf_tables, or without nfnetlink, says."""
_MODULE = Path("/sys/module/nf_tables")
_PATIENCE = 5.0
"""Seconds; the kernel answers at once."""


class Nftables:
    """Asks again and again; a kernel without nf_tables only once, as each question would look for a module."""

    def __init__(self) -> None:
        self._is_absent = False

    def generation(self) -> int | None:
        """A number that each change of the rule set raises; None without nf_tables. Raises KernelError."""
        if self._is_absent and not _MODULE.exists():
            return None
        try:
            for kind, body in _asked(_GET_GENERATION, is_dump=False):
                found = dict(attributes(body[_FAMILY_HEADER.size :]))
                if kind == _NEW_GENERATION and len(number := found.get(_GENERATION_ID, b"")) == _BIG.size:
                    self._is_absent = False
                    return int(_BIG.unpack(number)[0])
        except OSError as reason:
            if reason.errno in _ABSENT:
                self._is_absent = True
                return None
            raise KernelError(f"nftables cannot be asked: {reason.strerror}") from reason
        raise KernelError("nftables cannot be asked: it says nothing of its generation")

    def base_chains(self) -> tuple[BaseChain, ...]:
        """Every chain at a hook, of all families; none without nf_tables. Raises KernelError."""
        if self.generation() is None:
            return ()
        try:
            answers = list(_asked(_GET_CHAIN, is_dump=True))
        except OSError as reason:
            raise KernelError(f"nftables cannot be asked: {reason.strerror}") from reason
        return tuple(chain for kind, body in answers if kind == _NEW_CHAIN for chain in base_chain(body))


def base_chain(body: bytes) -> Iterator[BaseChain]:
    """The chain of a message NFT_MSG_NEWCHAIN, if it is at a hook. Never raises."""
    found = {kind & _TYPE_BITS: value for kind, value in attributes(body[_FAMILY_HEADER.size :])}
    hook = {kind & _TYPE_BITS: value for kind, value in attributes(found.get(_CHAIN_HOOK, b""))}
    if len(number := hook.get(_HOOK_NUMBER, b"")) == _BIG.size:
        yield BaseChain(
            body[0], _text(found, _CHAIN_TABLE), _text(found, _CHAIN_NAME), int(_BIG.unpack(number)[0])
        )


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _asked(kind: int, *, is_dump: bool) -> Iterator[tuple[int, bytes]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(_PATIENCE)
        kernel.bind((0, 0))
        family = _FAMILY_HEADER.pack(socket.AF_UNSPEC, 0, 0)
        yield from asked(kernel, kind, family, is_dump=is_dump)
