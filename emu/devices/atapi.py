"""An ATAPI CD-ROM drive: registers and the PACKET protocol, its data by the data port or by a bus master.

Source: ATA/ATAPI-6 (T13/1410D): 7 (registers), 8.9 (DEVICE RESET), 8.23 (PACKET), 9.9-9.12 (PACKET protocols,
signature). What the packets mean is in `atapi_commands`.
"""

from collections.abc import Callable, Sequence

from emu.bus.costs import Costs
from emu.devices.atapi_commands import BLOCK, PACKET, Blocks, CdUnit, CheckConditionError
from emu.devices.block.backend import BlockBackend
from emu.devices.ide_dma import DmaRequest
from emu.devices.ide_identify import DEFAULT_MODE, Identity, identify_packet, is_dma_mode, takes_mode
from emu.devices.ide_task_file import (
    ABRT,
    BSY,
    COUNT,
    DRQ,
    ERR,
    FEATURES,
    LBA_HIGH,
    LBA_MID,
    READY,
    TaskFile,
)
from emu.errors import MediumError

BUFFER_BLOCKS = 64  # 128 KiB: twice what one DRQ block can hold
BUFFER = BUFFER_BLOCKS * BLOCK
SIGNATURE = (0x14, 0xEB)  # byte count registers after a reset
COD, IO = 0x01, 0x02  # interrupt reason: a command, not data; towards the host
FEATURE_DMA, FEATURE_OVERLAP = 0x01, 0x02  # PACKET's
MOST_BYTES = 0xFFFE  # in one DRQ block
DEVICE_RESET = 0x08


