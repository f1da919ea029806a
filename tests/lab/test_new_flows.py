"""Many new flows a second: what the direct path carries without an error, the tunnel carries too."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from lab_driver import Lab

from upmt_nf.lab import namespaces

pytestmark = [pytest.mark.lab, pytest.mark.alone]

PROGRAM = str(Path(__file__).parent / "many_flows.py")
SENDER = """
import signal, socket, sys, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.connect(("86.0.0.1", int(sys.argv[1])))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("ready", flush=True)
signal.sigwait([signal.SIGUSR1])
for number in range(200):
    one.send(number.to_bytes(4, "big"))
print("held up", flush=True)
for number in range(200, 230):
    time.sleep(0.003)
    one.send(number.to_bytes(4, "big"))
"""
RECEIVER = """
import json, socket, sys
one, found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), []
one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
one.bind(("", int(sys.argv[1])))
one.settimeout(20)
try:
    while len(found) < 230:
        found.append(int.from_bytes(one.recv(4), "big"))
        one.settimeout(3)
except TimeoutError:
    pass
print(json.dumps(found))
"""


def test_two_thousand_new_flows_a_second_for_ten_seconds(lab: Lab) -> None:
    lab.start("ch", sys.executable, PROGRAM, "serve", "6001")
    lab.await_listener("ch", 6001)
    words = (sys.executable, PROGRAM, "burst", "86.0.0.1", "6001", "2000", "10")
    result = json.loads(lab.on("mh", *words, timeout=60).stdout)
    assert result["failed"] == 0
    assert result["answered"] == result["flows"] == 20_000
    host, anchor = lab.ask("status")["counters"], lab.ask("status", host="an")["counters"]
    assert (host["queue_overruns"], anchor["queue_overruns"]) == (0, 0)


def test_a_rule_that_needs_the_process_loses_no_flow_under_a_flood(lab: Lab) -> None:
    lab.ask("assign", "--command", "no-such-command", "--to", "net1")
    lab.start("ch", sys.executable, PROGRAM, "serve", "6002")
    lab.await_listener("ch", 6002)
    words = (sys.executable, PROGRAM, "burst", "86.0.0.1", "6002", "1000", "5")
    result = json.loads(lab.on("mh", *words, timeout=60).stdout)
    assert (result["failed"], result["answered"]) == (0, 5000)


@pytest.mark.parametrize("held_up", ["mh", "an"])
def test_later_packets_of_a_flow_do_not_overtake_the_first_ones_that_a_held_up_agent_has(
    lab: Lab, held_up: str
) -> None:
    # The process of a flow counts, so its first packets are the agent's at the host, too.
    lab.ask("assign", "--command", "no-such-command", "--to", "net1")
    port = {"mh": "6003", "an": "6004"}[held_up]
    receiver = lab.start("ch", sys.executable, "-c", RECEIVER, port)
    lab.await_listener("ch", int(port))
    daemons = {
        host: pid
        for host in ("mh", "an")
        for pid in namespaces.processes_in(lab.name, host)
        if is_daemon(pid)
    }
    daemon = daemons[held_up]
    sender = lab.start("mh", sys.executable, "-c", SENDER, port)
    # Whoever sends by two cores in turns has its packets reordered by the kernel's own queues, one a core.
    core = {min(os.sched_getaffinity(0))}
    for pid in (*daemons.values(), sender.pid):
        os.sched_setaffinity(pid, core)
    assert sender.stdout is not None
    assert sender.stdout.readline() == "ready\n"
    os.kill(daemon, signal.SIGSTOP)
    try:
        sender.send_signal(signal.SIGUSR1)
        assert sender.stdout.readline() == "held up\n"
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert receiver.stdout is not None
    found = json.loads(receiver.stdout.readline())
    assert sorted(found) == list(range(230))
    assert found == sorted(found)


def is_daemon(pid: int) -> bool:
    return "\0run\0--config\0" in Path(f"/proc/{pid}/cmdline").read_text()
