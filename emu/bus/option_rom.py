"""The expansion ROM of a PCI card: code that firmware copies and runs.

Source: PCI Firmware Specification 3.0, chapter 5 (PCI Local Bus Specification 3.0, 6.3): images one behind
another, each with a header and a PCI data structure.
"""

import struct
from typing import Final

from emu.bus.pci_bar import ROM_LEAST, ROM_MOST
from emu.bus.types import AccessError, Fault
from emu.errors import EmuError

SIGNATURE: Final = b"\x55\xaa"
BLOCK: Final = 512
LENGTH_AT, CHECKSUM_AT, DATA_AT = 0x02, 0x06, 0x18
DATA_SIGNATURE: Final = b"PCIR"
DATA: Final = struct.Struct("<4sHH")  # signature, vendor, device
CODE_AT, CODE_X86 = 0x14, 0
DATA_BYTES: Final = 0x18


class RomError(EmuError):
    """A file is no expansion ROM."""


class OptionRom:
    """A `Region`: `content`, filled up with ones to a power of two. Raises RomError for what is none."""

    def __init__(self, content: bytes) -> None:
        if content[:2] != SIGNATURE:
            raise RomError(f"begins with {content[:2].hex() or 'nothing'}, an expansion ROM with 55aa")
        if len(content) > ROM_MOST:
            raise RomError(f"{len(content)} bytes; an expansion ROM has at most {ROM_MOST}")
        self.size = max(ROM_LEAST, 1 << (len(content) - 1).bit_length())
        self._content = content.ljust(self.size, b"\xff")

    def read(self, offset: int, width: int) -> int:
        """See `Region`."""
        return int.from_bytes(self._content[offset : offset + width], "little")

    def write(self, _offset: int, _width: int, _value: int) -> None:
        """See `Region`: a ROM takes nothing."""
        raise AccessError(Fault.READ_ONLY)

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """One name for all of it."""
        return "rom"


def made_for(content: bytes, vendor: int, device: int) -> bytes:
    """The same ROM with these identifiers in its first image, whose sum stays 0.

    Firmware runs a ROM on the card that its data structure names; one driver may serve several. Raises
    RomError for a ROM without an image for x86.
    """
    rom = bytearray(content)
    if len(rom) < DATA_AT + 2 or rom[:2] != SIGNATURE:
        raise RomError("has no image")
    at = int.from_bytes(rom[DATA_AT : DATA_AT + 2], "little")
    if rom[at : at + 4] != DATA_SIGNATURE or at + DATA_BYTES > len(rom) or rom[at + CODE_AT] != CODE_X86:
        raise RomError("has no image for x86")
    before = sum(rom[at : at + DATA.size])
    DATA.pack_into(rom, at, DATA_SIGNATURE, vendor, device)
    rom[CHECKSUM_AT] = (rom[CHECKSUM_AT] + before - sum(rom[at : at + DATA.size])) & 0xFF
    return bytes(rom)
