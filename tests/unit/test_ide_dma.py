"""Bus-master DMA of IDE disks: PRD tables in real guest memory, registers as a driver uses them."""

import errno
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.bus.memory import GuestMemory
from emu.bus.mmio import MmioBus
from emu.bus.pci import PciBus
from emu.bus.pio import PioBus
from emu.bus.window import FaultLog
from emu.devices.block.raw import RawImage
from emu.devices.piix3_ide import Piix3Ide
from emu.errors import MediumError
from emu.testing.lines import RecordingLine

RAM = 4 << 20
TABLE, BUFFER = 0x1000, 0x10_0000
BMIDE = 0xC000
EOT = 1 << 31
READ_DMA, READ_DMA_EXT, WRITE_DMA, WRITE_DMA_EXT = 0xC8, 0x25, 0xCA, 0x35
START, TO_MEMORY = 0x01, 0x08
ACTIVE, FAILED, INTERRUPT = 0x01, 0x02, 0x04
READY, DRQ, ERR = 0x50, 0x08, 0x01
IO, MASTER = 0x1, 0x4


def fail(error: BaseException) -> None:
    raise error


class Board:
    """The IDE function on a bus, both channels; `disk` is the primary master."""

    def __init__(self, disk: RawImage | None) -> None:
        self.memory = GuestMemory(RAM)
        self.lines = [RecordingLine(), RecordingLine()]
        self.ide = Piix3Ide(self.memory, self.lines, [disk, None, None, None])
        self.pio = PioBus(FaultLog(lambda _line: None), fail)
        self.pci = PciBus(MmioBus(FaultLog(lambda _line: None), fail), self.pio)
        self.pci.add(self.ide.function, 1, 1)
        self.written: list[tuple[int, int, bool]] = []
        self.memory.on_written = lambda gpa, length: self.written.append((gpa, length, self.lines[0].level))
        self.ide.function.config_write(0x20, 4, BMIDE)
        self.ide.function.config_write(0x04, 2, IO | MASTER)

    def inb(self, port: int) -> int:
        return self.pio.read(0, port, 1)

    def outb(self, port: int, value: int) -> None:
        self.pio.write(0, port, 1, value)

    def prd(self, *pieces: tuple[int, int], table: int = TABLE, eot: bool = True) -> None:
        """Write a table and point the bus master at it."""
        entries = b"".join(struct.pack("<II", address, size & 0xFFFF) for address, size in pieces)
        if eot:
            entries = entries[:-1] + b"\x80"
        self.memory.view(table, len(entries))[:] = entries
        self.pio.write(0, BMIDE + 4, 4, table)

    def command(self, opcode: int, lba: int, count: int, device: int = 0xE0) -> None:
        drive = self.ide.channels[0].command
        if opcode in (READ_DMA_EXT, WRITE_DMA_EXT):
            for register, value in ((2, count >> 8), (3, lba >> 24), (4, lba >> 32), (5, lba >> 40)):
                drive.write(register, 1, value & 0xFF)
        for register, value in ((2, count), (3, lba), (4, lba >> 8), (5, lba >> 16), (6, device)):
            drive.write(register, 1, value & 0xFF)
        drive.write(7, 1, opcode)

    def start(self, direction: int = TO_MEMORY) -> None:
        self.outb(BMIDE, direction | START)

    def stop(self) -> None:
        self.outb(BMIDE, 0)

    def bm_status(self) -> int:
        return self.inb(BMIDE + 2)

    def status(self) -> int:
        return self.ide.channels[0].control.read(0, 1)

    def error(self) -> int:
        return self.ide.channels[0].command.read(1, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(1 << 20))
    return path


@pytest.fixture
def board(path: Path) -> Iterator[Board]:
    disk = RawImage(path, read_only=False)
    board = Board(disk)
    yield board
    board.memory.close()
    disk.close()


