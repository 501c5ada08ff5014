import errno
import struct
from collections.abc import Sequence

import pytest

from emu.bus.costs import Costs
from emu.bus.types import AccessError
from emu.devices.ide import IdeChannel
from emu.devices.ide_identify import Identity
from emu.errors import MediumError
from emu.testing.lines import RecordingLine

DRDY_DSC, DRQ, ERR, DF, BSY = 0x50, 0x08, 0x01, 0x20, 0x80
READ, READ_EXT, READ_MULTIPLE, READ_MULTIPLE_EXT = 0x20, 0x24, 0xC4, 0x29
WRITE, WRITE_EXT, WRITE_MULTIPLE, WRITE_MULTIPLE_EXT = 0x30, 0x34, 0xC5, 0x39


class MemoryDisk:
    """A medium in memory; sectors in `bad` fail."""

    def __init__(self, sectors: int) -> None:
        self.data = bytearray(b"".join(struct.pack("<I", n) * 128 for n in range(sectors)))
        self.size, self.read_only, self.costs = len(self.data), False, Costs()
        self.bad: set[int] = set()
        self.calls = 0
        self.flushes = 0

    def _check(self, offset: int, length: int) -> None:
        self.calls += 1
        if any(offset <= n * 512 < offset + length for n in self.bad):
            raise MediumError("bad sector", errno.EIO)

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        for buffer in buffers:
            self._check(offset, len(buffer))
            buffer[:] = self.data[offset : offset + len(buffer)]
            offset += len(buffer)

    def writev(self, offset: int, buffers: Sequence[memoryview | bytes]) -> None:
        for buffer in buffers:
            self._check(offset, len(buffer))
            self.data[offset : offset + len(buffer)] = buffer
            offset += len(buffer)

    def flush(self) -> None:
        self.flushes += 1
        if self.bad:
            raise MediumError("flush", errno.EIO)

    def discard(self, offset: int, length: int) -> None:
        pass

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        self.data[offset : offset + length] = bytes(length)

    def close(self) -> None:
        pass


