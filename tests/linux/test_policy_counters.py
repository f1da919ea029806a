"""What the policies of built-in chains counted is what passed, whatever we change in their tables meanwhile."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
from kernel_namespace import Namespace

from upmt_nf.linux import netfilter, policy_counters
from upmt_nf.linux.journal import Journal
from upmt_nf.model.errors import KernelError
from upmt_nf.routing.rule_text import expand

pytestmark = pytest.mark.kernel

OURS = expand("*filter\n-A INPUT -j UPMT-X\n-A UPMT-X -i eth7 -j RETURN\n", "my.rules", {})
SIZE = 28 + 10


def policy(namespace: Namespace, chain: str, tool: str = "iptables") -> tuple[int, int]:
    """What iptables-save says of a policy of the filter table."""
    saved = namespace.run(f"{tool}-legacy-save -c -t filter")
    line = next(line for line in saved.splitlines() if line.startswith(f":{chain} "))
    packets, size = line.partition("[")[2].rstrip("]").split(":")
    return int(packets), int(size)


def test_no_packet_is_lost_from_the_count_while_we_change_the_table(
    namespace: Namespace, journal: Journal
) -> None:
    namespace.iptables("-A OUTPUT -p icmp -j ACCEPT")
    namespace.iptables("-A OUTPUT -d 203.0.113.1/32 -j DROP")
    is_over = threading.Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            while not is_over.is_set():
                one.sendto(bytes(10), other.getsockname())
                sent += 1

    before = policy(namespace, "OUTPUT")
    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(20):
            netfilter.install(OURS, journal)
            netfilter.remove()
    finally:
        is_over.set()
        sender.join()
    after = policy(namespace, "OUTPUT")
    assert sent > 100
    assert (after[0] - before[0], after[1] - before[1]) == (sent, sent * SIZE)


def test_every_policy_of_both_families_keeps_its_count(namespace: Namespace, journal: Journal) -> None:
    text = "*filter\n:INPUT ACCEPT [7:700]\n:FORWARD DROP [5:500]\n:OUTPUT ACCEPT [3:300]\nCOMMIT\n"
    for tool, version in (("iptables", 4), ("ip6tables", 6)):
        if not namespace.succeeds(f"{tool}-legacy -S"):
            pytest.skip(f"there is no {tool}-legacy")
        namespace.run(f"sh -c \"printf '{text}' | {tool}-legacy-restore -c\"")
        netfilter.install(OURS, journal, version)
        for chain, count in (("INPUT", (7, 700)), ("FORWARD", (5, 500)), ("OUTPUT", (3, 300))):
            assert policy(namespace, chain, tool) == count, (tool, chain)
        netfilter.remove(version)
        assert policy(namespace, "FORWARD", tool) == (5, 500)


def test_somebody_who_changes_the_table_at_that_moment_is_waited_for(
    namespace: Namespace, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace.iptables("-P FORWARD DROP")
    asked = policy_counters._asked
    calls = 0

    def asked_late(opened: socket.socket, level: int, option: int, question: bytes) -> bytes:
        nonlocal calls
        answer = asked(opened, level, option, question)
        calls += 1
        if calls < 5:
            namespace.iptables(f"-A OUTPUT -m mark --mark {calls} -j ACCEPT")
        return answer

    monkeypatch.setattr(policy_counters, "_asked", asked_late)
    policy_counters.add("filter", 4, {"FORWARD": (2, 99)})
    assert calls > 5
    assert policy(namespace, "FORWARD") == (2, 99)


def test_a_table_that_is_not_there_is_named(namespace: Namespace) -> None:
    with pytest.raises(KernelError, match="policies of table nosuch"):
        policy_counters.add("nosuch", 4, {"OUTPUT": (1, 1)})
    policy_counters.add("nosuch", 4, {"OUTPUT": (0, 0)})


def test_the_layouts_are_the_kernels() -> None:
    # struct ipt_getinfo has 84 bytes, the others 40 before what they hold (linux/netfilter_ipv4/ip_tables.h).
    assert struct.calcsize("=32sI5I5III") == 84
    assert policy_counters._HEADER.size == 40
