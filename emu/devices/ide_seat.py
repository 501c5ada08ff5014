"""What sits in a seat of the cable: a disk drive, a CD-ROM drive, or nothing."""

from typing import NamedTuple, Protocol

from emu.bus.costs import Costs
from emu.devices.block.backend import BlockBackend
from emu.devices.ide_dma import DmaRequest
from emu.devices.ide_drive import AtaDrive
from emu.devices.ide_identify import Identity
from emu.devices.ide_task_file import DEVICE, TaskFile


class IdeDrive(Protocol):
    """A drive as the channel uses it; the channel looks at its task file after each call.

    `present` is False for an empty seat, which no interrupt comes from.
    """

    task: TaskFile
    present: bool

    def power_on(self) -> None:
        """The hardware's reset."""

    def hold_reset(self) -> None:
        """SRST is set."""

    def diagnose(self) -> None:
        """SRST is cleared, or EXECUTE DEVICE DIAGNOSTIC: show the signature."""

    def command(self, opcode: int, /) -> None:
        """Take the Command register."""

    def block_read(self) -> None:
        """The host has taken the words up to `task.read_end`."""

    def block_written(self) -> None:
        """The host has given the words up to `task.write_end`."""


class CdRom(NamedTuple):
    """A CD-ROM drive for a seat, and the disc in it; None is an empty tray."""

    medium: BlockBackend | None


Seat = BlockBackend | CdRom | None
"""A disk by its medium, a CD-ROM drive, or nothing."""


class EmptySeat:
    """No drive: Status reads 0, and nobody takes a command."""

    __slots__ = ("present", "task")

    def __init__(self) -> None:
        self.present = False
        self.task = TaskFile(memoryview(bytearray(4)))
        self.diagnose()

    def hold_reset(self) -> None:
        """See `IdeDrive`; no drive is busy."""

    def diagnose(self) -> None:
        """No signature, and no error either."""
        self.task.show_signature(0xFF, 0xFF)
        self.task.registers[DEVICE] = 0

    power_on = diagnose

    def command(self, opcode: int) -> None:
        """Nobody takes it."""

    def block_read(self) -> None:
        """Never: the data port is closed."""

    def block_written(self) -> None:
        """Never: the data port is closed."""


def seated(
    seat: Seat, slave: bool, identity: Identity | None, costs: Costs, dma: DmaRequest | None
) -> IdeDrive:
    """The drive for a seat; `identity` where it is not to have the usual one."""
    serial = "EMU00002" if slave else "EMU00001"
    if seat is None:
        return EmptySeat()
    if isinstance(seat, CdRom):
        from emu.devices.atapi import AtapiDrive  # noqa: PLC0415 - a tiny guest has no CD-ROM

        identity = identity or Identity(model="EMU DVD-ROM", serial=serial)
        return AtapiDrive(seat.medium, slave, identity, costs, dma)
    return AtaDrive(seat, slave, identity or Identity(serial=serial), costs, dma)
