"""A flood of strangers: REGISTERs, garbage and tunnel packets of unknown tunnels from forged sources, at a given rate.

Needs root. Prints how many packets it sent a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import time
from ipaddress import ip_address
from random import Random

from upmt_nf.datapath.packet import build_udp
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AssociationRequest
from upmt_nf.signaling.sip.build import register

FIRST_SOURCE = ip_address("198.18.0.1")
KINDS = ("register", "garbage", "unknown", "signal")


def packets(kinds: tuple[str, ...], sources: int, anchor: IPAddress) -> list[bytes]:
    """One packet of each kind from each source; sources stand in many networks."""
    chance = Random(11)
    made = []
    for number in range(sources):
        source = FIRST_SOURCE + number * 131 % 131072
        port = 1024 + number
        asked = register(
            anchor=Endpoint(anchor, 5060),
            local=Endpoint(source, port),
            identity=f"stranger{number}@nowhere.example",
            call_id=f"{number:016x}",
            cseq=1,
            tag=f"{number:016x}",
            expires=3600,
            body=encode(AssociationRequest(3600, None, bytes(range(32)))),
        )
        sip = bytes(asked).replace(b";rport", b";rport;branch=z9hG4bK%016x" % number, 1)
        inner = ip_address("1.2.3.4") + number % 250
        payloads = {
            "register": (5060, sip),
            "garbage": (5060, chance.randbytes(chance.randrange(20, 600))),
            "unknown": (1800, build_udp(inner, 2, ip_address("86.0.0.1"), 3, bytes(200))),
            "signal": (1800, build_udp(inner, 5060, anchor, 5060, sip)),
        }
        for kind in kinds:
            to, payload = payloads[kind]
            made.append(build_udp(source, port, anchor, to, payload))
    return made


def main() -> None:
    options = argparse.ArgumentParser(prog="stranger_flood")
    options.add_argument("--anchor", default="45.0.0.1")
    options.add_argument("--rate", type=float, default=3000, help="packets a second; 0: as fast as it goes")
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--sources", type=int, default=1000)
    options.add_argument("--kinds", default=",".join(KINDS))
    chosen = options.parse_args()
    made = packets(tuple(chosen.kinds.split(",")), chosen.sources, ip_address(chosen.anchor))
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sent, begun = 0, time.monotonic()
    while (passed := time.monotonic() - begun) < chosen.seconds:
        due = int(passed * chosen.rate) if chosen.rate else sent + 64
        for _ in range(min(due - sent, 256)):
            with contextlib.suppress(OSError):
                sender.sendto(made[sent % len(made)], (chosen.anchor, 0))
            sent += 1
        if due <= sent:
            time.sleep(0.001)
    print(json.dumps({"sent": sent, "per_second": round(sent / (time.monotonic() - begun))}))


if __name__ == "__main__":
    main()
