"""A back-end's counters in a file that other processes read: a page of little-endian 64-bit words."""

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from emu.bus.costs import Costs
from emu.errors import ConfigError

PAGE_BYTES: Final = 4096
MAGIC: Final = b"EMUCNTR1"
LAYOUT: Final = struct.Struct("<8s6Q")  # magic, then the fields of Costs in this order


class CountersPage:
    """Writes the sum of `sources` to the file when told to; creates the file. Raises ConfigError.

    A front-end that has the reply to a message, or a call, finds everything before it in the page.
    """

    def __init__(self, path: str, sources: list[Callable[[], Costs]]) -> None:
        self._sources = sources
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"--counters {path}: {error.strerror}") from error
        try:
            os.ftruncate(fd, PAGE_BYTES)
            self._page = mmap.mmap(fd, PAGE_BYTES)
        except OSError as error:
            raise ConfigError(f"--counters {path}: {error.strerror}; a plain file is needed") from error
        finally:
            os.close(fd)
        self.flush()

    def flush(self) -> None:
        """Store what was counted so far."""
        total = Costs()
        for source in self._sources:
            total = total.total(source())
        LAYOUT.pack_into(
            self._page,
            0,
            MAGIC,
            total.requests,
            total.interrupts,
            total.handoffs,
            total.bytes_copied,
            total.bytes_dma,
            total.syscalls,
        )

    def close(self) -> None:
        """Store the last figures; the file stays."""
        self.flush()
        self._page.close()


def read_counters(path: str | Path) -> Costs:
    """What a back-end has counted so far. Raises ConfigError where the file is no such page."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(data) < LAYOUT.size or not data.startswith(MAGIC):
        raise ConfigError(f"{path}: it is no page of counters")
    return Costs(*LAYOUT.unpack_from(data)[1:])
