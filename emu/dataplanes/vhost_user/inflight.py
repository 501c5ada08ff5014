"""What a back-end had taken from a split ring and not answered, kept where it survives the back-end.

Source: vhost-user, "Inflight I/O tracking". The area belongs to the front-end, which hands it to the next
back-end. Layout of a queue's region, each at a multiple of 64 bytes: features u64, version u16, desc_num u16,
last_batch_head u16, used_idx u16, then 16 bytes for each descriptor: inflight u8, 5 bytes of padding, next
u16, counter u64.
"""

import os
from array import array
from collections.abc import Callable
from typing import Final

from emu.bus.memory import PAGE
from emu.dataplanes.vhost_user.messages import Inflight, ProtocolError
from emu.dataplanes.vhost_user.shared_area import SharedArea
from emu.devices.virtio.spec import MAX_QUEUE_SIZE
from emu.devices.virtio.split_queue import AVAIL_IDX, AVAIL_RING, USED_IDX, SplitQueue

VERSION: Final = 1
HEADER_BYTES: Final = 16
STATE_BYTES: Final = 16
ALIGNMENT: Final = 64
MAX_AREA: Final = 64 << 20
"""Bytes; more than 256 rings of the largest size need. Ours: what a peer can make us map."""
VERSION_AT: Final = 4  # places in a region, as 16-bit words
DESC_NUM_AT: Final = 5
LAST_BATCH_HEAD_AT: Final = 6
USED_IDX_AT: Final = 7


def region_bytes(queue_size: int) -> int:
    """Bytes of one queue's region."""
    return (HEADER_BYTES + STATE_BYTES * queue_size + ALIGNMENT - 1) & -ALIGNMENT


