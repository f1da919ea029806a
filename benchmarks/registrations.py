"""`python -m benchmarks.registrations`: what the signalling core takes on one core of this machine.

In memory: bytes in, bytes out, by CPU time. On sockets: an anchor's signalling in a process of its own, pinned to one
core, the pretend hosts on another. Timings depend on the machine: read them beside its own figures, printed first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

from benchmarks.anchor_process import LOOPBACK, POOL, UNLIMITED, guard_of
from benchmarks.registration_load import Load, PretendHost, users_text
from benchmarks.registration_wire import Anchor as AnchorProcess
from benchmarks.registration_wire import echoes, hammer, soak
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import SendSip
from upmt_nf.mobility.anchor_events import SipDatagramReceived
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.keys import KeyPair
from upmt_nf.signaling.sip.parser import parse

HOSTS = 4000
SOURCE = Endpoint(LOOPBACK, 5061)
BARS = {"plain": 10_000, "digest": 4_000}
"""Registrations a second end to end on one core, as issue 3 asks."""


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.registrations")
    options.add_argument("--seconds", type=float, default=3.0, help="for each measurement but the soak")
    options.add_argument("--soak", type=float, default=60.0, metavar="SECONDS", help="0: none")
    options.add_argument("--rate", type=int, default=2000, help="registrations a second in the soak")
    options.add_argument(
        "--real-time",
        action="store_true",
        help="run before everybody else on this machine (SCHED_RR, needs root)",
    )
    options.add_argument("--json", type=Path, metavar="FILE")
    chosen = options.parse_args()
    found: dict[str, Any] = {"real_time": chosen.real_time}
    if chosen.real_time:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with tempfile.TemporaryDirectory() as directory:
        users = Path(directory) / "users"
        users.write_text(users_text(HOSTS))
        users.chmod(0o600)
        _machine(found, chosen.seconds)
        _in_memory(found, chosen.seconds, users)
        _on_sockets(found, chosen.seconds, users)
        if chosen.soak:
            found["soak"] = soak(users, HOSTS, chosen.rate, chosen.soak)
            _print_soak(found["soak"])
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


def _machine(found: dict[str, Any], seconds: float) -> None:
    """What the machine itself does: nothing of ours is in these figures."""
    block = b"x" * 256
    said = {
        "sha256_of_256_bytes_per_s": _rate(lambda: sha256(block).hexdigest(), seconds / 3),
        "x25519_agreements_per_s": _rate(lambda: KeyPair().agree(_KEY, is_host=False), seconds / 3),
        "udp_echoes_per_s": echoes(seconds),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }
    found["machine"] = said
    print("this machine: " + ", ".join(f"{name} {value:,.0f}" for name, value in said.items()))


_KEY = KeyPair().public


def _rate(work: Callable[[], object], seconds: float) -> float:
    """How often a second of CPU time `work` is done: the best of five parts, for a machine that others use too."""
    best = 0.0
    for _ in range(5):
        began, times = process_time(), 0
        while (spent := process_time() - began) < seconds / 5:
            for _ in range(20):
                work()
            times += 20
        best = max(best, times / spent)
    return best


# --- in memory ---


def _in_memory(found: dict[str, Any], seconds: float, users: Path) -> None:
    said: dict[str, float] = {}
    # Of many hosts: what the parser remembers of one message must not help with the next.
    requests = itertools.cycle(
        [PretendHost(number, True, _KEY, nonce="n" * 40).register() for number in range(HOSTS)]
    )
    said["parse_and_serialise"] = _rate(lambda: bytes(parse(next(requests))), seconds)
    said["parse"] = _rate(lambda: parse(next(requests)), seconds)
    for name, with_digest, fresh, key in (
        ("plain", False, False, None),
        ("digest_challenged", True, True, None),
        ("digest_challenged_key_kept", True, True, _KEY),
        ("digest_kept_nonce", True, False, None),
        ("digest_kept_nonce_key_kept", True, False, _KEY),
    ):
        hosts = [PretendHost(number, with_digest, key) for number in range(HOSTS)]
        said[name] = _machine_rate(Load(hosts, fresh), users if with_digest else None, seconds)
    said["digest_challenged_new_key"] = _machine_rate(
        Load([PretendHost(number, True) for number in range(HOSTS)], True), users, seconds, new_keys=True
    )
    found["in_memory_per_cpu_s"] = said
    print("in memory, a second of CPU time:")
    for name, rate in said.items():
        print(f"  {name:28} {rate:10,.0f}")


def _machine_rate(load: Load, users: Path | None, seconds: float, *, new_keys: bool = False) -> float:
    """Registrations a second of CPU time in the anchor's machine alone; the best of five parts."""
    machine = Anchor(
        AnchorSettings(address=LOOPBACK, pool=POOL, rates=UNLIMITED), Paft(), Random(1), guard=guard_of(users)
    )
    clock = Clock()
    keys = _keys() if new_keys else None

    def exchange(data: bytes) -> bytes:
        clock.run()
        (sent,) = (
            command
            for command in machine.handle(SipDatagramReceived(SOURCE, data), clock.now)
            if isinstance(command, SendSip)
        )
        machine.next_timeout()
        clock.stop()
        return sent.data

    for _ in range(HOSTS):
        _register(load, exchange, clock.now, None)
    best = 0.0
    for _ in range(5):
        clock.spent, before = 0.0, load.done
        while clock.spent < seconds / 5:
            # The answers are kept for 32 s: time must pass as it would at this rate.
            clock.now += 0.01
            machine.handle(TimeoutReached(), clock.now)
            for _ in range(50):
                _register(load, exchange, clock.now, keys)
        best = max(best, (load.done - before) / clock.spent)
    assert not load.wrong, load.wrong[:3]
    return best


