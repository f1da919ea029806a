"""The anchor's part in finding out what NATs and filters do: say what was seen, and send something when asked.

Keeps nothing. Answers only who knows an association's secret, and only to the address that the question came from,
so nobody can be made a target; each answer is as long as the question.
"""

from __future__ import annotations

from typing import NamedTuple

from upmt_nf.datapath.counters import Counters
from upmt_nf.mobility.leases import Lease, Leases
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.binding_probe import (
    UNSUMMED,
    BindingProbe,
    ProbeKind,
    is_proven,
    parse_probe,
    probe_key,
)


class Answer(NamedTuple):
    """What to send where, with which traffic class, and whether with a UDP checksum."""

    remote: Endpoint
    data: bytes
    tos: int = 0
    has_checksum: bool = True


class BindingAnswers:
    """For all hosts of an anchor."""

    def __init__(self, leases: Leases, counters: Counters) -> None:
        self._leases = leases
        self._counters = counters

    def answer(self, remote: Endpoint, data: bytes, tos: int = 0) -> list[Answer]:
        """What to send for a packet that came from `remote` with this traffic class."""
        try:
            asked = parse_probe(data)
        except PeerError:
            self._counters.add("malformed_probe")
            return []
        lease = self._leases.by_address.get(asked.virtual_address)
        if lease is None or not is_proven(data, key := _key_of(lease)):
            self._counters.add("unproven_probe")
            return []

        def said(kind: ProbeKind, port: int) -> bytes:
            return BindingProbe(kind, asked.number, asked.virtual_address, port).sealed(key)

        match asked.kind:
            case ProbeKind.HELLO:
                return [Answer(remote, said(ProbeKind.WELCOME, remote.port))]
            case ProbeKind.ECHO:
                kept = asked.port & UNSUMMED
                seen = BindingProbe(ProbeKind.ECHOED, asked.number, asked.virtual_address, kept | tos & 0xFF)
                return [Answer(remote, seen.sealed(key, len(data)), asked.port & 0xFF, not kept)]
            case ProbeKind.POKE if asked.port:
                target = Endpoint(remote.address, asked.port)
                return [
                    Answer(target, said(ProbeKind.POKED, asked.port)),
                    Answer(remote, said(ProbeKind.POKING, asked.port)),
                ]
        self._counters.add("malformed_probe")
        return []


def _key_of(lease: Lease) -> bytes:
    return probe_key(lease.keys.association if lease.keys is not None else lease.token.encode())
