"""The fast drain loop of virtio-blk: reads and writes of the shape that drivers build, in few functions.

Header (16 bytes), data buffers, status byte, one descriptor each, in the ring's table or in an indirect one,
all in the first range of guest memory (RAM below 3 GiB). Any other shape, and any fault, takes the plain path
(`VirtioBlk.handle`), which says what is wrong; so this file decides nothing on its own.

Neighbours become one transfer: requests that follow each other in the ring, in direction and on the disk, are
one call to the medium, and are answered together. A transfer that fails is done again request by request, so
that an error stays with the request it belongs to. Of buffers that follow each other in guest memory, too,
one view is made. Equal requests in a row are looked at together first: `blk_bulk.py`.
"""

import functools
import struct
from collections.abc import Callable
from operator import add
from typing import Final

from emu.devices.virtio.blk_bulk import LEAST, bulk_server
from emu.devices.virtio.blk_request import (
    HEADER_BYTES,
    MAX_DATA_BYTES,
    MAX_RUN_BUFFERS,
    MAX_RUN_BYTES,
    NEAR,
    NEXT_WRITE,
    Disk,
    Request,
    Span,
    Transfer,
    transfer_to,
)
from emu.devices.virtio.spec import (
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
    USED_IDX,
    SplitQueue,
    unpack_descriptor,
)
from emu.errors import DriverError

unpack_three = struct.Struct("<QIIQIIQII").unpack_from
"""(buffer, offset) -> three times address, length, and flags with the next index in the upper half."""
unpack_header = struct.Struct("<I4xQ").unpack_from
LONG: Final = 8
"""Descriptors of an indirect table from which on it is looked at by columns."""


def fused_drain(queue: SplitQueue, disk: Disk) -> Callable[[int], int]:
    """The drain loop of one queue; see `emu.devices.virtio.types.Drain`."""
    avail, size, mask = queue.avail, queue.size, queue.mask
    low, ram = main_ram(queue)
    parse = _parser(queue, disk, low, ram)
    transfer = transfer_to(disk)
    one, many = _finishers(queue, transfer, low, ram)
    bulk = bulk_server(queue, disk, transfer, low, ram)

    def drain(limit: int) -> int:
        waiting = (avail[AVAIL_IDX] - queue.last_avail) & 0xFFFF
        if waiting > size:
            queue.waiting()  # raises, with the figures
        served = min(waiting, limit)
        at = AVAIL_RING + (queue.last_avail & mask)
        if served == 1:
            if (request := parse(avail[at])) is not None:
                one(request)
            else:
                _plain(queue, disk)
            return 1
        heads = avail[at : min(at + served, AVAIL_RING + size)]
        if len(heads) < served:
            rest = avail[AVAIL_RING : AVAIL_RING + served - len(heads)]
            heads = memoryview(heads.tobytes() + rest.tobytes()).cast("H")
        requests = bulk(heads) if served >= LEAST else None
        if requests is None:
            requests = [parse(head) for head in heads.tolist()]
        elif not requests:
            return served
        requests.append(None)
        i = 0
        while i < served:
            request, following = requests[i], requests[i + 1]
            if request is None:
                _plain(queue, disk)
                i += 1
            elif following is None or following[2] != request[3]:
                one(request)
                i += 1
            else:
                run = _run_at(requests, i)
                many(run)
                i += len(run)
        return served

    return drain


def _run_at(requests: list[Request | None], first: int) -> list[Request]:
    """The requests from `first` on that make one transfer; a None ends them."""
    run: list[Request] = []
    direction = after = room = buffers = 0
    for request in requests[first:]:
        if request is None:
            break
        _, kind, offset, end, _, _, _, others = request
        if not run:
            direction, room = kind, offset + MAX_RUN_BYTES
        elif kind != direction or offset != after or end > room:
            break
        buffers += 1 + (len(others) if others is not None else 0)
        if run and buffers > MAX_RUN_BUFFERS:
            break
        after = end
        run.append(request)
    return run


