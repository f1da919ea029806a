"""The fast plane in the lab: what passes it, and that nothing stops when a daemon does."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, wait_until

from upmt_nf.lab.stream_report import report
from upmt_nf.lab.voice_stream import read_log

pytestmark = [
    pytest.mark.lab,
    pytest.mark.alone,
    pytest.mark.parametrize("lab_of_module", ["fast"], indirect=True),
]

CORRESPONDENT = "86.0.0.1"
STREAM = (sys.executable, "-m", "upmt_nf.lab.voice_stream")


def start_stream(
    lab: Lab, application: str, log: Path, rate: int, seconds: float, port: int
) -> subprocess.Popen[str]:
    lab.start("ch", *STREAM, "echo", str(port), str(log.with_suffix(".echo")))
    lab.await_listener("ch", port)
    return lab.start(
        "mh", *UPMT, "run", "--app", application, "--",
        *STREAM, "send", CORRESPONDENT, str(port), str(rate), str(seconds), str(log),
    )  # fmt: skip


def left_to_agent(lab: Lab, host: str) -> int:
    counters = lab.ask("status", host=host)["counters"]
    return sum(count for name, count in counters.items() if name.startswith("fast_left"))


def test_a_known_flow_never_reaches_the_agent_and_is_counted(lab: Lab) -> None:
    assert lab.ask("status")["datapath"] == lab.ask("status", host="an")["datapath"] == "fast"
    assert lab.ask("status")["datapath_reason"]
    before = {host: left_to_agent(lab, host) for host in ("mh", "an")}
    lab.on("mh", "ping", "-q", "-c", "500", "-i", "0.002", CORRESPONDENT)
    for host in ("mh", "an"):
        assert left_to_agent(lab, host) - before[host] < 50
        flow = max(
            (each for each in lab.ask("flows", host=host) if each["protocol"] == "icmp"),
            key=lambda f: f["packets"],
        )
        assert flow["packets"] == 1000
        assert flow["bytes"] == 1000 * 84


def test_hundred_planned_handovers_lose_double_and_reorder_nothing(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "stream.log"
    lab.ask("assign", "--app", "quick", "--to", "net0,any")
    stream = start_stream(lab, "quick", log, 2000, 100, 5010)
    wait_until(lambda: log.exists() and log.stat().st_size > 16 * 1000, "the stream runs", 30)
    for count in range(100):
        receipt = lab.ask("handover", "quick", "--to", "net1" if count % 2 == 0 else "net0")
        assert receipt["mode"] == "make-before-break"
    stream.terminate()
    stream.wait(timeout=30)
    for there in (log.with_suffix(".echo"), log):
        arrivals = read_log(there)
        result = report(arrivals, 0, max(each.number for each in arrivals))
        assert (result.lost, result.duplicated, result.reordered) == (0, 0, 0)


WHO = """
import socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("0.0.0.0", int(sys.argv[1])))
while True:
    _, source = made.recvfrom(2000)
    made.sendto(repr(source).encode(), source)
"""
ASKING = """
import socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.settimeout(10)
seen = set()
for _ in range(200):
    made.sendto(b"who am I?", (sys.argv[1], int(sys.argv[2])))
    seen.add(made.recv(2000).decode())
print(*seen)
"""


def test_known_datagrams_pass_netfilter_by_at_the_anchor(lab: Lab) -> None:
    if " bpf_skb_ct_lookup\n" not in Path("/proc/kallsyms").read_text():
        pytest.skip("this kernel does not lend its conntrack to programs (Linux 6.0, CONFIG_DEBUG_INFO_BTF)")
    lab.start("ch", sys.executable, "-c", WHO, "5016")
    lab.await_listener("ch", 5016)

    def forwarded() -> int:
        lines = lab.on("an", "iptables-legacy", "-nvxL", "UPMT-FORWARD").stdout.splitlines()
        return int(next(line for line in lines if "source IP range" in line).split()[0])

    before = forwarded()
    (seen,) = lab.on("mh", sys.executable, "-c", ASKING, CORRESPONDENT, "5016").stdout.splitlines()
    assert seen.startswith("('45.0.0.1', ")
    assert seen.count("(") == 1, (
        "one flow is one pair of address and port, however its packets are translated"
    )
    assert forwarded() - before < 50
    flow = next(each for each in lab.ask("flows", host="an") if each["destination_port"] == 5016)
    assert flow["packets"] == 400


class Anchor:
    """What netfilter sees at the anchor of the TCP connections to one port of the correspondent."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._lab = lab
        self._port = port

    def forwarded(self) -> int:
        """Bytes, both ways."""
        lines = self._lab.on("an", "iptables-legacy", "-nvxL", "UPMT-FORWARD").stdout.splitlines()
        return sum(int(line.split()[1]) for line in lines[2:])

    def invalid(self) -> int:
        """Packets that conntrack refused, of anybody."""
        head, *rows = self._lab.on("an", "cat", "/proc/net/stat/nf_conntrack").stdout.splitlines()
        return sum(int(row.split()[head.split().index("invalid")], 16) for row in rows)

    def entry(self) -> tuple[str, int]:
        """State and seconds left of the newest connection."""
        lines = self._lab.on("an", "cat", "/proc/net/nf_conntrack").stdout.splitlines()
        ours = [line.split() for line in lines if f" dport={self._port} " in line and " tcp " in line]
        left, state = max((int(words[4]), words[5]) for words in ours)
        return state, left


