"""virtio-blk requests, each served by the plain and by the fused loop."""

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from emu.devices.block.raw import RawImage
from emu.devices.virtio.blk import CONFIG, MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, VirtioBlk
from emu.devices.virtio.blk_request import MAX_RUN_BYTES
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
from emu.errors import ConfigError, DriverError, MediumError
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


LONG = (512, 100, 412, 1024, 1, 511, 512, 300, 212, 1024)


def test_a_long_read_scatters_over_its_buffers(rig: Rig) -> None:
    assert rig.read(1, *LONG) == (BLK_S_OK, CONTENT[512 : 512 + sum(LONG)], sum(LONG) + 1)


def test_a_long_write_gathers_from_its_buffers(rig: Rig) -> None:
    data = [bytes((0x80 + n,)) * size for n, size in enumerate(LONG)]
    assert rig.write(2, *data) == (BLK_S_OK, b"", 1)
    assert rig.path.read_bytes() == CONTENT[:1024] + b"".join(data) + CONTENT[1024 + sum(LONG) :]


@pytest.mark.parametrize("kind", [BLK_T_IN, BLK_T_OUT])
@pytest.mark.parametrize("place", [0, 1, 5, 10, 11])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("gpa", gpa) for gpa in (1 << 40, 2**64 - 4, 0x8_0000)),
        *(("length", length) for length in (0, 512)),
        *(("flags", flags) for flags in (0, 1, 2, 3, 7)),
        *(("next", following) for following in (1, 9, 12)),
    ],
)
def test_a_long_table_with_one_field_changed_means_the_same_to_both_loops(
    tmp_path: Path, kind: int, place: int, field: str, value: int
) -> None:
    outcomes = []
    for fused in (False, True):
        rig = Rig(tmp_path / "disk", fused, indirect=True)
        data = [size if kind == BLK_T_IN else bytes(size) for size in LONG]
        head = rig.driver.prepare(header(kind, 1), *data, 1, indirect=True)
        table = rig.driver.memory.view(rig.driver.slots_at + head * rig.driver.slot_bytes, 12 * 16)
        row = dict(
            zip(
                ("gpa", "length", "flags", "next"),
                struct.unpack_from("<QIHH", table, place * 16),
                strict=True,
            )
        )
        struct.pack_into("<QIHH", table, place * 16, *(row | {field: value}).values())
        rig.driver.publish(head)
        try:
            rig.drain(256)
            said = ""
        except DriverError as error:
            said = str(error)
        memory = bytes(rig.driver.memory.view(0, rig.driver.end))
        outcomes.append((said, rig.driver.used(), memory, rig.path.read_bytes()))
        rig.medium.close()
    assert outcomes[0] == outcomes[1]


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


# ---- neighbours are one transfer --------------------------------------------------------------------


