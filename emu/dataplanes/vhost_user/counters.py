"""What a back-end spends, in a page of a file that its front-ends can read: exact counts across processes.

4096 bytes: the magic, then each field of `Costs` as a little-endian 64-bit number, in its order. The back-end
brings the page up to date before it signals a call, before it answers a message and before it sleeps.
"""

import dataclasses
import mmap
import os
import struct
from typing import Final

from emu.bus.costs import Costs
from emu.errors import ConfigError

MAGIC: Final = b"EMUCNTR1"
PAGE: Final = 4096
FIELDS: Final = tuple(field.name for field in dataclasses.fields(Costs))
NUMBERS: Final = struct.Struct(f"<{len(FIELDS)}Q")


class CountersPage:
    """The writer's side of the file `path`, which is made. Raises ConfigError where it cannot be."""

    def __init__(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, PAGE)
                os.posix_fallocate(fd, 0, PAGE)  # a store into a page without room would end the process
                self._map = mmap.mmap(fd, PAGE)
            finally:
                os.close(fd)
        except OSError as error:
            raise ConfigError(f"--counters {path}: {error.strerror}") from None
        self._map[: len(MAGIC)] = MAGIC
        self._words = memoryview(self._map)[len(MAGIC) : len(MAGIC) + NUMBERS.size].cast("Q")

    def put(self, costs: Costs) -> None:
        """Bring the page up to date."""
        words = self._words
        words[0], words[1], words[2] = costs.requests, costs.interrupts, costs.handoffs
        words[3], words[4], words[5] = costs.bytes_copied, costs.bytes_dma, costs.syscalls


def read_counters(path: str) -> Costs:
    """What the file says. Raises ConfigError where it is no such file."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs 10 ms of start
            page = file.read(len(MAGIC) + NUMBERS.size)
    except OSError as error:
        raise ConfigError(f"counters={path}: {error.strerror}") from None
    if len(page) != len(MAGIC) + NUMBERS.size or not page.startswith(MAGIC):
        raise ConfigError(f"counters={path}: it is no file of a back-end's counters")
    return Costs(*NUMBERS.unpack_from(page, len(MAGIC)))