GIVES_BACK = """
import socket, sys, threading
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
def give_back(end):
    while data := end.recv(1 << 20):
        end.sendall(data)
    end.close()
while True:
    threading.Thread(target=give_back, args=server.accept()[:1]).start()
"""
CARRIES = """
import hashlib, os, socket, struct, sys, threading
end = socket.create_connection((sys.argv[1], int(sys.argv[2])))
part = os.urandom(1 << 20)
for line in sys.stdin:
    word, _, count = line.partition(" ")
    if word == "carry":
        sender = threading.Thread(target=lambda: [end.sendall(part) for _ in range(int(count))])
        sender.start()
        sums = set()
        for _ in range(int(count)):
            sums.add(hashlib.sha256(end.recv(1 << 20, socket.MSG_WAITALL)).digest())
        sender.join()
        print(sums == {hashlib.sha256(part).digest()}, flush=True)
        continue
    if word.strip() == "reset":
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    break
end.close()
print("ended", flush=True)
"""


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_known_connections_pass_netfilter_by_at_the_anchor_and_come_back_whole(lab: Lab, ending: str) -> None:
    """Its windows are far from what conntrack saw last, when it sees the connection again, and when that ends."""
    if " bpf_skb_ct_lookup\n" not in Path("/proc/kallsyms").read_text():
        pytest.skip("this kernel does not lend its conntrack to programs (Linux 6.0, CONFIG_DEBUG_INFO_BTF)")
    port = 5018 if ending == "close" else 5019
    anchor, refused = Anchor(lab, port), Anchor(lab, port).invalid()
    lab.start("ch", sys.executable, "-c", GIVES_BACK, str(port))
    lab.await_listener("ch", port)
    words = (*lab.words("mh"), sys.executable, "-c", CARRIES, CORRESPONDENT, str(port))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:

        def tell(line: str) -> str:
            assert client.stdin is not None
            assert client.stdout is not None
            print(line, file=client.stdin, flush=True)
            return client.stdout.readline().strip()

        def carry(megabytes: int) -> int:
            """How much of it netfilter saw, in MiB, both ways."""
            before = anchor.forwarded()
            assert tell(f"carry {megabytes}") == "True"
            return anchor.forwarded() - before >> 20

        carry(4)
        wait_until(lambda: carry(4) == 0, "the programs take it")
        for _ in range(3):
            assert carry(40) == 0
        state, left = anchor.entry()
        assert state == "ESTABLISHED"
        assert left > 431_900, "as long as conntrack keeps it, from the last packet on"
        rule = ("FORWARD", "-p", "udp", "-d", "203.0.113.1", "-j", "DROP")
        lab.on("an", "iptables-legacy", "-I", *rule)
        try:
            wait_until(lambda: not lab.ask("status", host="an")["shortcut"]["open"], "it is closed", 5)
            assert carry(20) >= 38
        finally:
            lab.on("an", "iptables-legacy", "-D", *rule)
        wait_until(lambda: carry(4) == 0, "the programs take it again")
        assert tell(ending) == "ended"
    wait_until(lambda: anchor.entry()[1] <= 120, "conntrack knows that it has ended")
    assert anchor.entry()[0] == ("TIME_WAIT" if ending == "close" else "ESTABLISHED")
    assert ending == "close" or anchor.entry()[1] <= 10
    assert anchor.invalid() == refused


def test_somebody_elses_rule_stops_a_known_flow_and_its_end_lets_it_go_on(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "stream.log"
    is_there = " bpf_skb_ct_lookup\n" in Path("/proc/kallsyms").read_text()
    rule = ("FORWARD", "-p", "udp", "-j", "DROP")

    def shortcut() -> dict[str, object]:
        found: dict[str, object] = lab.ask("status", host="an")["shortcut"]
        return found

    arrived = log.with_suffix(".echo")
    """At the correspondent: answers come by netfilter in any case, and would stop at once."""

    def is_still() -> bool:
        size = arrived.stat().st_size
        time.sleep(0.2)
        return arrived.stat().st_size == size

    assert shortcut()["open"] == is_there, shortcut()
    stream = start_stream(lab, "barred", log, 200, 20, 5017)
    wait_until(lambda: log.exists() and log.stat().st_size > 16 * 200, "the stream runs", 30)
    lab.on("an", "iptables-legacy", "-I", *rule)
    try:
        wait_until(lambda: not shortcut()["open"] and is_still(), "the rule stops the stream", 2)
        if is_there:
            assert str(shortcut()["reason"]).endswith("iptables -t filter -A FORWARD -p udp -j DROP")
        assert "shortcut past netfilter closed" in lab.on("an", *UPMT, "doctor", check=False).stdout
    finally:
        lab.on("an", "iptables-legacy", "-D", *rule)
    size = log.stat().st_size
    wait_until(lambda: log.stat().st_size > size + 16 * 100, "the stream goes on", 5)
    wait_until(lambda: shortcut()["open"] == is_there, "the shortcut is as before", 5)
    assert stream.poll() is None
    stream.terminate()


SEGMENTS = """
import socket, struct, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.settimeout(10)
datagrams = [bytes([number]) * 1200 for number in range(20)] + [b"last"]
size = (socket.IPPROTO_UDP, 103, struct.pack("=H", 1200))
for _ in range(20):
    made.sendmsg([b"".join(datagrams)], [size], 0, (sys.argv[1], int(sys.argv[2])))
    assert sorted(made.recv(2000) for _ in datagrams) == sorted(datagrams)
"""
ECHO = """
import socket, struct, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("0.0.0.0", int(sys.argv[1])))
while True:
    data, source = made.recvfrom(70000)
    made.sendto(data, source)
"""


def test_datagrams_sent_in_one_go_arrive_one_by_one(lab: Lab) -> None:
    """UDP_SEGMENT, as QUIC uses it: the agent has them cut before the tunnel."""
    lab.start("ch", sys.executable, "-c", ECHO, "5015")
    lab.await_listener("ch", 5015)
    lab.on("mh", sys.executable, "-c", SEGMENTS, CORRESPONDENT, "5015")
