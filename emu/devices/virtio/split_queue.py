"""The split virtqueue, device side. Source: VIRTIO 1.2, section 2.7.

Knows the ring's memory and nothing else: no file descriptors, no interrupts, no addresses beyond its buffers.
Everything in the ring is the guest's word: each index, length and address is checked before it is used, a
violation raises DriverError with the figures in its text.

Ring indices are loaded and stored through `memoryview.cast('H')`: one load, one store of 16 bits, which is
what the other thread must see (little-endian hosts only). The used ring lies in the driver's queue memory,
which holds no code, so its stores are not reported to `QueueMemory.written`; those into buffers are: `push`.
"""

import struct
import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from emu.bus.memory import GuestAddressError, RamRange
from emu.devices.virtio.spec import (
    AVAIL_F_NO_INTERRUPT,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESC_SIZE,
    MAX_QUEUE_SIZE,
    USED_F_NO_NOTIFY,
)
from emu.errors import ConfigError, DriverError

if sys.byteorder != "little":
    raise ConfigError("virtqueues are served on little-endian hosts only")

MAX_CHAIN: Final = MAX_QUEUE_SIZE
"""Descriptors in one chain, its indirect table included. Ours: the most buffers one preadv takes."""
MAX_CHAIN_BYTES: Final = 256 << 20
"""Bytes in one chain (the specification allows 4 GiB). Ours: it bounds the time that one request takes."""
PARKED: Final = 0x8000
"""How far beyond the last taken entry `avail_event` is where no notification is wanted."""

AVAIL_FLAGS: Final = 0  # places in the avail ring, as 16-bit words
AVAIL_IDX: Final = 1
AVAIL_RING: Final = 2
USED_FLAGS: Final = 0  # places in the used ring's header, as 16-bit words
USED_IDX: Final = 1

unpack_descriptor = struct.Struct("<QIHH").unpack_from
"""(buffer, offset) -> address, length, flags, next."""


class QueueMemory(Protocol):
    """Guest RAM as a device sees it: all of it (`GuestMemory`), or what another process was given."""

    on_written: Callable[[int, int], None]
    """What `written` calls."""

    @property
    def ranges(self) -> Sequence[RamRange]:
        """The pieces; first the one where most buffers are."""

    def view(self, gpa: int, length: int, /) -> memoryview:
        """The bytes [gpa, gpa + length), writable, not copied. Raises GuestAddressError."""

    def written(self, gpa: int, length: int, /) -> None:
        """A device has written the range; to be called before the guest is told."""