class Host:
    """The driver's side of one channel."""

    def __init__(self, master: MemoryDisk | None = None, slave: MemoryDisk | None = None) -> None:
        self.line = RecordingLine()
        self.channel = IdeChannel(self.line, master, slave, Identity("A disk", "S1", "F1"))

    def inb(self, register: int) -> int:
        return self.channel.command.read(register, 1)

    def outb(self, register: int, value: int) -> None:
        self.channel.command.write(register, 1, value)

    def status(self) -> int:
        return self.channel.control.read(0, 1)

    def control(self, value: int) -> None:
        self.channel.control.write(0, 1, value)

    def lba28(self, opcode: int, lba: int, count: int, device: int = 0xE0) -> None:
        for register, value in ((2, count), (3, lba), (4, lba >> 8), (5, lba >> 16), (6, device | lba >> 24)):
            self.outb(register, value & 0xFF)
        self.outb(7, opcode)

    def lba48(self, opcode: int, lba: int, count: int) -> None:
        for register, value in (
            (2, count >> 8),
            (3, lba >> 24),
            (4, lba >> 32),
            (5, lba >> 40),
            (2, count),
            (3, lba),
            (4, lba >> 8),
            (5, lba >> 16),
            (6, 0xE0),
        ):
            self.outb(register, value & 0xFF)
        self.outb(7, opcode)

    def take(self, length: int, width: int = 2) -> bytes:
        read, _ = self.channel.command.direct(0, width)  # as the bus takes it
        return b"".join(read(0, width).to_bytes(width, "little") for _ in range(length // width))

    def give(self, data: bytes, width: int = 2) -> None:
        _, write = self.channel.command.direct(0, width)
        for i in range(0, len(data), width):
            write(0, width, int.from_bytes(data[i : i + width], "little"))

    def identify(self) -> tuple[int, ...]:
        self.outb(7, 0xEC)
        assert self.status() == DRDY_DSC | DRQ
        return struct.unpack("<256H", self.take(512))


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(4096)


@pytest.fixture
def host(disk: MemoryDisk) -> Host:
    return Host(disk)


def test_a_disk_shows_the_ata_signature_after_power_on(host: Host) -> None:
    assert [host.inb(n) for n in range(1, 8)] == [1, 1, 1, 0, 0, 0xA0, DRDY_DSC]


def test_identify_describes_the_disk(host: Host) -> None:
    words = host.identify()
    assert words[0] == 0x0040
    assert (words[1], words[3], words[6]) == (4, 16, 63)
    assert (words[54], words[55], words[56]) == (4, 16, 63)
    assert words[57] | words[58] << 16 == 4 * 16 * 63
    assert words[60] | words[61] << 16 == 4096
    assert words[100] | words[101] << 16 | words[102] << 32 == 4096
    assert words[27] == ord("A") << 8 | ord(" ")
    assert struct.pack(">20H", *words[27:47]) == b"A disk".ljust(40)
    assert struct.pack(">10H", *words[10:20]) == b"S1".ljust(20)
    assert struct.pack(">4H", *words[23:27]) == b"F1".ljust(8)
    assert words[47] & 0xFF == 16
    assert words[49] & 1 << 9
    assert not words[49] & 1 << 8
    assert words[63] == words[88] == 0
    assert words[83] & 0xC000 == 0x4000
    assert words[83] & 1 << 10
    assert host.status() == DRDY_DSC


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize(
    ("opcode", "long", "block"),
    [
        (READ, False, 1),
        (READ_EXT, True, 1),
        (READ_MULTIPLE, False, 16),
        (READ_MULTIPLE_EXT, True, 16),
    ],
)
def test_sectors_are_read_block_by_block(
    host: Host, disk: MemoryDisk, width: int, opcode: int, long: bool, block: int
) -> None:
    (host.lba48 if long else host.lba28)(opcode, 300, 200)
    left, got = 200, b""
    while left:
        sectors = min(block, left)
        assert host.line.level
        assert host.inb(7) == DRDY_DSC | DRQ
        assert not host.line.level
        got += host.take(sectors * 512, width)
        left -= sectors
    assert host.inb(7) == DRDY_DSC
    assert not host.line.level
    assert got == disk.data[300 * 512 : 500 * 512]
    assert disk.calls == 2  # 128 sectors, then 72
    assert host.channel.costs.bytes_copied == 200 * 512
    assert host.channel.costs.requests == 1
    assert host.take(4) == bytes(4)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize(
    ("opcode", "long", "block"),
    [
        (WRITE, False, 1),
        (WRITE_EXT, True, 1),
        (WRITE_MULTIPLE, False, 16),
        (WRITE_MULTIPLE_EXT, True, 16),
    ],
)
def test_each_written_block_is_on_the_medium_when_its_interrupt_comes(
    host: Host, disk: MemoryDisk, width: int, opcode: int, long: bool, block: int
) -> None:
    (host.lba48 if long else host.lba28)(opcode, 7, 20)
    assert not host.line.level
    data = bytes(range(256)) * 40
    done = 0
    while done < 20:
        sectors = min(block, 20 - done)
        assert host.status() == DRDY_DSC | DRQ
        host.give(data[done * 512 : (done + sectors) * 512], width)
        done += sectors
        assert host.line.level
        assert disk.data[7 * 512 : (7 + done) * 512] == data[: done * 512]
        host.inb(7)
    assert host.status() == DRDY_DSC
    assert host.channel.costs.bytes_copied == 20 * 512


def test_a_count_of_zero_means_the_largest(host: Host) -> None:
    host.lba28(READ, 0, 0)
    host.take(256 * 512)
    assert host.status() == DRDY_DSC
    for sectors, status in ((65535, DRDY_DSC | ERR), (65536, DRDY_DSC)):
        host = Host(MemoryDisk(sectors))
        host.lba48(0x42, 0, 0)
        assert host.status() == status


def test_cylinder_head_sector_reach_the_same_sectors(host: Host) -> None:
    for register, value in ((2, 1), (3, 5), (4, 2), (5, 0), (6, 0xA3)):
        host.outb(register, value)
    host.outb(7, READ)
    assert host.take(512)[:4] == struct.pack("<I", (2 * 16 + 3) * 63 + 4)
    host.outb(2, 10)
    host.outb(6, 0xA1)  # two heads of ten sectors
    host.outb(7, 0x91)
    for register, value in ((2, 1), (3, 10), (4, 3), (5, 0), (6, 0xA1)):
        host.outb(register, value)
    host.outb(7, READ)
    assert host.take(512)[:4] == struct.pack("<I", (3 * 2 + 1) * 10 + 9)
    words = host.identify()
    assert (words[54], words[55], words[56]) == (4096 // 20, 2, 10)


@pytest.mark.parametrize(("lba", "count"), [(4096, 1), (4095, 2), (0xFFFFFFF, 1)])
def test_beyond_the_end_nothing_is_found(host: Host, lba: int, count: int) -> None:
    for opcode in (READ, WRITE, READ_MULTIPLE, WRITE_MULTIPLE, 0x40):
        host.lba28(opcode, lba, count)
        assert host.status() == DRDY_DSC | ERR
        assert host.inb(1) == 0x10
        assert host.line.level


def test_sector_zero_of_a_track_does_not_exist(host: Host) -> None:
    host.lba28(READ, 0, 1, device=0xA0)
    assert (host.status(), host.inb(1)) == (DRDY_DSC | ERR, 0x10)


def test_a_bad_sector_is_named_after_the_good_ones(host: Host, disk: MemoryDisk) -> None:
    disk.bad = {103}
    host.lba28(READ, 100, 8)
    assert host.take(3 * 512) == disk.data[100 * 512 : 103 * 512]
    assert (host.status(), host.inb(1)) == (DRDY_DSC | ERR, 0x40)
    assert (host.inb(3), host.inb(4), host.inb(5), host.inb(6)) == (103, 0, 0, 0xE0)
    host.lba28(0x40, 0, 0)
    assert (host.status(), host.inb(1), host.inb(3)) == (DRDY_DSC | ERR, 0x40, 103)


def test_a_bad_sector_beyond_16_mi_is_named_in_48_bits() -> None:
    disk = MemoryDisk(16)
    disk.size = 1 << 40  # claims more than it has; only addresses matter here
    disk.bad = {0x1234567}
    host = Host(disk)
    host.lba48(READ_EXT, 0x1234567, 1)
    assert host.inb(1) == 0x40
    assert [host.inb(n) for n in (3, 4, 5)] == [0x67, 0x45, 0x23]
    host.control(0x80)
    assert [host.inb(n) for n in (3, 4, 5)] == [0x01, 0, 0]


def test_a_failed_write_is_a_device_fault(host: Host, disk: MemoryDisk) -> None:
    disk.bad = {11}
    host.lba28(WRITE, 10, 3)
    host.give(bytes(512))
    host.give(bytes(512))
    assert host.status() == DRDY_DSC | ERR | DF
    assert (host.inb(1), host.inb(3)) == (0x04, 11)
    host.outb(7, 0xE7)
    assert host.status() == DRDY_DSC | ERR | DF


def test_a_read_only_disk_aborts_writes(host: Host, disk: MemoryDisk) -> None:
    disk.read_only = True
    host.lba28(WRITE, 0, 1)
    assert (host.status(), host.inb(1)) == (DRDY_DSC | ERR, 0x04)


def test_flush_reaches_the_medium_and_so_does_each_write_without_cache(host: Host, disk: MemoryDisk) -> None:
    host.outb(7, 0xE7)
    host.outb(7, 0xEA)
    assert disk.flushes == 2
    host.outb(1, 0x82)
    host.outb(7, 0xEF)
    assert not host.identify()[85] & 1 << 5
    host.lba28(WRITE, 0, 2)
    host.give(bytes(1024))
    assert disk.flushes == 4


def test_the_second_write_of_a_register_keeps_the_first_under_hob(host: Host) -> None:
    host.outb(3, 0x11)
    host.outb(3, 0x22)
    assert host.inb(3) == 0x22
    host.control(0x80)
    assert host.inb(3) == 0x11
    host.outb(4, 0)
    assert host.inb(3) == 0x22


def test_the_disabled_interrupt_is_kept_and_shown_later(host: Host) -> None:
    host.control(0x02)
    host.outb(7, 0xE7)
    assert not host.line.level
    host.control(0x00)
    assert host.line.level
    host.inb(7)
    assert not host.line.level


def test_a_command_ends_the_interrupt_before_it(host: Host) -> None:
    host.outb(7, 0xE7)
    host.outb(7, 0xE7)
    assert host.line.levels == [True, False, True]


def test_software_reset_ends_a_transfer_and_shows_the_signature(host: Host) -> None:
    host.lba28(WRITE, 5, 1)
    host.give(bytes(100))
    host.control(0x04)
    assert host.status() == BSY
    host.outb(7, 0xEC)
    assert host.status() == BSY
    host.control(0x00)
    assert [host.inb(n) for n in range(1, 8)] == [1, 1, 1, 0, 0, 0xA0, DRDY_DSC]
    assert host.take(2) == bytes(2)


def test_multiple_mode_takes_powers_of_two(host: Host) -> None:
    for count, status in ((8, DRDY_DSC), (3, DRDY_DSC | ERR), (32, DRDY_DSC | ERR), (0, DRDY_DSC)):
        host.outb(2, count)
        host.outb(7, 0xC6)
        assert host.status() == status
    host.lba28(READ_MULTIPLE, 0, 1)
    assert (host.status(), host.inb(1)) == (DRDY_DSC | ERR, 0x04)


@pytest.mark.parametrize("opcode", [0x00, 0x08, 0xA1, 0xB0, 0xC8, 0xFF])
def test_unknown_commands_are_aborted_with_an_interrupt(host: Host, opcode: int) -> None:
    host.outb(7, opcode)
    assert (host.status(), host.inb(1)) == (DRDY_DSC | ERR, 0x04)
    assert host.line.level


def test_small_commands_answer(host: Host) -> None:
    for opcode in (0x10, 0x70, 0x95, 0xE0, 0xE1, 0xE3, 0x40):
        host.lba28(opcode, 1, 1)
        assert host.status() == DRDY_DSC
    host.outb(7, 0xE5)
    assert host.inb(2) == 0xFF
    host.lba28(0xF8, 0, 0)
    assert (host.inb(3), host.inb(4)) == (0xFF, 0x0F)
    host.outb(7, 0x90)
    assert [host.inb(n) for n in range(1, 8)] == [1, 1, 1, 0, 0, 0xA0, DRDY_DSC]


def test_a_command_during_a_transfer_is_ignored(host: Host, disk: MemoryDisk) -> None:
    host.lba28(READ, 9, 1)
    host.outb(7, 0xEC)
    assert host.take(512) == disk.data[9 * 512 : 10 * 512]


def test_an_empty_cable_reads_zero() -> None:
    host = Host()
    host.outb(2, 0x55)
    host.outb(7, 0xEC)
    assert [host.inb(n) for n in range(8)] == [0] * 8
    assert host.status() == 0
    assert not any(host.line.levels)


def test_an_absent_slave_has_no_signature(host: Host) -> None:
    host.outb(7, 0x90)  # EXECUTE DEVICE DIAGNOSTIC
    assert [host.inb(n) for n in range(2, 6)] == [1, 1, 0, 0]
    host.outb(6, 0xB0)
    assert [host.inb(n) for n in range(2, 6)] == [1, 1, 0xFF, 0xFF]


def test_an_absent_slave_has_no_status_and_takes_no_command(host: Host) -> None:
    host.outb(6, 0xB0)
    assert (host.inb(7), host.inb(1), host.inb(6)) == (0, 0, 0xB0)
    host.outb(7, 0xEC)
    assert (host.inb(7), host.take(2)) == (0, bytes(2))
    host.outb(6, 0xA0)
    assert host.inb(7) == DRDY_DSC


def test_two_disks_keep_their_own_transfers(disk: MemoryDisk) -> None:
    other = MemoryDisk(2048)
    other.data[:] = other.data[::-1]
    host = Host(disk, other)
    host.lba28(READ, 3, 1)
    first = host.take(256)
    host.lba28(READ, 4, 1, device=0xF0)
    assert host.take(512) == other.data[4 * 512 : 5 * 512]
    host.outb(6, 0xE0)
    assert first + host.take(256) == disk.data[3 * 512 : 4 * 512]


def test_a_wide_access_to_byte_registers_is_two_byte_cycles(host: Host) -> None:
    host.channel.command.write(2, 2, 0x3412)
    assert (host.inb(2), host.inb(3)) == (0x12, 0x34)
    assert host.channel.command.read(2, 2) == 0x3412
    with pytest.raises(AccessError):
        host.channel.command.read(6, 4)


def test_register_names_are_the_standards(host: Host) -> None:
    assert host.channel.command.register_name(7, False) == "Status"
    assert host.channel.command.register_name(7, True) == "Command"
    assert host.channel.control.register_name(0, True) == "Device Control"
