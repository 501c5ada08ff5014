"""The board's two fixed PCI functions: the 440FX host bridge and the PIIX3 ISA bridge.

Sources: Intel 82441FX (PMC) datasheet, 3.2; Intel 82371SB (PIIX3) datasheet, 3.1.4 (PIRQRC).
"""

from collections.abc import Callable, Sequence
from typing import Final

from emu.bus.pci_config import COMMAND, HEADER_MULTIFUNCTION, HEADER_TYPE, STATUS, PciIdentity
from emu.bus.pci_function import PciFunction
from emu.bus.types import IrqLine

INTEL = 0x8086
I440FX, PIIX3_ISA = 0x1237, 0x7000
QUMRANET, QEMU_SUBSYSTEM = 0x1AF4, 0x1100

PAM0, PAM_REGISTERS, SMRAM = 0x59, 7, 0x72
PAM_WE = 1 << 1  # of a part's four bits; bit 0 is its read enable
SHADOW_PARTS: Final = (
    (0, 4, 0xF_0000, 0x1_0000),
    *(
        (1 + part // 2, 4 * (part & 1), 0xC_0000 + 0x4000 * part, 0x4000)
        for part in range(2 * (PAM_REGISTERS - 1))
    ),
)
"""PAM register, shift of its four bits, address and size of the part they rule (3.2.18)."""
PIRQRC = 0x60  # PIRQA; PIRQB to PIRQD follow
PIRQ_PINS = 4
ROUTE_DISABLED, ROUTE_IRQ = 0x80, 0x0F
ROUTABLE = frozenset({3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15})  # the others are reserved in PIRQRC


def host_bridge() -> PciFunction:
    """The 440FX as far as software looks at it: identity, and registers that keep their values."""
    identity = PciIdentity(INTEL, I440FX, 0x060000, 0x02, QUMRANET, QEMU_SUBSYSTEM)
    function = PciFunction(identity, "i440fx")
    function.config.put(COMMAND, 2, 0x0006)  # memory and bus master are hard-wired
    function.config.set_masks(COMMAND, 2, rw=0x0100)
    function.config.put(STATUS, 2, 0x0280)  # fast back-to-back, medium DEVSEL
    function.config.set_masks(PAM0, PAM_REGISTERS, rw=int.from_bytes(b"\xff" * PAM_REGISTERS, "little"))
    function.config.put(SMRAM, 1, 0x02)
    function.config.set_masks(SMRAM, 1, rw=0x7F)
    return function


class ShadowRam:
    """The PAM registers' write enables: which parts of 0xC0000 to 0xFFFFF take stores.

    `protect(gpa, size, writable)` hears of each change. Read enables change nothing: the RAM there always
    holds what firmware would have copied into it, so that a part which is written and not yet read shows
    the same bytes.
    """

    def __init__(self, bridge: PciFunction, protect: Callable[[int, int, bool], None]) -> None:
        self._config, self._protect = bridge.config, protect
        self._writable: list[bool | None] = [None] * len(SHADOW_PARTS)
        self._config.watch(PAM0, PAM0 + PAM_REGISTERS, after_write=self._written)
        bridge.on_reset.append(lambda: self._written(0, PAM_REGISTERS))
        bridge.on_load.append(lambda: self._written(0, PAM_REGISTERS))
        self._written(0, PAM_REGISTERS)

    def leave_as_firmware(self) -> None:
        """ROMs and tables closed; open where the ACPI tables are, since the FACS is the system's to write."""
        for register, value in enumerate((0x10, 0x11, 0x11, 0x11, 0x11, 0x33, 0x33)):
            self._config.write(PAM0 + register, 1, value)

    def _written(self, _offset: int, _width: int) -> None:
        for part, (register, shift, gpa, size) in enumerate(SHADOW_PARTS):
            writable = bool(self._config.data[PAM0 + register] >> shift & PAM_WE)
            if writable is not self._writable[part]:
                self._writable[part] = writable
                self._protect(gpa, size, writable)


class Piix3IsaBridge:
    """The ISA bridge: routes PIRQA-PIRQD to the ISA interrupts that its registers name.

    `irq` are wires of its own to ISA interrupts 0-15. `pirq` are its four inputs, for `PciBus`.
    """

    def __init__(self, irq: Sequence[IrqLine]) -> None:
        identity = PciIdentity(INTEL, PIIX3_ISA, 0x060100, 0x00, QUMRANET, QEMU_SUBSYSTEM)
        self.function = PciFunction(identity, "piix3-isa")
        config = self.function.config
        config.put(HEADER_TYPE, 1, HEADER_MULTIFUNCTION)
        config.put(COMMAND, 2, 0x0007)  # I/O, memory and bus master are hard-wired
        config.set_masks(COMMAND, 2, rw=0x0100)
        config.put(STATUS, 2, 0x0200)
        self._irq = irq
        self._level = [False] * PIRQ_PINS
        self._route = [-1] * PIRQ_PINS
        for pin in range(PIRQ_PINS):
            config.put(PIRQRC + pin, 1, ROUTE_DISABLED)
            config.set_masks(PIRQRC + pin, 1, rw=ROUTE_DISABLED | ROUTE_IRQ)
        config.watch(PIRQRC, PIRQRC + PIRQ_PINS, after_write=self._routes_written)
        self.function.on_reset.append(lambda: self._routes_written(0, PIRQ_PINS))
        self.function.on_load.append(self._routes_loaded)
        self.pirq: tuple[IrqLine, ...] = tuple(_Input(self, pin) for pin in range(PIRQ_PINS))

    def route(self, pin: int) -> int:
        """The ISA interrupt that PIRQ `pin` (0-3) reaches, or -1."""
        value = self.function.config.data[PIRQRC + pin]
        irq = value & ROUTE_IRQ
        return irq if not value & ROUTE_DISABLED and irq in ROUTABLE else -1

    def set_input(self, pin: int, level: bool) -> None:
        """PIRQ `pin` has a new level."""
        self._level[pin] = level
        self._drive(self._route[pin])

    def restore_input(self, pin: int, level: bool) -> None:
        """PIRQ `pin` takes a saved level without an edge."""
        self._level[pin] = level
        irq = self._route[pin]
        if irq >= 0:
            self._irq[irq].restore(self._wired(irq))

    def _routes_written(self, _offset: int, _width: int) -> None:
        for pin in range(PIRQ_PINS):
            before, self._route[pin] = self._route[pin], self.route(pin)
            if before != self._route[pin]:
                self._drive(before)
                self._drive(self._route[pin])

    def _routes_loaded(self) -> None:
        """Saved levels of the inputs follow; until then no interrupt is wired."""
        for irq in self._route:
            if irq >= 0:
                self._irq[irq].restore(False)
        self._level = [False] * PIRQ_PINS
        self._route = [self.route(pin) for pin in range(PIRQ_PINS)]

    def _drive(self, irq: int) -> None:
        if irq >= 0:
            self._irq[irq].set(self._wired(irq))

    def _wired(self, irq: int) -> bool:
        """An ISA interrupt is the OR of the pins that are routed to it."""
        return any(level for route, level in zip(self._route, self._level, strict=True) if route == irq)


class _Input:
    """One PIRQ pin, which the PCI bus drives; an `IrqLine`."""

    __slots__ = ("_bridge", "_pin")

    def __init__(self, bridge: Piix3IsaBridge, pin: int) -> None:
        self._bridge, self._pin = bridge, pin

    def set(self, level: bool) -> None:
        """Drive the pin."""
        self._bridge.set_input(self._pin, level)

    def restore(self, level: bool) -> None:
        """Take a saved level without an edge."""
        self._bridge.restore_input(self._pin, level)
