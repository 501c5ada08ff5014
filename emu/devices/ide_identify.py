"""What IDENTIFY DEVICE and IDENTIFY PACKET DEVICE answer: 256 words each.

Source: ATA/ATAPI-6 (T13/1410D), 8.15 with table 27, 8.16 with table 30, and 8.46 with table 44 (modes).
"""

import struct
from typing import NamedTuple

MAX_MULTIPLE = 16  # sectors in one DRQ block
MAX_LBA28 = (1 << 28) - 1  # the largest count that words 60-61 may give
MAX_CYLINDERS, HEADS, SECTORS_PER_TRACK = 16383, 16, 63  # the standard's translation


PIO_MODES, MULTIWORD_MODES, ULTRA_MODES = range(0x08, 0x0D), range(0x20, 0x23), range(0x40, 0x46)
DEFAULT_MODE = 0x45  # Ultra DMA 5
PACKET_CD_ROM = 0x85C0  # an ATAPI CD-ROM: removable, DRQ within 50 us of PACKET, packets of 12 bytes


class Identity(NamedTuple):
    """A drive's own strings: 40, 20 and 8 ASCII characters are used."""

    model: str = "EMU HARDDISK"
    serial: str = "EMU00001"
    firmware: str = "1.0"


class Geometry(NamedTuple):
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


def takes_mode(mode: int, dma: bool) -> bool:
    """Whether SET FEATURES may select transfer mode `mode`; `dma` with a bus master."""
    return mode <= 0x01 or mode in PIO_MODES or (dma and (mode in MULTIWORD_MODES or mode in ULTRA_MODES))


def is_dma_mode(mode: int) -> bool:
    """Whether a transfer mode that `takes_mode` allows is one of DMA; those of PIO need no memory."""
    return mode >= MULTIWORD_MODES.start


def _offer_dma(words: list[int], mode: int) -> None:
    """Fill in the words of a drive that has a bus master, with `mode` selected."""
    words[49] |= 1 << 8
    words[53] |= 1 << 2  # word 88 is valid
    words[63] = 0x0007 | (0x100 << mode - MULTIWORD_MODES.start if mode in MULTIWORD_MODES else 0)
    words[65] = words[66] = 120  # ns a multiword DMA cycle
    words[88] = 0x003F | (0x100 << mode - ULTRA_MODES.start if mode in ULTRA_MODES else 0)


def _finished(words: list[int], identity: Identity) -> bytes:
    """The words as bytes, with the drive's strings."""
    data = bytearray(struct.pack("<256H", *words))
    data[20:40] = swapped(identity.serial, 20)
    data[46:54] = swapped(identity.firmware, 8)
    data[54:94] = swapped(identity.model, 40)
    return bytes(data)


def identify_packet(identity: Identity, slave: bool, mode: int | None) -> bytes:
    """The 512 bytes of a CD-ROM's IDENTIFY PACKET DEVICE; `mode` as `identify` has it."""
    words = [0] * 256
    words[0] = PACKET_CD_ROM
    words[49] = 1 << 11 | 1 << 9  # IORDY, LBA
    words[50] = 0x4000
    words[53] = 0x0002  # words 64-70 are valid
    words[64] = 0x0003  # PIO modes 3 and 4
    words[67] = words[68] = 120  # ns a PIO cycle
    words[80] = 1 << 6 | 1 << 5 | 1 << 4  # ATA-4 to ATA-6
    words[82] = words[85] = 1 << 9 | 1 << 4  # DEVICE RESET, PACKET
    words[83] = words[84] = words[87] = 1 << 14
    words[93] = 0x6100 if slave else 0x6001
    if mode is not None:
        _offer_dma(words, mode)
    return _finished(words, identity)


def identify(
    identity: Identity,
    sectors: int,
    current: Geometry,
    multiple: int,
    write_cache: bool,
    slave: bool,
    mode: int | None = None,
) -> bytes:
    """The 512 bytes of IDENTIFY DEVICE. `mode` is the selected DMA transfer mode, None without bus master."""
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
    if mode is not None:
        _offer_dma(words, mode)
    return _finished(words, identity)
