"""PCI bus 0: configuration mechanism #1, slots and INTx wiring.

Source: PCI Local Bus Specification 3.0: 3.2.2.3.2 (mechanism #1), 2.2.6 (interrupt pins). Everything here
belongs to the vCPU thread.
"""

from collections.abc import Callable, Mapping, Sequence

from emu.bus.irq import NoLine, Pin
from emu.bus.pci_config import HEADER_MULTIFUNCTION, HEADER_TYPE
from emu.bus.pci_decode import BarMap, MmioSpace, PioSpace
from emu.bus.pci_function import PciFunction
from emu.bus.saved_state import check_kind
from emu.bus.types import AccessError, Fault, IrqLine, Region
from emu.errors import ConfigError, MapError

CONFIG_PORT, CONFIG_PORTS = 0x0CF8, 8
DEVICES, FUNCTIONS = 32, 8
ENABLE = 0x8000_0000
KIND, VERSION = "pci-bus", 1
_ADDRESS_BITS = 0x80FF_FFFC
_RESET_CONTROL = 1  # port 0xCF9 lies between the bytes of CONFIG_ADDRESS
_ONES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF}


class PciBus:
    """Bus 0: 32 devices of 8 functions, behind ports 0xCF8-0xCFF; itself that window's `Region`.

    `pirq` are the interrupt router's four inputs. `reset_control` answers byte accesses to port 0xCF9, which
    lies inside of the window. `tell` hears of BARs that cannot be decoded, see `BarMap`.
    """

    size = CONFIG_PORTS

    def __init__(
        self,
        mmio: MmioSpace,
        pio: PioSpace,
        pirq: Sequence[IrqLine] = (),
        *,
        reset_control: Region | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.bars = BarMap(mmio, pio, tell)
        self._pirq = tuple(pirq)
        self._pins = [Pin(line.set) for line in pirq]
        self._reset_control = reset_control
        self._functions: list[PciFunction | None] = [None] * (DEVICES * FUNCTIONS)
        self._address = 0

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
        function.attach(self.bars, wire)
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
        return {"kind": KIND, "version": VERSION, "address": self._address, "functions": functions}

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state of the same set of functions. Raises ConfigError."""
        check_kind(KIND, VERSION, saved)
        address, functions = saved.get("address"), saved.get("functions")
        if not isinstance(address, int) or not isinstance(functions, Mapping):
            raise ConfigError(f"saved {KIND}: address or functions are missing")
        if set(functions) != {str(slot) for slot, f in enumerate(self._functions) if f is not None}:
            raise ConfigError(f"saved {KIND}: it has other devices; start with the same -device flags")
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


def pirq_of(device: int, pin: int) -> int:
    """Which of the router's four inputs (0: PIRQA) pin 1-4 of a device is wired to.

    Pins rotate by the device number so that INTA of neighbours spread; the rotation starts at device 1, as
    on the 440FX boards that firmware knows.
    """
    return (device + pin - 2) & 3