@pytest.mark.parametrize("opcode", [READ_DMA, 0xC9, READ_DMA_EXT])
def test_a_read_goes_where_the_table_says(board: Board, path: Path, opcode: int) -> None:
    board.prd((BUFFER, 512), (BUFFER + 0x1000, 1534), (BUFFER + 0x2000, 2), (BUFFER + 0x3000, 2048))
    board.command(opcode, 5, 8)
    assert board.status() == READY | DRQ
    assert not board.lines[0].level
    assert board.bm_status() == 0
    board.start()
    assert board.bm_status() == INTERRUPT
    assert board.lines[0].level
    assert board.status() == READY
    data = path.read_bytes()[5 * 512 : 13 * 512]
    view = board.memory.view
    got = [
        view(BUFFER, 512),
        view(BUFFER + 0x1000, 1534),
        view(BUFFER + 0x2000, 2),
        view(BUFFER + 0x3000, 2048),
    ]
    assert b"".join(map(bytes, got)) == data
    assert bytes(view(BUFFER + 512, 16)) == bytes(16)
    assert board.ide.channels[0].costs.requests == 1
    assert board.ide.channels[0].costs.bytes_copied == 0  # the medium's own read is the only copy


def test_code_in_the_buffers_is_dropped_before_the_guest_is_told(board: Board) -> None:
    board.prd((BUFFER, 512), (BUFFER + 512, 512), (BUFFER + 0x8000, 1024))
    board.command(READ_DMA, 0, 4)
    board.start()
    assert board.written == [(BUFFER, 1024, False), (BUFFER + 0x8000, 1024, False)]
    board.written.clear()
    board.stop()
    board.command(WRITE_DMA, 0, 4)
    board.start(0)
    assert board.written == []


@pytest.mark.parametrize("opcode", [WRITE_DMA, 0xCB, WRITE_DMA_EXT])
def test_a_write_comes_from_where_the_table_says(board: Board, path: Path, opcode: int) -> None:
    before = path.read_bytes()
    data = random.Random(2).randbytes(1024)
    board.memory.view(BUFFER, 700)[:] = data[:700]
    board.memory.view(BUFFER + 0x1000, 324)[:] = data[700:]
    board.prd((BUFFER, 700), (BUFFER + 0x1000, 324))
    board.command(opcode, 100, 2)
    board.start(0)
    assert (board.bm_status(), board.status()) == (INTERRUPT, READY)
    assert path.read_bytes() == before[:51200] + data + before[51200 + 1024 :]


def test_the_bus_master_may_be_started_before_the_command(board: Board, path: Path) -> None:
    board.prd((BUFFER, 512))
    board.start()
    assert board.bm_status() == ACTIVE
    board.command(READ_DMA, 1, 1)
    assert board.bm_status() == INTERRUPT
    assert bytes(board.memory.view(BUFFER, 512)) == path.read_bytes()[512:1024]


def test_a_size_of_zero_is_64_kib(board: Board, path: Path) -> None:
    board.prd((BUFFER, 0), (BUFFER + 0x1_0000, 0))
    board.command(READ_DMA, 0, 0)
    board.start()
    assert board.bm_status() == INTERRUPT
    assert bytes(board.memory.view(BUFFER, 0x2_0000)) == path.read_bytes()[:0x2_0000]


def test_bit_0_of_address_and_size_is_not_wired(board: Board, path: Path) -> None:
    board.prd((BUFFER | 1, 511), (BUFFER + 0x1001, 3))
    board.command(READ_DMA, 0, 1)
    board.start()
    assert board.bm_status() == INTERRUPT
    data = bytes(board.memory.view(BUFFER, 510)) + bytes(board.memory.view(BUFFER + 0x1000, 2))
    assert data == path.read_bytes()[:512]


@pytest.mark.parametrize("pieces", [[(BUFFER, 514)], [(BUFFER, 512), (BUFFER + 0x1000, 2)]])
def test_a_table_with_more_room_leaves_the_bus_master_active(
    board: Board, pieces: list[tuple[int, int]]
) -> None:
    board.prd(*pieces)
    board.command(READ_DMA, 0, 1)
    board.start()
    assert board.bm_status() == ACTIVE | INTERRUPT
    assert board.status() == READY
    board.stop()
    assert board.bm_status() == INTERRUPT
    board.outb(BMIDE + 2, INTERRUPT)
    assert board.bm_status() == 0


