"""What firmware does to PCI before a kernel that is booted without firmware: BARs, interrupts, IDE channels.

Works through configuration space alone, as firmware does. Sources: PCI Local Bus Specification 3.0, 6.2.5.1
(sizing); PIIX3 datasheet, 3.1.4 and 3.5.2 (PIRQRC, ELCR), 2.3.8 (IDETIM). Interrupts are routed as on common
PC firmware, so that a kernel finds the same lines there.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from emu.boot.mptable import PciWire
from emu.bus.pci import DEVICES, FUNCTIONS, pirq_of
from emu.bus.pci_config import (
    BAR0,
    BARS,
    COMMAND,
    COMMAND_IO,
    COMMAND_MEMORY,
    COMMAND_SERR,
    HEADER_MULTIFUNCTION,
    HEADER_TYPE,
    INTERRUPT_LINE,
    INTERRUPT_PIN,
    VENDOR_ID,
)
from emu.bus.types import Region
from emu.errors import ConfigError

MEMORY_WINDOW = range(0xE000_0000, 0xFEC0_0000)
HIGH_WINDOW = range(1 << 38, 1 << 39)
IO_WINDOW = range(0xC000, 0x1_0000)
PIRQ_IRQS = (10, 10, 11, 11)
PIIX3_ID, PIRQRC = 0x7000_8086, 0x60
PIIX3_IDE_ID, IDETIM, IDE_DECODE = 0x7010_8086, 0x40, 0x8000
BAR_IO, BAR_64 = 0x1, 0x4
_ONES = 0xFFFF_FFFF
_NOBODY = 0xFFFF


class ConfigSpaces(Protocol):
    """Configuration cycles to bus 0; a slot is device * 8 + function."""

    def config_read(self, slot: int, offset: int, width: int) -> int:
        """Read a register; all ones where nobody is."""

    def config_write(self, slot: int, offset: int, width: int, value: int) -> None:
        """Write a register."""


class _Wanted(NamedTuple):
    """A BAR that asks for a place."""

    slot: int
    register: int
    size: int
    is_io: bool
    is_64: bool


class _Window:
    """Addresses given out from the bottom, each aligned to its size."""

    def __init__(self, window: range) -> None:
        self._next, self._end = window.start, window.stop

    def take(self, size: int) -> int | None:
        base = (self._next + size - 1) & -size
        if base + size > self._end:
            return None
        self._next = base + size
        return base


def set_up_pci(spaces: ConfigSpaces, elcr: Region) -> None:
    """Place every BAR, route PIRQA-D to interrupts 10, 10, 11, 11, enable decoding and the IDE channels.

    `elcr` is the PIC pair's edge/level register (ports 0x4D0 and 0x4D1). Raises ConfigError where the devices
    need more addresses than there are.
    """
    slots = list(_occupied(spaces))
    memory, high, io = _Window(MEMORY_WINDOW), _Window(HIGH_WINDOW), _Window(IO_WINDOW)
    wanted = [bar for slot in slots for bar in _bars(spaces, slot)]
    for bar in sorted(wanted, key=lambda bar: bar.size, reverse=True):
        base = (io if bar.is_io else memory).take(bar.size)
        if base is None and bar.is_64:
            base = high.take(bar.size)
        if base is None:
            space = "I/O ports" if bar.is_io else "memory addresses below 4 GiB"
            raise ConfigError(
                f"PCI device {bar.slot >> 3:02x}.{bar.slot & 7}: no room for a BAR of {bar.size:#x} bytes "
                f"in the {space}; use fewer -device flags"
            )
        spaces.config_write(bar.slot, bar.register, 4, base & _ONES)
        if bar.is_64:
            spaces.config_write(bar.slot, bar.register + 4, 4, base >> 32)
    for slot in slots:
        _route(spaces, slot, elcr)
        if spaces.config_read(slot, VENDOR_ID, 4) == PIIX3_IDE_ID:
            for channel in range(2):
                spaces.config_write(slot, IDETIM + 2 * channel, 2, IDE_DECODE)
        command = spaces.config_read(slot, COMMAND, 2)
        spaces.config_write(slot, COMMAND, 2, command | COMMAND_IO | COMMAND_MEMORY | COMMAND_SERR)


def interrupt_wires(spaces: ConfigSpaces) -> list[PciWire]:
    """The interrupt of each function that has one, after `set_up_pci`."""
    found = []
    for slot in _occupied(spaces):
        if pin := spaces.config_read(slot, INTERRUPT_PIN, 1):
            line = spaces.config_read(slot, INTERRUPT_LINE, 1)
            found.append(PciWire(slot >> 3, pin, line))
    return found


def _occupied(spaces: ConfigSpaces) -> Iterator[int]:
    for device in range(DEVICES):
        first = device * FUNCTIONS
        if spaces.config_read(first, VENDOR_ID, 2) == _NOBODY:
            continue
        several = spaces.config_read(first, HEADER_TYPE, 1) & HEADER_MULTIFUNCTION
        for slot in range(first, first + (FUNCTIONS if several else 1)):
            if spaces.config_read(slot, VENDOR_ID, 2) != _NOBODY:
                yield slot


def _bars(spaces: ConfigSpaces, slot: int) -> Iterator[_Wanted]:
    """Size each BAR by writing all ones, with decoding off."""
    command = spaces.config_read(slot, COMMAND, 2)
    spaces.config_write(slot, COMMAND, 2, command & ~(COMMAND_IO | COMMAND_MEMORY))
    index = 0
    while index < BARS:
        register = BAR0 + 4 * index
        low = _size_mask(spaces, slot, register)
        is_io, is_64 = bool(low & BAR_IO), low & 0x7 == BAR_64
        mask = (low & ~0x3 & 0xFFFF) if is_io else (low & ~0xF)
        top = 0x1_0000 if is_io else 1 << 32
        if is_64:
            mask |= _size_mask(spaces, slot, register + 4) << 32
            top = 1 << 64
        if mask:
            yield _Wanted(slot, register, top - mask, is_io, is_64)
        index += 2 if is_64 else 1


def _size_mask(spaces: ConfigSpaces, slot: int, register: int) -> int:
    spaces.config_write(slot, register, 4, _ONES)
    mask = spaces.config_read(slot, register, 4)
    spaces.config_write(slot, register, 4, 0)
    return mask


def _route(spaces: ConfigSpaces, slot: int, elcr: Region) -> None:
    if spaces.config_read(slot, VENDOR_ID, 4) == PIIX3_ID:
        for pin, irq in enumerate(PIRQ_IRQS):
            spaces.config_write(slot, PIRQRC + pin, 1, irq)
            port = irq >> 3
            elcr.write(port, 1, elcr.read(port, 1) | 1 << (irq & 7))
    pin = spaces.config_read(slot, INTERRUPT_PIN, 1)
    if pin:
        spaces.config_write(slot, INTERRUPT_LINE, 1, PIRQ_IRQS[pirq_of(slot >> 3, pin)])
