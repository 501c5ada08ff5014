"""An ATAPI CD-ROM by its registers, as a driver sees it; data by PIO and by DMA."""

import errno
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from emu.bus.memory import GuestMemory
from emu.devices.atapi import AtapiDrive
from emu.devices.atapi_commands import CdUnit, CheckConditionError
from emu.devices.block.iso import check_iso
from emu.devices.block.raw import RawImage
from emu.devices.ide_seat import CdRom
from emu.devices.piix3_ide import Piix3Ide
from emu.errors import ConfigError, MediumError
from emu.testing.lines import RecordingLine

BLOCKS = 300
TABLE, BUFFER = 0x1000, 0x10_0000
READY, DRQ, ERR, BSY = 0x50, 0x08, 0x01, 0x80
COD, IO = 1, 2
SIGNATURE = [1, 1, 0x14, 0xEB, 0xA0]


class Scratched(RawImage):
    """A disc with one unreadable block."""

    bad = -1

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        if 0 <= self.bad * 2048 - offset < sum(map(len, buffers)):
            raise MediumError("scratch", errno.EIO)
        super().readv(offset, buffers)


class Host:
    """A driver of the drive as secondary master."""

    def __init__(self, disc: RawImage | None) -> None:
        self.memory = GuestMemory(4 << 20)
        self.line = RecordingLine()
        self.ide = Piix3Ide(self.memory, [RecordingLine(), self.line], [None, None, CdRom(disc), None])
        self.channel, self.master = self.ide.channels[1], self.ide.masters[1]
        self.master.enable(True)
        drive = self.channel.drives[0]
        assert isinstance(drive, AtapiDrive)
        self.drive = drive

    def inb(self, register: int) -> int:
        return self.channel.command.read(register, 1)

    def outb(self, register: int, value: int) -> None:
        self.channel.command.write(register, 1, value)

    def status(self) -> int:
        return self.channel.control.read(0, 1)

    def words(self, count: int) -> bytes:
        read, _ = self.channel.command.direct(0, 2)
        return b"".join(read(0, 2).to_bytes(2, "little") for _ in range(count))

    def send(self, packet: bytes, limit: int = 0xFFFE, features: int = 0) -> None:
        """PACKET, up to the packet's last word."""
        for register, value in ((1, features), (4, limit & 0xFF), (5, limit >> 8), (6, 0xA0), (7, 0xA0)):
            self.outb(register, value)
        assert self.status() == READY | DRQ
        assert self.inb(2) == COD
        assert not self.line.level
        _, write = self.channel.command.direct(0, 2)
        for word in struct.unpack("<6H", packet.ljust(12, b"\0")):
            write(0, 2, word)

    def take(self) -> bytes:
        """The data of a packet, block by block, until the command has ended."""
        data = b""
        while self.inb(7) & DRQ:
            assert self.inb(2) == IO
            size = self.inb(4) | self.inb(5) << 8
            data += self.words((size + 1) // 2)[:size]
            assert self.line.level
        assert self.inb(2) == IO | COD
        return data

    def packet(self, *head: int, limit: int = 0xFFFE) -> bytes:
        self.send(bytes(head), limit)
        assert self.line.level
        return self.take()

    def sense(self) -> tuple[int, int, int]:
        data = self.packet(0x03, 0, 0, 0, 18)
        assert (len(data), data[0], data[7]) == (18, 0x70, 10)
        return data[2], data[12], data[13]

    def refused(self, *head: int) -> tuple[int, int, int]:
        """Why a packet fails."""
        assert self.packet(*head) == b""
        assert self.status() == READY | ERR
        key = self.inb(1) >> 4
        found = self.sense()
        assert found[0] == key
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disc.iso"
    path.write_bytes(random.Random(3).randbytes(BLOCKS * 2048))
    return path


@pytest.fixture
def host(path: Path) -> Iterator[Host]:
    disc = Scratched(path, read_only=True)
    host = Host(disc)
    yield host
    host.memory.close()
    disc.close()


def read_10(lba: int, count: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, count, 0)


def read_12(lba: int, count: int) -> bytes:
    return struct.pack(">BBIIBB", 0xA8, 0, lba, count, 0, 0)


def test_the_signature_says_packet_device(host: Host) -> None:
    assert [host.inb(n) for n in range(2, 7)] == SIGNATURE
    assert (host.status(), host.inb(1)) == (0, 1)


@pytest.mark.parametrize("opcode", [0xEC, 0x20])
def test_a_disks_command_is_aborted_with_the_signature(host: Host, opcode: int) -> None:
    for register in range(2, 6):
        host.outb(register, 0x55)
    host.outb(7, opcode)
    assert (host.status(), host.inb(1)) == (READY | ERR, 0x04)
    assert host.line.level
    assert [host.inb(n) for n in range(2, 7)] == SIGNATURE


def test_device_reset_works_in_the_middle_of_a_transfer(host: Host) -> None:
    host.send(read_10(0, 4), limit=2048)
    assert host.status() == READY | DRQ
    host.outb(7, 0x08)
    assert (host.status(), host.line.level) == (0, False)
    assert [host.inb(n) for n in range(2, 7)] == SIGNATURE
    assert host.words(1) == bytes(2)
    assert host.packet(*read_10(1, 1)) != b""


def test_identify_packet_device_describes_the_drive(host: Host) -> None:
    host.outb(7, 0xA1)
    assert host.inb(7) == READY | DRQ
    words = struct.unpack("<256H", host.words(256))
    assert host.status() == READY
    assert words[0] == 0x85C0
    assert struct.pack(">20H", *words[27:47]) == b"EMU DVD-ROM".ljust(40)
    assert words[49] & 0x0300 == 0x0300
    assert (words[63], words[88]) == (0x0007, 0x203F)
    host.outb(1, 0x03)
    host.outb(2, 0x22)
    host.outb(7, 0xEF)
    host.outb(7, 0xA1)
    words = struct.unpack("<256H", host.words(256))
    assert (words[63], words[88]) == (0x0407, 0x003F)


def test_inquiry_and_its_allocation_length(host: Host) -> None:
    answer = host.packet(0x12, 0, 0, 0, 36)
    assert answer[:5] == bytes((0x05, 0x80, 0x00, 0x21, 31))
    assert answer[8:] == b"EMU     EMU DVD-ROM     1.0 "
    assert host.packet(0x12, 0, 0, 0, 5) == answer[:5]
    assert host.packet(0x12, 0, 0, 0, 0) == b""
    assert host.status() == READY
    assert host.packet(0x12, 0, 0, 0, 255) == answer
    assert host.refused(0x12, 1, 0x80, 0, 255) == (5, 0x24, 0)


@pytest.mark.parametrize("limit", [0xFFFF, 0xFFFE, 0x8000, 4096, 2048, 2050, 3000, 512, 2049, 2])
@pytest.mark.parametrize("lba", [0, 7])
def test_blocks_arrive_in_pieces_of_the_byte_count_limit(
    host: Host, path: Path, limit: int, lba: int
) -> None:
    count = 3 if limit < 512 else 100
    host.send(read_10(lba, count), limit)
    assert host.line.level
    size = host.inb(4) | host.inb(5) << 8
    assert size == min(count * 2048, limit & ~1)
    assert host.take() == path.read_bytes()[lba * 2048 : (lba + count) * 2048]
    assert host.channel.costs.requests == 1
    assert host.channel.costs.bytes_copied == count * 2048 + 12


def test_read_12_reaches_the_last_block_and_not_beyond(host: Host, path: Path) -> None:
    assert host.packet(*read_12(BLOCKS - 1, 1)) == path.read_bytes()[-2048:]
    assert host.packet(*read_12(0, BLOCKS)) == path.read_bytes()
    assert host.packet(*read_12(BLOCKS, 0)) == b""
    assert host.status() == READY
    for packet in (
        read_12(BLOCKS, 1),
        read_12(0, BLOCKS + 1),
        read_10(0xFFFF_FFFF, 1),
        read_12(1, 2**32 - 1),
    ):
        assert host.refused(*packet) == (5, 0x21, 0)
    assert host.refused(0x2B, 0, 0, 0, BLOCKS >> 8, BLOCKS & 0xFF) == (5, 0x21, 0)
    assert host.packet(0x2B, 0, 0, 0, 0, 5) == b""


@pytest.mark.parametrize("limit", [0, 1])
def test_a_byte_count_limit_without_room_aborts(host: Host, limit: int) -> None:
    host.send(read_10(0, 1), limit)
    assert (host.status(), host.inb(1)) == (READY | ERR, 0x04)
    host.send(bytes(12), limit)  # TEST UNIT READY has no data
    assert host.status() == READY


@pytest.mark.parametrize("sizes", [[4096], [2048, 2048], [1000, 3096], [8192]])
def test_blocks_arrive_by_dma(host: Host, path: Path, sizes: list[int]) -> None:
    entries = b"".join(struct.pack("<II", BUFFER + 0x4000 * i, size) for i, size in enumerate(sizes))
    host.memory.view(TABLE, len(entries))[:] = entries[:-1] + b"\x80"
    host.master.write(4, 4, TABLE)
    host.send(read_10(9, 2), features=1)
    assert (host.status(), host.line.level) == (READY | DRQ, False)
    host.master.write(0, 1, 0x09)
    assert (host.status(), host.line.level) == (READY, True)
    assert host.inb(2) == IO | COD
    assert host.master.read(2, 1) == (0x05 if sum(sizes) > 4096 else 0x04)
    data = b"".join(bytes(host.memory.view(BUFFER + 0x4000 * i, size)) for i, size in enumerate(sizes))
    assert data[:4096] == path.read_bytes()[9 * 2048 : 11 * 2048]


def test_short_answers_arrive_by_dma_too(host: Host) -> None:
    host.memory.view(BUFFER, 64)[:] = b"\xee" * 64
    host.memory.view(TABLE, 8)[:] = struct.pack("<II", BUFFER, 1 << 31 | 64)
    host.master.write(4, 4, TABLE)
    host.send(bytes((0x12, 0, 0, 0, 5)), features=1)
    host.master.write(0, 1, 0x09)
    assert bytes(host.memory.view(BUFFER, 8)) == bytes((0x05, 0x80, 0x00, 0x21, 31, 0)) + b"\xee\xee"
    assert host.master.read(2, 1) == 0x05


def test_dma_without_memory_or_room_is_an_error(host: Host) -> None:
    for address, size, status, error in ((0xF000_0000, 2048, READY | ERR, 4), (BUFFER, 1024, READY, 0)):
        host.memory.view(TABLE, 8)[:] = struct.pack("<II", address, 1 << 31 | size)
        host.master.write(4, 4, TABLE)
        host.send(read_10(0, 1), features=1)
        host.master.write(0, 1, 0x09)
        assert (host.status(), host.inb(1)) == (status, error)
        host.master.write(0, 1, 0)
        host.inb(7)


def test_overlapped_packets_are_not_offered(host: Host) -> None:
    host.outb(1, 0x02)
    host.outb(7, 0xA0)
    assert (host.status(), host.inb(1)) == (READY | ERR, 0x04)


@pytest.mark.parametrize("features", [0, 1])
def test_an_unreadable_block_is_a_medium_error(path: Path, features: int) -> None:
    disc = Scratched(path, read_only=True)
    host = Host(disc)
    disc.bad = 5
    host.memory.view(TABLE, 8)[:] = struct.pack("<II", BUFFER, 1 << 31)
    host.master.write(4, 4, TABLE)
    host.master.write(0, 1, 0x09)
    host.send(read_10(4, 3), limit=2048, features=features)
    if not features:  # the block before it still passes
        assert host.take() == path.read_bytes()[4 * 2048 : 5 * 2048]
    assert (host.status(), host.inb(1)) == (READY | ERR, 0x30)
    assert host.line.levels.count(True) == 2 - features  # a block, the end
    assert host.sense() == (3, 0x11, 0)
    assert host.sense() == (0, 0, 0)


def test_capacity_and_table_of_contents(host: Host) -> None:
    assert host.packet(0x25) == struct.pack(">II", BLOCKS - 1, 2048)
    first, last = bytes((0, 0x14, 1, 0)), bytes((0, 0x14, 0xAA, 0))
    toc = host.packet(0x43, 0, 0, 0, 0, 0, 0, 0x10, 0)
    assert toc == struct.pack(">HBB4sI4sI", 18, 1, 1, first, 0, last, BLOCKS)
    toc = host.packet(0x43, 2, 0, 0, 0, 0, 0, 0x10, 0)
    assert toc == struct.pack(">HBB4sI4sI", 18, 1, 1, first, 0x0000_0200, last, 0x0000_0600)
    assert host.packet(0x43, 0, 0, 0, 0, 0, 0xAA, 0, 99) == struct.pack(">HBB4sI", 10, 1, 1, last, BLOCKS)
    for head in ((0x43, 0, 1, 0, 0, 0, 0, 0, 12), (0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40)):
        assert host.packet(*head) == struct.pack(">HBB4sI", 10, 1, 1, first, 0)
    assert host.packet(0x43, 0, 0, 0, 0, 0, 0, 0, 4) == bytes((0, 18, 1, 1))
    assert host.refused(0x43, 0, 0, 0, 0, 0, 2, 0, 12) == (5, 0x24, 0)
    assert host.refused(0x43, 0, 4, 0, 0, 0, 0, 0, 12) == (5, 0x24, 0)


def test_mode_pages(host: Host) -> None:
    page = host.packet(0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 128)
    assert (len(page), page[:2], page[2], page[8:10]) == (28, struct.pack(">H", 26), 0x01, b"\x2a\x12")
    assert page[14] == 0x29
    host.packet(0x1E, 0, 0, 0, 1)
    assert host.packet(0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 128)[14] == 0x2B
    every = host.packet(0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 128)
    assert (len(every), every[8:10], every[16:18]) == (36, b"\x01\x06", b"\x2a\x12")
    assert host.packet(0x5A, 0, 0x6A, 0, 0, 0, 0, 0, 128)[10:] == bytes(18)  # nothing is changeable
    assert host.refused(0x5A, 0, 0x0D, 0, 0, 0, 0, 0, 128) == (5, 0x24, 0)
    assert host.refused(0x5A, 0, 0xEA, 0, 0, 0, 0, 0, 128) == (5, 0x39, 0)


def features_of(data: bytes) -> dict[int, tuple[int, bytes]]:
    """Feature number to (flags, data)."""
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    found, at = {}, 8
    while at < len(data):
        number, flags, length = struct.unpack_from(">HBB", data, at)
        found[number] = flags, data[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def test_configuration_lists_features_of_the_drive_and_of_the_disc(host: Host) -> None:
    data = host.packet(0x46, 0, 0, 0, 0, 0, 0, 1, 0)
    features = features_of(data)
    assert data[6:8] == b"\x00\x08"  # a CD-ROM is in
    assert features[0][1] == bytes.fromhex("00100000 00080100")
    assert features[1][1][:4] == bytes((0, 0, 0, 2))
    assert [number for number, (flags, _) in features.items() if flags & 1] == [0, 1, 3, 0x10, 0x1E]
    assert 0x1F not in features_of(host.packet(0x46, 1, 0, 0, 0, 0, 0, 1, 0))
    assert list(features_of(host.packet(0x46, 2, 0, 0x10, 0, 0, 0, 1, 0))) == [0x10]
    assert list(features_of(host.packet(0x46, 0, 0, 0x1E, 0, 0, 0, 1, 0))) == [0x1E, 0x1F]
    assert host.packet(0x46, 0, 0, 0, 0, 0, 0, 0, 8) == data[:8]
    assert host.refused(0x46, 3, 0, 0, 0, 0, 0, 1, 0) == (5, 0x24, 0)
    host.drive.change_medium(None)
    assert host.packet(0x46, 0, 0, 0, 0, 0, 0, 0, 8)[6:] == bytes(2)


def test_a_large_disc_is_a_dvd(tmp_path: Path) -> None:
    path = tmp_path / "dvd.iso"
    with path.open("wb") as file:
        file.truncate(4 << 30)
    host = Host(RawImage(path, read_only=True))
    assert host.packet(0x46, 0, 0, 0, 0, 0, 0, 0, 8)[6:] == b"\x00\x10"
    assert host.packet(0x25) == struct.pack(">II", (2 << 20) - 1, 2048)
    assert host.packet(0x43, 2, 0, 0, 0, 0, 0xAA, 0, 12)[8:] == bytes((0, 255, 4, 2))


def test_media_events_and_the_tray(host: Host) -> None:
    poll = (0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8)
    assert host.packet(*poll) == bytes((0, 6, 4, 0x10, 0, 2, 0, 0))
    assert host.packet(0x4A, 1, 0, 0, 0x40, 0, 0, 0, 8) == bytes((0, 2, 0x80, 0x10))
    assert host.refused(0x4A, 0, 0, 0, 0x10, 0, 0, 0, 8) == (5, 0x24, 0)
    host.packet(0x1E, 0, 0, 0, 1)
    assert host.refused(0x1B, 0, 0, 0, 2) == (5, 0x53, 2)
    host.packet(0x1E, 0, 0, 0, 0)
    assert host.packet(0x1B, 0, 0, 0, 1) == b""  # spin up
    host.packet(0x1B, 0, 0, 0, 2)
    assert host.packet(*poll) == bytes((0, 6, 4, 0x10, 3, 3, 0, 0))
    assert host.packet(*poll) == bytes((0, 6, 4, 0x10, 0, 3, 0, 0))
    assert host.refused(0x00) == (2, 0x3A, 2)
    assert host.packet(0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8) == bytes((0, 0x10, 0, 0, 0, 1, 0, 0))
    host.packet(0x1B, 0, 0, 0, 3)
    assert host.packet(*poll) == bytes((0, 6, 4, 0x10, 2, 2, 0, 0))
    assert host.packet(0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8) == bytes((0, 0, 0, 0, 0, 1, 0, 0))
    assert host.refused(0x00)[0] == 6
    assert host.packet(0x00) == b""
    assert host.status() == READY


def test_another_disc_is_announced_once(host: Host, tmp_path: Path) -> None:
    other = tmp_path / "other.iso"
    other.write_bytes(b"\x5a" * 4096)
    host.drive.change_medium(RawImage(other, read_only=True))
    assert len(host.packet(0x12, 0, 0, 0, 36)) == 36  # may be asked for before
    assert host.refused(*read_10(0, 1)) == (6, 0x28, 0)
    assert host.packet(*read_10(0, 2)) == b"\x5a" * 4096
    host.drive.change_medium(RawImage(other, read_only=True))
    assert host.sense() == (6, 0x28, 0)
    assert host.packet(0x00) == b""
    assert host.status() == READY


def test_taking_the_disc_out_ends_a_read_under_way(host: Host) -> None:
    host.send(read_10(0, BLOCKS), limit=0x8000)
    host.drive.change_medium(None)
    assert len(host.take()) == 64 * 2048  # what had been read
    assert (host.status(), host.inb(1)) == (READY | ERR, 0x30)


def test_an_empty_tray_is_not_ready() -> None:
    host = Host(None)
    for head in ((0x00,), (0x25,), tuple(read_10(0, 1)), (0x43, 0, 0, 0, 0, 0, 0, 0, 12), (0x51,)):
        assert host.refused(*head) == (2, 0x3A, 1)
    assert host.packet(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8) == bytes((0, 6, 4, 0x10, 0, 0, 0, 0))
    assert host.packet(0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 3)[2] == 0x70


def test_small_commands_answer(host: Host) -> None:
    assert host.packet(0xBB, 0, 0xFF, 0xFF) == b""
    assert host.packet(0x51, 0, 0, 0, 0, 0, 0, 0, 34)[:3] == bytes((0, 32, 0x0E))
    assert host.refused(0x2A) == (5, 0x20, 0)
    for opcode in (0xE0, 0xE1, 0xE2, 0xE3, 0xE6):
        host.outb(7, opcode)
        assert host.inb(7) == READY
    host.outb(7, 0xE5)
    assert host.inb(2) == 0xFF
    host.outb(7, 0xE7)
    assert (host.status(), host.inb(1)) == (READY | ERR, 0x04)


def test_software_reset_ends_a_transfer(host: Host) -> None:
    host.send(read_10(0, 1))
    host.channel.control.write(0, 1, 4)
    assert host.status() == BSY
    host.channel.control.write(0, 1, 0)
    assert [host.inb(n) for n in range(2, 7)] == SIGNATURE
    assert (host.status(), host.line.level) == (0, False)


def test_the_unit_says_why_a_command_fails() -> None:
    unit = CdUnit(None)
    with pytest.raises(CheckConditionError):
        unit.execute(bytes(12))
    assert unit.sense == (2, (0x3A, 1))


def test_a_truncated_iso_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.iso"
    descriptor = bytearray(2048)
    descriptor[:6], descriptor[80:84], descriptor[128:130] = b"\x01CD001", struct.pack("<I", 100), b"\x00\x08"
    path.write_bytes(bytes(32768) + descriptor + bytes(83 * 2048))
    check_iso(path, RawImage(path, read_only=True))
    path.write_bytes(path.read_bytes()[:-2048])
    with pytest.raises(
        ConfigError, match=r"cut\.iso: truncated: the volume has 204800 bytes, the file 202752"
    ):
        check_iso(path, RawImage(path, read_only=True))
    path.write_bytes(bytes(512))
    with pytest.raises(ConfigError, match="512 bytes is no CD-ROM image"):
        check_iso(path, RawImage(path, read_only=True))
    path.write_bytes(bytes(2048))
    check_iso(path, RawImage(path, read_only=True))
