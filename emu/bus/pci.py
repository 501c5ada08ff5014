"""PCI bus 0: configuration mechanism #1, functions, BARs and INTx wiring.

Source: PCI Local Bus Specification 3.0: 3.2.2.3.2 (mechanism #1), 6.2 (header), 6.2.5 (base addresses and the
expansion ROM's), 2.2.6 (interrupt pins). Everything here belongs to the vCPU thread.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from emu.bus.irq import NoLine, Pin
from emu.bus.pci_config import (
    BAR0,
    BARS,
    COMMAND,
    COMMAND_INTX_DISABLE,
    COMMAND_IO,
    COMMAND_MASTER,
    COMMAND_MEMORY,
    CONFIG_SIZE,
    EXPANSION_ROM,
    HEADER_MULTIFUNCTION,
    HEADER_TYPE,
    INTERRUPT_PIN,
    ROM_ENABLE,
    STATUS,
    STATUS_INTERRUPT,
    ConfigSpace,
    PciIdentity,
)
from emu.bus.types import AccessError, Fault, IrqLine, Region
from emu.errors import ConfigError, MapError

CONFIG_PORT, CONFIG_PORTS = 0x0CF8, 8
DEVICES, FUNCTIONS = 32, 8
ENABLE = 0x8000_0000
_ADDRESS_BITS = 0x80FF_FFFC
_RESET_CONTROL = 1  # port 0xCF9 lies between the bytes of CONFIG_ADDRESS
_ONES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF}
_UPDATES_FROM, _UPDATES_TO = COMMAND, BAR0 + 4 * BARS  # writes in here may move windows
_ROM_TO = EXPANSION_ROM + 4  # and in there

ROM, ROM_LEAST, ROM_MOST = 6, 0x800, 1 << 24
"""`Bar.number` of the expansion ROM, and the sizes that it may have. Source: 6.2.5.2."""

BUS_KIND, FUNCTION_KIND = "pci-bus", "pci-function"

LOW_APERTURE = range(0xC000_0000, 0xFEC0_0000)
HIGH_APERTURE = range(1 << 38, 1 << 40)


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


def _check(bar: Bar) -> None:
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


class _Decoder:
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
        self.decoders: list[_Decoder] = []
        self._bus: PciBus | None = None
        self._power_on = b""
        self._taken: set[int] = set()
        for bar in bars:
            self._declare(bar)

    def _declare(self, bar: Bar) -> None:
        _check(bar)
        slots = set(range(bar.number, bar.number + bar.width // 4))
        if self._taken & slots:
            raise MapError(f"{self.name}: BAR {bar.number} overlaps another BAR")
        self._taken |= slots
        mask = -bar.size & ((1 << (8 * bar.width)) - 1)
        self.config.set_masks(bar.register, bar.width, rw=mask | (ROM_ENABLE if bar.number == ROM else 0))
        self.config.put(bar.register, bar.width, bar.flags)
        self.bars += (bar,)
        self.decoders.append(_Decoder(bar, self.name))

    def add_rom(self, rom: Region) -> None:
        """Put an expansion ROM on the card, before it is plugged in. Raises MapError for a wrong size."""
        self._declare(Bar(ROM, BarKind.MEM32, rom.size, [BarWindow(0, rom, f"{self.name}-rom")]))

    def bar_base(self, index: int) -> int | None:
        """Where BAR `index` answers, or None."""
        for decoder in self.decoders:
            if decoder.bar.number == index:
                return decoder.base
        return None

    def attach(self, bus: "PciBus", wire: IrqLine) -> None:
        """Sit in a slot; from now on BARs are decoded. Called by `PciBus.add`."""
        self._bus = bus
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
            "kind": FUNCTION_KIND,
            "version": 1,
            "config": bytes(self.config.data),
            "intx": self.intx.level,
        }

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state: windows move, the pin makes no edge. Raises ConfigError."""
        _check_kind(FUNCTION_KIND, saved)
        config, level = saved.get("config"), saved.get("intx")
        if not isinstance(config, bytes) or len(config) != CONFIG_SIZE or not isinstance(level, bool):
            raise ConfigError(f"saved {FUNCTION_KIND} of {self.name}: config or intx is damaged")
        self.config.load(config, self._power_on)
        self.intx.load(level, not self.config.get(COMMAND, 2) & COMMAND_INTX_DISABLE)
        self._update()
        for call in self.on_load:
            call()

    def _update(self) -> None:
        command = self.config.get(COMMAND, 2)
        self.bus_master = bool(command & COMMAND_MASTER)
        self.intx.enable(not command & COMMAND_INTX_DISABLE)
        if self._bus is not None:
            for decoder in self.decoders:
                self._bus.place(decoder, decoder.address(self.config, command))
        for call in self.on_command:
            call()


