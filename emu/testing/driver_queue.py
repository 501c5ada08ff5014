"""The driver's side of a split ring on real guest memory. Source: VIRTIO 1.2, sections 2.7.13 and 2.7.14."""

import struct
from typing import Final

from emu.bus.memory import GuestMemory
from emu.devices.virtio.spec import (
    AVAIL_F_NO_INTERRUPT,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESC_SIZE,
    USED_F_NO_NOTIFY,
)
from emu.devices.virtio.split_queue import SplitQueue

RINGS_AT: Final = 0x1_0000


class DriverQueue:
    """A driver with one ring of `size` entries. One thread's own.

    Each chain's buffers lie in a slot of `slot_bytes` of its own, found by its head. `desc_gpa`,
    `avail_gpa` and `used_gpa` are where the rings are; the tables are public so that tests can break them.
    """

    def __init__(
        self,
        size: int = 8,
        *,
        event_idx: bool = False,
        indirect: bool = False,
        memory: GuestMemory | None = None,
        rings_at: int = RINGS_AT,
        slot_bytes: int = 16384,
    ) -> None:
        self.size, self.event_idx, self.indirect, self.slot_bytes = size, event_idx, indirect, slot_bytes
        self.desc_gpa = rings_at
        self.avail_gpa = self.desc_gpa + DESC_SIZE * size
        self.used_gpa = (self.avail_gpa + 6 + 2 * size + 3) & -4
        self.slots_at = (self.used_gpa + 6 + 8 * size + 4095) & -4096
        self.end = self.slots_at + size * slot_bytes
        self.memory = memory if memory is not None else GuestMemory(max(1 << 20, (self.end + 4095) & -4096))
        self.desc = self.memory.view(self.desc_gpa, DESC_SIZE * size)
        self.avail = self.memory.view(self.avail_gpa, 6 + 2 * size).cast("H")
        used = self.memory.view(self.used_gpa, 6 + 8 * size)
        self.used_words = used[:4].cast("H")
        self.used_ring = used[4 : 4 + 8 * size].cast("Q")
        self.avail_event = used[4 + 8 * size :].cast("H")
        self.free = list(range(size - 1, -1, -1))
        self.chains: dict[int, list[int]] = {}  # head -> its descriptors
        self.parts: dict[int, list[tuple[int, int, bool]]] = {}  # head -> (address, length, writable)
        self.avail_idx = self.used_idx = self.kicked_idx = 0

    def device_side(self, base: int = 0) -> SplitQueue:
        """The same ring as a device sees it."""
        return SplitQueue(
            self.memory,
            self.desc_gpa,
            self.avail_gpa,
            self.used_gpa,
            self.size,
            event_idx=self.event_idx,
            indirect=self.indirect,
            base=base,
        )

    # ---- requests ----------------------------------------------------------------------------------

    def add(self, *parts: bytes | int, indirect: bool = False) -> int:
        """Make one chain available: bytes are for the device to read, an int is room for it to write.

        Returns the head. Raises ValueError where slot or ring is too small.
        """
        head = self.prepare(*parts, indirect=indirect)
        self.publish(head)
        return head

    def prepare(self, *parts: bytes | int, indirect: bool = False) -> int:
        """Build a chain without making it available; return its head."""
        entries = 1 if indirect else len(parts)
        if entries > len(self.free):
            raise ValueError(f"{entries} descriptors, {len(self.free)} are free")
        mine = [self.free.pop() for _ in range(entries)]
        head = mine[0]
        at = self.slots_at + head * self.slot_bytes
        table_gpa, table = at, self.desc
        if indirect:
            table = self.memory.view(at, DESC_SIZE * len(parts))
            at += len(table)
        places = []
        for part in parts:
            length = part if isinstance(part, int) else len(part)
            if not isinstance(part, int):
                self.memory.view(at, length)[:] = part
            places.append((at, length, isinstance(part, int)))
            at += length
        if at > self.slots_at + (head + 1) * self.slot_bytes:
            raise ValueError(f"the buffers do not fit a slot of {self.slot_bytes} bytes")
        order = list(range(len(parts))) if indirect else mine
        for i, (gpa, length, writable) in enumerate(places):
            last = i == len(places) - 1
            flags = (DESC_F_WRITE if writable else 0) | (0 if last else DESC_F_NEXT)
            put_descriptor(table, order[i], gpa, length, flags, 0 if last else order[i + 1])
        if indirect:
            put_descriptor(self.desc, head, table_gpa, DESC_SIZE * len(parts), DESC_F_INDIRECT, 0)
        self.chains[head], self.parts[head] = mine, places
        return head

    def publish(self, head: int) -> None:
        """Make the chain at `head` available."""
        self.avail[2 + self.avail_idx % self.size] = head
        self.set_avail_idx(self.avail_idx + 1)

    def set_avail_idx(self, value: int) -> None:
        """Store the available index, right or wrong."""
        self.avail_idx = value & 0xFFFF
        self.avail[1] = self.avail_idx

    def put(self, i: int, gpa: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Store descriptor `i` of the ring's table, right or wrong."""
        put_descriptor(self.desc, i, gpa, length, flags, following)

    def needs_kick(self) -> bool:
        """True where the device asked to hear of what was made available since the last call."""
        old, self.kicked_idx = self.kicked_idx, self.avail_idx
        if self.event_idx:
            return (self.avail_idx - self.avail_event[0] - 1) & 0xFFFF < (self.avail_idx - old) & 0xFFFF
        return not self.used_words[0] & USED_F_NO_NOTIFY

    # ---- answers -----------------------------------------------------------------------------------

    def used(self) -> list[tuple[int, int]]:
        """(head, bytes written) of each chain answered since the last call; their descriptors are free."""
        found = []
        while self.used_idx != self.used_words[1]:
            element = self.used_ring[self.used_idx % self.size]
            head, written = element & 0xFFFF_FFFF, element >> 32
            self.used_idx = (self.used_idx + 1) & 0xFFFF
            self.free += reversed(self.chains.pop(head, []))
            found.append((head, written))
        return found

    def written(self, head: int) -> bytes:
        """All writable bytes of the chain last built at `head`."""
        return b"".join(bytes(self.memory.view(gpa, n)) for gpa, n, writable in self.parts[head] if writable)

    def want_interrupts(self, wanted: bool) -> None:
        """Ask for an interrupt at the next used entry, or for none."""
        if self.event_idx:
            self.avail[2 + self.size] = (self.used_idx if wanted else self.used_idx + 0x7FFF) & 0xFFFF
        else:
            self.avail[0] = 0 if wanted else AVAIL_F_NO_INTERRUPT


def put_descriptor(table: memoryview, i: int, gpa: int, length: int, flags: int, following: int) -> None:
    """Store entry `i` of a descriptor table."""
    struct.pack_into("<QIHH", table, i * DESC_SIZE, gpa, length, flags, following)
