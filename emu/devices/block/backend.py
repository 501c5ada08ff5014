"""The contract between a disk device and its medium."""

from collections.abc import Sequence
from typing import Protocol

from emu.bus.costs import Costs


class BlockBackend(Protocol):
    """A medium of `size` bytes. Offsets and lengths are checked by the device; each call either
    does all of its work or raises MediumError. Callable from any one thread at a time.
    """

    size: int
    read_only: bool
    costs: Costs

    def readv(self, offset: int, buffers: Sequence[memoryview], /) -> None:
        """Fill `buffers` in order from byte `offset` on."""

    def writev(self, offset: int, buffers: Sequence[memoryview | bytes], /) -> None:
        """Store `buffers` in order from byte `offset` on."""

    def flush(self) -> None:
        """Return once every finished write is on the medium."""

    def discard(self, offset: int, length: int, /) -> None:
        """The range's contents are no longer wanted."""

    def write_zeroes(self, offset: int, length: int, unmap: bool, /) -> None:
        """Make the range read as zeroes; `unmap` allows to free it."""

    def close(self) -> None:
        """Release the medium; flush first."""