class PciBus:
    """Bus 0: 32 devices of 8 functions, behind ports 0xCF8-0xCFF; itself that window's `Region`.

    `pirq` are the interrupt router's four inputs. `apertures` are the addresses that the host bridge passes
    on to PCI: a memory BAR outside of them is not decoded. `reset_control` answers byte accesses to port
    0xCF9, which lies inside of the window. `conflicts` counts BARs put over another window: the newer one is
    not decoded until one of them moves; `tell` hears of it once a BAR.
    """

    size = CONFIG_PORTS

    def __init__(
        self,
        mmio: MmioSpace,
        pio: PioSpace,
        pirq: Sequence[IrqLine] = (),
        *,
        apertures: Sequence[range] = (LOW_APERTURE, HIGH_APERTURE),
        reset_control: Region | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._mmio, self._pio = mmio, pio
        self._pirq = tuple(pirq)
        self._pins = [Pin(line.set) for line in pirq]
        self._apertures = tuple(apertures)
        self._reset_control = reset_control
        self._tell = tell
        self._functions: list[PciFunction | None] = [None] * (DEVICES * FUNCTIONS)
        self._waiting: list[_Decoder] = []
        self._address = 0
        self.conflicts = 0

    # ---- slots -------------------------------------------------------------------------------------

    def add(self, function: PciFunction, device: int | None = None, number: int = 0) -> int:
        """Plug a function in, at the lowest free device where none is named; return the device number.

        Raises MapError where the slot is taken, or the bus is full.
        """
        if device is None:
            device = self._free_device()
        if not (0 <= device < DEVICES and 0 <= number < FUNCTIONS):
            raise MapError(f"{function.name}: no PCI slot {device:02x}.{number:x}")
        slot = device * FUNCTIONS + number
        if (taken := self._functions[slot]) is not None:
            raise MapError(f"{function.name} at PCI slot {device:02x}.{number:x}: taken by {taken.name}")
        self._functions[slot] = function
        self._mark_multifunction(device)
        wire: IrqLine = NoLine()
        if function.intx_pin and self._pins:
            wire = self._pins[pirq_of(device, function.intx_pin)].line()
        function.attach(self, wire)
        return device

    def function(self, device: int, number: int = 0) -> PciFunction | None:
        """Who sits in a slot."""
        return self._functions[device * FUNCTIONS + number]

    def _free_device(self) -> int:
        for device in range(DEVICES):
            if not any(self._functions[device * FUNCTIONS : (device + 1) * FUNCTIONS]):
                return device
        raise MapError("all 32 devices of PCI bus 0 are taken")

    def _mark_multifunction(self, device: int) -> None:
        first = self._functions[device * FUNCTIONS]
        if first is not None and any(self._functions[device * FUNCTIONS + 1 : (device + 1) * FUNCTIONS]):
            first.config.data[HEADER_TYPE] |= HEADER_MULTIFUNCTION

    def reset(self) -> None:
        """RST#: every function, and the address register."""
        self._address = 0
        for function in self._functions:
            if function is not None:
                function.reset()

    def save(self) -> dict[str, object]:
        """The address register and every function, by slot."""
        functions = {str(slot): f.save() for slot, f in enumerate(self._functions) if f is not None}
        return {"kind": BUS_KIND, "version": 1, "address": self._address, "functions": functions}

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state of the same set of functions. Raises ConfigError."""
        _check_kind(BUS_KIND, saved)
        address, functions = saved.get("address"), saved.get("functions")
        if not isinstance(address, int) or not isinstance(functions, Mapping):
            raise ConfigError(f"saved {BUS_KIND}: address or functions are missing")
        if set(functions) != {str(slot) for slot, f in enumerate(self._functions) if f is not None}:
            raise ConfigError(f"saved {BUS_KIND}: it has other devices; start with the same -device flags")
        self._address = address & _ADDRESS_BITS
        for slot, function in enumerate(self._functions):
            if function is not None:
                function.load(functions[str(slot)])
        for pin, line in zip(self._pins, self._pirq, strict=True):
            line.restore(pin.level)

    # ---- configuration cycles ----------------------------------------------------------------------

    def config_read(self, slot: int, offset: int, width: int) -> int:
        """Read configuration space of `slot` (device * 8 + function); all ones where nobody is."""
        function = self._functions[slot]
        return _ONES[width] if function is None else function.config_read(offset, width)

    def config_write(self, slot: int, offset: int, width: int, value: int) -> None:
        """Write configuration space of `slot`; nothing happens where nobody is."""
        function = self._functions[slot]
        if function is not None:
            function.config_write(offset, width, value)

    def read(self, offset: int, width: int) -> int:
        """A port read at 0xCF8 + offset."""
        if offset < 4:
            if offset == 0 and width == 4:
                return self._address
            if offset == _RESET_CONTROL and width == 1 and self._reset_control is not None:
                return self._reset_control.read(0, 1)
            return _ONES[width]
        byte = offset & 3
        if byte + width > 4:
            raise AccessError(Fault.WIDTH)
        address = self._address
        if not address & ENABLE or address & 0x00FF_0000:  # off, or a bus that is not there
            return _ONES[width]
        function = self._functions[(address >> 8) & 0xFF]
        return _ONES[width] if function is None else function.config_read((address & 0xFC) | byte, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """A port write at 0xCF8 + offset. Only a dword reaches CONFIG_ADDRESS (PCI 3.0, 3.2.2.3.2)."""
        if offset < 4:
            if offset == 0 and width == 4:
                self._address = value & _ADDRESS_BITS
            elif offset == _RESET_CONTROL and width == 1 and self._reset_control is not None:
                self._reset_control.write(0, 1, value)
            return
        byte = offset & 3
        if byte + width > 4:
            raise AccessError(Fault.WIDTH)
        address = self._address
        if address & ENABLE and not address & 0x00FF_0000:
            self.config_write((address >> 8) & 0xFF, (address & 0xFC) | byte, width, value)

    def register_name(self, offset: int, is_write: bool) -> str:
        """CONFIG_ADDRESS or CONFIG_DATA; RESET_CONTROL at 0xCF9 where there is one."""
        if offset == _RESET_CONTROL and self._reset_control is not None:
            return self._reset_control.register_name(0, is_write)
        return "CONFIG_ADDRESS" if offset < 4 else "CONFIG_DATA"

    # ---- windows -----------------------------------------------------------------------------------

    def place(self, decoder: _Decoder, wanted: int | None) -> None:
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
        return any(base in window and base + bar.size <= window.stop for window in self._apertures)

    def _map_or_wait(self, decoder: _Decoder, base: int) -> None:
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

    def _unmap(self, decoder: _Decoder) -> bool:
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


def _check_kind(kind: str, saved: Mapping[str, object]) -> None:
    if saved.get("kind") != kind or saved.get("version") != 1:
        raise ConfigError(
            f"saved {saved.get('kind')!r} version {saved.get('version')!r}, wanted {kind} version 1"
        )


def pirq_of(device: int, pin: int) -> int:
    """Which of the router's four inputs (0: PIRQA) pin 1-4 of a device is wired to.

    Pins rotate by the device number so that INTA of neighbours spread; the rotation starts at device 1, as
    on the 440FX boards that firmware knows.
    """
    return (device + pin - 2) & 3
