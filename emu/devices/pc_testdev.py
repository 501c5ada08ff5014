"""QEMU's `pc-testdev`: interrupt lines, ports and memory by which test kernels try out a machine.

Source: QEMU, hw/misc/pc-testdev.c, for addresses and widths. Bytes at port 0xE8 are not there: 0xE9 is the
debug console's here.
"""

from collections.abc import Callable

from emu.bus.types import AccessError, Fault

IOPORT, FLUSH, IRQ_LINES, MEMORY = 0xE0, 0xE4, 0x2000, 0xFF00_0000
PORTS, FLUSH_PORTS, IRQ_PORTS, MEMORY_SIZE = 4, 4, 24, 0x1_0000


class PlainBytes:
    """A `Region` of plain bytes that give back what was written: the port, or the memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bytes = bytearray(size)

    def reset(self) -> None:
        """They are kept, as RAM is."""

    def read(self, offset: int, width: int) -> int:
        """Any width; bytes past the end are 0."""
        return int.from_bytes(self._bytes[offset : offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """Any width that fits. Raises AccessError else."""
        if offset + width > self.size:
            raise AccessError(Fault.WIDTH)
        self._bytes[offset : offset + width] = value.to_bytes(width, "little")

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """They have no names."""
        return "bytes"


class FlushPage:
    """A `Region`: a write of a page's address makes the host forget its mapping; there is none."""

    size = FLUSH_PORTS

    def read(self, _offset: int, _width: int) -> int:
        """Always 0."""
        return 0

    def write(self, _offset: int, _width: int, _value: int) -> None:
        """The page stays as it is, for the guest."""

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """The device's one register."""
        return "flush page"


class IrqLines:
    """A `Region` of one byte port an interrupt: `drive(irq, level)` is called with each write."""

    size = IRQ_PORTS

    def __init__(self, drive: Callable[[int, bool], None]) -> None:
        self._drive = drive

    def read(self, _offset: int, _width: int) -> int:
        """Always 0."""
        return 0

    def write(self, offset: int, _width: int, value: int) -> None:
        """Zero lowers the line, all else raises it."""
        self._drive(offset, value != 0)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """By interrupt."""
        return f"IRQ{offset}"
