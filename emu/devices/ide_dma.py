"""The bus master of one IDE channel: its registers, its PRD tables, and the memory side of a DMA command.

Sources: Intel 82371SB (PIIX3) datasheet, 2.7 (bus master IDE registers); Programming Interface for Bus Master
IDE Controller, revision 1.0, 1.2 (PRD table) and 3.1 (status bits). A transfer happens at once, on the vCPU
thread, when both the drive and the bus master are ready for it.
"""

from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import NamedTuple, Protocol

from emu.bus.memory import GuestAddressError, GuestMemory
from emu.bus.types import AccessError, Fault, IrqLine

PORTS = 8
BMICX, BMISX, BMIDTPX = 0, 2, 4  # command, status, descriptor table pointer
SSBM, RWCON = 0x01, 0x08  # start; the drive is read
BMIDEA, DMA_ERROR, INTERRUPT, DRIVES_CAPABLE = 0x01, 0x02, 0x04, 0x60  # active; error and interrupt; scratch

PRD = Struct("<II")  # address, then byte count with EOT on top
PRD_EOT, PRD_COUNT, PRD_WHOLE, PRD_EVEN = 1 << 31, 0xFFFE, 0x1_0000, 0xFFFF_FFFE
PRD_TABLE = 0xFFFF_FFFC  # where a table may begin
TABLE_WINDOW = 0x1_0000  # a table does not cross a multiple of this
PRDS_AT_ONCE = 64

REGISTERS = ("BMICX", "", "BMISX", "", *["BMIDTPX"] * 4)


class DmaDrive(Protocol):
    """What a bus master asks of a drive. `dma_bytes` are waiting to be moved, an even number, or 0."""

    dma_bytes: int
    dma_to_memory: bool

    def dma_move(self, buffers: Sequence[memoryview], /) -> None:
        """Move `dma_bytes` to or from `buffers`, which hold as many, and end the command."""

    def dma_cut_short(self) -> None:
        """The table has less room than that: end the command without data and without interrupt."""

    def dma_failed(self) -> None:
        """Memory does not answer: end the command with an error."""


DmaRequest = Callable[[DmaDrive], None]
"""DMARQ: the drive is ready to move `dma_bytes`. They may have moved when the call returns."""


class Scatter(NamedTuple):
    """Where a transfer goes: (address, bytes) in order, bytes that found no place, and whether the transfer
    ends where the table does.
    """

    pieces: list[tuple[int, int]]
    missing: int
    exhausted: bool


def scatter(memory: GuestMemory, table: int, length: int) -> Scatter:
    """The pieces of memory for `length` bytes by the PRD table at `table`; neighbours are joined.

    Raises GuestAddressError where the table is not in RAM.
    """
    pieces: list[tuple[int, int]] = []
    end = -1
    for first_byte, word in _table(memory, table):
        if not length:
            break
        address = first_byte & PRD_EVEN
        size = word & PRD_COUNT or PRD_WHOLE
        taken = min(size, length)
        if address == end:
            first, before = pieces.pop()
            pieces.append((first, before + taken))
        else:
            pieces.append((address, taken))
        end = address + taken
        length -= taken
        if word & PRD_EOT:
            return Scatter(pieces, length, taken == size)
    return Scatter(pieces, length, False)


def _table(memory: GuestMemory, at: int) -> Iterator[tuple[int, int]]:
    """Addresses and counts of a PRD table, up to where one must end. Raises GuestAddressError."""
    limit = (at & -TABLE_WINDOW) + TABLE_WINDOW
    while at < limit:
        try:
            block = memory.view(at, min(limit - at, PRDS_AT_ONCE * PRD.size))
        except GuestAddressError:  # RAM ends behind the table
            block = memory.view(at, PRD.size)
        yield from PRD.iter_unpack(block)
        at += len(block)


class InterruptLatch:
    """A drive's interrupt on its way to the interrupt controller; `rose` remembers each rising edge."""

    __slots__ = ("_irq", "_level", "rose")

    def __init__(self, irq: IrqLine) -> None:
        self._irq = irq
        self._level = self.rose = False

    def set(self, level: bool) -> None:
        """Drive the wire."""
        if level != self._level:
            self._level = level
            if level:
                self.rose = True
            self._irq.set(level)

    def restore(self, level: bool) -> None:
        """Take a saved level without an edge."""
        self._level = level
        self._irq.restore(level)


