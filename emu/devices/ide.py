"""An IDE channel: the cable with up to two drives, its two register windows and its interrupt.

Source: ATA/ATAPI-6 (T13/1410D), 7 (registers) and 9.2 (software reset); the PC's places are 0x1F0 and 0x3F6
with IRQ 14, 0x170 and 0x376 with IRQ 15. The drives answer at once, on the vCPU thread.
"""

from collections.abc import Callable

from emu.bus.costs import Costs
from emu.bus.types import AccessError, Fault, IrqLine
from emu.devices.ide_dma import DmaRequest
from emu.devices.ide_identify import Identity
from emu.devices.ide_seat import IdeDrive, Seat, seated
from emu.devices.ide_task_file import DEVICE, ERROR, STATUS

DEVICE_DEV, DEVICE_OBSOLETE = 0x10, 0xA0  # selects the slave; bits that read as ones
HOB, SRST, NIEN = 0x80, 0x04, 0x02  # Device Control
EXECUTE_DEVICE_DIAGNOSTIC = 0x90

READ_NAMES = ("Data", "Error", "Sector Count", "LBA Low", "LBA Mid", "LBA High", "Device", "Status")
WRITE_NAMES = ("Data", "Features", "Sector Count", "LBA Low", "LBA Mid", "LBA High", "Device", "Command")


class CommandBlock:
    """The eight ports at 0x1F0: the data port takes 16 and 32 bits (map it wide), the others bytes."""

    __slots__ = ("_channel", "_drive", "_task", "size")

    def __init__(self, channel: "IdeChannel", selected: IdeDrive) -> None:
        self.size = 8
        self._channel = channel
        self.select(selected)

    def select(self, drive: IdeDrive) -> None:
        """Connect the data port to one drive."""
        self._drive, self._task = drive, drive.task

    def direct(
        self, offset: int, width: int
    ) -> tuple[Callable[[int, int], int], Callable[[int, int, int], None]]:
        """The data port's words, 256 in a sector, and the registers' bytes have functions of their own."""
        if (offset, width) == (0, 2):
            return self._read_word, self._write_word
        if width == 1 and offset:
            return self._read_status if offset == STATUS else self._read_byte, self._write_byte
        return self.read, self.write

    def _read_status(self, offset: int, width: int) -> int:  # noqa: ARG002 - one register
        task = self._task
        if task.intrq:
            return self._channel.read_register(STATUS)
        return task.status

    def _read_byte(self, offset: int, width: int) -> int:  # noqa: ARG002 - bytes only
        return self._channel.read_register(offset)

    def _write_byte(self, offset: int, width: int, value: int) -> None:  # noqa: ARG002 - bytes only
        self._channel.write_register(offset, value & 0xFF)

    def _read_word(self, offset: int, width: int) -> int:
        """Any word but the last of a block."""
        task = self._task
        index = task.index
        if index + 1 < task.read_end:
            task.index = index + 1
            return task.words[index]
        return self.read(offset, width)

    def _write_word(self, offset: int, width: int, value: int) -> None:
        """The same of a write."""
        task = self._task
        index = task.index
        if index + 1 < task.write_end:
            task.index = index + 1
            task.words[index] = value & 0xFFFF
            return
        self.write(offset, width, value)

    def read(self, offset: int, width: int) -> int:
        """Read the data port (words beyond the block are 0) or a register.

        A byte of the data port takes a word, as some boot loaders expect.
        """
        if offset == 0:
            task = self._task
            index = task.index
            if width == 4:
                if index + 1 >= task.read_end:
                    return 0
                if index & 1:  # after 16-bit accesses
                    value = task.words[index] | task.words[index + 1] << 16
                else:
                    value = task.dwords[index >> 1]
                index += 2
            else:
                if index >= task.read_end:
                    return 0
                value = task.words[index]
                index += 1
            task.index = index
            if index == task.read_end:
                self._drive.block_read()
                self._channel.update_irq()
            return value if width > 1 else value & 0xFF
        if width == 1:
            return self._channel.read_register(offset)
        if offset + width > self.size:
            raise AccessError(Fault.WIDTH)
        value = 0  # ISA makes byte cycles for an 8-bit register
        for i in range(width):
            value |= self._channel.read_register(offset + i) << 8 * i
        return value

    def write(self, offset: int, width: int, value: int) -> None:
        """Write the data port (words beyond the block are dropped) or a register."""
        if offset == 0:
            task = self._task
            index = task.index
            if width == 2:
                if index >= task.write_end:
                    return
                task.words[index] = value & 0xFFFF
                index += 1
            elif width == 4:
                if index + 1 >= task.write_end:
                    return
                task.words[index] = value & 0xFFFF
                task.words[index + 1] = value >> 16 & 0xFFFF
                index += 2
            else:
                raise AccessError(Fault.WIDTH)
            task.index = index
            if index == task.write_end:
                self._drive.block_written()
                self._channel.update_irq()
            return
        if offset + width > self.size:
            raise AccessError(Fault.WIDTH)
        for i in range(width):
            self._channel.write_register(offset + i, value >> 8 * i & 0xFF)

    def register_name(self, offset: int, is_write: bool) -> str:
        """The standard's name of the register."""
        return WRITE_NAMES[offset] if is_write else READ_NAMES[offset]


