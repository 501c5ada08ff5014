"""virtio-blk: requests and configuration. Source: VIRTIO 1.2, section 5.2.

Served by whichever thread runs the queues, one at a time. A request that is no request (no room for header or
status) is DriverError; one that cannot be done gets its status.
"""

import struct
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.devices.block.backend import BlockBackend
from emu.devices.virtio.blk_drain import fused_drain
from emu.devices.virtio.spec import (
    BLK_F_BLK_SIZE,
    BLK_F_CONFIG_WCE,
    BLK_F_DISCARD,
    BLK_F_FLUSH,
    BLK_F_MQ,
    BLK_F_RO,
    BLK_F_SEG_MAX,
    BLK_F_TOPOLOGY,
    BLK_F_WRITE_ZEROES,
    BLK_ID_BYTES,
    BLK_S_IOERR,
    BLK_S_OK,
    BLK_S_UNSUPP,
    BLK_T_DISCARD,
    BLK_T_FLUSH,
    BLK_T_GET_ID,
    BLK_T_IN,
    BLK_T_OUT,
    BLK_T_WRITE_ZEROES,
    BLK_UNMAP,
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    SECTOR,
    TYPE_BLK,
)
from emu.devices.virtio.split_queue import Chain, SplitQueue, each_chain
from emu.errors import ConfigError, DriverError, MediumError

HEADER: Final = struct.Struct("<IIQ")  # type, reserved, sector
SEGMENT: Final = struct.Struct("<QII")  # sector, sectors, flags
CONFIG: Final = struct.Struct("<QIIHBBIBBHIBBHIIIIIBxxx")  # struct virtio_blk_config, 5.2.4
WRITEBACK_AT: Final = 32
MAX_QUEUES: Final = 64
MAX_DISCARD_SEGMENTS: Final = 64
MAX_DISCARD_SECTORS: Final = 1 << 22
MAX_WRITE_ZEROES_SEGMENTS: Final = 1
MAX_WRITE_ZEROES_SECTORS: Final = 1 << 17
"""64 MiB: a medium that cannot zero by a hole has to write them, and the guest may be standing still."""