class Clock:
    """The anchor's pretend time, and the CPU time that it used."""

    def __init__(self) -> None:
        self.now, self.spent, self._began = 1000.0, 0.0, 0.0

    def run(self) -> None:
        self._began = process_time()

    def stop(self) -> None:
        self.spent += process_time() - self._began


def _register(
    load: Load, exchange: Callable[[bytes], bytes], now: float, keys: Iterator[bytes] | None
) -> None:
    if keys is not None:
        load.hosts[load.turn].use_key(next(keys))
    data = load.begin(now)
    while data is not None:
        data = load.take(exchange(data), now)


def _keys() -> Iterator[bytes]:
    while True:
        yield os.urandom(32)


# --- on sockets ---


def _on_sockets(found: dict[str, Any], seconds: float, users: Path) -> None:
    said: dict[str, dict[str, float]] = {}
    for name, with_digest, fresh, key, bar in (
        ("plain", False, False, None, BARS["plain"]),
        ("digest_challenged", True, True, None, BARS["digest"]),
        ("digest_challenged_key_kept", True, True, _KEY, BARS["digest"]),
        ("digest_kept_nonce", True, False, None, BARS["digest"]),
    ):
        hosts = [PretendHost(number, with_digest, key) for number in range(HOSTS)]
        with AnchorProcess(users if with_digest else None) as anchor:
            said[name] = hammer(anchor, Load(hosts, fresh), seconds) | {"bar": bar}
    found["on_sockets"] = said
    print("end to end on sockets, anchor on one core:            by the clock   by its CPU time      bar")
    for name, rates in said.items():
        print(f"  {name:46} {rates['per_s']:14,.0f} {rates['per_cpu_s']:16,.0f} {rates['bar']:9,}")


def _print_soak(said: dict[str, Any]) -> None:
    print(
        f"soak: {said['registrations']:,} registrations in {said['seconds']:.0f} s ({said['per_s']:,.0f}/s), "
        f"{said['wrong']} wrong answers, {said['resent']} resent, {said['unfinished']} unfinished, "
        f"anchor used {said['cpu_share']:.0%} of its core"
    )
    print(
        "  memory of the anchor (MiB): " + " ".join(f"{at}s:{rss:.1f}" for at, rss in said["rss_mib"].items())
    )
    for wrong in said["examples"]:
        print(f"  wrong: {wrong}")


if __name__ == "__main__":
    main()
