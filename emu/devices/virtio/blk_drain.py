"""The fast drain loop of virtio-blk: reads and writes of the shape that drivers build, in one function.

Header (16 bytes), data buffers, status byte, one descriptor each, in the ring's table or in an indirect one,
buffers below 3 GiB. Any other shape, and any fault, takes the plain path (`VirtioBlk.handle`), which says
what is wrong; so this file decides nothing on its own. Measured: about 1.6 times as fast as the plain loop.
"""

import struct
from collections.abc import Callable
from typing import Final, Protocol

from emu.devices.block.backend import BlockBackend
from emu.devices.virtio.spec import (
    BLK_S_IOERR,
    BLK_S_OK,
    BLK_T_IN,
    BLK_T_OUT,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESC_SIZE,
)
from emu.devices.virtio.split_queue import (
    AVAIL_IDX,
    AVAIL_RING,
    MAX_CHAIN,
    MAX_CHAIN_BYTES,
    USED_IDX,
    Chain,
    SplitQueue,
    unpack_descriptor,
)
from emu.errors import DriverError, MediumError

HEADER_BYTES: Final = 16
NEXT_WRITE: Final = DESC_F_NEXT | DESC_F_WRITE
unpack_three = struct.Struct("<QIHHQIHHQIHH").unpack_from
unpack_header = struct.Struct("<IIQ").unpack_from

Parsed = tuple[int, int, list[memoryview], list[tuple[int, int]] | None, int]
"""Byte offset; used length when all goes well; buffers; the guest ranges that a read fills, None for a write;
the status byte's address."""


class Disk(Protocol):
    """What the loop needs of `VirtioBlk`."""

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


def fused_drain(queue: SplitQueue, disk: Disk) -> Callable[[int], int]:
    """The drain loop of one queue; see `emu.devices.virtio.types.Drain`."""
    avail, used, used_ring = queue.avail, queue.used, queue.used_ring
    size, mask, memory = queue.size, queue.mask, queue.memory
    readv, writev, flush = disk.backend.readv, disk.backend.writev, disk.backend.flush
    ram = _low_ram(queue)
    parse = _parser(queue, disk, ram)

    def drain(limit: int) -> int:
        last = queue.last_avail
        served = (avail[AVAIL_IDX] - last) & 0xFFFF
        if served > size:
            queue.waiting()  # raises, with the figures
        served, report = min(served, limit), memory.on_written
        for _ in range(served):
            head = avail[AVAIL_RING + (last & mask)]
            found = parse(head)
            if found is None:
                _plain(queue, disk)
                last = queue.last_avail
                continue
            offset, answer, buffers, places, status_at = found
            status = BLK_S_OK
            try:
                if places is not None:
                    readv(offset, buffers)
                else:
                    writev(offset, buffers)
                    if disk.stable:
                        flush()
            except MediumError:
                status, answer = BLK_S_IOERR, 0 if places is not None else 1
            ram[status_at] = status
            if places is not None:
                for gpa, length in places:
                    report(gpa, length)
            report(status_at, 1)
            queue.last_avail = last = (last + 1) & 0xFFFF
            at = queue.used_idx
            used_ring[at & mask] = head | answer << 32
            queue.used_idx = used[USED_IDX] = (at + 1) & 0xFFFF
        return served

    return drain


def _plain(queue: SplitQueue, disk: Disk) -> None:
    """One chain the slow way. Raises DriverError."""
    chain = queue.pop()
    if chain is None:
        raise DriverError(f"avail_idx went back to {queue.last_avail}")
    queue.push(chain, disk.handle(chain))


def _low_ram(queue: SplitQueue) -> memoryview:
    """RAM from guest address 0 on: an address is an index."""
    first = queue.memory.ranges[0]
    return queue.memory.view(first.gpa, first.size)


def _parser(queue: SplitQueue, disk: Disk, ram: memoryview) -> Callable[[int], Parsed | None]:
    """What turns a head into a request, or into None where the shape is another one."""
    desc, size, indirect = queue.desc, queue.size, queue.indirect
    top, end, read_only = len(ram), disk.size, disk.backend.read_only
    most = min(MAX_CHAIN_BYTES - HEADER_BYTES - 1, end)

    def three(table: memoryview, at: int, first: int) -> Parsed | None:
        """Header, one buffer and status in three neighbours: the commonest shape, unpacked at once."""
        header, size0, flags0, next0, gpa, length, flags1, next1, status_at, size2, flags2, _ = unpack_three(
            table, at
        )
        if (
            flags0 != DESC_F_NEXT
            or size0 != HEADER_BYTES
            or next0 != first + 1
            or next1 != first + 2
            or flags2 != DESC_F_WRITE
            or size2 != 1
            or header > top - HEADER_BYTES
            or gpa + length > top
            or status_at >= top
            or length & 511
            or not 0 < length <= most
        ):
            return None
        kind, _, sector = unpack_header(ram, header)
        if sector << 9 > end - length:
            return None
        if kind == BLK_T_IN and flags1 == NEXT_WRITE:
            return sector << 9, length + 1, [ram[gpa : gpa + length]], [(gpa, length)], status_at
        if kind == BLK_T_OUT and flags1 == DESC_F_NEXT and not read_only:
            return sector << 9, 1, [ram[gpa : gpa + length]], None, status_at
        return None

    def parse(head: int) -> Parsed | None:
        if head < size - 2 and (found := three(desc, head * DESC_SIZE, head)) is not None:
            return found
        if head >= size:
            return None
        table, entries = desc, size
        gpa, length, flags, i = unpack_descriptor(table, head * DESC_SIZE)
        if flags == DESC_F_INDIRECT:
            entries = length // DESC_SIZE
            if not indirect or length % DESC_SIZE or not 2 < entries <= MAX_CHAIN or gpa + length > top:
                return None
            if (found := three(ram, gpa, 0)) is not None:
                return found
            table = ram[gpa : gpa + length]
            gpa, length, flags, i = unpack_descriptor(table, 0)
        if flags != DESC_F_NEXT or length != HEADER_BYTES or gpa > top - HEADER_BYTES or i >= entries:
            return None
        kind, _, sector = unpack_header(ram, gpa)
        if kind == BLK_T_IN:
            wanted = NEXT_WRITE
        elif kind == BLK_T_OUT and not read_only:
            wanted = DESC_F_NEXT
        else:
            return None
        total, buffers, places = 0, [], []
        for _ in range(entries - 1):
            gpa, length, flags, i = unpack_descriptor(table, i * DESC_SIZE)
            if flags != wanted:
                break
            after = gpa + length
            if not length or after > top or i >= entries:
                return None
            buffers.append(ram[gpa:after])
            places.append((gpa, length))
            total += length
        if flags != DESC_F_WRITE or length != 1 or gpa >= top or total & 511 or not 0 < total <= most:
            return None
        if sector << 9 > end - total:
            return None
        if kind == BLK_T_IN:
            return sector << 9, total + 1, buffers, places, gpa
        return sector << 9, 1, buffers, None, gpa

    return parse
