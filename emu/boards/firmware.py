"""What firmware would do before a kernel that is booted directly: PCI, interrupts, tables, the kernel."""

from emu.boot.bios_data import BASE as BIOS_DATA
from emu.boot.bios_data import DUMMY_HANDLER, IRET, build_bios_data, build_vectors
from emu.boot.entry import EntryState
from emu.boot.mptable import Chips, build_mp_tables
from emu.boot.pci_setup import interrupt_wires, set_up_pci
from emu.boot.placement import LOW_END
from emu.boot.recognise import ImageKind, recognise
from emu.bus.memory import GuestMemory
from emu.bus.pci import PciBus
from emu.config import MachineConfig
from emu.cpu import cpuid
from emu.cpu.state import StartState
from emu.devices import ioapic, lapic
from emu.devices.pic_8259 import Pic8259Pair
from emu.errors import ConfigError

MP_TABLES = 0xF_0000


class Loader:
    """Boots `config.kernel`; `load` runs at power-on and after each reset."""

    def __init__(
        self,
        memory: GuestMemory,
        config: MachineConfig,
        pci: PciBus,
        pic: Pic8259Pair,
        lapic: lapic.Lapic,
        ioapic_base: int,
    ) -> None:
        self._memory, self._config, self._pci, self._pic, self._lapic = memory, config, pci, pic, lapic
        self._ioapic_base = ioapic_base

    def load(self) -> StartState:
        """Set the board up and put the kernel into RAM. Raises ConfigError in one line."""
        set_up_pci(self._pci, self._pic.elcr)
        self._set_up_pic()
        self._lapic.virtual_wire()
        self._write_tables()
        entry = self._load_kernel()
        return StartState(entry.mode, entry.rip, entry.registers, cr3=entry.cr3, gdt=entry.gdt)

    def _set_up_pic(self) -> None:
        """Vectors 0x08 and 0x70 as on every PC, and all masked: here are no drivers."""
        for chip, vector, wiring in ((self._pic.primary, 0x08, 0x04), (self._pic.secondary, 0x70, 0x02)):
            chip.write(0, 1, 0x11)  # ICW1: cascaded, with ICW4
            for word in (vector, wiring, 0x01, 0xFF):  # ICW2, ICW3, ICW4: 8086 mode; OCW1
                chip.write(1, 1, word)

    def _write_tables(self) -> None:
        """What kernels look for below 1 MiB: vectors, BIOS data, the EBDA's size in KiB, MP tables."""
        signature, _, _, features = cpuid.build(_no_tsc)(1, 0)
        chips = Chips(lapic.DEFAULT_BASE, self._ioapic_base, 0, ioapic.VERSION, signature, features)
        level = self._pic.elcr.read(0, 1) | self._pic.elcr.read(1, 1) << 8
        tables = build_mp_tables(MP_TABLES, chips, interrupt_wires(self._pci), level)
        for base, content in (
            (0, build_vectors()),
            (DUMMY_HANDLER, IRET),
            (BIOS_DATA, build_bios_data(LOW_END, LOW_END)),
            (LOW_END, b"\x01"),
            (MP_TABLES, tables),
        ):
            self._memory.view(base, len(content))[:] = content
            self._memory.written(base, len(content))

    def _load_kernel(self) -> EntryState:
        config = self._config
        assert config.kernel is not None
        found = recognise(config.kernel)
        if found.kind is ImageKind.PVH:
            from emu.boot.pvh import load_pvh  # noqa: PLC0415 - one loader a run

            return load_pvh(self._memory, config.kernel, cmdline=config.append, initrd=config.initrd)
        if found.kind is ImageKind.MULTIBOOT:
            from emu.boot.multiboot import load_multiboot, parse_modules  # noqa: PLC0415

            modules = parse_modules(config.initrd) if config.initrd is not None else ()
            return load_multiboot(self._memory, config.kernel, cmdline=config.append, modules=modules)
        raise ConfigError(f"{config.kernel}: {found.description}; as -kernel give a PVH or multiboot kernel")


def _no_tsc() -> int:
    """The TSC's frequency is not asked for."""
    return 0
