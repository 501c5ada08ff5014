"""What firmware and old drivers look for on a PC beyond the chips that do work: DMA, and empty places."""

import contextlib
import os
from collections.abc import Callable
from typing import Final

from emu.bus.output_file import open_output
from emu.bus.pio import PioBus
from emu.bus.window import Absent
from emu.devices.acpi_pm import AcpiPm, ApmPorts, switch_acpi
from emu.devices.debugcon import Debugcon
from emu.devices.dma_8237 import Dma8237, DmaPages
from emu.errors import ConfigError, MapError

DMA0, DMA1, PAGES, APM = 0x00, 0xC0, 0x81, 0xB2
DEBUG_PORT, BIOS_DEBUG_PORT = 0xE9, 0x402
ABSENT: Final = (
    (0xF0, 2, "fpu"), (0x378, 3, "lpt1"), (0x278, 3, "lpt2"),
    (0x3F0, 6, "floppy"), (0x3F7, 1, "floppy"), (0x1CE, 3, "vbe"),
)  # fmt: skip
"""Ports whose chips may be missing from a PC: a probe finds all ones, and nobody is told."""


class LegacyChips:
    """Maps them; `reset` is their RESET."""

    def __init__(self, pio: PioBus, pm: AcpiPm) -> None:
        self.dma = Dma8237(), Dma8237(spacing=2)
        self.pages, self.apm = DmaPages(), ApmPorts(switch_acpi(pm))
        for base, chip, name in (
            (DMA0, self.dma[0], "dma0"),
            (DMA1, self.dma[1], "dma1"),
            (PAGES, self.pages, "dma-pages"),
            (APM, self.apm, "apm"),
        ):
            pio.map(base, chip.size, chip, name)
        for base, ports, name in ABSENT:
            pio.map(base, ports, Absent(ports, name), name)

    def reset(self) -> None:
        """As after power-on."""
        for chip in (*self.dma, self.pages, self.apm):
            chip.reset()


def map_debugcon(pio: PioBus, target: str, port: int) -> Callable[[], None]:
    """The debug console, and the port where SeaBIOS looks for one; returns what closes it.

    `target` is that of `MachineConfig.debugcon`. Raises ConfigError.
    """
    opened = -1
    if target.startswith("file:"):
        try:
            opened = open_output(target.removeprefix("file:"))
        except ConfigError as error:
            raise ConfigError(f"-debugcon: {error}") from None
    descriptor = opened if opened >= 0 else {"": 2, "stdio": 1, "null": -1}[target]
    if not target:
        port = DEBUG_PORT
    try:
        pio.map(port, 1, Debugcon(_to(descriptor)), "debugcon")
    except MapError as error:
        raise ConfigError(f"-global isa-debugcon.iobase={port:#x}: {error}") from None
    if port != BIOS_DEBUG_PORT:
        pio.map(BIOS_DEBUG_PORT, 1, Absent(1, "bios debug"), "bios-debug")
    return _closer(opened)


def _to(descriptor: int) -> Callable[[bytes], object]:
    """Writes to a descriptor; -1 forgets."""

    def put(data: bytes) -> None:
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.write(descriptor, data)

    return put


def _closer(descriptor: int) -> Callable[[], None]:
    def close() -> None:
        if descriptor >= 0:
            os.close(descriptor)

    return close