def _finishers(
    queue: SplitQueue, transfer: Transfer, low: int, ram: memoryview
) -> tuple[Callable[[Request], None], Callable[[list[Request]], None]]:
    """What moves the data of one request, or of a run of neighbours, and shows the answers."""
    used, used_ring, mask, memory = queue.used, queue.used_ring, queue.mask, queue.memory

    def one(request: Request) -> None:
        head, kind, offset, after, start, end, status_at, others = request
        buffers = [ram[start - low : end - low]]
        if others is not None:
            buffers += [ram[first - low : last - low] for first, last in others]
        status = transfer(kind, offset, buffers)
        ram[status_at - low] = status
        report, written = memory.on_written, 1
        if kind == BLK_T_IN:
            written = 0 if status else after - offset + 1
            report(start, end - start)
            for first, last in others or ():
                report(first, last - first)
        report(status_at, 1)
        at = queue.used_idx
        used_ring[at & mask] = head | written << 32
        queue.last_avail = (queue.last_avail + 1) & 0xFFFF
        queue.used_idx = used[USED_IDX] = (at + 1) & 0xFFFF

    def many(run: list[Request]) -> None:
        """All of the run as one transfer, or one by one where that fails."""
        _, kind, offset, *_ = run[0]
        spans = _spans(run)
        if transfer(kind, offset, [ram[first - low : last - low] for first, last in spans]) != BLK_S_OK:
            for request in run:
                one(request)
            return
        report, at, is_read = memory.on_written, queue.used_idx, kind == BLK_T_IN
        if is_read:
            for first, last in spans:
                report(first, last - first)
        for head, _, offset, after, _, _, status_at, _ in run:
            ram[status_at - low] = BLK_S_OK
            used_ring[at & mask] = head | (after - offset + 1 if is_read else 1) << 32
            at += 1
        _report_statuses([request[6] for request in run], report)
        queue.last_avail = (queue.last_avail + len(run)) & 0xFFFF
        queue.used_idx = used[USED_IDX] = at & 0xFFFF

    return one, many


def _spans(run: list[Request]) -> list[Span]:
    """The buffers of a run; those that follow each other in guest memory are one."""
    spans: list[Span] = []
    low = high = run[0][4]
    for _, _, _, _, start, end, _, others in run:
        if start != high:
            spans.append((low, high))
            low = start
        high = end
        if others is not None:
            spans += [(low, high), *others]
            low, high = spans.pop()
    spans.append((low, high))
    return spans


def _report_statuses(places: list[int], report: Callable[[int, int], None]) -> None:
    """Say that the status bytes were written; together where they are near each other."""
    first, last = min(places), max(places)
    if last - first < NEAR:
        report(first, last - first + 1)
        return
    for place in places:
        report(place, 1)


def _plain(queue: SplitQueue, disk: Disk) -> None:
    """One chain the slow way. Raises DriverError."""
    chain = queue.pop()
    if chain is None:
        raise DriverError(f"avail_idx went back to {queue.last_avail}")
    queue.push(chain, disk.handle(chain))


def main_ram(queue: SplitQueue) -> tuple[int, memoryview]:
    """The first guest address of the range where the buffers are expected, and that range."""
    first = queue.memory.ranges[0]
    return first.gpa, queue.memory.view(first.gpa, first.size)