class AtapiDrive:
    """A CD-ROM drive in a seat of the cable; `IdeDrive` for the channel, `DmaDrive` for the bus master.

    All transfers are towards the host. `_at` and `_filled` are byte positions in the buffer: data that was
    read, and is not yet offered; `_left` counts the bytes of the command that are not yet offered.
    """

    __slots__ = (
        "_at",
        "_block",
        "_buffer",
        "_by_dma",
        "_commands",
        "_dma",
        "_filled",
        "_identity",
        "_left",
        "_limit",
        "_mode",
        "_offset",
        "_plain",
        "_slave",
        "costs",
        "dma_bytes",
        "dma_to_memory",
        "present",
        "task",
        "unit",
    )

    def __init__(
        self,
        medium: BlockBackend | None,
        slave: bool,
        identity: Identity,
        costs: Costs,
        dma: DmaRequest | None = None,
    ) -> None:
        self.unit = CdUnit(medium)
        self._slave, self._identity, self.costs, self._dma = slave, identity, costs, dma
        self.present = self.dma_to_memory = True
        self._buffer = memoryview(bytearray(BUFFER))
        self.task = TaskFile(self._buffer)
        self._commands = self._command_table()
        self.power_on()

    def change_medium(self, medium: BlockBackend | None) -> None:
        """Put in another disc, or take it out: a read under way ends with an error; vCPU thread."""
        self.unit.change_medium(medium)

    def power_on(self) -> None:
        """Power-on or hardware reset."""
        self._mode = DEFAULT_MODE
        self.unit.reset()
        self.diagnose()

    def diagnose(self) -> None:
        """End a reset: stop any transfer, show the signature, and no DRDY (9.12)."""
        self._stop()
        self.task.intrq = False
        self._at = self._filled = self._left = self._offset = self._block = 0
        self._limit = MOST_BYTES
        self._plain = self._by_dma = False
        self.task.end_reset(0, *SIGNATURE)

    def hold_reset(self) -> None:
        """SRST is set: busy until it is cleared."""
        self._stop()
        self.task.intrq = False
        self.task.status = BSY

    def command(self, opcode: int) -> None:
        """Take the Command register; DEVICE RESET at any time, others unless one is under way."""
        if opcode == DEVICE_RESET:
            self.diagnose()
        elif not self.task.status & (BSY | DRQ):
            self.task.begin()
            self._commands.get(opcode, self._abort)()

    def block_read(self) -> None:
        """The host has taken the words up to `read_end`: offer more, or end the command."""
        self.costs.bytes_copied += self._block
        if self._plain:
            self._stop()
            self.task.status = READY
        elif self._left:
            self._offer_block()
        else:
            self._end()

    def block_written(self) -> None:
        """The host has given a packet: carry it out."""
        packet = bytes(self._buffer[:PACKET])
        self._stop()
        self.costs.bytes_copied += PACKET
        self.costs.requests += 1
        self._at = self._filled = 0
        try:
            answer = self.unit.execute(packet)
        except CheckConditionError as condition:
            self._fail(condition.key << 4)
            return
        if isinstance(answer, Blocks):
            self._left, self._offset = answer.count * BLOCK, answer.lba * BLOCK
        else:
            self._left = len(answer)
            self._filled = self._left + self._left % 2
            self._buffer[: self._filled] = answer.ljust(self._filled, b"\0")
        if not self._left:
            self._end()
        elif self._by_dma:
            self._start_dma()
        elif self._take_limit():
            self._offer_block()
        else:
            self._fail(ABRT)

    # ---- commands ----------------------------------------------------------------------------------

    def _command_table(self) -> dict[int, Callable[[], None]]:
        table: dict[int, Callable[[], None]] = {
            0xA0: self._packet,
            0xA1: self._identify_packet,
            0x20: self._refuse,  # READ SECTORS
            0xEC: self._refuse,  # IDENTIFY DEVICE
            0xEF: self._set_features,
            0xE5: self._power_mode,  # CHECK POWER MODE
        }
        for opcode in (0xE0, 0xE1, 0xE2, 0xE3, 0xE6):
            table[opcode] = _done  # STANDBY, IDLE (both also IMMEDIATE), SLEEP: always as if active
        return table

    def _abort(self) -> None:
        self.task.status, self.task.error = READY | ERR, ABRT

    def _refuse(self) -> None:
        """A disk's command: the signature says what this is (8.12.5.2, 8.27.5.2)."""
        self.task.show_signature(*SIGNATURE)
        self._abort()

    def _packet(self) -> None:
        """Ask for the packet; DRQ alone says so, without an interrupt."""
        task = self.task
        features = task.registers[FEATURES]
        if features & FEATURE_OVERLAP or (features & FEATURE_DMA and self._dma is None):
            self._abort()
            return
        self._by_dma, self._plain = bool(features & FEATURE_DMA), False
        self._limit = task.registers[LBA_HIGH] << 8 | task.registers[LBA_MID]
        task.registers[COUNT] = COD
        task.ask(PACKET // 2)
        task.status, task.intrq = READY | DRQ, False

    def _identify_packet(self) -> None:
        mode = None if self._dma is None else self._mode
        answer = identify_packet(self._identity, self._slave, mode)
        self._buffer[: len(answer)] = answer
        self._left, self._block, self._plain = 0, len(answer), True
        self.task.offer(0, len(answer) // 2)
        self.task.status = READY | DRQ

    def _set_features(self) -> None:
        feature, mode = self.task.registers[FEATURES], self.task.registers[COUNT]
        if feature == 0x03 and takes_mode(mode, dma=self._dma is not None):
            self._mode = mode if is_dma_mode(mode) else self._mode
        elif feature not in (0x66, 0xCC):  # keep or drop these settings at reset
            self._abort()

    def _power_mode(self) -> None:
        self.task.registers[COUNT] = 0xFF  # active or idle

    # ---- data --------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self.task.close()
        self.dma_bytes = 0

    def _end(self) -> None:
        self._stop()
        self.task.registers[COUNT] = IO | COD
        self.task.status, self.task.intrq = READY, True

    def _fail(self, error: int) -> None:
        """Sense key on top of Error, or its ABRT bit."""
        self._end()
        self._left = 0
        self.task.status, self.task.error = READY | ERR, error

    def _take_limit(self) -> bool:
        """Make the byte count limit one that DRQ blocks can have: even, unless all fits one of them.

        False where it leaves no room at all.
        """
        limit = min(self._limit, MOST_BYTES)
        self._limit = limit if limit >= self._left else limit & ~1
        return self._limit > 0

    def _offer_block(self) -> None:
        """Make the next DRQ block ready at the data port, with its size in the byte count registers."""
        size = min(self._limit, self._left)
        if self._filled - self._at < size and not self._refill(size):
            self._fail(self.unit.read_failed().key << 4)
            return
        task, first = self.task, self._at // 2
        task.offer(first, first + (size + 1) // 2)
        self._at += size
        self._left -= size
        self._block = size
        task.registers[LBA_MID], task.registers[LBA_HIGH] = size & 0xFF, size >> 8
        task.registers[COUNT] = IO
        task.status, task.intrq = READY | DRQ, True

    def _refill(self, size: int) -> bool:
        """Read ahead of the host, at least up to `size` bytes; False where the medium fails."""
        rest = self._filled - self._at
        self._buffer[:rest] = self._buffer[self._at : self._filled]
        self._at, self._filled = 0, rest
        room, left = (BUFFER - rest) // BLOCK * BLOCK, self._left - rest
        needed = -(-(size - rest) // BLOCK) * BLOCK
        for length in (min(room, left), needed):  # the read-ahead may be what fails
            if self._read_medium([self._buffer[rest : rest + length]]):
                self._offset += length
                self._filled += length
                return True
        return False

    def _read_medium(self, buffers: Sequence[memoryview]) -> bool:
        """Fill `buffers` from `_offset` on; False where the disc fails or is not the one it was."""
        medium = self.unit.medium
        if medium is None or self._offset + sum(map(len, buffers)) > medium.size:
            return False
        try:
            medium.readv(self._offset, buffers)
        except MediumError:
            return False
        return True

    def _start_dma(self) -> None:
        assert self._dma is not None
        self.dma_bytes = self._left + self._left % 2
        self.task.registers[COUNT] = IO
        self.task.status, self.task.intrq = READY | DRQ, False
        self._dma(self)

    def dma_move(self, buffers: Sequence[memoryview]) -> None:
        """Move the command's data: from the medium with nothing in between, or out of the buffer."""
        self._left = 0
        if not self._filled:
            if not self._read_medium(buffers):
                self._fail(self.unit.read_failed().key << 4)
                return
        else:
            at = 0
            for place in buffers:
                place[:] = self._buffer[at : at + len(place)]
                at += len(place)
            self.costs.bytes_copied += at
        self._end()

    def dma_cut_short(self) -> None:
        """The memory has less room than there is data: the software notices by its timeout."""
        self._stop()
        self._left = 0
        self.task.status = READY

    def dma_failed(self) -> None:
        """There is no such memory."""
        self._fail(ABRT)


def _done() -> None:
    """Nothing to do."""
