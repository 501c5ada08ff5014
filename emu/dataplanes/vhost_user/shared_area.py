"""Memory that a peer shares by a descriptor, mapped."""

import contextlib
import ctypes
import mmap

from emu.bus.memory import PAGE
from emu.dataplanes.vhost_user.messages import ProtocolError


class SharedArea:
    """`size` bytes from `offset` of `fd` on, readable and writable; `fd` may be closed afterwards.

    Raises ProtocolError, which names `message`.
    """

    __slots__ = ("_address", "_map", "view")

    def __init__(self, fd: int, offset: int, size: int, message: str) -> None:
        before = offset % PAGE
        try:
            self._map = mmap.mmap(fd, before + size, offset=offset - before)
        except (OSError, ValueError, OverflowError) as error:
            raise ProtocolError(
                message, "fd", f"{size:#x} bytes at {offset:#x} cannot be mapped: {error}"
            ) from error
        self.view = memoryview(self._map)[before:]
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def holds(self, address: int) -> bool:
        """Is this address of our own process in the mapping?"""
        return 0 <= address - self._address < len(self._map)

    def close(self) -> None:
        """Unmap; the mapping goes with the last view of it. Harmless when repeated."""
        self._address = -1
        self.view.release()
        with contextlib.suppress(BufferError):
            self._map.close()
