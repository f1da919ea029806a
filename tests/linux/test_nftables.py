"""What nftables has, as the kernel tells it."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_namespace import Namespace

from upmt_nf.linux import nftables
from upmt_nf.linux.nftables import Nftables, base_chain
from upmt_nf.model.errors import KernelError
from upmt_nf.routing.bystanders import BaseChain


@given(st.binary(max_size=200))
def test_no_message_is_too_strange(body: bytes) -> None:
    assert len(list(base_chain(body))) <= 1


def refusing(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    asked: list[int] = []

    def refuse(kind: int, *, is_dump: bool) -> object:
        asked.append(kind)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(nftables, "_asked", refuse)
    return asked


def test_a_kernel_without_it_has_none_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refusing(monkeypatch, errno.EINVAL)
    tables = Nftables()
    assert [tables.generation() for _ in range(3)] == [None, None, None]
    assert tables.base_chains() == ()
    assert len(asked) == 1 or nftables._MODULE.exists()


def test_one_that_does_not_tell_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, errno.EPERM)
    with pytest.raises(KernelError, match="Operation not permitted"):
        Nftables().base_chains()


@pytest.mark.kernel
def test_chains_at_hooks_are_told_and_each_change_shows(namespace: Namespace) -> None:
    tables = Nftables()
    before = tables.generation()
    if before is None or not namespace.succeeds("iptables-nft -A FORWARD -p udp -j DROP"):
        pytest.skip("no nf_tables, or no iptables-nft")
    assert BaseChain(2, "filter", "FORWARD", 2) in tables.base_chains()
    after = tables.generation()
    assert after != before
    assert tables.generation() == after
