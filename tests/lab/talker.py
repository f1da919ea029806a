"""A program with many faces that keeps talking on whatever sockets it is told to open, and counts the answers.

`talker.py [--name COMM] [--uid N] [--gid N] [--dscp N] [--cgroup DIRECTORY]`; then lines on standard input:
`tcp|udp|icmp ADDRESS PORT` opens a socket and says its protocol and source port, `fork ...` does it in a child,
`count` says how many answers there were by `protocol:port`, as JSON. It ends with its standard input.
"""

import argparse
import json
import os
import select
import socket
import sys
from pathlib import Path

ICMP_ECHO = bytes((8, 0, 0, 0, 0, 0, 0, 1)) + b"talker"
TICK = 0.05


def become(options: argparse.Namespace) -> None:
    if options.cgroup:
        (Path(options.cgroup) / "cgroup.procs").write_text(str(os.getpid()))
    if options.name:
        Path("/proc/self/comm").write_bytes(os.fsencode(options.name))
    if options.gid is not None:
        os.setgid(options.gid)
    if options.uid is not None:
        os.setuid(options.uid)


def opened(protocol: str, address: str, port: int, dscp: int) -> socket.socket:
    if protocol == "icmp":
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    else:
        made = socket.socket(type=socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
    if dscp:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
    made.setblocking(True)
    made.connect((address, port))
    made.setblocking(False)
    print(protocol, made.getsockname()[1], flush=True)
    return made


def talk(sockets: dict[str, socket.socket], counts: dict[str, int]) -> None:
    for key, one in sockets.items():
        try:
            one.send(ICMP_ECHO if key.startswith("icmp") else b"talker")
        except OSError:
            continue
    for key, one in sockets.items():
        try:
            while one.recv(2048):
                counts[key] += 1
        except OSError:
            continue


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--name")
    options.add_argument("--uid", type=int)
    options.add_argument("--gid", type=int)
    options.add_argument("--dscp", type=int, default=0)
    options.add_argument("--cgroup")
    chosen = options.parse_args()
    become(chosen)
    sockets: dict[str, socket.socket] = {}
    counts: dict[str, int] = {}
    has_orders = True
    print("ready", os.getpid(), flush=True)
    left = b""
    while True:
        if has_orders and select.select([0], [], [], TICK)[0]:
            data = os.read(0, 4096)
            if not data:
                return
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                words = line.decode().split()
                if words == ["count"]:
                    print(json.dumps(counts), flush=True)
                    continue
                if words[0] == "fork":
                    if os.fork():
                        continue
                    has_orders, words = False, words[1:]
                    sockets, counts = {}, {}
                    lines.clear()
                one = opened(words[0], words[1], int(words[2]), chosen.dscp)
                key = f"{words[0]}:{one.getsockname()[1]}"
                sockets[key], counts[key] = one, 0
                if not has_orders:
                    break
        elif not has_orders:
            select.select([], [], [], TICK)
            if os.getppid() == 1:
                sys.exit()
        talk(sockets, counts)


main()
