"""The guest memory that a front-end shares: regions of its descriptors, mapped, found by either address.

Descriptors in a ring hold guest addresses, SET_VRING_ADDR holds user addresses. Each access is checked
against the regions; one that is not wholly within one raises `GuestAddressError`.
"""

import os
from collections.abc import Callable, Sequence

from emu.bus.memory import GuestAddressError, RamRange
from emu.dataplanes.vhost_user.messages import ProtocolError, Region, check_disjoint
from emu.dataplanes.vhost_user.shared_area import SharedArea

MAX_SLOTS = 64
"""Regions that one front-end may have: what a peer can make us keep."""


class MappedRegion:
    """One region and its mapping; the descriptor may be closed afterwards. Raises ProtocolError."""

    __slots__ = ("area", "region", "view")

    def __init__(self, region: Region, fd: int, message: str) -> None:
        self.region = region
        self.area = SharedArea(fd, region.mmap_offset, region.size, message)
        self.view = self.area.view

    def close(self) -> None:
        """Unmap."""
        self.area.close()


class MappedMemory:
    """All regions of one front-end; a `QueueMemory`. One thread's own.

    Whoever changes the regions has no view of them any more: the queues are stopped first.
    """

    def __init__(self) -> None:
        self.regions: list[MappedRegion] = []
        self.on_written: Callable[[int, int], None] = nobody

    @property
    def ranges(self) -> list[RamRange]:
        """The pieces by guest address; the one with the most bytes first, where most requests point."""
        pieces = [RamRange(r.region.guest_addr, r.region.size, r.region.mmap_offset) for r in self.regions]
        return sorted(pieces, key=lambda piece: -piece.size)

    # ---- changing ----------------------------------------------------------------------------------

    def replace(self, regions: Sequence[Region], fds: Sequence[int], message: str) -> None:
        """SET_MEM_TABLE: exactly these regions, one descriptor each. Raises ProtocolError."""
        self.close()
        for region, fd in zip(regions, fds, strict=True):
            self.regions.append(MappedRegion(region, fd, message))

    def add(self, region: Region, fd: int, message: str) -> None:
        """ADD_MEM_REG. Raises ProtocolError."""
        if len(self.regions) >= MAX_SLOTS:
            raise ProtocolError(message, "region", f"{MAX_SLOTS} slots are taken")
        check_disjoint([mapped.region for mapped in self.regions], region, message, "region")
        self.regions.append(MappedRegion(region, fd, message))

    def remove(self, region: Region, message: str) -> None:
        """REM_MEM_REG, found by both addresses and the size. Raises ProtocolError."""
        for mapped in self.regions:
            if mapped.region[:3] == region[:3]:
                self.regions.remove(mapped)
                mapped.close()
                return
        raise ProtocolError(message, "region", f"none of {region.size:#x} bytes at {region.guest_addr:#x}")

    def close(self) -> None:
        """Unmap everything."""
        while self.regions:
            self.regions.pop().close()

    # ---- using -------------------------------------------------------------------------------------

    def view(self, gpa: int, length: int) -> memoryview:
        """See `QueueMemory`."""
        if length >= 0:
            for mapped in self.regions:
                start = gpa - mapped.region.guest_addr
                if 0 <= start <= mapped.region.size - length:
                    return mapped.view[start : start + length]
        raise GuestAddressError(gpa, length)

    def written(self, gpa: int, length: int) -> None:
        """See `QueueMemory`."""
        self.on_written(gpa, length)

    def guest_address(self, user_addr: int, length: int) -> int | None:
        """Where `length` bytes at a user address are in the guest; None where they are in no region."""
        for mapped in self.regions:
            start = user_addr - mapped.region.user_addr
            if 0 <= start <= mapped.region.size - length:
                return mapped.region.guest_addr + start
        return None

    def holds(self, address: int) -> bool:
        """Is this address of our own process in one of the mappings?"""
        return any(mapped.area.holds(address) for mapped in self.regions)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that have been used."""
    for fd in fds:
        os.close(fd)


def nobody(_gpa: int, _length: int) -> None:
    """Nobody wants to know."""