def create_area(num_queues: int, queue_size: int, message: str = "GET_INFLIGHT_FD") -> tuple[int, Inflight]:
    """A new area of zeros: its descriptor, the caller's, and its description. Raises ProtocolError."""
    _check_shape(num_queues, queue_size, message)
    size = num_queues * region_bytes(queue_size)
    fd = os.memfd_create("vhost-user-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, (size + PAGE - 1) & -PAGE)
    return fd, Inflight(size, 0, num_queues, queue_size)


def _check_shape(num_queues: int, queue_size: int, message: str) -> None:
    if not 0 < queue_size <= MAX_QUEUE_SIZE:
        raise ProtocolError(message, "queue size", f"{queue_size}, 1 to {MAX_QUEUE_SIZE} are possible")
    if not 0 < num_queues <= 256:
        raise ProtocolError(message, "num queues", f"{num_queues}, 1 to 256 are possible")


class InflightArea:
    """An area, mapped; the descriptor may be closed afterwards. Raises ProtocolError."""

    def __init__(self, inflight: Inflight, fd: int, message: str = "SET_INFLIGHT_FD") -> None:
        _check_shape(inflight.num_queues, inflight.queue_size, message)
        self._stride = region_bytes(inflight.queue_size)
        self.num_queues, self.queue_size = inflight.num_queues, inflight.queue_size
        if not inflight.num_queues * self._stride <= inflight.mmap_size <= MAX_AREA:
            raise ProtocolError(
                message,
                "mmap size",
                f"{inflight.mmap_size} bytes for {inflight.num_queues} queues of {inflight.queue_size}",
            )
        self.area = SharedArea(fd, inflight.mmap_offset, inflight.mmap_size, message)

    def queue(self, index: int) -> "InflightQueue | None":
        """The region of one queue, None where the area has none for it."""
        if index >= self.num_queues:
            return None
        start = index * self._stride
        size = HEADER_BYTES + STATE_BYTES * self.queue_size
        return InflightQueue(self.area.view[start : start + size], self.queue_size)

    def close(self) -> None:
        """Unmap; the queues are gone by then."""
        self.area.close()


class InflightQueue:
    """One ring's region. Owned by the thread that serves the ring.

    We have one batch in hand at a time and answer it in order, so a head's counter is its place in the batch.
    Drivers use the same descriptors again and again: what a batch of the same heads needs is there already,
    and one store of all flags takes it, another one answers it.
    """

    __slots__ = ("_done", "_flags", "_half", "_heads", "_taken", "_words", "size")

    def __init__(self, region: memoryview, size: int) -> None:
        self._half = region.cast("H")
        self._words = region[HEADER_BYTES:].cast("Q")  # by turns: inflight, next << 48; counter
        self.size = size
        self._heads = [-1]  # no batch has that head
        self._flags: memoryview | None = None  # the first words of the batch, where they are evenly spaced
        self._taken = self._done = memoryview(b"")

    def recover(self, used_idx: int) -> list[int]:
        """The heads that were taken and not answered, oldest first; `used_idx` is the used ring's own index.

        A region that was never used is prepared. What is in it is a peer's word: nonsense is no head.
        """
        half, words = self._half, self._words
        if half[VERSION_AT] != VERSION or half[DESC_NUM_AT] != self.size:
            half[:] = memoryview(bytes(half.nbytes)).cast("H")
            half[DESC_NUM_AT] = self.size
            half[USED_IDX_AT] = used_idx
            half[VERSION_AT] = VERSION
            return []
        head = half[LAST_BATCH_HEAD_AT]
        for _ in range(min((used_idx - half[USED_IDX_AT]) & 0xFFFF, self.size)):
            if head >= self.size:
                break
            words[2 * head] &= ~0xFF
            head = words[2 * head] >> 48
        half[USED_IDX_AT] = used_idx
        taken = [i for i in range(self.size) if words[2 * i] & 0xFF]
        taken.sort(key=lambda i: words[2 * i + 1])
        return taken

    def take(self, heads: list[int]) -> bool:
        """These heads are served next, in this order; False, and nothing is noted, where one is none."""
        if heads != self._heads and not self._link(heads):
            return False
        if self._flags is not None:
            self._flags[:] = self._taken
        else:
            for head in heads:  # oldest first: those taken are always the next ones of the ring
                self._words[2 * head] |= 1
        return True

    def _link(self, heads: list[int]) -> bool:
        """Note the order of a new batch.

        The list of the last batch is made beforehand: whenever we die, the first so many of it are answered
        as the used ring's index went on by.
        """
        words, count = self._words, len(heads)
        if not heads or max(heads) >= self.size:
            return False
        self._heads = [-1]
        links = [head << 48 for head in (*heads[1:], 0)]
        for i in range(count - 1, -1, -1):
            words[2 * heads[i]] = links[i]
            words[2 * heads[i] + 1] = i
        self._half[LAST_BATCH_HEAD_AT] = heads[0]
        step = heads[1] - heads[0] if count > 1 else 1
        if step > 0 and heads == list(range(heads[0], heads[0] + step * count, step)):
            self._flags = words[2 * heads[0] : 2 * heads[-1] + 1 : 2 * step]
            self._done = memoryview(array("Q", links))
            self._taken = memoryview(array("Q", [link | 1 for link in links]))
        else:
            self._flags = None
        self._heads = heads
        return True

    def answered(self, count: int, used_idx: int) -> None:
        """The first `count` heads of the batch are in the used ring, whose index is `used_idx` now."""
        if self._flags is not None and count == len(self._heads):
            self._flags[:] = self._done
        else:
            for head in self._heads[:count]:
                self._words[2 * head] &= ~0xFF
        self._half[USED_IDX_AT] = used_idx


def resume(queue: SplitQueue, inflight: InflightQueue) -> None:
    """Let a new queue begin with what its last back-end had in hand, oldest first.

    That one may have answered out of order: then the available ring has other heads in the places from the
    used index on. The driver reads none of these, and writes none until they are answered, so they are put
    right in the ring itself, and every drain serves them like all others.
    """
    used_idx = queue.used[USED_IDX]
    queue.last_avail = queue.used_idx = queue.signalled = used_idx
    for i, head in enumerate(inflight.recover(used_idx)):
        queue.avail[AVAIL_RING + (used_idx + i & queue.mask)] = head


def tracked(queue: SplitQueue, drain: Callable[[int], int], inflight: InflightQueue) -> Callable[[int], int]:
    """The same drain; what it has in hand is in the region. It answers in the order of the ring."""
    avail, size, mask = queue.avail, queue.size, queue.mask
    end = AVAIL_RING + size

    def drain_tracked(limit: int) -> int:
        first = queue.last_avail
        count = min((avail[AVAIL_IDX] - first) & 0xFFFF, limit)
        at = AVAIL_RING + (first & mask)
        heads = avail[at : min(at + count, end)].tolist()
        if at + count > end:
            heads += avail[AVAIL_RING : at + count - size].tolist()
        if not inflight.take(heads):
            return drain(limit)  # nothing waits, or it raises with the figures
        served = drain(count)
        inflight.answered(served, queue.used_idx)
        return served

    return drain_tracked
