"""The small facilities: namespaces' names, calls from inside an event loop, ready-made packets, rule files."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest
from kernel_namespace import Namespace, own_namespace

from upmt_nf.datapath.packet import build_udp
from upmt_nf.linux import rule_files
from upmt_nf.linux.inject import inject
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.netns import namespace_cookie, state_directory
from upmt_nf.linux.off_loop import off_loop
from upmt_nf.linux.rule_files import read_rules, rule_file
from upmt_nf.model.errors import ConfigError
from upmt_nf.model.names import MARK_NATIVE, STATE_DIRECTORY

LOCAL = ip_address("127.0.0.1")


@pytest.mark.kernel
def test_each_namespace_has_a_word_of_its_own_for_its_state(namespace: Namespace) -> None:
    outer = namespace_cookie()
    assert outer == namespace_cookie()
    with own_namespace():
        inner = namespace_cookie()
        assert state_directory() == Path(STATE_DIRECTORY) / inner
        assert Journal().directory == state_directory()
    assert inner != outer == namespace_cookie()
    assert not (Path(STATE_DIRECTORY) / inner).exists()


@off_loop
def where_it_runs(addend: int, *, factor: int) -> tuple[int, int]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return (1 + addend) * factor, threading.get_ident()
    raise AssertionError("a loop is running in this thread")


def test_a_call_from_inside_a_loop_is_made_outside_of_it() -> None:
    async def inside() -> tuple[int, int]:
        return where_it_runs(2, factor=3)

    result, thread = asyncio.run(inside())
    assert result == 9
    assert thread != threading.get_ident()
    assert where_it_runs(2, factor=3) == (9, threading.get_ident())


def test_an_error_comes_out_of_the_other_thread() -> None:
    @off_loop
    def fail() -> None:
        raise KeyError("inside")

    async def inside() -> None:
        fail()

    with pytest.raises(KeyError, match="inside"):
        asyncio.run(inside())


@pytest.mark.kernel
def test_a_ready_made_packet_is_sent_as_it_is_and_marked_as_native(namespace: Namespace) -> None:
    namespace.iptables(f"-t mangle -A OUTPUT -m mark --mark {MARK_NATIVE:#x}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 4001))
        receiver.settimeout(2.0)
        assert inject(build_udp(ip_address("127.9.9.9"), 9999, LOCAL, 4001, b"ready-made"))
        assert receiver.recvfrom(100) == (b"ready-made", ("127.9.9.9", 9999))
    assert namespace.packets_counted("mangle", "OUTPUT") == 1


@pytest.mark.kernel
def test_a_ready_made_packet_of_ipv6(namespace: Namespace) -> None:
    here = ip_address("::1")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("::1", 4001))
        receiver.settimeout(2.0)
        assert inject(build_udp(here, 9999, here, 4001, b"ready-made"))
        assert receiver.recvfrom(100)[0] == b"ready-made"


@pytest.mark.kernel
def test_a_packet_that_leads_nowhere_is_only_not_sent(namespace: Namespace) -> None:
    assert not inject(build_udp(LOCAL, 1, ip_address("203.0.113.1"), 2, b"x"))
    assert not inject(build_udp(ip_address("::1"), 1, ip_address("2001:db8::1"), 2, b"x"))


RULE = "*raw\n-A UPMT-X -s {anchor} -j DROP\n"
VALUES = {"anchor": "45.0.0.1"}


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The administrator's directory of rules, and a package with one role."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/anchor.rules").write_text(RULE)
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(rule_files, "PACKAGED", (tmp_path / "nowhere", tmp_path / "package"))
    monkeypatch.setattr(rule_files, "ADMINISTERED", tmp_path / "etc")
    return tmp_path / "etc"


def test_both_roles_are_packaged() -> None:
    for role in ("mobile-host", "anchor"):
        assert rule_file(role).name == f"{role}.rules"
        assert os.access(rule_file(role), os.R_OK)


def test_the_administrators_file_is_taken_instead_of_the_packaged_one(etc: Path) -> None:
    assert [str(rule) for rule in read_rules("anchor", VALUES).rules] == ["-A UPMT-X -s 45.0.0.1 -j DROP"]
    (etc / "anchor.rules").write_text(RULE.replace("DROP", "RETURN"))
    assert [str(rule) for rule in read_rules("anchor", VALUES).rules] == ["-A UPMT-X -s 45.0.0.1 -j RETURN"]


def test_further_files_are_added_in_the_order_of_their_names(etc: Path) -> None:
    (etc / "anchor.d").mkdir()
    for name in ("20-b.rules", "10-a.rules", "30-c.rules.bak"):
        (etc / "anchor.d" / name).write_text(
            f"*raw\n-A UPMT-X -i {{network_interface}} -j {name[3].upper()}\n"
        )
    rules = read_rules("anchor", VALUES, iter([{"network_interface": "if0"}])).rules
    assert [rule.words[-1] for rule in rules] == ["DROP", "A", "B"]


def test_a_mistake_is_named_with_the_path_of_its_file(etc: Path) -> None:
    (etc / "anchor.d").mkdir()
    (etc / "anchor.d/mine.rules").write_text("*raw\n-A OUTPUT -j DROP\n")
    with pytest.raises(ConfigError, match=f"^{etc}/anchor.d/mine.rules:2: outside of our own chains"):
        read_rules("anchor", VALUES)


def test_a_role_without_a_file_is_named(etc: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no rule file no-such\.rules in "):
        read_rules("no-such", {})
