"""Which network namespace this process is in, and the directory that holds its state."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from upmt_nf.model.names import STATE_DIRECTORY

_SO_NETNS_COOKIE = 71


def namespace_cookie() -> str:
    """A word that no other network namespace of this boot has: its cookie, or its inode on kernels before 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
            return f"{struct.unpack('=Q', raw)[0]:x}"
        except OSError:
            return f"i{os.stat('/proc/self/ns/net').st_ino:x}"


def state_directory() -> Path:
    """The directory of this namespace's journal. It need not exist; it goes with a reboot, as the state does."""
    return Path(STATE_DIRECTORY) / namespace_cookie()