def test_a_table_with_less_room_moves_nothing_and_interrupts_nobody(board: Board) -> None:
    board.prd((BUFFER, 512), (BUFFER + 512, 510))
    board.command(READ_DMA, 0, 2)
    board.start()
    assert (board.bm_status(), board.status()) == (0, READY)
    assert not board.lines[0].levels.count(True)
    assert bytes(board.memory.view(BUFFER, 512)) == bytes(512)
    board.stop()
    board.prd((BUFFER, 1024))
    board.command(READ_DMA, 0, 2)
    board.start()
    assert board.bm_status() == INTERRUPT


@pytest.mark.parametrize(
    ("table", "address"), [(TABLE, RAM - 256), (TABLE, 0xFEE0_0000), (0xF000_0000, BUFFER), (RAM, BUFFER)]
)
def test_memory_that_is_not_there_is_a_dma_error(board: Board, table: int, address: int) -> None:
    board.prd((address, 512))
    board.pio.write(0, BMIDE + 4, 4, table)
    for opcode, direction in ((READ_DMA, TO_MEMORY), (WRITE_DMA, 0)):
        board.command(opcode, 0, 1)
        board.start(direction)
        assert board.bm_status() == FAILED | INTERRUPT
        assert (board.status(), board.error()) == (READY | ERR, 0x04)
        assert board.lines[0].level
        board.stop()
        board.ide.channels[0].command.read(7, 1)
        board.outb(BMIDE + 2, FAILED | INTERRUPT)
        assert board.bm_status() == 0


def test_a_table_ends_where_its_64_kib_do(board: Board) -> None:
    board.prd((BUFFER, 512), table=0xFFF8, eot=False)
    board.command(READ_DMA, 0, 2)
    board.start()
    assert (board.bm_status(), board.status()) == (0, READY)


def test_without_bus_mastering_a_transfer_waits(board: Board, path: Path) -> None:
    board.ide.function.config_write(0x04, 2, IO)
    board.prd((BUFFER, 512))
    board.command(READ_DMA, 0, 1)
    board.start()
    assert (board.bm_status(), board.status()) == (ACTIVE, READY | DRQ)
    assert bytes(board.memory.view(BUFFER, 512)) == bytes(512)
    board.ide.function.config_write(0x04, 2, IO | MASTER)
    assert board.bm_status() == INTERRUPT
    assert bytes(board.memory.view(BUFFER, 512)) == path.read_bytes()[:512]


@pytest.mark.parametrize("how", ["stop", "software reset", "hardware reset"])
def test_a_transfer_that_was_given_up_does_not_happen_later(board: Board, how: str) -> None:
    board.prd((BUFFER, 512))
    board.command(READ_DMA, 0, 1)
    if how == "stop":
        board.ide.function.config_write(0x04, 2, IO)
        board.start()
        board.stop()
        assert (board.bm_status(), board.status()) == (0, READY | DRQ)
    elif how == "software reset":
        board.ide.channels[0].control.write(0, 1, 4)
        board.ide.channels[0].control.write(0, 1, 0)
        board.start()
        assert (board.bm_status(), board.status()) == (ACTIVE, READY)
    else:
        board.ide.reset()
        board.pci.reset()
        assert board.ide.masters[0].read(0, 4) == 0
    board.ide.function.config_write(0x04, 2, IO | MASTER)
    assert bytes(board.memory.view(BUFFER, 512)) == bytes(512)
    assert not board.lines[0].level


def test_registers_are_reached_by_bytes_words_and_double_words(board: Board) -> None:
    board.pio.write(0, BMIDE + 4, 4, 0x1234_5677)
    assert board.pio.read(0, BMIDE + 4, 4) == 0x1234_5674
    board.outb(BMIDE + 6, 0xAB)
    assert board.pio.read(0, BMIDE + 6, 2) == 0x12AB
    board.pio.write(0, BMIDE, 4, 0xFF67_FFFE)
    assert board.pio.read(0, BMIDE, 4) == 0x0060_0008
    assert board.inb(BMIDE + 1) == 0
    assert board.pio.read(0, BMIDE + 0x0A, 1) == 0
    assert board.ide.masters[0].register_name(2, False) == "BMISX"