class ControlBlock:
    """The one port at 0x3F6."""

    __slots__ = ("_channel", "size")

    def __init__(self, channel: "IdeChannel") -> None:
        self.size = 1
        self._channel = channel

    def read(self, offset: int, width: int) -> int:
        """Alternate Status: the status, without clearing the interrupt."""
        if offset != 0 or width != 1:
            raise AccessError(Fault.WIDTH)
        return self._channel.alternate_status()

    def write(self, offset: int, width: int, value: int) -> None:
        """Device Control: HOB, SRST, nIEN."""
        if offset != 0 or width != 1:
            raise AccessError(Fault.WIDTH)
        self._channel.write_control(value & 0xFF)

    def register_name(self, offset: int, is_write: bool) -> str:  # noqa: ARG002 - one register
        """The standard's name of the register."""
        return "Device Control" if is_write else "Alternate Status"


class IdeChannel:
    """One cable. `command` and `control` are its windows; `costs` counts what passed the data port.

    `dma` reaches the channel's bus master, where there is one.
    """

    def __init__(
        self,
        irq: IrqLine,
        master: Seat = None,
        slave: Seat = None,
        master_identity: Identity | None = None,
        slave_identity: Identity | None = None,
        dma: DmaRequest | None = None,
    ) -> None:
        self._irq = irq
        self.costs = Costs()
        self._drives: tuple[IdeDrive, IdeDrive] = (
            seated(master, False, master_identity, self.costs, dma),
            seated(slave, True, slave_identity, self.costs, dma),
        )
        self._tasks = tuple(drive.task for drive in self._drives)
        self._empty = master is None and slave is None
        self._control = 0
        self._selected = self._drives[0]
        self._task = self._selected.task
        self.command = CommandBlock(self, self._selected)
        self.control = ControlBlock(self)

    @property
    def drives(self) -> tuple[IdeDrive, IdeDrive]:
        """Master and slave."""
        return self._drives

    def reset(self) -> None:
        """The hardware's RESET line."""
        for drive in self._drives:
            drive.power_on()
        self._control = 0
        self._select(0)
        self.update_irq()

    def update_irq(self) -> None:
        """The only place that moves the line: the selected drive's INTRQ, unless nIEN."""
        self._irq.set(self._task.intrq and not self._control & NIEN)

    def alternate_status(self) -> int:
        """Status of the selected drive; 0 for an empty seat."""
        return self._task.status

    def read_register(self, offset: int) -> int:
        """Read one of the byte registers 1 to 7."""
        task = self._task
        if offset == STATUS:
            if task.intrq:
                task.intrq = False
                self.update_irq()
            return task.status
        if self._empty:
            return 0
        if offset == ERROR:
            return task.error
        if offset == DEVICE:
            return task.registers[DEVICE] | DEVICE_OBSOLETE
        return (task.previous if self._control & HOB else task.registers)[offset]

    def write_register(self, offset: int, value: int) -> None:
        """Write one of the byte registers 1 to 7: both drives hear all but the command."""
        self._control &= ~HOB
        if offset == STATUS:
            self._command(value)
            return
        for task in self._tasks:
            registers = task.registers
            if offset < DEVICE:
                task.previous[offset] = registers[offset]
            registers[offset] = value
        if offset == DEVICE:
            self._select(value)
            self.update_irq()

    def write_control(self, value: int) -> None:
        """Device Control. Both drives reset while SRST is set and are ready once it is cleared."""
        before, self._control = self._control, value
        if value & SRST and not before & SRST:
            for drive in self._drives:
                drive.hold_reset()
        elif before & SRST and not value & SRST:
            self._end_reset()
        self.update_irq()

    def _command(self, opcode: int) -> None:
        if self._control & SRST:
            return
        if self._task.intrq:  # negated by the write, so that the command's own is an edge (7.4.4)
            self._task.intrq = False
            self.update_irq()
        if opcode == EXECUTE_DEVICE_DIAGNOSTIC and not self._empty:
            self._end_reset()
            self._task.intrq = self._selected.present
        else:
            self._selected.command(opcode)
        self.update_irq()

    def _end_reset(self) -> None:
        for drive in self._drives:
            drive.diagnose()
        self._select(0)

    def _select(self, device: int) -> None:
        self._selected = self._drives[1 if device & DEVICE_DEV else 0]
        self._task = self._selected.task
        self.command.select(self._selected)
