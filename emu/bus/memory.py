"""Guest RAM: one shared memfd, seen by every thread and process, checked at each use."""

import contextlib
import errno
import mmap
import os
from collections.abc import Callable
from typing import NamedTuple

from emu.errors import ConfigError, EmuError

PAGE = 4096
LOW_LIMIT = 0xC000_0000
"""RAM above 3 GiB continues at 4 GiB; the gap belongs to devices."""
HIGH_BASE = 1 << 32


class GuestAddressError(EmuError):
    """The guest gave an address range that is not wholly in RAM."""

    def __init__(self, gpa: int, length: int) -> None:
        super().__init__(f"{length:#x} bytes at {gpa:#010x} are not in RAM")


class RamRange(NamedTuple):
    """A contiguous piece of guest-physical RAM: bytes [gpa, gpa + size), at `offset` of the memfd."""

    gpa: int
    size: int
    offset: int


class GuestMemory:
    """All of the guest's RAM. Any thread may use views; `ranges` lists the pieces by address.

    `on_written(gpa, length)` is the CPU's hook: it forgets translated code of the range. Raises ConfigError
    for a size that cannot be had.
    """

    fd = -1

    def __init__(self, size: int) -> None:
        if size < 1 << 20 or size % PAGE:
            raise ConfigError(
                f"memory size {size} bytes: it must be a multiple of 4096 and at least 1 MiB; try -m 128"
            )
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if size > limit:
            raise ConfigError(
                f"memory size {size >> 20} MiB: the host has {limit >> 20} MiB; try a smaller -m"
            )
        self.size = size
        low = min(size, LOW_LIMIT)
        self.ranges = [RamRange(0, low, 0)]
        if size > low:
            self.ranges.append(RamRange(HIGH_BASE, size - low, low))
        self.fd = os.memfd_create("emu-guest-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size, mmap.MAP_SHARED)
        except (OSError, OverflowError) as error:
            os.close(self.fd)
            self.fd = -1
            raise ConfigError(
                f"memory size {size >> 20} MiB: the host refuses it ({error}); try a smaller -m"
            ) from error
        self._bytes = memoryview(self._map)
        self._low = low
        self.on_written: Callable[[int, int], None] = _no_code

    def view(self, gpa: int, length: int) -> memoryview:
        """The bytes [gpa, gpa + length), writable, not copied. Raises GuestAddressError."""
        end = gpa + length
        if 0 <= gpa <= end <= self._low:
            return self._bytes[gpa:end]
        return self._high_view(gpa, length)

    def _high_view(self, gpa: int, length: int) -> memoryview:
        for piece in self.ranges[1:]:
            if piece.gpa <= gpa and length >= 0 and gpa + length <= piece.gpa + piece.size:
                start = gpa - piece.gpa + piece.offset
                return self._bytes[start : start + length]
        raise GuestAddressError(gpa, length)

    def clear(self, gpa: int, length: int) -> None:
        """Make all of it zero; whole pages go back to the host. Raises GuestAddressError."""
        view = self.view(gpa, length)
        at = self._offset(gpa)
        first, last = -(-at // PAGE) * PAGE, (at + length) // PAGE * PAGE
        if first >= last:
            view[:] = bytes(length)
            return
        view[: first - at] = bytes(first - at)
        view[last - at :] = bytes(at + length - last)
        self._map.madvise(mmap.MADV_REMOVE, first, last - first)

    def load(self, gpa: int, length: int, fd: int, offset: int) -> None:
        """Take `length` bytes of an open file from `offset` on; what it has not is zero.

        The host kernel copies, without a page fault for each page as through a view, and holes of the file
        stay holes: half the time, and no memory for zeros. Raises GuestAddressError and OSError.
        """
        self.clear(gpa, length)
        shift, end = self._offset(gpa) - offset, offset + length
        while (piece := _next_data(fd, offset, end)) is not None:
            offset, stop = piece
            os.lseek(self.fd, offset + shift, os.SEEK_SET)
            while offset < stop:
                taken = os.sendfile(self.fd, fd, offset, stop - offset)
                if not taken:
                    return
                offset += taken

    def _offset(self, gpa: int) -> int:
        return next(p.offset + gpa - p.gpa for p in reversed(self.ranges) if gpa >= p.gpa)

    def written(self, gpa: int, length: int) -> None:
        """A device or loader has written the range: code translated from it is dropped.

        Callable from any thread; to be called before the guest is told of the data.
        """
        self.on_written(gpa, length)

    @property
    def map(self) -> mmap.mmap:
        """The whole memfd, in the order of `ranges`; for the CPU, which maps it."""
        return self._map

    def close(self) -> None:
        """Unmap; views that are still held keep the pages alive until they go."""
        self._bytes.release()
        with contextlib.suppress(BufferError):  # a view or the CPU's pointer is alive: the pages go with it
            self._map.close()
        os.close(self.fd)
        self.fd = -1

    def __del__(self) -> None:
        if self.fd >= 0:  # whoever forgot to close it keeps no descriptor either
            os.close(self.fd)


def _next_data(fd: int, offset: int, end: int) -> tuple[int, int] | None:
    """The next piece [start, stop) of a file that is no hole, None where there is no more before `end`."""
    if offset >= end:
        return None
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        stop = os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as error:  # ENXIO: nothing but a hole; else the file system knows none
        return None if error.errno == errno.ENXIO else (offset, end)
    return (start, min(stop, end)) if start < end else None


def _no_code(_gpa: int, _length: int) -> None:
    """No CPU has translated anything yet."""
