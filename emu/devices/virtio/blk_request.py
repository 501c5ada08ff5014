"""What the fast loops of virtio-blk share: a parsed request, and what they need of the disk."""

from collections.abc import Callable
from typing import Final, Protocol

from emu.devices.block.backend import BlockBackend
from emu.devices.virtio.spec import BLK_S_IOERR, BLK_S_OK, BLK_T_IN, DESC_F_NEXT, DESC_F_WRITE
from emu.devices.virtio.split_queue import MAX_CHAIN_BYTES, Chain
from emu.errors import MediumError

HEADER_BYTES: Final = 16
NEXT_WRITE: Final = DESC_F_NEXT | DESC_F_WRITE
MAX_DATA_BYTES: Final = MAX_CHAIN_BYTES - HEADER_BYTES - 1
MAX_RUN_BYTES: Final = 1 << 20
"""Bytes of neighbours in one transfer; a longer request is one by itself."""
MAX_RUN_BUFFERS: Final = 256
NEAR: Final = 4 * 4096
"""Status bytes within that many bytes of guest memory are reported as one range."""

Span = tuple[int, int]
"""Guest RAM from the first address up to before the second."""
Request = tuple[int, int, int, int, int, int, int, list[Span] | None]
"""Head; BLK_T_IN or BLK_T_OUT; first byte on the disk and the one after the last; the same of the first
buffer in guest memory; the status byte's address; the other buffers, None where there is one only."""

Transfer = Callable[[int, int, list[memoryview]], int]
"""(BLK_T_IN or BLK_T_OUT, first byte on the disk, buffers) -> status."""


class Disk(Protocol):
    """What the loops need of `VirtioBlk`."""

    @property
    def backend(self) -> BlockBackend:
        """The medium."""

    @property
    def size(self) -> int:
        """Bytes that the guest can reach."""

    @property
    def stable(self) -> bool:
        """Flush each write."""

    def handle(self, chain: Chain, /) -> int:
        """The plain path."""


def transfer_to(disk: Disk) -> Transfer:
    """What moves the data of one request or of a run of neighbours."""
    readv, writev, flush = disk.backend.readv, disk.backend.writev, disk.backend.flush

    def transfer(kind: int, offset: int, buffers: list[memoryview]) -> int:
        try:
            if kind == BLK_T_IN:
                readv(offset, buffers)
            else:
                writev(offset, buffers)
                if disk.stable:
                    flush()
        except MediumError:
            return BLK_S_IOERR
        return BLK_S_OK

    return transfer
