"""Which addresses the BARs of a PCI bus answer, as the guest moves them. Everything on the vCPU thread.

Source: PCI Local Bus Specification 3.0: 6.2.5 (base addresses), 6.2.2 (COMMAND's enable bits).
"""

from collections.abc import Callable
from typing import Protocol

from emu.bus.pci_bar import ROM, Bar, BarKind, BarWindow
from emu.bus.pci_config import COMMAND_IO, COMMAND_MEMORY, ROM_ENABLE, ConfigSpace
from emu.bus.types import Region
from emu.errors import MapError

APERTURES = (range(0xC000_0000, 0xFEC0_0000), range(1 << 38, 1 << 40))
"""Memory that the host bridge passes on to PCI."""


class MmioSpace(Protocol):
    """Where memory BARs are mapped."""

    def map(self, base: int, region: Region, name: str, kind: str = "device") -> object:
        """Let `region` answer from `base` on. Raises MapError where another window lies."""

    def unmap(self, base: int) -> None:
        """Take away the window that starts at `base`."""


class PioSpace(Protocol):
    """Where I/O BARs are mapped."""

    def map(
        self, base: int, ports: int, region: Region, name: str, kind: str = "device", *, wide: bool = False
    ) -> object:
        """Let `region` answer `ports` ports from `base` on. Raises MapError where another window lies."""

    def unmap(self, base: int) -> None:
        """Take away the window that starts at `base`."""


class Decoder:
    """Where the guest wants one BAR, and where it is mapped."""

    __slots__ = ("bar", "base", "complained", "mapped", "name", "offset", "wanted")

    def __init__(self, bar: Bar, name: str) -> None:
        self.bar, self.name = bar, name
        self.offset = bar.register
        self.wanted: int | None = None
        self.base: int | None = None
        self.mapped: list[int] = []
        self.complained = False

    def address(self, config: ConfigSpace, command: int) -> int | None:
        """What the registers say; None while decoding is off."""
        bar = self.bar
        if not command & (COMMAND_IO if bar.kind is BarKind.IO else COMMAND_MEMORY):
            return None
        value = config.get(self.offset, bar.width)
        if bar.number == ROM and not value & ROM_ENABLE:
            return None
        return value & -bar.size


class BarMap:
    """The windows of all BARs of a bus, in both address spaces.

    A memory BAR outside of what the host bridge passes on to PCI is not decoded. `conflicts` counts BARs put
    over another window: the newer one is not decoded until one of them moves; `tell` hears of it once a BAR.
    """

    def __init__(
        self,
        mmio: MmioSpace,
        pio: PioSpace,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._mmio, self._pio = mmio, pio
        self._tell = tell
        self._waiting: list[Decoder] = []
        self.conflicts = 0

    def place(self, decoder: Decoder, wanted: int | None) -> None:
        """Move a BAR to where the guest wants it, as far as that place is free."""
        if wanted == decoder.wanted:
            return
        freed = self._unmap(decoder)
        decoder.wanted = wanted
        if decoder in self._waiting:
            self._waiting.remove(decoder)
        if wanted is not None and self._forwarded(decoder.bar, wanted):
            self._map_or_wait(decoder, wanted)
        if freed:
            waiting, self._waiting = self._waiting, []
            for other in waiting:
                if other.wanted is not None:
                    self._map_or_wait(other, other.wanted)

    def _forwarded(self, bar: Bar, base: int) -> bool:
        """False at 0 and at the very top too: there a BAR stands while it is being sized."""
        if bar.kind is BarKind.IO:
            return base > 0 and base + bar.size < 0x1_0000
        return any(base in window and base + bar.size <= window.stop for window in APERTURES)

    def _map_or_wait(self, decoder: Decoder, base: int) -> None:
        try:
            for window in decoder.bar.windows:
                self._map(decoder.bar.kind, base + window.offset, window)
                decoder.mapped.append(base + window.offset)
        except MapError as error:
            self._unmap(decoder)
            self._waiting.append(decoder)
            self.conflicts += 1
            if not decoder.complained and self._tell is not None:
                decoder.complained = True
                self._tell(f"guest: {decoder.name}: BAR {decoder.bar.number} is not decoded: {error}")
            return
        decoder.base = base
        if decoder.bar.on_move is not None:
            decoder.bar.on_move(base)

    def _map(self, kind: BarKind, at: int, window: BarWindow) -> None:
        if kind is BarKind.IO:
            self._pio.map(at, window.region.size, window.region, window.name, window.kind, wide=True)
        else:
            self._mmio.map(at, window.region, window.name, window.kind)

    def _unmap(self, decoder: Decoder) -> bool:
        """Take a BAR's windows away; True where there were any."""
        space: MmioSpace | PioSpace = self._pio if decoder.bar.kind is BarKind.IO else self._mmio
        for at in decoder.mapped:
            space.unmap(at)
        freed = bool(decoder.mapped)
        decoder.mapped.clear()
        if decoder.base is not None:
            decoder.base = None
            if decoder.bar.on_move is not None:
                decoder.bar.on_move(None)
        return freed
