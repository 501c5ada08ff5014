"""QEMU's firmware configuration device: items that firmware and test kernels read by number.

Source: QEMU, docs/specs/fw_cfg.rst ("x86 Register Locations", "Selecting a Configuration Item", "File
Directory", "Guest-side DMA Interface"). The DMA interface is there where the device is given memory, and the
feature word says so.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Protocol

from emu.bus.memory import GuestAddressError
from emu.bus.types import AccessError, Fault

SIGNATURE, FEATURES, UUID, RAM_SIZE, NOGRAPHIC, NB_CPUS = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05
NUMA, BOOT_MENU, MAX_CPUS, FILE_DIR, FILE_FIRST = 0x0D, 0x0E, 0x0F, 0x19, 0x20
IRQ0_OVERRIDE = 0x8002
FEATURE_TRADITIONAL, FEATURE_DMA = 1 << 0, 1 << 1
DMA_OFFSET, DMA_PORTS = 4, 8
DMA_SIGNATURE = int.from_bytes(b"QEMU CFG", "big")
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
WRITE_CHANNEL = 1 << 14
MAX_NAME = 55
_FILE = struct.Struct(">IHH56s")
_E820 = struct.Struct("<QQI")
_DMA = struct.Struct(">IIQ")
_ONES32 = 0xFFFF_FFFF


class DmaMemory(Protocol):
    """Guest RAM as the device uses it."""

    def view(self, gpa: int, length: int, /) -> memoryview:
        """The bytes [gpa, gpa + length), writable. Raises GuestAddressError outside of RAM."""

    def written(self, gpa: int, length: int, /) -> None:
        """The range has new contents."""


def standard_items(
    ram_bytes: int, cpus: int, *, graphics: bool = True, boot_menu: bool = False
) -> dict[int, bytes]:
    """The items of a PC. `ram_bytes` counts all RAM; without graphics, firmware's console is COM1."""
    return {
        SIGNATURE: b"QEMU",
        FEATURES: struct.pack("<I", FEATURE_TRADITIONAL),
        UUID: bytes(16),
        RAM_SIZE: struct.pack("<Q", ram_bytes),
        NOGRAPHIC: struct.pack("<H", not graphics),
        NB_CPUS: struct.pack("<H", cpus),
        NUMA: struct.pack("<Q", 0) + bytes(8 * cpus),
        BOOT_MENU: struct.pack("<H", boot_menu),
        MAX_CPUS: struct.pack("<H", cpus),
        IRQ0_OVERRIDE: struct.pack("<I", 1),
    }


def e820_file(ram: Sequence[tuple[int, int]]) -> bytes:
    """The content of `etc/e820` from (address, bytes) of each piece of RAM."""
    return b"".join(_E820.pack(base, size, 1) for base, size in ram)


class FwCfg:
    """Ports 0x510 (selector, 16 bits) and 0x511 (data, bytes); a `Region` of two ports, mapped wide.

    `files` get their numbers by name. Nothing can be written into an item. `dma` is the window at 0x514, of
    use where `memory` is given.
    """

    size = 2

    def __init__(
        self, items: Mapping[int, bytes], files: Mapping[str, bytes], memory: DmaMemory | None = None
    ) -> None:
        self._items = dict(items)
        self._memory = memory
        self.dma = FwCfgDma(self)
        if memory is not None:
            self._items[FEATURES] = struct.pack("<I", FEATURE_TRADITIONAL | FEATURE_DMA)
        directory = [struct.pack(">I", len(files))]
        for key, (name, content) in enumerate(sorted(files.items()), FILE_FIRST):
            if len(name) > MAX_NAME:
                raise ValueError(f"fw_cfg file name of {len(name)} bytes, at most {MAX_NAME}")
            directory.append(_FILE.pack(len(content), key, 0, name.encode("ascii")))
            self._items[key] = content
        self._items[FILE_DIR] = b"".join(directory)
        self._selected, self._position = b"QEMU", 0

    def transfer(self, gpa: int) -> None:
        """Carry out the FWCfgDmaAccess at `gpa`; its control word then says 0 or DMA_ERROR."""
        memory = self._memory
        if memory is None:
            return
        try:
            order = memory.view(gpa, _DMA.size)
        except GuestAddressError:
            return  # nowhere to answer
        control, length, address = _DMA.unpack(order)
        if control & DMA_SELECT:
            self._selected, self._position = self._items.get(control >> 16 & ~WRITE_CHANNEL, b""), 0
        status = 0
        if control & DMA_READ:
            status = self._dma_read(memory, address, length)
        elif control & DMA_WRITE:
            status = DMA_ERROR
        elif control & DMA_SKIP:
            self._position = min(self._position + length, len(self._selected))
        order[:4] = status.to_bytes(4, "big")
        memory.written(gpa, 4)

    def _dma_read(self, memory: DmaMemory, address: int, length: int) -> int:
        """The next `length` bytes of the item, zeros behind its end, go to RAM; returns 0 or DMA_ERROR."""
        try:
            target = memory.view(address, length)
        except GuestAddressError:
            return DMA_ERROR
        found = memoryview(self._selected)[self._position : self._position + length]
        target[: len(found)] = found
        if length > len(found):
            target[len(found) :] = bytes(length - len(found))
        self._position += len(found)
        memory.written(address, length)
        return 0

    def reset(self) -> None:
        """Select the signature."""
        self.dma.high = 0
        self._selected, self._position = self._items.get(SIGNATURE, b""), 0

    def read(self, _offset: int, width: int) -> int:
        """The next byte of the item, zero behind its end, at either port. Raises AccessError for words."""
        if width != 1:
            raise AccessError(Fault.WIDTH)
        selected, position = self._selected, self._position
        if position >= len(selected):
            return 0
        self._position = position + 1
        return selected[position]

    def write(self, offset: int, width: int, value: int) -> None:
        """Select an item; writes to the data port are dropped."""
        if offset == 0 and width == 2:
            self._selected, self._position = self._items.get(value & ~WRITE_CHANNEL, b""), 0

    def register_name(self, offset: int, is_write: bool) -> str:
        """The specification's words."""
        return "selector" if is_write and not offset else "data"


class FwCfgDma:
    """Ports 0x514 to 0x51B: the address of an order, big-endian; its low half starts it. Mapped wide."""

    size = DMA_PORTS

    def __init__(self, chip: FwCfg) -> None:
        self._chip = chip
        self.high = 0

    def read(self, offset: int, width: int) -> int:
        """The letters QEMU CFG, big-endian. Raises AccessError for what is not aligned."""
        if offset % width:
            raise AccessError(Fault.WIDTH)
        value = DMA_SIGNATURE >> 8 * (DMA_PORTS - offset - width) & (1 << 8 * width) - 1
        return int.from_bytes(value.to_bytes(width, "big"), "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """The high half, or the low half, which starts the transfer. Raises AccessError else."""
        if width != 4 or offset not in (0, 4):
            raise AccessError(Fault.WIDTH)
        value = int.from_bytes((value & _ONES32).to_bytes(4, "little"), "big")
        if offset == 0:
            self.high = value
            return
        address, self.high = self.high << 32 | value, 0
        self._chip.transfer(address)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The specification's words."""
        return "DMA address low" if offset >= 4 else "DMA address high"
