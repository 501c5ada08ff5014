"""One ATA disk drive: registers, commands, the sector buffer behind the data port, and DMA by a bus master.

Source: ATA/ATAPI-6 (T13/1410D): 6 (addresses), 7 (registers), 8 (commands), 9.5-9.8 (PIO and DMA protocols).
"""

from collections.abc import Callable, Sequence
from functools import partial

from emu.bus.costs import Costs
from emu.devices import ide_address
from emu.devices.block.backend import BlockBackend
from emu.devices.ide_address import DEVICE_HEAD, LBA28, LBA48, NO_ADDRESS
from emu.devices.ide_dma import DmaRequest
from emu.devices.ide_identify import (
    DEFAULT_MODE,
    MAX_MULTIPLE,
    Geometry,
    Identity,
    default_geometry,
    identify,
    is_dma_mode,
    takes_mode,
)
from emu.devices.ide_task_file import (
    ABRT,
    BSY,
    COUNT,
    DEVICE,
    DF,
    DRQ,
    ERR,
    FEATURES,
    IDNF,
    READY,
    UNC,
    TaskFile,
)
from emu.errors import MediumError

SECTOR = 512
WORDS = SECTOR // 2
SIGNATURE = (0x00, 0x00)  # cylinder registers after a reset
BUFFER_SECTORS = 128  # 64 KiB: one read from the medium serves this many sectors


class _CommandError(Exception):
    """A command ends with these Error bits, DF where the drive is at fault, and the sector it was at."""

    def __init__(self, error: int, fault: bool = False, lba: int = -1) -> None:
        super().__init__(error)
        self.error, self.fault, self.lba = error, fault, lba


