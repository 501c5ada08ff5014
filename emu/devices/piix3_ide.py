"""The PIIX3's IDE function: two channels at their legacy ports and interrupts, and a bus master for each.

Source: Intel 82371SB (PIIX3) datasheet, 2.3 (PCI configuration, function 1) and 2.7 (bus master registers).
"""

from collections.abc import Sequence

from emu.bus.memory import GuestMemory
from emu.bus.pci_bar import Bar, BarKind, BarWindow
from emu.bus.pci_config import COMMAND, COMMAND_IO, COMMAND_MASTER, STATUS, PciIdentity
from emu.bus.pci_function import PciFunction
from emu.bus.types import IrqLine
from emu.devices.host_bridge import INTEL, QEMU_SUBSYSTEM, QUMRANET
from emu.devices.ide import IdeChannel
from emu.devices.ide_dma import BusMaster
from emu.devices.ide_seat import Seat

PIIX3_IDE = 0x7010
CLASS_IDE = 0x010180  # both channels at their legacy ports, with a bus master
BMIBA, IDETIM, IDETIM_BYTES = 4, 0x40, 4  # the bus masters' BAR; timing registers, one word a channel
CHANNELS = 2


class Piix3Ide:
    """Both channels and their PCI function; `seats` are primary master and slave, then the secondary's.

    The legacy ports answer whatever IDETIM says, as firmware enables them on every PC; so that software sees
    them enabled, IDETIM keeps what it is given.
    """

    def __init__(self, memory: GuestMemory, irqs: Sequence[IrqLine], seats: Sequence[Seat]) -> None:
        self.masters = [BusMaster(memory, irq) for irq in irqs]
        self.channels = [
            IdeChannel(master.line, seats[2 * i], seats[2 * i + 1], dma=master.request)
            for i, master in enumerate(self.masters)
        ]
        for master, channel in zip(self.masters, self.channels, strict=True):
            master.connect(channel.update_irq)
        windows = [
            BarWindow(i * master.size, master, f"ide{i}-bus-master") for i, master in enumerate(self.masters)
        ]
        identity = PciIdentity(INTEL, PIIX3_IDE, CLASS_IDE, 0x00, QUMRANET, QEMU_SUBSYSTEM)
        self.function = PciFunction(
            identity, "piix3-ide", bars=[Bar(BMIBA, BarKind.IO, CHANNELS * self.masters[0].size, windows)]
        )
        config = self.function.config
        config.set_masks(COMMAND, 2, rw=COMMAND_IO | COMMAND_MASTER)
        config.put(STATUS, 2, 0x0280)  # fast back-to-back, medium DEVSEL
        config.set_masks(IDETIM, IDETIM_BYTES, rw=0xFFFF_FFFF)
        self.function.on_command.append(self._command_changed)
        self.function.on_reset.append(self._reset_masters)

    def reset(self) -> None:
        """The hardware's RESET line to the drives; the function is reset with its bus."""
        for channel in self.channels:
            channel.reset()

    def _command_changed(self) -> None:
        for master in self.masters:
            master.enable(self.function.bus_master)

    def _reset_masters(self) -> None:
        for master in self.masters:
            master.reset()