def test_the_function_is_what_drivers_look_for(board: Board) -> None:
    function = board.ide.function
    assert function.config_read(0x00, 4) == 0x7010_8086
    assert function.config_read(0x08, 4) == 0x0101_8000
    function.config_write(0x20, 4, 0xFFFF_FFFF)
    assert function.config_read(0x20, 4) == 0xFFFF_FFF1
    function.config_write(0x40, 4, 0x8000_8000)
    assert function.config_read(0x40, 4) == 0x8000_8000
    assert function.config_read(0x3D, 1) == 0


def test_each_interrupt_is_latched_until_it_is_cleared(board: Board) -> None:
    board.command(0xE7, 0, 0)  # FLUSH CACHE
    assert board.bm_status() == INTERRUPT
    board.ide.channels[0].command.read(7, 1)
    assert not board.lines[0].level
    assert board.bm_status() == INTERRUPT
    board.outb(BMIDE + 2, INTERRUPT)
    assert board.bm_status() == 0


def test_identify_tells_of_dma_and_of_the_mode_that_was_selected(board: Board) -> None:
    channel = board.ide.channels[0].command

    def words() -> list[int]:
        board.command(0xEC, 0, 0)
        return [channel.read(0, 2) for _ in range(256)]

    assert words()[49] & 1 << 8
    assert words()[53] & 1 << 2
    assert (words()[63], words()[88]) == (0x0007, 0x203F)
    for mode, multiword, ultra in ((0x22, 0x0407, 0x003F), (0x44, 0x0007, 0x103F), (0x0C, 0x0007, 0x103F)):
        channel.write(1, 1, 0x03)
        board.command(0xEF, 0, mode)
        assert board.status() == READY
        assert (words()[63], words()[88]) == (multiword, ultra)
    for mode in (0x02, 0x10, 0x23, 0x46, 0xFF):
        channel.write(1, 1, 0x03)
        board.command(0xEF, 0, mode)
        assert (board.status(), board.error()) == (READY | ERR, 0x04)


class Failing(RawImage):
    """A disk of which byte 1536 on cannot be read or written in sector 3."""

    def readv(self, offset: int, buffers: object) -> None:
        self._check(offset, buffers)
        super().readv(offset, buffers)  # type: ignore[arg-type]  # as it came

    def writev(self, offset: int, buffers: object) -> None:
        self._check(offset, buffers)
        super().writev(offset, buffers)  # type: ignore[arg-type]

    def _check(self, offset: int, buffers: object) -> None:
        if offset <= 1536 < offset + sum(map(len, buffers)):  # type: ignore[call-overload]  # as it came
            raise MediumError("bad sector", errno.EIO)


def test_a_medium_that_fails_is_the_drives_error(path: Path) -> None:
    board = Board(Failing(path, read_only=False))
    board.prd((BUFFER, 4096))
    board.command(READ_DMA, 1, 8)
    board.start()
    assert board.bm_status() == INTERRUPT
    assert (board.status(), board.error()) == (READY | ERR, 0x40)
    assert board.ide.channels[0].command.read(3, 1) == 3
    board.stop()
    board.command(WRITE_DMA, 1, 8)
    board.start(0)
    assert (board.status(), board.error()) == (READY | ERR | 0x20, 0x04)


def test_addresses_past_the_end_and_read_only_disks_ask_for_no_dma(path: Path) -> None:
    board = Board(RawImage(path, read_only=True))
    board.prd((BUFFER, 512))
    checks: list[tuple[Callable[[], None], int]] = [
        (lambda: board.command(READ_DMA, 2048, 1), 0x10),
        (lambda: board.command(READ_DMA_EXT, 1 << 40, 1), 0x10),
        (lambda: board.command(WRITE_DMA, 0, 1), 0x04),
    ]
    for command, error in checks:
        command()
        assert (board.status(), board.error()) == (READY | ERR, error)
        board.start()
        assert board.bm_status() & ACTIVE
        board.stop()


def test_without_write_cache_a_write_is_flushed(board: Board) -> None:
    channel = board.ide.channels[0].command
    channel.write(1, 1, 0x82)
    board.command(0xEF, 0, 0)
    board.prd((BUFFER, 512))
    board.command(WRITE_DMA, 0, 1)
    board.start(0)
    assert board.status() == READY