class AtaDrive:
    """A drive on `medium`. `dma` reaches the bus master; without one there are no DMA commands."""

    __slots__ = (
        "_addressing",
        "_block",
        "_buffer",
        "_chunk",
        "_commands",
        "_dma",
        "_filled",
        "_geometry",
        "_identity",
        "_lba",
        "_left",
        "_medium",
        "_mode",
        "_multiple",
        "_sectors",
        "_slave",
        "_write_cache",
        "costs",
        "dma_bytes",
        "dma_to_memory",
        "present",
        "task",
    )

    def __init__(
        self,
        medium: BlockBackend,
        slave: bool,
        identity: Identity,
        costs: Costs,
        dma: DmaRequest | None = None,
    ) -> None:
        self._medium, self._slave, self._identity, self.costs = medium, slave, identity, costs
        self._dma = dma
        self.present = True
        self.dma_to_memory = False
        self._sectors = medium.size // SECTOR
        self._buffer = memoryview(bytearray(BUFFER_SECTORS * SECTOR))
        self.task = TaskFile(self._buffer)
        self._commands = self._command_table()
        self.power_on()

    def power_on(self) -> None:
        """Power-on or hardware reset: the signature, and every feature at its default."""
        self._geometry = default_geometry(self._sectors)
        self._multiple, self._write_cache, self._mode = MAX_MULTIPLE, True, DEFAULT_MODE
        self.diagnose()

    def diagnose(self) -> None:
        """End a reset or EXECUTE DEVICE DIAGNOSTIC: stop any transfer, show the signature (9.12)."""
        self._stop()
        self._addressing = NO_ADDRESS
        self._lba = self._left = self._block = self._filled = self._chunk = 0
        self.task.end_reset(READY, *SIGNATURE)

    def hold_reset(self) -> None:
        """SRST is set: busy until it is cleared."""
        self._stop()
        self.task.status = BSY

    def command(self, opcode: int) -> None:
        """Take the Command register. Ignored while a command is under way."""
        if self.task.status & (BSY | DRQ):
            return
        self.task.begin()
        run = self._commands.get(opcode, self._abort)
        try:
            run()
        except _CommandError as failure:
            self._fail(failure)

    def block_read(self) -> None:
        """The host has taken the block up to `read_end`: offer the next, or end the command."""
        self.costs.bytes_copied += self._block * SECTOR
        try:
            self._offer_block()
        except _CommandError as failure:
            self._fail(failure)

    def block_written(self) -> None:
        """The host has filled the block up to `write_end`: store it; ask for the next, or end."""
        task = self.task
        size = task.write_end * 2
        sectors = size // SECTOR
        self.costs.bytes_copied += size
        task.intrq = True
        try:
            self._medium.writev(self._lba * SECTOR, [self._buffer[:size]])
            self._lba += sectors
            self._left -= sectors
            if self._left:
                self._ask_block()
                return
            self._end_transfer()
            if not self._write_cache:
                self._medium.flush()
        except MediumError:
            self._fail(_CommandError(ABRT, fault=True, lba=self._lba))

    # Transfers

    def _stop(self) -> None:
        self.task.close()
        self.task.intrq = False
        self.dma_bytes = 0

    def _end_transfer(self) -> None:
        """The last block has passed; show where the command got to."""
        task = self.task
        task.close()
        task.status = READY
        if self._addressing != NO_ADDRESS:
            self.costs.requests += 1
            task.registers[COUNT] = task.previous[COUNT] = 0
            self._show_address(self._lba)

    def _fail(self, failure: _CommandError) -> None:
        task = self.task
        task.close()
        task.status = READY | ERR | (DF if failure.fault else 0)
        task.error, task.intrq = failure.error, True
        if failure.lba >= 0:
            self._show_address(failure.lba)

    def _offer_block(self) -> None:
        """Make the next block of a read ready at the data port, or end. Raises _CommandError."""
        if self._left == 0:
            self._end_transfer()
            return
        task = self.task
        if task.index == self._filled:
            self._refill()
        self._block = sectors = min(self._block, self._left)
        self._left -= sectors
        self._lba += sectors
        task.offer(task.index, task.index + sectors * WORDS)
        task.status, task.intrq = READY | DRQ, True

    def _refill(self) -> None:
        """Read ahead of the host; after an error block by block, so that good blocks still pass."""
        sectors = min(self._chunk, self._left)
        try:
            self._medium.readv(self._lba * SECTOR, [self._buffer[: sectors * SECTOR]])
        except MediumError:
            self._chunk = self._block
            sectors = min(self._block, self._left)
            for i in range(sectors):
                place = self._buffer[i * SECTOR : (i + 1) * SECTOR]
                self._read_sector(self._lba + i, place)
        self.task.index, self._filled = 0, sectors * WORDS

    def _read_sector(self, lba: int, place: memoryview) -> None:
        try:
            self._medium.readv(lba * SECTOR, [place])
        except MediumError:
            raise _CommandError(UNC, lba=lba) from None

    def _ask_block(self) -> None:
        """Open the data port for the next block of a write."""
        self.task.ask(min(self._block, self._left) * WORDS)
        self.task.status = READY | DRQ

    def _read(self, addressing: int, multiple: bool) -> None:
        self._block = self._block_size(multiple)
        self._lba, self._left = self._target(addressing)
        self._chunk = BUFFER_SECTORS  # a multiple of any block size
        self.task.index = self._filled = 0
        self._offer_block()

    def _write(self, addressing: int, multiple: bool) -> None:
        if self._medium.read_only:
            raise _CommandError(ABRT)
        self._block = self._block_size(multiple)
        self._lba, self._left = self._target(addressing)
        self.task.intrq = False  # the first block is asked for by DRQ alone (9.7)
        self._ask_block()

    def _block_size(self, multiple: bool) -> int:
        if not multiple:
            return 1
        if self._multiple == 0:
            raise _CommandError(ABRT)
        return self._multiple

    # DMA: section 9.8. The bus master calls these once it has found the memory.

    def _start_dma(self, addressing: int, to_memory: bool) -> None:
        """Ask for a whole command's bytes to be moved."""
        assert self._dma is not None
        if not to_memory and self._medium.read_only:
            raise _CommandError(ABRT)
        self._lba, self._left = self._target(addressing)
        self.dma_bytes, self.dma_to_memory = self._left * SECTOR, to_memory
        self.task.status, self.task.intrq = READY | DRQ, False
        self._dma(self)

    def dma_move(self, buffers: Sequence[memoryview]) -> None:
        """Move the command's sectors between medium and memory, with nothing in between."""
        lba, count = self._lba, self._left
        self.dma_bytes = self._left = 0
        self.task.intrq = True
        try:
            if self.dma_to_memory:
                self._medium.readv(lba * SECTOR, buffers)
            else:
                self._medium.writev(lba * SECTOR, buffers)
                if not self._write_cache:
                    self._medium.flush()
        except MediumError:
            self._fail(self._dma_failure(lba, count))
            return
        self._lba = lba + count
        self._end_transfer()

    def _dma_failure(self, lba: int, count: int) -> _CommandError:
        """What to say of a failed transfer: a read names the first bad sector."""
        if not self.dma_to_memory:
            return _CommandError(ABRT, fault=True, lba=lba)
        try:
            self._read_through(lba, count)
        except _CommandError as failure:
            return failure
        return _CommandError(UNC, lba=lba)

    def dma_cut_short(self) -> None:
        """The memory has less room than the command has bytes: the software notices by its timeout."""
        self.dma_bytes = self._left = 0
        self.task.status = READY

    def dma_failed(self) -> None:
        """There is no such memory."""
        self.dma_bytes = self._left = 0
        self._fail(_CommandError(ABRT))

    # Addresses

    def _target(self, addressing: int) -> tuple[int, int]:
        """First sector and count that the registers name. Raises _CommandError beyond the end."""
        found = ide_address.named(self.task, addressing, self._geometry)
        if found is None or found.lba + found.sectors > self._sectors:
            raise _CommandError(IDNF)
        self._addressing = found.addressing
        return found.lba, found.sectors

    def _show_address(self, lba: int) -> None:
        """Put a sector's address into the registers, as the command gave its own."""
        ide_address.show(self.task, self._addressing, self._geometry, lba)

    # Commands without data, and IDENTIFY

    def _command_table(self) -> dict[int, Callable[[], None]]:
        """Opcode to method (annex: command codes)."""
        done = self._done
        table: dict[int, Callable[[], None]] = {
            0x24: lambda: self._read(LBA48, multiple=False),  # READ SECTORS EXT
            0x29: lambda: self._read(LBA48, multiple=True),  # READ MULTIPLE EXT
            0x34: lambda: self._write(LBA48, multiple=False),  # WRITE SECTORS EXT
            0x39: lambda: self._write(LBA48, multiple=True),  # WRITE MULTIPLE EXT
            0x42: lambda: self._verify(LBA48),  # READ VERIFY SECTORS EXT
            0x27: lambda: self._native_max(LBA48),  # READ NATIVE MAX ADDRESS EXT
            0xF8: lambda: self._native_max(LBA28),  # READ NATIVE MAX ADDRESS
            0xC4: lambda: self._read(LBA28, multiple=True),  # READ MULTIPLE
            0xC5: lambda: self._write(LBA28, multiple=True),  # WRITE MULTIPLE
            0x91: self._set_geometry,  # INITIALIZE DEVICE PARAMETERS
            0xC6: self._set_multiple,  # SET MULTIPLE MODE
            0xE7: self._flush,  # FLUSH CACHE
            0xEA: self._flush,  # FLUSH CACHE EXT
            0xEC: self._identify,  # IDENTIFY DEVICE
            0xEF: self._set_features,  # SET FEATURES
            0xE5: self._power_mode,  # CHECK POWER MODE
            0x98: self._power_mode,
            0x70: done,  # SEEK
        }
        for opcode in (0x20, 0x21):  # with retries, and without (obsolete)
            table[opcode] = lambda: self._read(LBA28, multiple=False)  # READ SECTORS
            table[opcode + 0x10] = lambda: self._write(LBA28, multiple=False)  # WRITE SECTORS
            table[opcode + 0x20] = lambda: self._verify(LBA28)  # READ VERIFY SECTORS
        for opcode in range(0x10, 0x20):
            table[opcode] = done  # RECALIBRATE
        for opcode in (0x94, 0x95, 0x96, 0x97, 0x99, 0xE0, 0xE1, 0xE2, 0xE3, 0xE6):
            table[opcode] = done  # STANDBY, IDLE (both also IMMEDIATE), SLEEP: always as if active
        if self._dma is not None:
            for opcode, addressing in ((0xC8, LBA28), (0xC9, LBA28), (0x25, LBA48)):  # READ DMA (EXT)
                table[opcode] = partial(self._start_dma, addressing, to_memory=True)
            for opcode, addressing in ((0xCA, LBA28), (0xCB, LBA28), (0x35, LBA48)):  # WRITE DMA (EXT)
                table[opcode] = partial(self._start_dma, addressing, to_memory=False)
        return table

    def _abort(self) -> None:
        raise _CommandError(ABRT)

    def _done(self) -> None:
        """Nothing to do."""

    def _identify(self) -> None:
        self._buffer[:SECTOR] = identify(
            self._identity,
            self._sectors,
            self._geometry,
            self._multiple,
            self._write_cache,
            self._slave,
            None if self._dma is None else self._mode,
        )
        self._addressing, self._left, self._block = NO_ADDRESS, 0, 1
        self._filled = WORDS
        self.task.offer(0, WORDS)
        self.task.status = READY | DRQ

    def _verify(self, addressing: int) -> None:
        """Read up to 65,536 sectors and show them to nobody."""
        lba, count = self._target(addressing)
        self._read_through(lba, count)
        self._show_address(lba + count)

    def _read_through(self, lba: int, count: int) -> None:
        """Read sectors into the buffer, one after the other where some fail. Raises _CommandError."""
        end = lba + count
        while lba < end:
            sectors = min(BUFFER_SECTORS, end - lba)
            try:
                self._medium.readv(lba * SECTOR, [self._buffer[: sectors * SECTOR]])
            except MediumError:
                for sector in range(lba, lba + sectors):
                    self._read_sector(sector, self._buffer[:SECTOR])
            lba += sectors

    def _native_max(self, addressing: int) -> None:
        last = self._sectors - 1
        self._addressing = addressing
        self._show_address(last if addressing == LBA48 else min(last, (1 << 28) - 1))

    def _set_geometry(self) -> None:
        heads, sectors = (self.task.registers[DEVICE] & DEVICE_HEAD) + 1, self.task.registers[COUNT]
        if sectors == 0:
            raise _CommandError(ABRT)
        self._geometry = Geometry(min(self._sectors // (heads * sectors), 65535), heads, sectors)

    def _set_multiple(self) -> None:
        count = self.task.registers[COUNT]
        if count > MAX_MULTIPLE or count & (count - 1):
            raise _CommandError(ABRT)
        self._multiple = count

    def _flush(self) -> None:
        try:
            self._medium.flush()
        except MediumError:
            raise _CommandError(ABRT, fault=True) from None

    def _set_features(self) -> None:
        feature = self.task.registers[FEATURES]
        if feature in (0x02, 0x82):  # write cache on, off
            self._write_cache = feature == 0x02
            if not self._write_cache:
                self._flush()
        elif feature == 0x03:  # transfer mode
            mode = self.task.registers[COUNT]
            if not takes_mode(mode, dma=self._dma is not None):
                raise _CommandError(ABRT)
            if is_dma_mode(mode):
                self._mode = mode
        elif feature not in (
            0x55,
            0xAA,
            0x66,
            0xCC,
        ):  # look-ahead off, on; keep or drop these settings at reset
            raise _CommandError(ABRT)

    def _power_mode(self) -> None:
        self.task.registers[COUNT] = 0xFF  # active or idle