def _parser(queue: SplitQueue, disk: Disk, low: int, ram: memoryview) -> Callable[[int], Request | None]:
    """What turns a head into a request, or into None where the shape is another one."""
    desc, size, indirect = queue.desc, queue.size, queue.indirect
    top, end, writable = low + len(ram), disk.size, not disk.backend.read_only
    most = min(MAX_DATA_BYTES, end)
    last_three, last_header = size - 3, top - HEADER_BYTES

    def parse(head: int) -> Request | None:
        """Header, one buffer and status in three neighbours: the commonest shape, unpacked at once."""
        if head > last_three:
            return several(head)
        header, size0, link0, gpa, length, link1, status_at, size2, link2 = unpack_three(desc, head << 4)
        first = head
        if link0 & DESC_F_INDIRECT and indirect and size0 == 3 * DESC_SIZE and low <= header <= top - size0:
            if link0 & 0xFFFF != DESC_F_INDIRECT:
                return None
            first = 0
            header, size0, link0, gpa, length, link1, status_at, size2, link2 = unpack_three(
                ram, header - low
            )
        after = gpa + length
        if (
            link0 != (first + 1) << 16 | DESC_F_NEXT
            or size0 != HEADER_BYTES
            or link2 & 0xFFFF != DESC_F_WRITE
            or size2 != 1
            or not low <= header <= last_header
            or gpa < low
            or after > top
            or not low <= status_at < top
            or length & 511
            or not 0 < length <= most
        ):
            return several(head)
        kind, sector = unpack_header(ram, header - low)
        flags, offset = link1 - (first + 2 << 16), sector << 9
        if flags == NEXT_WRITE:
            good = kind == BLK_T_IN
        else:
            good = flags == DESC_F_NEXT and kind == BLK_T_OUT and writable
        if good and offset <= end - length:
            return head, kind, offset, offset + length, gpa, after, status_at, None
        return several(head)

    def several(head: int) -> Request | None:
        """Any number of buffers, descriptors in any order."""
        if head >= size:
            return None
        table, entries = desc, size
        gpa, length, flags, i = unpack_descriptor(table, head * DESC_SIZE)
        if flags == DESC_F_INDIRECT:
            entries = length // DESC_SIZE
            if not indirect or length % DESC_SIZE or not 2 < entries <= MAX_CHAIN:
                return None
            if not low <= gpa <= top - length:
                return None
            table = ram[gpa - low : gpa - low + length]
            gpa, length, flags, i = unpack_descriptor(table, 0)
        if flags != DESC_F_NEXT or length != HEADER_BYTES or i >= entries or not low <= gpa <= last_header:
            return None
        kind, sector = unpack_header(ram, gpa - low)
        if kind == BLK_T_IN:
            wanted = NEXT_WRITE
        elif kind == BLK_T_OUT and writable:
            wanted = DESC_F_NEXT
        else:
            return None
        in_order = None
        if entries >= LONG and i == 1 and table is not desc:
            in_order = _in_order(table, wanted, low, top)
        if in_order is not None:
            total, spans = in_order
            gpa, length, flags, _ = unpack_descriptor(table, (entries - 1) * DESC_SIZE)
        else:
            total, spans = 0, []
            for _ in range(entries - 1):
                gpa, length, flags, i = unpack_descriptor(table, i * DESC_SIZE)
                if flags != wanted:
                    break
                after = gpa + length
                if not length or gpa < low or after > top or i >= entries:
                    return None
                spans.append((gpa, after))
                total += length
        if flags != DESC_F_WRITE or length != 1 or not low <= gpa < top:
            return None
        if total & 511 or not 0 < total <= most:
            return None
        if sector << 9 > end - total:
            return None
        start, after = spans[0]
        return head, kind, sector << 9, (sector << 9) + total, start, after, gpa, spans[1:] or None

    return parse


@functools.lru_cache(maxsize=64)
def _links(n: int, flags: int) -> list[int]:
    """Flags and index of the next one, of `n` descriptors in a row from the second of a table on."""
    return [flags | i << 16 for i in range(2, n + 2)]


def _in_order(table: memoryview, flags: int, low: int, top: int) -> tuple[int, list[Span]] | None:
    """Bytes and places of all buffers between the first descriptor of a table and the last, where they follow
    each other and are within RAM; else None.
    """
    words = memoryview(table.tobytes()).cast("Q").tolist()  # by turns an address, and length, flags, next
    starts, others = words[2:-2:2], words[3:-2:2]
    if [word >> 32 for word in others] != _links(len(starts), flags):
        return None
    lengths = [word & 0xFFFF_FFFF for word in others]
    ends = list(map(add, starts, lengths))
    if not all(lengths) or min(starts) < low or max(ends) > top:
        return None
    return sum(lengths), list(zip(starts, ends, strict=True))