class BusMaster:
    """One channel's eight ports. `line` is what the channel drives as its interrupt.

    After a transfer `update_irq` is called: the channel's, set by `connect`.
    """

    def __init__(self, memory: GuestMemory, irq: IrqLine) -> None:
        self.size = PORTS
        self.line = InterruptLatch(irq)
        self._memory = memory
        self._update_irq: Callable[[], None] = _no_channel
        self._drive: DmaDrive | None = None
        self._enabled = False
        self.reset()

    def connect(self, update_irq: Callable[[], None]) -> None:
        """The channel whose drives are served."""
        self._update_irq = update_irq

    def reset(self) -> None:
        """RST#: stopped, all registers zero."""
        self._command = self._status = self._table = 0
        self.line.rose = False

    def enable(self, enabled: bool) -> None:
        """Follow the function's COMMAND.BME: without it a transfer waits."""
        self._enabled = enabled
        self._run()

    def request(self, drive: DmaDrive) -> None:
        """A drive raises DMARQ; the later of two drives is served."""
        self._drive = drive
        self._run()

    def direct(
        self, offset: int, width: int
    ) -> tuple[Callable[[int, int], int], Callable[[int, int, int], None]]:
        """Functions of their own for the accesses that drivers make."""
        if (offset, width) == (BMICX, 1):
            return self._read_command, self._write_command_byte
        if (offset, width) == (BMISX, 1):
            return self._read_status, self._write_status_byte
        if (offset, width) == (BMIDTPX, 4):
            return self.read, self._write_table
        return self.read, self.write

    def _read_command(self, offset: int, width: int) -> int:  # noqa: ARG002 - one register
        return self._command

    def _write_command_byte(self, offset: int, width: int, value: int) -> None:  # noqa: ARG002 - one register
        self._write_command(value & 0xFF)

    def _read_status(self, offset: int, width: int) -> int:  # noqa: ARG002 - one register
        return self._status | INTERRUPT if self.line.rose else self._status

    def _write_status_byte(self, offset: int, width: int, value: int) -> None:  # noqa: ARG002 - one register
        self._write_status(value & 0xFF)

    def _write_table(self, offset: int, width: int, value: int) -> None:  # noqa: ARG002 - one register
        self._table = value & PRD_TABLE

    def read(self, offset: int, width: int) -> int:
        """Any bytes of the eight."""
        if offset + width > PORTS:
            raise AccessError(Fault.WIDTH)
        ports = self._command | self._status_now() << 16 | self._table << 32
        return ports >> 8 * offset & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        """Any bytes of the eight; a byte that is no register's goes nowhere."""
        if offset + width > PORTS:
            raise AccessError(Fault.WIDTH)
        for at in range(offset, offset + width):
            byte, value = value & 0xFF, value >> 8
            if at >= BMIDTPX:
                shift = 8 * (at - BMIDTPX)
                self._table = (self._table & ~(0xFF << shift) | byte << shift) & PRD_TABLE
            elif at == BMISX:
                self._write_status(byte)
            elif at == BMICX:
                self._write_command(byte)

    def register_name(self, offset: int, is_write: bool) -> str:  # noqa: ARG002 - the same both ways
        """The datasheet's name of the register."""
        return REGISTERS[offset]

    def _status_now(self) -> int:
        return self._status | (INTERRUPT if self.line.rose else 0)

    def _write_status(self, value: int) -> None:
        """Error and interrupt are cleared by ones; the active bit is read-only."""
        if value & INTERRUPT:
            self.line.rose = False
        kept = self._status & (BMIDEA | DMA_ERROR & ~value)
        self._status = kept | value & DRIVES_CAPABLE

    def _write_command(self, value: int) -> None:
        before, self._command = self._command, value & (SSBM | RWCON)
        if not value & SSBM:
            self._status &= ~BMIDEA
        elif not before & SSBM:
            self._status |= BMIDEA
            self._run()

    def _run(self) -> None:
        """Carry out the transfer that both sides are ready for.

        The drive's command decides the direction: one that contradicts RWCON has no meaning on hardware.
        """
        drive = self._drive
        if drive is None or not drive.dma_bytes or not self._enabled or not self._status & BMIDEA:
            return
        self._drive = None
        try:
            where = scatter(self._memory, self._table, drive.dma_bytes)
            buffers = [self._memory.view(gpa, length) for gpa, length in where.pieces]
        except GuestAddressError:
            self._status = self._status & ~BMIDEA | DMA_ERROR
            drive.dma_failed()
            self._update_irq()
            return
        if where.missing:
            self._status &= ~BMIDEA
            drive.dma_cut_short()
            return
        to_memory = drive.dma_to_memory
        drive.dma_move(buffers)
        if to_memory:
            for gpa, length in where.pieces:
                self._memory.written(gpa, length)
        if where.exhausted:
            self._status &= ~BMIDEA
        self._update_irq()


def _no_channel() -> None:
    """Not connected yet."""
