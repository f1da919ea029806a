"""Both ends of a tunnel in every format, with keys that fit each other."""

from __future__ import annotations

from collections.abc import Callable

from upmt_nf.datapath.formats import PLAIN, TunnelFormat
from upmt_nf.datapath.protected import Cookie, Sealed

FORMATS: dict[str, Callable[[bool], TunnelFormat]] = {
    "plain": lambda is_host: PLAIN,
    "cookie": lambda is_host: Cookie(*keys(is_host)),
    "sealed": lambda is_host: Sealed(*keys(is_host)),
}


def keys(is_host: bool) -> tuple[bytes, bytes]:
    first, second = bytes(range(32)), bytes(range(32, 64))
    return (first, second) if is_host else (second, first)