class Calls:
    """A medium that notes what it is asked for, and fails where a request touches a bad sector."""

    def __init__(self, medium: RawImage, bad: range = range(0)) -> None:
        self._medium, self._bad = medium, bad
        self.size, self.read_only, self.costs = medium.size, medium.read_only, medium.costs
        self.seen: list[tuple[str, int, int]] = []

    def _note(self, what: str, offset: int, buffers: Sequence[memoryview | bytes]) -> None:
        length = sum(map(len, buffers))
        self.seen.append((what, offset // SECTOR, length // SECTOR))
        if any(offset // SECTOR <= sector < (offset + length) // SECTOR for sector in self._bad):
            raise MediumError("bad sector")

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._medium.readv(offset, buffers)  # what was read in part is in the buffers, too
        self._note("read", offset, buffers)

    def writev(self, offset: int, buffers: Sequence[memoryview | bytes]) -> None:
        self._note("write", offset, buffers)
        self._medium.writev(offset, buffers)

    def flush(self) -> None:
        self.seen.append(("flush", 0, 0))
        self._medium.flush()

    def discard(self, offset: int, length: int) -> None:
        self._medium.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        self._medium.write_zeroes(offset, length, unmap)

    def close(self) -> None:
        self._medium.close()


class Run:
    """Several requests shown at once to the fused loop, and what the medium saw of them."""

    def __init__(self, path: Path, bad: range = range(0), size: int = 32, slot_bytes: int = 4096) -> None:
        path.write_bytes(CONTENT)
        self.path, self.medium = path, Calls(RawImage(path, False), bad)
        self.disk = VirtioBlk(self.medium)
        self.disk.set_features(BLK_F_FLUSH)
        self.driver = DriverQueue(size=size, indirect=True, slot_bytes=slot_bytes)
        self.drain = self.disk.drain(0, self.driver.device_side())
        self.heads: list[int] = []

    def add(self, kind: int, sector: int, *parts: bytes | int) -> None:
        self.heads.append(self.driver.add(header(kind, sector), *parts, 1, indirect=len(self.heads) % 2 == 1))

    def serve(self) -> list[tuple[int, int]]:
        """Status and used length by request; they are answered in order."""
        assert self.drain(256) == len(self.heads)
        used = self.driver.used()
        assert [head for head, _ in used] == self.heads
        return [(self.driver.written(head)[-1], written) for head, written in used]

    def data(self, number: int) -> bytes:
        return self.driver.written(self.heads[number])[:-1]


def sectors(first: int, count: int) -> bytes:
    return CONTENT[first * SECTOR : (first + count) * SECTOR]


def test_neighbours_are_read_in_one_transfer(tmp_path: Path) -> None:
    run = Run(tmp_path / "disk")
    for sector in (4, 6, 8):
        run.add(BLK_T_IN, sector, 1024)
    run.add(BLK_T_IN, 10, 512, 100, 412)
    assert run.serve() == [(BLK_S_OK, 1025)] * 4
    assert run.medium.seen == [("read", 4, 8)]
    assert run.medium.costs.syscalls == 1
    assert b"".join(map(run.data, range(4))) == sectors(4, 8)


def test_neighbours_are_written_in_one_transfer(tmp_path: Path) -> None:
    run = Run(tmp_path / "disk")
    for n in range(5):
        run.add(BLK_T_OUT, 7 + n, bytes((0xA0 + n,)) * 512)
    assert run.serve() == [(BLK_S_OK, 1)] * 5
    assert run.medium.seen == [("write", 7, 5)]
    written = b"".join(bytes((0xA0 + n,)) * 512 for n in range(5))
    assert run.path.read_bytes() == sectors(0, 7) + written + sectors(12, SECTORS - 12)


@pytest.mark.parametrize("second", [1, 3, 5, 4 + 2 + 1, 40])
def test_what_does_not_follow_on_the_disk_is_a_transfer_by_itself(tmp_path: Path, second: int) -> None:
    run = Run(tmp_path / "disk")
    run.add(BLK_T_IN, 4, 1024)
    run.add(BLK_T_IN, second, 512)
    assert run.serve() == [(BLK_S_OK, 1025), (BLK_S_OK, 513)]
    assert run.medium.seen == [("read", 4, 2), ("read", second, 1)]
    assert (run.data(0), run.data(1)) == (sectors(4, 2), sectors(second, 1))


def test_a_write_ends_a_run_of_reads(tmp_path: Path) -> None:
    run = Run(tmp_path / "disk")
    run.add(BLK_T_IN, 0, 512)
    run.add(BLK_T_IN, 1, 512)
    run.add(BLK_T_OUT, 2, b"x" * 512)
    run.add(BLK_T_IN, 2, 512)
    run.add(BLK_T_IN, 3, 512)
    assert [status for status, _ in run.serve()] == [BLK_S_OK] * 5
    assert run.medium.seen == [("read", 0, 2), ("write", 2, 1), ("read", 2, 2)]
    assert run.data(3) + run.data(4) == b"x" * 512 + sectors(3, 1)


def test_a_flush_stays_between_the_writes_around_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "disk")
    run.add(BLK_T_OUT, 0, b"a" * 512)
    run.add(BLK_T_OUT, 1, b"b" * 512)
    run.add(BLK_T_FLUSH, 0)
    run.add(BLK_T_OUT, 2, b"c" * 512)
    run.add(BLK_T_OUT, 3, b"d" * 512)
    assert [status for status, _ in run.serve()] == [BLK_S_OK] * 5
    assert run.medium.seen == [("write", 0, 2), ("flush", 0, 0), ("write", 2, 2)]


def test_a_disk_without_a_cache_flushes_a_run_before_it_answers(tmp_path: Path) -> None:
    run = Run(tmp_path / "disk")
    run.disk.set_features(0)
    run.add(BLK_T_OUT, 0, b"a" * 512)
    run.add(BLK_T_OUT, 1, b"b" * 512)
    run.driver.memory.on_written = lambda _gpa, _length: run.medium.seen.append(("answer", 0, 0))
    run.serve()
    assert run.medium.seen == [("write", 0, 2), ("flush", 0, 0), ("answer", 0, 0)]


@pytest.mark.parametrize("kind", [BLK_T_IN, BLK_T_OUT])
def test_an_error_within_a_run_stays_with_its_request(tmp_path: Path, kind: int) -> None:
    run = Run(tmp_path / "disk", bad=range(12, 13))
    for sector in (8, 10, 12, 14):
        run.add(kind, sector, bytes((sector,)) * 1024 if kind == BLK_T_OUT else 1024)
    good = (BLK_S_OK, 1 if kind == BLK_T_OUT else 1025)
    assert run.serve() == [good, good, (BLK_S_IOERR, 1 if kind == BLK_T_OUT else 0), good]
    assert [length for _, _, length in run.medium.seen] == [8, 2, 2, 2, 2]
    if kind == BLK_T_OUT:
        expected = bytes((8,)) * 1024 + bytes((10,)) * 1024 + sectors(12, 2) + bytes((14,)) * 1024
        assert run.path.read_bytes()[8 * 512 : 16 * 512] == expected
    else:
        assert [run.data(n) for n in (0, 1, 3)] == [sectors(8, 2), sectors(10, 2), sectors(14, 2)]


def test_the_drivers_fault_after_a_run_leaves_the_run_answered(tmp_path: Path) -> None:
    run = Run(tmp_path / "disk")
    run.add(BLK_T_IN, 0, 512)
    run.add(BLK_T_IN, 1, 512)
    run.driver.add(b"short", 1)
    run.add(BLK_T_IN, 2, 512)
    with pytest.raises(DriverError, match="virtio-blk request of"):
        run.drain(256)
    assert [head for head, _ in run.driver.used()] == run.heads[:2]
    assert run.medium.seen == [("read", 0, 2)]


def test_a_run_is_bounded_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(2 * MAX_RUN_BYTES))
    each = MAX_RUN_BYTES // 8
    medium = Calls(RawImage(path, False))
    disk, driver = VirtioBlk(medium), DriverQueue(size=16, indirect=True, slot_bytes=each + 4096)
    drain = disk.drain(0, driver.device_side())
    for n in range(11):
        driver.add(header(BLK_T_IN, n * each // SECTOR), each, 1, indirect=True)
    assert drain(256) == 11
    assert [length * SECTOR for _, _, length in medium.seen] == [8 * each, 3 * each]


def test_a_run_is_bounded_in_buffers(tmp_path: Path) -> None:
    run = Run(tmp_path / "disk")
    for n in range(4):  # 103 buffers each
        run.heads.append(run.driver.add(header(BLK_T_IN, n), *[5] * 102, 2, 1, indirect=True))
    assert run.serve() == [(BLK_S_OK, 513)] * 4
    assert run.medium.seen == [("read", 0, 2), ("read", 2, 2)]


@pytest.mark.parametrize("kind", [BLK_T_IN, BLK_T_OUT])
def test_every_byte_stored_for_a_run_is_reported_before_it_is_shown(tmp_path: Path, kind: int) -> None:
    run = Run(tmp_path / "disk")
    reported: set[int] = set()

    def note(gpa: int, length: int) -> None:
        assert run.driver.used_words[1] == 0
        reported.update(range(gpa, gpa + length))

    run.driver.memory.on_written = note
    for n in range(6):
        run.add(kind, n, bytes(512) if kind == BLK_T_OUT else 512)
    run.serve()
    parts = [part for head in run.heads for part in run.driver.parts[head]]
    assert {at for gpa, n, writable in parts if writable for at in range(gpa, gpa + n)} <= reported


def test_a_run_may_cross_the_end_of_the_ring(tmp_path: Path) -> None:
    run = Run(tmp_path / "disk", size=16)
    for _ in range(13):
        run.driver.add(header(BLK_T_IN), 512, 1, indirect=True)
        assert run.drain(256) == 1
        run.driver.used()
    run.medium.seen.clear()
    for n in range(7):
        run.heads.append(run.driver.add(header(BLK_T_IN, n), 512, 1, indirect=True))
    assert run.serve() == [(BLK_S_OK, 513)] * 7
    assert run.medium.seen == [("read", 0, 7)]
    assert b"".join(map(run.data, range(7))) == sectors(0, 7)
