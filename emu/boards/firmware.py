"""What firmware would do before a kernel that is booted directly: PCI, interrupt routes, the kernel."""

from emu.boot.entry import EntryState
from emu.boot.pci_setup import set_up_pci
from emu.boot.recognise import ImageKind, recognise
from emu.bus.memory import GuestMemory
from emu.bus.pci import PciBus
from emu.bus.types import Region
from emu.config import MachineConfig
from emu.cpu.state import StartState
from emu.devices.lapic import Lapic
from emu.errors import ConfigError


class Loader:
    """Boots `config.kernel`; `load` runs at power-on and after each reset."""

    def __init__(
        self, memory: GuestMemory, config: MachineConfig, pci: PciBus, elcr: Region, lapic: Lapic
    ) -> None:
        self._memory, self._config, self._pci, self._elcr, self._lapic = memory, config, pci, elcr, lapic

    def load(self) -> StartState:
        """Set the board up and put the kernel into RAM. Raises ConfigError in one line."""
        set_up_pci(self._pci, self._elcr)
        self._lapic.virtual_wire()
        entry = self._load_kernel()
        return StartState(entry.mode, entry.rip, entry.registers, cr3=entry.cr3, gdt=entry.gdt)

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
