"""virtio-blk requests, each served by the plain and by the fused loop."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.devices.block.raw import RawImage
from emu.devices.virtio.blk import CONFIG, MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, VirtioBlk
from emu.devices.virtio.spec import (
    BLK_F_CONFIG_WCE,
    BLK_F_DISCARD,
    BLK_F_FLUSH,
    BLK_F_MQ,
    BLK_F_RO,
    BLK_S_IOERR,
    BLK_S_OK,
    BLK_S_UNSUPP,
    BLK_T_DISCARD,
    BLK_T_FLUSH,
    BLK_T_GET_ID,
    BLK_T_IN,
    BLK_T_OUT,
    BLK_T_WRITE_ZEROES,
    SECTOR,
)
from emu.errors import ConfigError, DriverError
from emu.testing.driver_queue import DriverQueue

SECTORS = 64
CONTENT = b"".join(bytes((n,)) * SECTOR for n in range(SECTORS))


class Rig:
    """A disk, a ring, and the loop under test."""

    def __init__(self, path: Path, fused: bool, indirect: bool, read_only: bool = False) -> None:
        path.write_bytes(CONTENT)
        self.path = path
        self.medium = RawImage(path, read_only)
        self.disk = VirtioBlk(self.medium, serial="SERIAL-1", fused=fused)
        self.disk.set_features(BLK_F_FLUSH)
        self.driver = DriverQueue(size=16, indirect=True, slot_bytes=32768)
        self.indirect = indirect
        self.queue = self.driver.device_side()
        self.drain: Callable[[int], int] = self.disk.drain(0, self.queue)

    def ask(self, *parts: bytes | int) -> tuple[int, bytes, int]:
        """Serve one request; return status, the data and the used length."""
        head = self.driver.add(*parts, indirect=self.indirect)
        assert self.drain(256) == 1
        ((answered, written),) = self.driver.used()
        assert answered == head
        data = self.driver.written(head)
        return data[-1], data[:-1], written

    def read(self, sector: int, *sizes: int) -> tuple[int, bytes, int]:
        return self.ask(header(BLK_T_IN, sector), *sizes, 1)

    def write(self, sector: int, *data: bytes) -> tuple[int, bytes, int]:
        return self.ask(header(BLK_T_OUT, sector), *data, 1)


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


@pytest.fixture(params=["plain", "fused", "plain indirect", "fused indirect"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "disk", "fused" in request.param, "indirect" in request.param)
    yield made
    made.medium.close()


def test_a_read_brings_the_sectors(rig: Rig) -> None:
    assert rig.read(3, 1024) == (BLK_S_OK, CONTENT[1536:2560], 1025)


def test_a_read_scatters_over_its_buffers(rig: Rig) -> None:
    assert rig.read(1, 512, 1, 511, 1024) == (BLK_S_OK, CONTENT[512:2560], 2049)


def test_a_write_gathers_from_its_buffers(rig: Rig) -> None:
    assert rig.write(2, b"a" * 100, b"b" * 412, b"c" * 512) == (BLK_S_OK, b"", 1)
    expected = CONTENT[:1024] + b"a" * 100 + b"b" * 412 + b"c" * 512 + CONTENT[2048:]
    assert rig.path.read_bytes() == expected


@pytest.mark.parametrize("cut", [1, 15, 16])
def test_the_header_may_be_cut_anywhere(rig: Rig, cut: int) -> None:
    whole = header(BLK_T_OUT, 1) + b"z" * 512
    assert rig.ask(whole[:cut], whole[cut:], 1)[0] == BLK_S_OK
    assert rig.path.read_bytes()[512:1024] == b"z" * 512


def test_status_may_share_the_data_buffer(rig: Rig) -> None:
    assert rig.ask(header(BLK_T_IN, 5), 513) == (BLK_S_OK, CONTENT[5 * 512 : 6 * 512], 513)


def test_many_requests_are_served_in_one_drain(rig: Rig) -> None:
    heads = [rig.driver.add(header(BLK_T_IN, n), 512, 1, indirect=True) for n in range(10)]
    assert rig.drain(4) == 4
    assert rig.drain(256) == 6
    assert rig.driver.used() == [(head, 513) for head in heads]
    for n, head in enumerate(heads):
        assert rig.driver.written(head) == bytes((n,)) * 512 + b"\0"


@pytest.mark.parametrize("sector", [SECTORS, SECTORS - 1, 1 << 55, (1 << 64) - 1])
def test_sectors_beyond_the_end_are_an_error(rig: Rig, sector: int) -> None:
    assert rig.read(sector, 1024) == (BLK_S_IOERR, bytes(1024), 0)
    assert rig.write(sector, b"x" * 1024)[0] == BLK_S_IOERR
    assert rig.path.read_bytes() == CONTENT


def test_part_of_a_sector_is_an_error(rig: Rig) -> None:
    assert rig.read(0, 100)[0] == BLK_S_IOERR
    assert rig.write(0, b"x" * 100)[0] == BLK_S_IOERR


def test_a_request_without_data_is_done_at_once(rig: Rig) -> None:
    assert rig.ask(header(BLK_T_IN), 1) == (BLK_S_OK, b"", 1)
    assert rig.ask(header(BLK_T_OUT), 1) == (BLK_S_OK, b"", 1)


def test_an_unknown_type_is_unsupported(rig: Rig) -> None:
    assert rig.ask(header(99), 1)[0] == BLK_S_UNSUPP
    assert rig.ask(header(0xFFFF_FFFF), 512, 1)[0] == BLK_S_UNSUPP


def test_the_identity_is_the_serial_number(rig: Rig) -> None:
    assert rig.ask(header(BLK_T_GET_ID), 20, 1) == (BLK_S_OK, b"SERIAL-1".ljust(20, b"\0"), 21)
    assert rig.ask(header(BLK_T_GET_ID), 4, 1) == (BLK_S_OK, b"SERI", 5)
    assert rig.ask(header(BLK_T_GET_ID), 32, 1)[:2] == (BLK_S_OK, b"SERIAL-1".ljust(32, b"\0"))


def test_flush_reaches_the_medium(rig: Rig) -> None:
    before = rig.medium.costs.syscalls
    assert rig.ask(header(BLK_T_FLUSH), 1) == (BLK_S_OK, b"", 1)
    assert rig.medium.costs.syscalls == before + 1


@pytest.mark.parametrize("features", [0, BLK_F_FLUSH | BLK_F_CONFIG_WCE])
def test_writes_are_flushed_when_the_driver_cannot_or_switched_the_cache_off(rig: Rig, features: int) -> None:
    rig.disk.set_features(features)
    rig.disk.write_config(32, b"\0")
    before = rig.medium.costs.syscalls
    assert rig.write(0, b"x" * 512)[0] == BLK_S_OK
    assert rig.medium.costs.syscalls == before + 2


def test_write_zeroes_and_discard(rig: Rig) -> None:
    assert rig.ask(header(BLK_T_WRITE_ZEROES), struct.pack("<QII", 4, 2, 1), 1)[0] == BLK_S_OK
    assert rig.path.read_bytes() == CONTENT[:2048] + bytes(1024) + CONTENT[3072:]
    two = struct.pack("<QIIQII", 10, 1, 0, 12, 1, 0)
    assert rig.ask(header(BLK_T_DISCARD), two, 1) == (BLK_S_OK, b"", 1)


@pytest.mark.parametrize(
    ("kind", "segment", "status"),
    [
        (BLK_T_DISCARD, (0, 1, 1), BLK_S_UNSUPP),  # unmap says nothing here
        (BLK_T_DISCARD, (0, 1, 2), BLK_S_UNSUPP),
        (BLK_T_WRITE_ZEROES, (0, 1, 2), BLK_S_UNSUPP),
        (BLK_T_DISCARD, (SECTORS, 1, 0), BLK_S_IOERR),
        (BLK_T_WRITE_ZEROES, ((1 << 64) - 1, 2, 0), BLK_S_IOERR),
        (BLK_T_DISCARD, (0, MAX_DISCARD_SECTORS + 1, 0), BLK_S_IOERR),
        (BLK_T_WRITE_ZEROES, (0, MAX_WRITE_ZEROES_SECTORS + 1, 0), BLK_S_IOERR),
    ],
)
def test_a_bad_segment_refuses_the_request(
    rig: Rig, kind: int, segment: tuple[int, int, int], status: int
) -> None:
    assert rig.ask(header(kind), struct.pack("<QII", *segment), 1)[0] == status
    assert rig.path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [0, 8, 32, 16 * 65])
def test_segments_are_whole_and_not_too_many(rig: Rig, size: int) -> None:
    parts = [bytes(size)] if size else []
    assert rig.ask(header(BLK_T_WRITE_ZEROES), *parts, 1)[0] == BLK_S_IOERR


def test_a_failing_medium_is_an_error_status(rig: Rig) -> None:
    rig.path.write_bytes(CONTENT[:512])  # somebody cut the file
    assert rig.read(4, 512) == (BLK_S_IOERR, bytes(512), 0)
    assert rig.read(0, 512)[0] == BLK_S_OK


@pytest.mark.parametrize("parts", [(b"short", 1), (header(BLK_T_IN),), (600,)])
def test_what_is_no_request_is_the_drivers_fault(rig: Rig, parts: tuple[bytes | int, ...]) -> None:
    rig.driver.add(*parts, indirect=rig.indirect)
    with pytest.raises(DriverError, match="virtio-blk request of"):
        rig.drain(256)


@pytest.mark.parametrize("bad", [(4, 0, 9, 0), (4, 100, 3, 0)])
def test_a_broken_chain_is_the_drivers_fault_in_both_loops(rig: Rig, bad: tuple[int, int, int, int]) -> None:
    rig.driver.put(0, *bad)
    rig.driver.publish(0)
    with pytest.raises(DriverError):
        rig.drain(256)


def test_an_index_too_far_is_the_drivers_fault_in_both_loops(rig: Rig) -> None:
    rig.driver.set_avail_idx(17)
    with pytest.raises(DriverError, match="avail_idx 17 is 17 ahead, queue size 16"):
        rig.drain(256)


def test_every_byte_the_device_stores_is_reported_first(rig: Rig) -> None:
    reported: list[tuple[int, int, int]] = []
    rig.driver.memory.on_written = lambda gpa, n: reported.append((gpa, n, rig.driver.used_words[1]))
    head = rig.driver.add(header(BLK_T_IN), 512, 512, 1, indirect=rig.indirect)
    rig.drain(1)
    expected = [(gpa, n, 0) for gpa, n, writable in rig.driver.parts[head] if writable]
    assert reported == expected


@pytest.mark.parametrize("fused", [False, True])
def test_a_read_only_disk_refuses_to_change(tmp_path: Path, fused: bool) -> None:
    rig = Rig(tmp_path / "disk", fused, False, read_only=True)
    assert rig.disk.features & (BLK_F_RO | BLK_F_DISCARD) == BLK_F_RO
    assert rig.write(0, b"x" * 512)[0] == BLK_S_IOERR
    assert rig.ask(header(BLK_T_DISCARD), struct.pack("<QII", 0, 1, 0), 1)[0] == BLK_S_IOERR
    assert rig.read(1, 512)[0] == BLK_S_OK
    assert rig.ask(header(BLK_T_FLUSH), 1)[0] == BLK_S_OK
    assert rig.path.read_bytes() == CONTENT


def test_the_configuration_says_what_the_disk_is(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    disk = VirtioBlk(RawImage(path, False), queues=4, queue_size=128)
    assert disk.features & BLK_F_MQ
    data = disk.config(0, 100)
    assert len(data) == 60
    values = CONFIG.unpack(data)
    assert (values[0], values[2], values[6], values[13]) == (SECTORS, 126, 512, 4)
    assert disk.config(20, 4) == struct.pack("<I", 512)
    assert disk.config(58, 4) == b"\0\0"
    disk.write_config(0, b"\xff" * 8)  # read-only
    assert disk.config(0, 8) == struct.pack("<Q", SECTORS)
    disk.write_config(32, b"\x00")
    assert disk.config(32, 1) == b"\0"


def test_impossible_disks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    medium = RawImage(path, True)
    with pytest.raises(ConfigError, match="num-queues=0"):
        VirtioBlk(medium, queues=0)
    with pytest.raises(ConfigError, match="logical_block_size=100"):
        VirtioBlk(medium, block_size=100)
