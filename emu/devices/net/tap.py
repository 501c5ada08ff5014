"""A tap interface of the host: `-netdev tap,ifname=`. Source: Linux, tun.c and if_tun.h.

Each frame has a virtio_net_hdr before it (IFF_VNET_HDR), so checksums and large packets pass as they are.
"""

import fcntl
import os
import struct
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.devices.net.types import MAX_FRAME, MIN_FRAME, Buffers, Offload
from emu.devices.virtio.spec import (
    NET_F_GUEST_CSUM,
    NET_F_GUEST_ECN,
    NET_F_GUEST_TSO4,
    NET_F_GUEST_TSO6,
    NET_GSO_NONE,
    NET_HDR_F_NEEDS_CSUM,
)
from emu.errors import ConfigError

DEVICE: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x4004_54CA
TUNSETOFFLOAD: Final = 0x4004_54D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
IFREQ: Final = struct.Struct("16sH22x")
TUN_F: Final = {
    NET_F_GUEST_CSUM: 0x01,
    NET_F_GUEST_TSO4: 0x02,
    NET_F_GUEST_TSO6: 0x04,
    NET_F_GUEST_ECN: 0x08,
}
"""What the driver accepts -> what the interface may leave to it."""
HEADER: Final = struct.Struct("<BBHHHH")
PLAIN: Final = bytes(HEADER.size)
PIECES: Final = 512
MAX_NAME: Final = 15


class Tap:
    """A `NetBackend` on the interface `name`, which is made if it is not there. Raises ConfigError.

    `dropped` counts frames that the interface did not take.
    """

    link_up = True
    guest_features = NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN

    def __init__(self, name: str, where: str) -> None:
        if not 0 < len(os.fsencode(name)) <= MAX_NAME:
            raise ConfigError(f"{where}: an interface's name has 1 to {MAX_NAME} bytes")
        self.name, self.costs = name, Costs()
        self.on_ready: Callable[[], None] = lambda: None
        self.on_link: Callable[[bool], None] = lambda _up: None
        self.left: Offload | None = None
        self.dropped = 0
        self._buffer = memoryview(bytearray(HEADER.size + MAX_FRAME))
        fd = -1
        try:
            fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(os.fsencode(name), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            hint = "; it takes the right to (CAP_NET_ADMIN), or an interface made for this user"
            raise ConfigError(
                f"{where}: {name}: {error.strerror}{hint if isinstance(error, PermissionError) else ''}"
            ) from error
        self.fd: int | None = fd

    def accept(self, features: int) -> None:
        """See `NetBackend`."""
        if self.fd is not None:
            wanted = sum(flag for feature, flag in TUN_F.items() if features & feature)
            fcntl.ioctl(self.fd, TUNSETOFFLOAD, wanted if features & NET_F_GUEST_CSUM else 0)

    def send(self, frame: Buffers, offload: Offload | None = None) -> None:
        """See `NetBackend`."""
        if self.fd is None:
            return
        if len(frame) >= PIECES:
            frame = [memoryview(b"".join(frame))]
        self.costs.syscalls += 1
        try:
            self.costs.bytes_copied += os.writev(
                self.fd, [PLAIN if offload is None else _header(offload), *frame]
            )
        except OSError:  # its queue is full, it is down, or the header makes no sense
            self.dropped += 1

    def receive(self) -> memoryview | None:
        """See `NetBackend`."""
        while self.fd is not None:
            self.costs.syscalls += 1
            try:
                length = os.readv(self.fd, [self._buffer])
            except OSError:
                return None
            if length < HEADER.size + MIN_FRAME:
                continue
            self.costs.bytes_copied += length
            flags, gso_type, hdr_len, gso_size, start, offset = HEADER.unpack_from(self._buffer)
            needs_csum = bool(flags & NET_HDR_F_NEEDS_CSUM)
            self.left = None
            if needs_csum or gso_type != NET_GSO_NONE:
                self.left = Offload(needs_csum, start, offset, gso_type, gso_size, hdr_len)
            return self._buffer[HEADER.size : length]
        return None

    def close(self) -> None:
        """See `NetBackend`."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def _header(offload: Offload) -> bytes:
    flags = NET_HDR_F_NEEDS_CSUM if offload.needs_csum else 0
    return HEADER.pack(
        flags, offload.gso_type, offload.hdr_len, offload.gso_size, offload.csum_start, offload.csum_offset
    )
