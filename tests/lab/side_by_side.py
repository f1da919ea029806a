"""UDP flows side by side, one a port: `side_by_side.py ADDRESS FIRST-PORT COUNT RATE` sends to an echo at each.

With each line on standard input it says as JSON, by port, since the line before: how many answers came, and the longest
time in milliseconds between two of them. Ends with its standard input.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time


def main() -> None:
    address, first, count, rate = sys.argv[1], *map(int, sys.argv[2:5])
    flows = {}
    for port in range(first, first + count):
        flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        flow.connect((address, port))
        flow.setblocking(False)
        flows[flow] = port
    came = dict.fromkeys(flows.values(), 0)
    gaps = dict.fromkeys(flows.values(), 0.0)
    last = dict.fromkeys(flows.values(), time.monotonic())
    due = time.monotonic()
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([*flows, sys.stdin], [], [], max(0.0, due - time.monotonic()))
        now = time.monotonic()
        for flow, port in flows.items():
            if flow in readable and take_all(flow):
                came[port] += 1
                gaps[port] = max(gaps[port], now - last[port])
                last[port] = now
        if now >= due:
            due = max(due + 1 / rate, now)
            for flow in flows:
                try:
                    flow.send(b"side by side")
                except OSError:
                    continue
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            told = {port: [came[port], round(1000 * gaps[port], 1)] for port in came}
            print(json.dumps(told), flush=True)
            came, gaps = dict.fromkeys(came, 0), dict.fromkeys(gaps, 0.0)


def take_all(flow: socket.socket) -> int:
    count = 0
    while True:
        try:
            flow.recv(2048)
        except OSError:
            return count
        count += 1


main()
