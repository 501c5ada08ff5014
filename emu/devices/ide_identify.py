"""What IDENTIFY DEVICE answers: 256 words. Source: ATA/ATAPI-6 (T13/1410D), 8.15 and table 27."""

import struct
from dataclasses import dataclass

MAX_MULTIPLE = 16  # sectors in one DRQ block
MAX_LBA28 = (1 << 28) - 1  # the largest count that words 60-61 may give
MAX_CYLINDERS, HEADS, SECTORS_PER_TRACK = 16383, 16, 63  # the standard's translation


@dataclass(frozen=True, slots=True)
class Identity:
    """A drive's own strings: 40, 20 and 8 ASCII characters are used."""

    model: str = "EMU HARDDISK"
    serial: str = "EMU00001"
    firmware: str = "1.0"


@dataclass(frozen=True, slots=True)
class Geometry:
    """A translation from cylinder, head, sector."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def capacity(self) -> int:
        """Sectors that CHS can reach."""
        return self.cylinders * self.heads * self.sectors


def default_geometry(sectors: int) -> Geometry:
    """The translation after power-on for a disk of `sectors` sectors."""
    cylinders = sectors // (HEADS * SECTORS_PER_TRACK)
    return Geometry(min(max(cylinders, 1), MAX_CYLINDERS), HEADS, SECTORS_PER_TRACK)


def swapped(text: str, length: int) -> bytes:
    """`text` in `length` bytes as ATA has strings: space-filled, the first of two characters on top."""
    data = text.encode("ascii", "replace")[:length].ljust(length)
    return b"".join(data[i : i + 2][::-1] for i in range(0, length, 2))


def identify(
    identity: Identity, sectors: int, current: Geometry, multiple: int, write_cache: bool, slave: bool
) -> bytes:
    """The 512 bytes of IDENTIFY DEVICE.

    No DMA is offered (words 49 bit 8, 63 and 88); a bus master would add those.
    """
    default = default_geometry(sectors)
    words = [0] * 256
    words[0] = 0x0040  # not removable
    words[1], words[3], words[6] = default.cylinders, default.heads, default.sectors
    words[47] = 0x8000 | MAX_MULTIPLE
    words[49] = 1 << 11 | 1 << 9  # IORDY, LBA
    words[50] = 0x4000
    words[51] = 0x0200  # PIO timing mode 2, obsolete
    words[53] = 0x0003  # words 54-58 and 64-70 are valid
    words[54], words[55], words[56] = current.cylinders, current.heads, current.sectors
    reachable = min(current.capacity, sectors)
    words[57], words[58] = reachable & 0xFFFF, reachable >> 16
    words[59] = 0x0100 | multiple if multiple else 0
    lba28 = min(sectors, MAX_LBA28)
    words[60], words[61] = lba28 & 0xFFFF, lba28 >> 16
    words[64] = 0x0003  # PIO modes 3 and 4
    words[67] = words[68] = 120  # ns a PIO cycle
    words[80] = 1 << 6 | 1 << 5 | 1 << 4  # ATA-4 to ATA-6
    words[82] = 1 << 14 | 1 << 5 | 1 << 3  # NOP, write cache, power management
    words[83] = 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10  # FLUSH CACHE (EXT), 48-bit addresses
    words[84] = words[87] = 1 << 14
    words[85] = words[82] if write_cache else words[82] & ~(1 << 5)
    words[86] = words[83] & ~(1 << 14)
    words[93] = 0x6100 if slave else 0x6001  # 80-conductor cable; passed diagnostics
    for i in range(4):
        words[100 + i] = sectors >> 16 * i & 0xFFFF
    data = bytearray(struct.pack("<256H", *words))
    data[20:40] = swapped(identity.serial, 20)
    data[46:54] = swapped(identity.firmware, 8)
    data[54:94] = swapped(identity.model, 40)
    return bytes(data)
