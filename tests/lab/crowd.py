"""A host full of processes, some of them programs that begin new flows all the time.

`crowd.py ADDRESS PORT PROGRAMS RATE SECONDS IDLE`: IDLE processes sleep, PROGRAMS programs called `even0`, `odd1`, ...
begin RATE UDP flows a second together, each one packet (`@e` or `@o`) and its echo. Says in JSON how it went:
`flows`, `answered`, `seconds`, and the time that `late_us` packets took at the 50th and 99th percentile.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path


def program(number: int, address: str, port: int, rate: float, seconds: float, report: int) -> None:
    kind = "odd" if number % 2 else "even"
    Path("/proc/self/comm").write_text(f"{kind}{number}")
    message = f"@{kind[0]}{number}".encode()
    waiting: dict[int, tuple[socket.socket, float]] = {}
    poller = select.epoll()
    flows = answered = 0
    took: list[int] = []

    def collect(until: float) -> None:
        nonlocal answered
        while True:
            found = poller.poll(max(0.0, until - time.monotonic()))
            for handle, _ in found:
                one, began = waiting.pop(handle)
                try:
                    one.recv(100)
                    answered += 1
                    took.append(int((time.monotonic() - began) * 1e6))
                except OSError:
                    pass
                poller.unregister(handle)
                one.close()
            if time.monotonic() >= until:
                return

    start = time.monotonic() + number / rate / 50
    while (due := start + flows / rate) < start + seconds:
        collect(due)
        one = socket.socket(type=socket.SOCK_DGRAM)
        one.connect((address, port))
        flows += 1
        waiting[one.fileno()] = (one, time.monotonic())
        poller.register(one.fileno(), select.EPOLLIN)
        one.send(message)
    end = time.monotonic() + 3
    while waiting and time.monotonic() < end:
        collect(min(end, time.monotonic() + 0.1))
    os.write(report, json.dumps([flows, answered, took[:2000]]).encode() + b"\n")


def all_of(reader: int) -> bytes:
    with os.fdopen(reader, "rb") as file:
        return file.read()


def main() -> None:
    address, port, programs, rate, seconds, idle = sys.argv[1], *map(float, sys.argv[2:])
    sleepers: list[int] = []
    try:
        for _ in range(int(idle)):
            if not (pid := os.fork()):
                os.closerange(0, 64)
                signal.pause()
            sleepers.append(pid)
        reports: list[int] = []
        began = time.monotonic()
        for number in range(int(programs)):
            reader, writer = os.pipe()
            if not os.fork():
                sleepers.clear()
                program(number, address, int(port), rate / programs, seconds, writer)
                os._exit(0)
            os.close(writer)
            reports.append(reader)
        said = [json.loads(all_of(reader) or b"[0, 0, []]") for reader in reports]
        took = sorted(value for _, _, values in said for value in values) or [0]
        print(
            json.dumps(
                {
                    "flows": sum(flows for flows, _, _ in said),
                    "answered": sum(answered for _, answered, _ in said),
                    "seconds": round(time.monotonic() - began, 2),
                    "late_us": [took[len(took) // 2], took[len(took) * 99 // 100]],
                }
            )
        )
    finally:
        for pid in sleepers:
            os.kill(pid, signal.SIGKILL)
        for pid in sleepers:
            os.waitpid(pid, 0)


main()
