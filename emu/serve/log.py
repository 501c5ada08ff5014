"""The dirty log of a migration: which pages of guest memory were written. Source: vhost-user, "Migration".

The front-end reads and clears words of the log by atomic exchanges while we set bits. Python has no atomic
OR, and reading a byte, adding a bit and storing it could lose the bit that another back-end adds meanwhile.
So a whole byte of ones is stored: one store that loses nobody's bit, at the price of telling that up to seven
neighbours of a page are dirty, too.
"""

from typing import Final

from emu.dataplanes.vhost_user.messages import Log
from emu.dataplanes.vhost_user.shared_area import SharedArea

LOG_PAGE: Final = 4096
BYTE_OF: Final = 8 * LOG_PAGE
"""Bytes of guest memory that one byte of the log tells of."""


class DirtyLog:
    """One front-end's log, mapped. Raises ProtocolError."""

    def __init__(self, log: Log, fd: int, message: str) -> None:
        self.area = SharedArea(fd, log.offset, log.size, message)
        self._bytes = self.area.view

    def mark(self, gpa: int, length: int) -> None:
        """These bytes were written; what the log does not cover is not marked."""
        first, last = gpa // BYTE_OF, (gpa + length - 1) // BYTE_OF
        if first == last:
            if first < len(self._bytes):
                self._bytes[first] = 0xFF
        else:
            part = self._bytes[first : last + 1]
            part[:] = b"\xff" * len(part)

    def close(self) -> None:
        """Unmap."""
        self.area.close()