class VirtioBlk:
    """A disk; a `Service`. `serial` is cut at 20 bytes. `fused=False` serves by the plain loop only.

    `ring_features` are the ring's own feature bits to offer. Raises ConfigError for a number of queues or a
    block size that cannot be.
    """

    device_type = TYPE_BLK
    sources: tuple[tuple[int, int], ...] = ()

    def __init__(
        self,
        backend: BlockBackend,
        *,
        serial: str = "",
        queues: int = 1,
        queue_size: int = 256,
        block_size: int = SECTOR,
        fused: bool = True,
        ring_features: int = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX,
    ) -> None:
        if not 1 <= queues <= MAX_QUEUES:
            raise ConfigError(f"num-queues={queues}: 1 to {MAX_QUEUES} are possible")
        if not SECTOR <= block_size <= 4096 or block_size & (block_size - 1):
            raise ConfigError(f"logical_block_size={block_size}: try 512 or 4096")
        self.backend, self.queues, self._fused = backend, queues, fused
        self._id = serial.encode()[:BLK_ID_BYTES].ljust(BLK_ID_BYTES, b"\0")
        self._queue_size, self._block_size = queue_size, block_size
        self._ring_features = ring_features
        self._writeback = 1
        self._accepted = 0
        self.stable = False
        """Every write must be on the medium before it is answered."""
        self._answers: dict[int, Callable[[Chain, int], int]] = {
            BLK_T_IN: self._read,
            BLK_T_OUT: self._write,
            BLK_T_FLUSH: self._flush,
            BLK_T_GET_ID: self._get_id,
            BLK_T_DISCARD: self._discard,
            BLK_T_WRITE_ZEROES: self._write_zeroes,
        }

    @property
    def costs(self) -> Costs:
        """What the medium took."""
        return self.backend.costs

    @property
    def size(self) -> int:
        """Bytes of the disk that the guest can reach: whole sectors."""
        return self.backend.size & -SECTOR

    # ---- features and configuration ----------------------------------------------------------------

    @property
    def features(self) -> int:
        """What is offered."""
        bits = (
            self._ring_features
            | BLK_F_SEG_MAX
            | BLK_F_BLK_SIZE
            | BLK_F_TOPOLOGY
            | BLK_F_FLUSH
            | BLK_F_CONFIG_WCE
        )
        if self.queues > 1:
            bits |= BLK_F_MQ
        return bits | (BLK_F_RO if self.backend.read_only else BLK_F_DISCARD | BLK_F_WRITE_ZEROES)

    def set_features(self, features: int) -> None:
        """A driver that cannot flush, or switched the cache off, gets stable writes. Source: 5.2.6.2."""
        self._accepted = features
        self._settle()

    def _settle(self) -> None:
        off = self._accepted & BLK_F_CONFIG_WCE and not self._writeback
        self.stable = not self._accepted & BLK_F_FLUSH or bool(off)

    def config(self, offset: int, length: int) -> bytes:
        """See `Service`."""
        data = CONFIG.pack(
            self.size // SECTOR,
            0,  # size_max: not offered
            max(self._queue_size - 2, 1),  # seg_max
            *(0, 0, 0),  # geometry: not offered
            self._block_size,
            *(0, 0, 1, 0),  # topology: blocks stand alone
            self._writeback,
            0,
            self.queues,
            MAX_DISCARD_SECTORS,
            MAX_DISCARD_SEGMENTS,
            self._block_size // SECTOR,
            MAX_WRITE_ZEROES_SECTORS,
            MAX_WRITE_ZEROES_SEGMENTS,
            1,
        )
        return data[offset : offset + length]

    def write_config(self, offset: int, data: bytes) -> None:
        """Only `writeback` can be written."""
        if offset <= WRITEBACK_AT < offset + len(data):
            self._writeback = data[WRITEBACK_AT - offset] & 1
            self._settle()

    # ---- requests ----------------------------------------------------------------------------------

    def drain(self, _index: int, queue: SplitQueue) -> Callable[[int], int]:
        """See `Service`."""
        if self._fused:
            return fused_drain(queue, self)
        return each_chain(queue, self.handle)

    def handle(self, chain: Chain) -> int:
        """Answer one request; return the bytes written. Raises DriverError where it is none."""
        if chain.readable_bytes < HEADER.size or not chain.writable:
            raise DriverError(
                f"virtio-blk request of {chain.readable_bytes} readable and {chain.writable_bytes} writable "
                f"bytes: it needs {HEADER.size} and 1"
            )
        if len(chain.readable[0]) >= HEADER.size:
            kind, _, sector = HEADER.unpack_from(chain.readable[0])
        else:
            kind, _, sector = HEADER.unpack(chain.read(HEADER.size))
        answer = self._answers.get(kind)
        try:
            status = answer(chain, sector) if answer is not None else BLK_S_UNSUPP
        except MediumError:
            status = BLK_S_IOERR
        chain.writable[-1][-1] = status
        room = chain.writable_bytes
        if status == BLK_S_OK and kind == BLK_T_GET_ID and room <= BLK_ID_BYTES + 1:
            return room
        # the length counts from the first byte: after a failure nothing before the status is promised
        return room if room == 1 or (status == BLK_S_OK and kind == BLK_T_IN) else 0

    def _fits(self, sector: int, length: int) -> bool:
        return length % SECTOR == 0 and sector * SECTOR + length <= self.size

    def _read(self, chain: Chain, sector: int) -> int:
        length = chain.writable_bytes - 1
        if not self._fits(sector, length):
            return BLK_S_IOERR
        if length:
            self.backend.readv(sector * SECTOR, _without_status(chain.writable))
        return BLK_S_OK

    def _write(self, chain: Chain, sector: int) -> int:
        length = chain.readable_bytes - HEADER.size
        if self.backend.read_only or not self._fits(sector, length):
            return BLK_S_IOERR
        if length:
            self.backend.writev(sector * SECTOR, _without_header(chain.readable))
        if self.stable:
            self.backend.flush()
        return BLK_S_OK

    def _flush(self, _chain: Chain, _sector: int) -> int:
        if not self.backend.read_only:
            self.backend.flush()
        return BLK_S_OK

    def _get_id(self, chain: Chain, _sector: int) -> int:
        chain.write(self._id[: chain.writable_bytes - 1])
        return BLK_S_OK

    def _discard(self, chain: Chain, _sector: int) -> int:
        segments = self._segments(chain, MAX_DISCARD_SEGMENTS, MAX_DISCARD_SECTORS)
        if isinstance(segments, int):
            return segments
        if any(flags for _, _, flags in segments):  # unmap has no meaning here
            return BLK_S_UNSUPP
        for offset, length, _ in segments:
            self.backend.discard(offset, length)
        return self._settled()

    def _write_zeroes(self, chain: Chain, _sector: int) -> int:
        segments = self._segments(chain, MAX_WRITE_ZEROES_SEGMENTS, MAX_WRITE_ZEROES_SECTORS)
        if isinstance(segments, int):
            return segments
        for offset, length, flags in segments:
            self.backend.write_zeroes(offset, length, bool(flags & BLK_UNMAP))
        return self._settled()

    def _settled(self) -> int:
        if self.stable:
            self.backend.flush()
        return BLK_S_OK

    def _segments(self, chain: Chain, most: int, most_sectors: int) -> list[tuple[int, int, int]] | int:
        """The (offset, length, flags) that a request lists, all checked, or the status that refuses it."""
        size = chain.readable_bytes - HEADER.size
        if self.backend.read_only or size % SEGMENT.size or not 0 < size <= most * SEGMENT.size:
            return BLK_S_IOERR
        found = []
        for sector, sectors, flags in SEGMENT.iter_unpack(chain.read()[HEADER.size :]):
            if flags & ~BLK_UNMAP:
                return BLK_S_UNSUPP
            if sectors > most_sectors or not self._fits(sector, sectors * SECTOR):
                return BLK_S_IOERR
            found.append((sector * SECTOR, sectors * SECTOR, flags))
        return found


def _without_status(buffers: list[memoryview]) -> list[memoryview]:
    """All but the last byte; no empty buffers."""
    last = buffers[-1][:-1]
    return [*buffers[:-1], last] if len(last) else buffers[:-1]


def _without_header(buffers: list[memoryview]) -> list[memoryview]:
    """All but the first 16 bytes; no empty buffers."""
    skip = HEADER.size
    for i, buffer in enumerate(buffers):
        if len(buffer) > skip:
            return [buffer[skip:], *buffers[i + 1 :]]
        skip -= len(buffer)
    return []
