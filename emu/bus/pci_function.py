"""One PCI function as its device sees it: configuration space, BARs and interrupt pin.

Source: PCI Local Bus Specification 3.0: 6.2 (header), 2.2.6 (interrupt pins). Everything on the vCPU thread.
"""

from collections.abc import Callable, Mapping, Sequence

from emu.bus.irq import NoLine
from emu.bus.pci_bar import ROM, Bar, BarKind, BarWindow, check_bar
from emu.bus.pci_config import (
    BAR0,
    BARS,
    COMMAND,
    COMMAND_INTX_DISABLE,
    COMMAND_MASTER,
    CONFIG_SIZE,
    EXPANSION_ROM,
    INTERRUPT_PIN,
    ROM_ENABLE,
    STATUS,
    STATUS_INTERRUPT,
    ConfigSpace,
    PciIdentity,
)
from emu.bus.pci_decode import BarMap, Decoder
from emu.bus.saved_state import check_kind
from emu.bus.types import IrqLine, Region
from emu.errors import ConfigError, MapError

KIND, VERSION = "pci-function", 1
_UPDATES_FROM, _UPDATES_TO = COMMAND, BAR0 + 4 * BARS  # writes in here may move windows
_ROM_TO = EXPANSION_ROM + 4  # and in there


class IntxLine:
    """A function's interrupt pin; an `IrqLine`. STATUS shows the level, COMMAND can cut the wire."""

    __slots__ = ("_config", "_enabled", "_level", "wire")

    def __init__(self, config: ConfigSpace) -> None:
        self._config = config
        self._level = False
        self._enabled = True
        self.wire: IrqLine = NoLine()

    def set(self, level: bool) -> None:
        """Drive the pin."""
        if level != self._level:
            self._take(level)
            self.wire.set(level and self._enabled)

    def restore(self, level: bool) -> None:
        """Take a saved level without an edge."""
        self._take(level)
        self.wire.restore(level and self._enabled)

    @property
    def level(self) -> bool:
        """What the device drives, whether or not the wire is cut."""
        return self._level

    def load(self, level: bool, enabled: bool) -> None:
        """Take a saved state without an edge."""
        self._enabled = enabled
        self.restore(level)

    def enable(self, enabled: bool) -> None:
        """Follow COMMAND.INTX_DISABLE."""
        if enabled != self._enabled:
            self._enabled = enabled
            self.wire.set(self._level and enabled)

    def _take(self, level: bool) -> None:
        self._level = level
        self._config.data[STATUS] = (self._config.data[STATUS] & ~STATUS_INTERRUPT) | (
            STATUS_INTERRUPT if level else 0
        )


class PciFunction:
    """One function: configuration space, BARs and interrupt pin, owned by the device that it serves.

    `intx_pin` is 1 for INTA to 4 for INTD, 0 for none. `bus_master` follows the guest's COMMAND bit: a
    device reads memory and sends messages only while it is set. `on_command` is called after each change of
    COMMAND or of a BAR, `on_reset` by a reset of the bus, `on_load` after a saved state was taken.
    """

    def __init__(
        self, identity: PciIdentity, name: str, *, bars: Sequence[Bar] = (), intx_pin: int = 0
    ) -> None:
        self.name = name
        self.config = ConfigSpace(identity)
        self.config.put(INTERRUPT_PIN, 1, intx_pin)
        self.intx_pin = intx_pin
        self.intx = IntxLine(self.config)
        self.bus_master = False
        self.on_command: list[Callable[[], None]] = []
        self.on_reset: list[Callable[[], None]] = []
        self.on_load: list[Callable[[], None]] = []
        self.bars: tuple[Bar, ...] = ()
        self.decoders: list[Decoder] = []
        self._map: BarMap | None = None
        self._power_on = b""
        self._taken: set[int] = set()
        for bar in bars:
            self._declare(bar)

    def _declare(self, bar: Bar) -> None:
        check_bar(bar)
        slots = set(range(bar.number, bar.number + bar.width // 4))
        if self._taken & slots:
            raise MapError(f"{self.name}: BAR {bar.number} overlaps another BAR")
        self._taken |= slots
        mask = -bar.size & ((1 << (8 * bar.width)) - 1)
        self.config.set_masks(bar.register, bar.width, rw=mask | (ROM_ENABLE if bar.number == ROM else 0))
        self.config.put(bar.register, bar.width, bar.flags)
        self.bars += (bar,)
        self.decoders.append(Decoder(bar, self.name))

    def add_rom(self, rom: Region) -> None:
        """Put an expansion ROM on the card, before it is plugged in. Raises MapError for a wrong size."""
        self._declare(Bar(ROM, BarKind.MEM32, rom.size, [BarWindow(0, rom, f"{self.name}-rom")]))

    def bar_base(self, index: int) -> int | None:
        """Where BAR `index` answers, or None."""
        for decoder in self.decoders:
            if decoder.bar.number == index:
                return decoder.base
        return None

    def attach(self, bars: BarMap, wire: IrqLine) -> None:
        """Sit in a slot; from now on BARs are decoded. Called by `PciBus.add`."""
        self._map = bars
        self.intx.wire = wire
        self._power_on = bytes(self.config.data)
        self._update()

    def config_read(self, offset: int, width: int) -> int:
        """A guest's read of configuration space."""
        return self.config.read(offset, width)

    def config_write(self, offset: int, width: int, value: int) -> None:
        """A guest's write; moves windows as COMMAND and BARs then say. Raises nothing."""
        self.config.write(offset, width, value)
        end = offset + width
        if (offset < _UPDATES_TO and end > _UPDATES_FROM) or (offset < _ROM_TO and end > EXPANSION_ROM):
            self._update()

    def reset(self) -> None:
        """RST#: configuration as at power-on, nothing decoded, interrupt pin low."""
        self.config.data[:] = self._power_on
        self.intx.set(False)
        self._update()
        for call in self.on_reset:
            call()

    def save(self) -> dict[str, object]:
        """Configuration space and pin as plain values."""
        return {
            "kind": KIND,
            "version": VERSION,
            "config": bytes(self.config.data),
            "intx": self.intx.level,
        }

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state: windows move, the pin makes no edge. Raises ConfigError."""
        check_kind(KIND, VERSION, saved)
        config, level = saved.get("config"), saved.get("intx")
        if not isinstance(config, bytes) or len(config) != CONFIG_SIZE or not isinstance(level, bool):
            raise ConfigError(f"saved {KIND} of {self.name}: config or intx is damaged")
        self.config.load(config, self._power_on)
        self.intx.load(level, not self.config.get(COMMAND, 2) & COMMAND_INTX_DISABLE)
        self._update()
        for call in self.on_load:
            call()

    def _update(self) -> None:
        command = self.config.get(COMMAND, 2)
        self.bus_master = bool(command & COMMAND_MASTER)
        self.intx.enable(not command & COMMAND_INTX_DISABLE)
        if self._map is not None:
            for decoder in self.decoders:
                self._map.place(decoder, decoder.address(self.config, command))
        for call in self.on_command:
            call()
