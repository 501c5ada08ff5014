"""An IDE channel: the cable with up to two drives, its two register windows and its interrupt.

Source: ATA/ATAPI-6 (T13/1410D), 7 (registers) and 9.2 (software reset); the PC's places are 0x1F0 and 0x3F6
with IRQ 14, 0x170 and 0x376 with IRQ 15. The drives answer at once, on the vCPU thread.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from emu.bus.costs import Costs
from emu.bus.types import AccessError, Fault, IrqLine
from emu.devices.block.backend import BlockBackend
from emu.devices.ide_dma import DmaRequest
from emu.devices.ide_drive import DEVICE, ERROR, STATUS, AtaDrive
from emu.devices.ide_identify import Identity

DEVICE_DEV, DEVICE_OBSOLETE = 0x10, 0xA0  # selects the slave; bits that read as ones
HOB, SRST, NIEN = 0x80, 0x04, 0x02  # Device Control
EXECUTE_DEVICE_DIAGNOSTIC = 0x90

READ_NAMES = ("Data", "Error", "Sector Count", "LBA Low", "LBA Mid", "LBA High", "Device", "Status")
WRITE_NAMES = ("Data", "Features", "Sector Count", "LBA Low", "LBA Mid", "LBA High", "Device", "Command")


class IdeDrive(Protocol):
    """What sits in a seat of the cable; `AtaDrive` says what its parts mean."""

    words: memoryview
    dwords: memoryview
    index: int
    read_end: int
    write_end: int
    present: bool
    intrq: bool
    status: int
    error: int
    registers: list[int]
    previous: list[int]

    def power_on(self) -> None:
        """The hardware's reset."""

    def hold_reset(self) -> None:
        """SRST is set."""

    def diagnose(self) -> None:
        """SRST is cleared, or EXECUTE DEVICE DIAGNOSTIC: show the signature."""

    def command(self, opcode: int, /) -> None:
        """Take the Command register."""

    def block_read(self) -> None:
        """The host has taken the words up to `read_end`."""

    def block_written(self) -> None:
        """The host has given the words up to `write_end`."""


class CdRom(NamedTuple):
    """A CD-ROM drive for a seat, and the disc in it; None is an empty tray."""

    medium: BlockBackend | None


Seat = BlockBackend | CdRom | None
"""A disk by its medium, a CD-ROM drive, or nothing."""


class CommandBlock:
    """The eight ports at 0x1F0: the data port takes 16 and 32 bits (map it wide), the others bytes."""

    __slots__ = ("_channel", "_selected", "size")

    def __init__(self, channel: "IdeChannel", selected: IdeDrive) -> None:
        self.size = 8
        self._channel, self._selected = channel, selected

    def select(self, drive: IdeDrive) -> None:
        """Connect the data port to one drive."""
        self._selected = drive

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
        drive = self._selected
        if drive.intrq:
            return self._channel.read_register(STATUS)
        return drive.status

    def _read_byte(self, offset: int, width: int) -> int:  # noqa: ARG002 - bytes only
        return self._channel.read_register(offset)

    def _write_byte(self, offset: int, width: int, value: int) -> None:  # noqa: ARG002 - bytes only
        self._channel.write_register(offset, value & 0xFF)

    def _read_word(self, offset: int, width: int) -> int:
        """Any word but the last of a block."""
        drive = self._selected
        index = drive.index
        if index + 1 < drive.read_end:
            drive.index = index + 1
            return drive.words[index]
        return self.read(offset, width)

    def _write_word(self, offset: int, width: int, value: int) -> None:
        """The same of a write."""
        drive = self._selected
        index = drive.index
        if index + 1 < drive.write_end:
            drive.index = index + 1
            drive.words[index] = value & 0xFFFF
            return
        self.write(offset, width, value)

    def read(self, offset: int, width: int) -> int:
        """Read the data port (words beyond the block are 0) or a register.

        A byte of the data port takes a word, as some boot loaders expect.
        """
        if offset == 0:
            drive = self._selected
            index = drive.index
            if width == 4:
                if index + 1 >= drive.read_end:
                    return 0
                if index & 1:  # after 16-bit accesses
                    value = drive.words[index] | drive.words[index + 1] << 16
                else:
                    value = drive.dwords[index >> 1]
                index += 2
            else:
                if index >= drive.read_end:
                    return 0
                value = drive.words[index]
                index += 1
            drive.index = index
            if index == drive.read_end:
                drive.block_read()
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
            drive = self._selected
            index = drive.index
            if width == 2:
                if index >= drive.write_end:
                    return
                drive.words[index] = value & 0xFFFF
                index += 1
            elif width == 4:
                if index + 1 >= drive.write_end:
                    return
                drive.words[index] = value & 0xFFFF
                drive.words[index + 1] = value >> 16 & 0xFFFF
                index += 2
            else:
                raise AccessError(Fault.WIDTH)
            drive.index = index
            if index == drive.write_end:
                drive.block_written()
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
            self._sit(master, False, master_identity, dma),
            self._sit(slave, True, slave_identity, dma),
        )
        self._empty = master is None and slave is None
        self._control = 0
        self._selected = self._drives[0]
        self.command = CommandBlock(self, self._selected)
        self.control = ControlBlock(self)

    def _sit(self, seat: Seat, slave: bool, identity: Identity | None, dma: DmaRequest | None) -> IdeDrive:
        serial = "EMU00002" if slave else "EMU00001"
        if isinstance(seat, CdRom):
            from emu.devices.atapi import AtapiDrive  # noqa: PLC0415 - a tiny guest has no CD-ROM

            identity = identity or Identity(model="EMU DVD-ROM", serial=serial)
            return AtapiDrive(seat.medium, slave, identity, self.costs, dma)
        return AtaDrive(seat, slave, identity or Identity(serial=serial), self.costs, dma)

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
        self._irq.set(self._selected.intrq and not self._control & NIEN)

    def alternate_status(self) -> int:
        """Status of the selected drive; 0 for an empty seat."""
        return self._selected.status

    def read_register(self, offset: int) -> int:
        """Read one of the byte registers 1 to 7."""
        drive = self._selected
        if offset == STATUS:
            if drive.intrq:
                drive.intrq = False
                self.update_irq()
            return drive.status
        if self._empty:
            return 0
        if offset == ERROR:
            return drive.error
        if offset == DEVICE:
            return drive.registers[DEVICE] | DEVICE_OBSOLETE
        return (drive.previous if self._control & HOB else drive.registers)[offset]

    def write_register(self, offset: int, value: int) -> None:
        """Write one of the byte registers 1 to 7: both drives hear all but the command."""
        self._control &= ~HOB
        if offset == STATUS:
            self._command(value)
            return
        for drive in self._drives:
            registers = drive.registers
            if offset < DEVICE:
                drive.previous[offset] = registers[offset]
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
        if self._selected.intrq:  # negated by the write, so that the command's own is an edge (7.4.4)
            self._selected.intrq = False
            self.update_irq()
        if opcode == EXECUTE_DEVICE_DIAGNOSTIC and not self._empty:
            self._end_reset()
            self._selected.intrq = self._selected.present
        else:
            self._selected.command(opcode)
        self.update_irq()

    def _end_reset(self) -> None:
        for drive in self._drives:
            drive.diagnose()
        self._select(0)

    def _select(self, device: int) -> None:
        self._selected = self._drives[1 if device & DEVICE_DEV else 0]
        self.command.select(self._selected)