class Chain:
    """One request's buffers: `readable` ones were filled by the driver, `writable` ones are for the device.

    `writable_at` holds the guest address of each writable buffer.
    """

    __slots__ = ("head", "readable", "writable", "writable_at")

    def __init__(self, head: int) -> None:
        self.head = head
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []
        self.writable_at: list[int] = []

    @property
    def readable_bytes(self) -> int:
        """Bytes in all readable buffers."""
        return sum(map(len, self.readable))

    @property
    def writable_bytes(self) -> int:
        """Bytes in all writable buffers."""
        return sum(map(len, self.writable))

    def read(self, length: int | None = None) -> bytes:
        """The first `length` readable bytes as one copy, fewer where there are fewer."""
        return b"".join(self.readable)[:length]

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Store `data` into the writable buffers in order; return how many bytes fitted."""
        done = 0
        for buffer in self.writable:
            part = data[done : done + len(buffer)]
            buffer[: len(part)] = part
            done += len(part)
        return done


class SplitQueue:
    """One running ring of `size` entries at three guest addresses. Owned by the thread that serves it.

    `base` is the index of the first available entry to serve: 0, or what the ring's last owner stopped at;
    every entry before it has been answered. Raises DriverError where the rings are not wholly in RAM,
    not aligned, or the size is none.
    """

    __slots__ = (
        "_desc_gpa",
        "avail",
        "avail_event",
        "desc",
        "event_idx",
        "indirect",
        "last_avail",
        "mask",
        "memory",
        "signalled",
        "size",
        "used",
        "used_event_at",
        "used_idx",
        "used_ring",
    )

    def __init__(
        self,
        memory: QueueMemory,
        desc_gpa: int,
        avail_gpa: int,
        used_gpa: int,
        size: int,
        *,
        event_idx: bool = False,
        indirect: bool = False,
        base: int = 0,
    ) -> None:
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise DriverError(f"queue size {size} is not a power of two up to {MAX_QUEUE_SIZE}")
        for name, gpa, alignment in (("desc", desc_gpa, 16), ("avail", avail_gpa, 2), ("used", used_gpa, 4)):
            if gpa % alignment:
                raise DriverError(f"{name} ring at {gpa:#x} is not aligned to {alignment} bytes")
        self.memory, self.size, self.mask = memory, size, size - 1
        self.event_idx, self.indirect = event_idx, indirect
        try:
            self.desc = memory.view(desc_gpa, DESC_SIZE * size)
            self.avail = memory.view(avail_gpa, 6 + 2 * size).cast("H")
            used = memory.view(used_gpa, 6 + 8 * size)
        except GuestAddressError as error:
            raise DriverError(f"ring of {size} entries: {error}") from error
        self.used = used[:4].cast("H")
        self.used_ring = used[4 : 4 + 8 * size].cast("Q")  # element: id in the low, length in the high half
        self.avail_event = used[4 + 8 * size :].cast("H")
        self.used_event_at = AVAIL_RING + size
        self.last_avail = self.used_idx = self.signalled = base & 0xFFFF

    # ---- taking requests ---------------------------------------------------------------------------

    def waiting(self) -> int:
        """How many chains the driver has made available and nobody has taken. Raises DriverError."""
        avail_idx = self.avail[AVAIL_IDX]
        ahead = (avail_idx - self.last_avail) & 0xFFFF
        if ahead > self.size:
            raise DriverError(f"avail_idx {avail_idx} is {ahead} ahead, queue size {self.size}")
        return ahead

    def has_work(self) -> bool:
        """True where the driver's index is not the one we stopped at."""
        return self.avail[AVAIL_IDX] != self.last_avail

    def pop(self) -> Chain | None:
        """Take the next chain, None where there is none. Raises DriverError."""
        if not self.waiting():
            return None
        head = self.avail[AVAIL_RING + (self.last_avail & self.mask)]
        if head >= self.size:
            raise DriverError(f"avail ring holds head {head}, queue size {self.size}")
        chain = Chain(head)
        self._walk(chain)
        self.last_avail = (self.last_avail + 1) & 0xFFFF
        return chain

    def put_back(self) -> None:
        """The chain just taken is taken again by the next `pop`: the device has nothing for it yet."""
        self.last_avail = (self.last_avail - 1) & 0xFFFF

    def _walk(self, chain: Chain) -> None:
        """Collect the chain's buffers, from the ring's table and at most one indirect one."""
        table, entries, i = self.desc, self.size, chain.head
        left, bytes_left, indirect = self.size, MAX_CHAIN_BYTES, False
        while True:
            if not left:
                raise DriverError(f"chain at head {chain.head} is longer than {entries} descriptors: a loop")
            left -= 1
            gpa, length, flags, following = unpack_descriptor(table, i * DESC_SIZE)
            if flags & DESC_F_INDIRECT:
                if indirect:
                    raise DriverError(f"indirect table of head {chain.head}: entry {i} is indirect again")
                table, entries = self._indirect_table(gpa, length, flags)
                left, i, indirect = entries, 0, True
                continue
            bytes_left -= length
            if bytes_left < 0:
                raise DriverError(f"chain at head {chain.head} holds more than {MAX_CHAIN_BYTES} bytes")
            self._add(chain, gpa, length, writable=bool(flags & DESC_F_WRITE))
            if not flags & DESC_F_NEXT:
                return
            if following >= entries:
                raise DriverError(f"descriptor {i} goes on at {following}, table of {entries}")
            i = following

    def _indirect_table(self, gpa: int, length: int, flags: int) -> tuple[memoryview, int]:
        """An indirect descriptor's table and its number of entries. Source: 2.7.5.3."""
        if not self.indirect:
            raise DriverError("indirect descriptor without VIRTIO_F_RING_INDIRECT_DESC")
        if flags & DESC_F_NEXT:
            raise DriverError("indirect descriptor with NEXT set")
        entries = length // DESC_SIZE
        if length % DESC_SIZE or not 0 < entries <= MAX_CHAIN:
            raise DriverError(f"indirect table of {length} bytes: not 1 to {MAX_CHAIN} entries of 16")
        try:
            return self.memory.view(gpa, length), entries
        except GuestAddressError as error:
            raise DriverError(f"indirect table: {error}") from error

    def _add(self, chain: Chain, gpa: int, length: int, *, writable: bool) -> None:
        if not length:
            raise DriverError(f"chain at head {chain.head}: a buffer of 0 bytes at {gpa:#x}")
        try:
            buffer = self.memory.view(gpa, length)
        except GuestAddressError as error:
            raise DriverError(f"chain at head {chain.head}: {error}") from error
        if writable:
            chain.writable.append(buffer)
            chain.writable_at.append(gpa)
        elif chain.writable:
            raise DriverError(f"chain at head {chain.head}: a readable buffer after a writable one")
        else:
            chain.readable.append(buffer)

    # ---- answering ---------------------------------------------------------------------------------

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back, of which the device wrote `written` bytes.

        Every writable buffer is reported to the memory first, since a device may write more than it says.
        """
        report = self.memory.written
        for gpa, buffer in zip(chain.writable_at, chain.writable, strict=True):
            report(gpa, len(buffer))
        self.used_ring[self.used_idx & self.mask] = chain.head | written << 32
        self.used_idx = (self.used_idx + 1) & 0xFFFF
        self.used[USED_IDX] = self.used_idx

    def push_together(self, chains: Sequence[Chain], written: Sequence[int]) -> None:
        """Give several chains back that the driver must see at once."""
        report = self.memory.written
        at = self.used_idx
        for chain, length in zip(chains, written, strict=True):
            for gpa, buffer in zip(chain.writable_at, chain.writable, strict=True):
                report(gpa, len(buffer))
            self.used_ring[at & self.mask] = chain.head | length << 32
            at += 1
        self.used_idx = at & 0xFFFF
        self.used[USED_IDX] = self.used_idx

    def needs_interrupt(self) -> bool:
        """True where the driver wants to hear of what was pushed since the last True. Source: 2.7.7, 2.7.10.

        May be asked again at any time: the answer covers everything since the last True, because the
        driver's `used_event` may arrive late.
        """
        new = self.used_idx
        since = (new - self.signalled) & 0xFFFF
        if not since:
            return False
        if self.event_idx:
            wanted = (new - self.avail[self.used_event_at] - 1) & 0xFFFF < since
        else:
            wanted = not self.avail[AVAIL_FLAGS] & AVAIL_F_NO_INTERRUPT
        if wanted:
            self.signalled = new
        elif since > self.size:  # no driver waits for an entry that old; keeps `since` from wrapping
            self.signalled = (new - self.size) & 0xFFFF
        return wanted

    def set_kicks(self, wanted: bool, after: int | None = None) -> None:
        """Ask the driver to notify, or not to. With EVENT_IDX only asking takes a store.

        `after` is the available index beyond which a chain is to be notified, by default the next to take.
        """
        if self.event_idx:
            if wanted:
                self.avail_event[0] = self.last_avail if after is None else after
        else:
            self.used[USED_FLAGS] = 0 if wanted else USED_F_NO_NOTIFY

    def park_kicks(self) -> None:
        """Ask for no notification, by EVENT_IDX for half of the index' way from here on: for who polls."""
        if self.event_idx:
            self.avail_event[0] = self.last_avail + PARKED & 0xFFFF
        else:
            self.used[USED_FLAGS] = USED_F_NO_NOTIFY


def each_chain(queue: SplitQueue, handle: Callable[[Chain], int]) -> Callable[[int], int]:
    """The plain drain loop: `handle` answers one chain and returns how many bytes it wrote.

    The loop takes at most `limit` of the chains it saw, and returns how many. It raises DriverError.
    """

    def drain(limit: int) -> int:
        served = min(queue.waiting(), limit)
        for _ in range(served):
            chain = queue.pop()
            if chain is None:
                raise DriverError(f"avail_idx went back to {queue.last_avail}")
            queue.push(chain, handle(chain))
        return served

    return drain
