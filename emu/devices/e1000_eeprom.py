"""The 82540EM's EEPROM: 64 words behind a Microwire bus that software drives bit by bit, or EERD.

Sources: SDM 5.2 (EEPROM device and interface), 5.6 (address map), 13.4.3 (EECD), 13.4.4 (EERD); Microchip
93C46 data sheet (instructions).
"""

from typing import Final

from emu.devices.e1000_spec import (
    EECD_CS,
    EECD_DI,
    EECD_DO,
    EECD_FWE,
    EECD_GNT,
    EECD_PRES,
    EECD_REQ,
    EECD_SK,
    EERD_DONE,
    EERD_START,
)

WORDS: Final = 64
CHECKSUM, CHECKSUM_AT = 0xBABA, 0x3F
ADDRESS_BITS: Final = 6
COMMAND_BITS: Final = 2 + ADDRESS_BITS
OP_EXTENDED, OP_WRITE, OP_READ, OP_ERASE = 0, 1, 2, 3
EWDS, WRAL, ERAL, EWEN = 0, 1, 2, 3  # the address' two upper bits, of OP_EXTENDED
KEPT: Final = EECD_SK | EECD_CS | EECD_DI | EECD_FWE | EECD_REQ

FACTORY: Final = {
    0x03: 0x0000,  # compatibility bits
    0x04: 0xFFFF,
    0x08: 0x3000,  # printed board assembly number, two words
    0x09: 0x1000,
    0x0A: 0x6403,  # initialization control word 1
    0x0B: 0x100E,  # subsystem identifier
    0x0C: 0x8086,  # subsystem vendor
    0x0D: 0x100E,  # device identifier
    0x0E: 0x8086,  # vendor
    0x0F: 0x3040,  # initialization control word 2
    0x10: 0x0008,
    0x11: 0x2000,
    0x12: 0x7E14,
    0x13: 0x0048,
    0x14: 0x1000,
    0x15: 0x00D8,
    0x17: 0x2700,
    0x18: 0x6CC9,
    0x19: 0x3150,
    0x1A: 0x0722,
    0x1B: 0x040B,
    0x1C: 0x0984,
    0x1E: 0xC000,
    0x1F: 0x0706,
    0x20: 0x1008,  # software defined pins
    0x22: 0x0F04,
    0x23: 0x7FFF,
    0x24: 0x4D01,
    0x30: 0x0100,  # PXE: setup options, configuration, version
    0x31: 0x4000,
    0x32: 0x121C,
}
"""What such a card carries; the others up to 0x24 are 0, those behind 0xFFFF."""


def contents(mac: bytes) -> list[int]:
    """The 64 words of a card with the address `mac`; they sum up to 0xBABA."""
    words = [0] * 0x25 + [0xFFFF] * (WORDS - 0x25)
    for at, word in FACTORY.items():
        words[at] = word
    words[:3] = [mac[i] | mac[i + 1] << 8 for i in (0, 2, 4)]
    words[CHECKSUM_AT] = CHECKSUM - sum(words[:CHECKSUM_AT]) & 0xFFFF
    return words


class Eeprom:
    """The chip and its two ways in. Writes last as long as the machine."""

    def __init__(self, mac: bytes) -> None:
        self.words = contents(mac)
        self.reset()

    def reset(self) -> None:
        """The interface's registers; the words stay."""
        self._pins = self._eerd = 0
        self._writable = False
        self._deselect()

    def _deselect(self) -> None:
        """CS low ends an instruction; the next one begins with a start bit."""
        self._taken = -1  # bits since the start bit; -1: none yet
        self._shift = 0
        self._at = 0
        self._opcode = -1
        self._out = 1  # DO is high while nothing is read

    @property
    def mac(self) -> bytes:
        """The address in words 0 to 2."""
        return b"".join(word.to_bytes(2, "little") for word in self.words[:3])

    # ---- EERD --------------------------------------------------------------------------------------

    def read_eerd(self) -> int:
        """Address, word and DONE of the last read."""
        return self._eerd

    def write_eerd(self, value: int) -> None:
        """START reads a word at once; an address past the end gives DONE and no data."""
        at = value >> 8 & 0xFF
        self._eerd = at << 8
        if value & EERD_START:
            word = self.words[at] if at < WORDS else 0
            self._eerd |= EERD_DONE | word << 16

    # ---- EECD --------------------------------------------------------------------------------------

    def read_eecd(self) -> int:
        """The pins. Nobody else uses the EEPROM: it is granted at any time."""
        return self._pins | EECD_PRES | EECD_GNT | (EECD_DO if self._out else 0)

    def write_eecd(self, value: int) -> None:
        """Move the pins; a rising clock with CS high shifts one bit."""
        rising = value & EECD_SK and not self._pins & EECD_SK
        self._pins = value & KEPT
        if not value & EECD_CS:
            self._deselect()
        elif rising:
            self._clock(1 if value & EECD_DI else 0)

    def _clock(self, bit: int) -> None:
        if self._taken < 0:  # the start bit is a one
            self._taken = bit - 1
            return
        self._taken += 1
        if self._taken <= COMMAND_BITS:
            self._shift = self._shift << 1 | bit
            if self._taken == COMMAND_BITS:
                self._command()
        elif self._opcode == OP_READ:
            offset = self._taken - COMMAND_BITS - 1  # words follow each other as long as the clock runs
            word = self.words[(self._at + offset // 16) % WORDS]
            self._out = word >> 15 - offset % 16 & 1
        elif self._taken <= COMMAND_BITS + 16:
            self._shift = self._shift << 1 & 0xFFFF | bit
            if self._taken == COMMAND_BITS + 16:
                self._store()

    def _command(self) -> None:
        self._opcode, self._at = self._shift >> ADDRESS_BITS, self._shift & WORDS - 1
        self._shift = 0
        kind = self._at >> ADDRESS_BITS - 2
        if self._opcode == OP_READ:
            self._out = 0  # a dummy bit leads
        elif self._opcode == OP_ERASE and self._writable:
            self.words[self._at] = 0xFFFF
        elif self._opcode == OP_EXTENDED and kind in (EWEN, EWDS):
            self._writable = kind == EWEN
        elif self._opcode == OP_EXTENDED and kind == ERAL and self._writable:
            self.words = [0xFFFF] * WORDS

    def _store(self) -> None:
        """All 16 bits of a word to write are here."""
        if not self._writable:
            return
        if self._opcode == OP_WRITE:
            self.words[self._at] = self._shift
        elif self._opcode == OP_EXTENDED and self._at >> ADDRESS_BITS - 2 == WRAL:
            self.words = [self._shift] * WORDS
