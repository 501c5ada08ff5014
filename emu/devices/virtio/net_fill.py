"""The fast way of a frame into the driver's buffers: chains of the shape that drivers build, in one function.

One writable descriptor each, in the ring's table, all in the first range of guest memory (RAM below 3 GiB).
Any other shape, too few chains, and any fault take the plain path (`NetQueues`), which says what is wrong or
waits; so this file decides nothing on its own.

A large frame takes many buffers (16 of a page each for 64 KiB), which Linux cuts from larger pieces of
memory: those that follow each other there are filled by one copy and reported as one.
"""

import struct
from collections.abc import Callable
from typing import Final

from emu.devices.net.types import Frame
from emu.devices.virtio.blk_drain import main_ram
from emu.devices.virtio.spec import DESC_F_WRITE, NET_HDR_SIZE
from emu.devices.virtio.split_queue import AVAIL_IDX, AVAIL_RING, USED_IDX, SplitQueue

NUM_BUFFERS_AT: Final = 10
"""Where a header says in how many buffers its frame lies."""
unpack_flagged = struct.Struct("<QIH").unpack_from
"""(buffer, offset) -> address, length, flags."""

Fill = Callable[[Frame, bytes, int], int]
"""(frame, header, most) -> how many chains, at most `most`, were filled and answered; 0 where it did not."""


def fused_fill(queue: SplitQueue) -> Fill:
    """What fills the buffers of one queue."""
    avail, desc, size, mask, memory = queue.avail, queue.desc, queue.size, queue.mask, queue.memory
    used, used_ring = queue.used, queue.used_ring
    low, ram = main_ram(queue)
    top = low + len(ram)

    def fill(frame: Frame, header: bytes, most: int) -> int:
        at = queue.last_avail
        waiting = (avail[AVAIL_IDX] - at) & 0xFFFF
        if waiting > size:
            return 0
        left = len(header) + len(frame)
        answers, spans, begin, after = [], [], -1, -1
        for i in range(at, at + min(waiting, most)):
            head = avail[AVAIL_RING + (i & mask)]
            if head >= size:
                return 0
            gpa, length, flags = unpack_flagged(desc, head << 4)
            if flags != DESC_F_WRITE or length < NET_HDR_SIZE or gpa < low or gpa + length > top:
                return 0
            if gpa != after:
                spans.append((begin, after))
                begin = gpa
            after = gpa + length
            answers.append(head | length << 32)
            left -= length
            if left <= 0:
                break
        else:
            return 0
        answers[-1] += left << 32  # negative: what the last buffer holds beyond the frame
        after += left
        spans.append((begin, after))
        count, done = len(answers), len(header)
        if count > 1:
            header = header[:NUM_BUFFERS_AT] + count.to_bytes(2, "little")
        report, data = memory.on_written, memoryview(frame)
        begin, after = spans[1]  # before the first one there was none
        ram[begin - low : begin - low + done] = header
        ram[begin - low + done : after - low] = data[: after - begin - done]
        report(begin, after - begin)
        done = after - begin - done
        for begin, after in spans[2:]:
            ram[begin - low : after - low] = data[done : done + after - begin]
            report(begin, after - begin)
            done += after - begin
        at = queue.used_idx
        for answer in answers:
            used_ring[at & mask] = answer
            at += 1
        queue.last_avail = (queue.last_avail + count) & 0xFFFF
        queue.used_idx = used[USED_IDX] = at & 0xFFFF
        return count

    return fill
