"""Base address registers of a PCI function, the expansion ROM's among them: what a device declares.

Source: PCI Local Bus Specification 3.0: 6.2.5 (base addresses), 6.2.5.2 (expansion ROM).
"""

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from emu.bus.pci_config import BAR0, BARS, EXPANSION_ROM
from emu.bus.types import Region
from emu.errors import MapError

ROM, ROM_LEAST, ROM_MOST = 6, 0x800, 1 << 24
"""`Bar.number` of the expansion ROM, and the sizes that it may have. Source: 6.2.5.2."""


class BarKind(enum.Enum):
    """The three kinds of base address register, by their fixed low bits."""

    IO = 0x1
    MEM32 = 0x0
    MEM64 = 0x4


class BarWindow(NamedTuple):
    """A region at `offset` bytes of a BAR; `kind` is the ledger's."""

    offset: int
    region: Region
    name: str
    kind: str = "device"


class Bar(NamedTuple):
    """One base address register: `size` bytes (a power of two) with the windows inside of it.

    Number ROM has an enable bit of its own besides COMMAND's.
    `on_move(base)` is told of each new place, None while it is not decoded: for pages mapped by other
    means, and doorbells.
    """

    number: int
    kind: BarKind
    size: int
    windows: Sequence[BarWindow] = ()
    prefetch: bool = False
    on_move: Callable[[int | None], None] | None = None

    @property
    def flags(self) -> int:
        """The read-only low bits."""
        return self.kind.value | (0x8 if self.prefetch else 0)

    @property
    def register(self) -> int:
        """Where it is in configuration space."""
        return EXPANSION_ROM if self.number == ROM else BAR0 + 4 * self.number

    @property
    def width(self) -> int:
        """Bytes of configuration space."""
        return 8 if self.kind is BarKind.MEM64 else 4


def check_bar(bar: Bar) -> None:
    """Raise MapError for what PCI cannot express."""
    least = ROM_LEAST if bar.number == ROM else 4 if bar.kind is BarKind.IO else 16
    if bar.size < least or bar.size & (bar.size - 1):
        raise MapError(f"BAR {bar.number}: {bar.size:#x} bytes is not a power of two of at least {least}")
    if bar.number == ROM:
        if bar.kind is not BarKind.MEM32 or bar.size > ROM_MOST:
            raise MapError(f"an expansion ROM of {bar.size:#x} bytes: at most {ROM_MOST:#x} are possible")
    elif not 0 <= bar.number <= BARS - bar.width // 4:
        raise MapError(f"BAR {bar.number}: a function has BARs 0 to {BARS - 1}")
    for window in bar.windows:
        if window.offset + window.region.size > bar.size:
            raise MapError(
                f"{window.name}: {window.region.size:#x} bytes at {window.offset:#x} "
                f"exceed its BAR of {bar.size:#x}"
            )
