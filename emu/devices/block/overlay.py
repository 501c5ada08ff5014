"""Copy on write, for -snapshot: reads see the base until a cluster is written; the base is never written.

What is written goes to an unnamed sparse file that the host frees when it is closed. One byte for each 4 KiB
cluster, in zero pages until touched, says where the cluster is: 1/4096 of what was written.
"""

import contextlib
import mmap
import os
import tempfile
from collections.abc import Sequence

from emu.bus.costs import Costs
from emu.devices.block.backend import BlockBackend
from emu.devices.block.raw import Buffers, FileMedium, part_of, total_length
from emu.errors import ConfigError, MediumError

CLUSTER = 4096
MAX_SIZE = 1 << 46  # 64 TiB: keeps the table's address space within 16 GiB
SCRATCH_DIRS = ("/var/tmp", "/tmp")  # after TMPDIR; disk before memory, as for QEMU's -snapshot


class Overlay:
    """A writable disk over `base`; closing it forgets what was written and closes the base.

    `costs` counts this layer and the base together. Raises ConfigError where there is no scratch room.
    """

    __slots__ = ("_base", "_table", "_top", "costs", "read_only", "size")

    def __init__(self, base: BlockBackend) -> None:
        if base.size > MAX_SIZE:
            raise ConfigError(
                f"a disk of {base.size} bytes is too large for -snapshot; the limit is {MAX_SIZE}"
            )
        self._base = base
        self.size, self.read_only = base.size, False
        clusters = -(-base.size // CLUSTER)
        self._top = FileMedium(_scratch(clusters * CLUSTER), clusters * CLUSTER, False, "snapshot")
        # Private and anonymous: reading an untouched page of the table costs no memory.
        self._table = mmap.mmap(-1, clusters + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.costs: Costs = self._top.costs
        base.costs = self.costs

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the byte views `buffers` in order from byte `offset` on. Raises MediumError."""
        end = offset + total_length(buffers)
        place, medium = self._run(offset, end)
        if place == end:  # nearly always: all of it is in one place
            medium.readv(offset, buffers)
            return
        start = offset
        while start < end:
            medium.readv(start, part_of(buffers, start - offset, place - start))
            start = place
            place, medium = self._run(start, end)

    def writev(self, offset: int, buffers: Buffers) -> None:
        """Store the byte views `buffers` in order from byte `offset` on. Raises MediumError."""
        end = offset + total_length(buffers)
        if end == offset:
            return
        self._fill(offset, end)
        self._top.writev(offset, buffers)
        first, last = offset // CLUSTER, (end - 1) // CLUSTER + 1
        self._table[first:last] = b"\x01" * (last - first)

    def flush(self) -> None:
        """Nothing outlives this disk, so there is nothing to make durable."""

    def discard(self, offset: int, length: int) -> None:
        """Nothing: a hole here would uncover the base."""

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """Make the range read as zeroes. Raises MediumError."""
        if length == 0:
            return
        self._fill(offset, offset + length)
        self._top.write_zeroes(offset, length, unmap)
        first, last = offset // CLUSTER, (offset + length - 1) // CLUSTER + 1
        step = 1 << 20  # bounded memory, however long the range
        for start in range(first, last, step):
            stop = min(start + step, last)
            self._table[start:stop] = b"\x01" * (stop - start)

    def close(self) -> None:
        """Forget what was written; close the base."""
        self._top.read_only = True  # no flush of what is about to vanish
        self._top.close()
        self._base.close()

    def _run(self, start: int, end: int) -> tuple[int, BlockBackend]:
        """Where the range from `start` on lies, and the byte (at most `end`) at which that changes."""
        first, last = start // CLUSTER, -(-end // CLUSTER)
        written = self._table[first]
        change = self._table.find(b"\x00" if written else b"\x01", first, last)
        place = end if change < 0 else change * CLUSTER
        return place, self._top if written else self._base

    def _fill(self, start: int, end: int) -> None:
        """Bring the base's share of clusters that [start, end) touches only in part."""
        if start % CLUSTER:
            self._copy_up(start // CLUSTER)
        if end % CLUSTER:
            self._copy_up(end // CLUSTER)

    def _copy_up(self, cluster: int) -> None:
        if self._table[cluster]:
            return
        offset = cluster * CLUSTER
        data = memoryview(bytearray(min(CLUSTER, self.size - offset)))
        self._base.readv(offset, [data])
        self._top.writev(offset, [data])
        self._table[cluster] = 1


def _scratch(size: int) -> int:
    """An unnamed sparse file of `size` bytes: on disk, or in memory where no folder takes one."""
    for folder in (os.environ.get("TMPDIR"), *SCRATCH_DIRS):
        if folder:
            with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
                os.truncate(file.fileno(), size)
                return os.dup(file.fileno())
    try:
        fd = os.memfd_create("snapshot", os.MFD_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"-snapshot: no room for a temporary file: {error.strerror}; set TMPDIR") from error
    try:
        os.truncate(fd, size)
    except OSError as error:
        os.close(fd)
        raise MediumError(f"-snapshot: {error.strerror}", error.errno or 0) from error
    return fd
