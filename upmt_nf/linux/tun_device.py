"""The agent's side of a tun interface: whole IP packets, large ones unsplit, each with the kernel's offload header.

Header: `struct virtio_net_hdr` (VIRTIO 1.2 section 5.1.6, Linux include/uapi/linux/virtio_net.h), in the machine's
byte order, 10 bytes.
"""

from __future__ import annotations

import fcntl
import os
import struct

from upmt_nf.datapath.offload import Offload
from upmt_nf.model.errors import FacilityError

_PATH = "/dev/net/tun"
_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_OFFLOAD_CSUM, _OFFLOAD_TSO4, _OFFLOAD_TSO6, _OFFLOAD_ECN = 0x01, 0x02, 0x04, 0x08
_NEEDS_CHECKSUM = 1
_GSO_NONE, _GSO_TCPV4, _GSO_TCPV6, _GSO_ECN = 0, 1, 4, 0x80
_HEADER = struct.Struct("=BBHHHH")
_NO_OFFLOAD = bytes(_HEADER.size)
_BUFFER = _HEADER.size + 65536


class TunDevice:
    """The reading and writing end of the tun interface `name`. Raises FacilityError when it cannot be taken."""

    def __init__(self, name: str) -> None:
        self.dropped = 0
        """Packets that the kernel did not take from us."""
        try:
            self._file = os.open(_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as reason:
            raise FacilityError(f"cannot open {_PATH}: {reason.strerror}") from reason
        try:
            flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(self._file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            fcntl.ioctl(self._file, _TUNSETVNETHDRSZ, struct.pack("=i", _HEADER.size))
            offload = _OFFLOAD_CSUM | _OFFLOAD_TSO4 | _OFFLOAD_TSO6 | _OFFLOAD_ECN
            fcntl.ioctl(self._file, _TUNSETOFFLOAD, offload)
        except OSError as reason:
            os.close(self._file)
            raise FacilityError(
                f"tun interface {name} cannot be taken (another program holds it?): {reason.strerror}"
            ) from reason
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        """Readable when packets wait."""
        return self._file

    def read(self) -> tuple[bytes, Offload | None] | None:
        """The next packet that left by the interface, and what is still to be done on it; None when none waits."""
        try:
            size = os.readv(self._file, (self._buffer,))
        except OSError:
            # No packet waits, or the interface was taken down, which its owner hears of.
            return None
        packet = bytes(self._view[_HEADER.size : size])
        if self._buffer.startswith(_NO_OFFLOAD):
            return packet, None
        flags, gso_type, _, segment, start, field = _HEADER.unpack_from(self._buffer)
        if not flags & _NEEDS_CHECKSUM:
            return packet, None
        is_large = gso_type & ~_GSO_ECN in (_GSO_TCPV4, _GSO_TCPV6)
        return packet, Offload(start, field, segment if is_large else 0)

    def write(self, packet: bytes, offload: Offload | None = None) -> None:
        """Let a packet arrive by the interface; what the kernel refuses is counted."""
        header = _NO_OFFLOAD if offload is None else _header(packet, offload)
        try:
            os.writev(self._file, (header, packet))
        except OSError:
            self.dropped += 1

    def close(self) -> None:
        """Let go of it. The interface stays."""
        os.close(self._file)


def _header(packet: bytes, offload: Offload) -> bytes:
    kind, head = _GSO_NONE, 0
    if offload.segment:
        kind = _GSO_TCPV4 if packet[0] >> 4 == 4 else _GSO_TCPV6
        head = offload.start + (packet[offload.start + 12] >> 4) * 4
        if packet[offload.start + 13] & 0x80:
            kind |= _GSO_ECN
    return _HEADER.pack(_NEEDS_CHECKSUM, kind, head, offload.segment, offload.start, offload.field)
