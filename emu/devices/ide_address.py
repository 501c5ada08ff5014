"""How an ATA command names sectors in its registers, and how the drive names one there.

Source: ATA/ATAPI-6 (T13/1410D), 6.2 (addresses).
"""

from typing import NamedTuple

from emu.devices.ide_identify import Geometry
from emu.devices.ide_task_file import COUNT, DEVICE, LBA_HIGH, LBA_LOW, LBA_MID, TaskFile

CHS, LBA28, LBA48, NO_ADDRESS = range(4)
"""An opcode's kind of address. LBA28 stands for both 28-bit kinds until Device decides between them."""

DEVICE_LBA, DEVICE_HEAD = 0x40, 0x0F


class Extent(NamedTuple):
    """`sectors` of them from `lba` on, which need not be there, and how the registers name them."""

    addressing: int
    lba: int
    sectors: int


def named(task: TaskFile, addressing: int, geometry: Geometry) -> Extent | None:
    """What the registers name, None for a cylinder, head or sector that the translation does not have."""
    now, before = task.registers, task.previous
    low = now[LBA_HIGH] << 16 | now[LBA_MID] << 8 | now[LBA_LOW]
    if addressing == LBA48:
        lba = before[LBA_HIGH] << 40 | before[LBA_MID] << 32 | before[LBA_LOW] << 24 | low
        return Extent(LBA48, lba, (before[COUNT] << 8 | now[COUNT]) or 65536)
    count = now[COUNT] or 256
    if now[DEVICE] & DEVICE_LBA:
        return Extent(addressing, (now[DEVICE] & DEVICE_HEAD) << 24 | low, count)
    cylinder, head, sector = low >> 8, now[DEVICE] & DEVICE_HEAD, now[LBA_LOW]
    if not (0 < sector <= geometry.sectors and head < geometry.heads and cylinder < geometry.cylinders):
        return None
    return Extent(CHS, (cylinder * geometry.heads + head) * geometry.sectors + sector - 1, count)


def show(task: TaskFile, addressing: int, geometry: Geometry, lba: int) -> None:
    """Name a sector in the registers, as the command named its own."""
    now, before = task.registers, task.previous
    if addressing == CHS:
        track, sector = divmod(lba, geometry.sectors)
        cylinder, head = divmod(track, geometry.heads)
        lba = head << 24 | (cylinder & 0xFFFF) << 8 | (sector + 1)
    now[LBA_LOW], now[LBA_MID], now[LBA_HIGH] = lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
    if addressing == LBA48:
        before[LBA_LOW] = lba >> 24 & 0xFF
        before[LBA_MID] = lba >> 32 & 0xFF
        before[LBA_HIGH] = lba >> 40 & 0xFF
    else:
        now[DEVICE] = now[DEVICE] & ~DEVICE_HEAD | lba >> 24 & DEVICE_HEAD
