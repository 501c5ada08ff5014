"""What firmware would do before a kernel that is booted directly: PCI, interrupts, tables, the kernel."""

from collections.abc import Callable
from typing import NamedTuple

from emu import __version__
from emu.boot.acpi import EventTimer, Hardware, build_acpi
from emu.boot.bios_data import BASE as BIOS_DATA
from emu.boot.bios_data import DUMMY_HANDLER, IRET, build_bios_data, build_vectors
from emu.boot.entry import EntryState
from emu.boot.mptable import Chips, build_mp_tables
from emu.boot.pci_setup import HIGH_WINDOW, MEMORY_WINDOW, PIRQ_IRQS, interrupt_wires, set_up_pci
from emu.boot.placement import LOW_END
from emu.boot.recognise import ImageKind, recognise
from emu.boot.smbios import Machine as SmbiosMachine
from emu.boot.smbios import build_smbios
from emu.bus.memory import GuestMemory
from emu.bus.pci import PciBus, pirq_of
from emu.config import FilePath, MachineConfig
from emu.cpu import cpuid
from emu.cpu.state import StartState
from emu.devices import hpet, ioapic, lapic_spec
from emu.devices.lapic import Lapic
from emu.devices.pic_8259 import Pic8259Pair
from emu.errors import ConfigError

ACPI_TABLES, MP_TABLES, SMBIOS = 0xE_0000, 0xF_0000, 0xF_1000
SCI = 9


class Addresses(NamedTuple):
    """Where the board has what tables tell of."""

    ioapic: int
    pm_base: int
    reset_port: int
    hpet: int = 0


class Loader:
    """Boots `config.kernel`; `load` runs at power-on and after each reset."""

    def __init__(
        self,
        memory: GuestMemory,
        config: MachineConfig,
        pci: PciBus,
        pic: Pic8259Pair,
        lapic: Lapic,
        addresses: Addresses,
    ) -> None:
        self._memory, self._config, self._pci, self._pic, self._lapic = memory, config, pci, pic, lapic
        self._addresses = addresses
        self.on_linux: Callable[[FilePath], None] = _unchecked
        """Called with the initial RAM disk that a Linux is about to be given; raises ConfigError."""

    def load(self) -> StartState:
        """Set the board up and put the kernel into RAM. Raises ConfigError in one line."""
        set_up_pci(self._pci, self._pic.elcr)
        self._set_up_pic()
        self._lapic.virtual_wire()
        self._write_tables()
        entry = self._load_kernel()
        return StartState(
            entry.mode, entry.rip, entry.registers, cr3=entry.cr3, gdt=entry.gdt, selectors=entry.selectors
        )

    def _set_up_pic(self) -> None:
        """Vectors 0x08 and 0x70 as on every PC, and all masked: here are no drivers."""
        for chip, vector, wiring in ((self._pic.primary, 0x08, 0x04), (self._pic.secondary, 0x70, 0x02)):
            chip.write(0, 1, 0x11)  # ICW1: cascaded, with ICW4
            for word in (vector, wiring, 0x01, 0xFF):  # ICW2, ICW3, ICW4: 8086 mode; OCW1
                chip.write(1, 1, word)

    def _write_tables(self) -> None:
        """What kernels look for below 1 MiB: vectors, BIOS data, the EBDA's size in KiB, tables."""
        signature, _, _, features = cpuid.build(_no_tsc)(1, 0)
        chips = Chips(lapic_spec.DEFAULT_BASE, self._addresses.ioapic, 0, ioapic.VERSION, signature, features)
        level = self._pic.elcr.read(0, 1) | self._pic.elcr.read(1, 1) << 8
        mp_tables = build_mp_tables(MP_TABLES, chips, interrupt_wires(self._pci), level)
        for base, content in (
            (0, build_vectors()),
            (DUMMY_HANDLER, IRET),
            (BIOS_DATA, build_bios_data(LOW_END, LOW_END)),
            (LOW_END, b"\x01"),
            (ACPI_TABLES, build_acpi(ACPI_TABLES, hardware_of(self._addresses, level))),
            (MP_TABLES, mp_tables),
            (SMBIOS, build_smbios(SMBIOS, self._described(signature, features))),
        ):
            self._memory.view(base, len(content))[:] = content
            self._memory.written(base, len(content))

    def _described(self, signature: int, features: int) -> SmbiosMachine:
        ram = [(piece.gpa, piece.size) for piece in self._memory.ranges]
        return SmbiosMachine(__version__, ram, signature, features)

    def _load_kernel(self) -> EntryState:
        config = self._config
        assert config.kernel is not None
        found = recognise(config.kernel)
        if found.linux and config.initrd is not None:
            self.on_linux(config.initrd)
        if found.kind is ImageKind.PVH:
            from emu.boot.pvh import load_pvh  # noqa: PLC0415 - one loader a run

            return load_pvh(
                self._memory, config.kernel, cmdline=config.append, initrd=config.initrd, rsdp=ACPI_TABLES
            )
        if found.kind is ImageKind.MULTIBOOT:
            from emu.boot.multiboot import load_multiboot, parse_modules  # noqa: PLC0415

            modules = parse_modules(config.initrd) if config.initrd is not None else ()
            return load_multiboot(self._memory, config.kernel, cmdline=config.append, modules=modules)
        if found.kind is ImageKind.LINUX:
            from emu.boot.linux import load_linux  # noqa: PLC0415

            return load_linux(
                self._memory, config.kernel, cmdline=config.append, initrd=config.initrd, rsdp=ACPI_TABLES
            )
        raise ConfigError(
            f"{config.kernel}: {found.description}; as -kernel give a Linux, PVH or multiboot kernel"
        )


def hardware_of(addresses: Addresses, level_irqs: int) -> Hardware:
    """The board as the ACPI tables describe it; firmware routes PCI interrupts to the same places."""
    return Hardware(
        lapic=lapic_spec.DEFAULT_BASE,
        ioapic=addresses.ioapic,
        pm_base=addresses.pm_base,
        reset_port=addresses.reset_port,
        sci=SCI,
        level_irqs=level_irqs,
        pci_gsi=lambda device, pin: PIRQ_IRQS[pirq_of(device, pin)],
        memory_windows=(MEMORY_WINDOW, HIGH_WINDOW),
        hpet=EventTimer(addresses.hpet, hpet.CAPABILITIES) if addresses.hpet else None,
    )


def _unchecked(_initrd: FilePath) -> None:
    """Nobody looks at it."""


def _no_tsc() -> int:
    """The TSC's frequency is not asked for."""
    return 0
